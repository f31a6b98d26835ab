package crilog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fileID tells one file from another whatever their names are.
type fileID struct{ dev, ino uint64 }

// identify tells which file f is, and whether it still has a name.
func identify(f *os.File) (id fileID, linked bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fileID{}, false, os.NewSyscallError("fstat", err)
	}
	return fileID{st.Dev, st.Ino}, st.Nlink > 0, nil
}

// lastTime is the time of the last whole entry of f; zero if there is none
// near its end.
func lastTime(f *os.File) (time.Time, error) {
	st, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	b := make([]byte, min(st.Size(), 2*maxEntry))
	if _, err := f.ReadAt(b, st.Size()-int64(len(b))); err != nil && !errors.Is(err, io.EOF) {
		return time.Time{}, err
	}
	for end := bytes.LastIndexByte(b, '\n'); end >= 0; {
		begin := bytes.LastIndexByte(b[:end], '\n')
		if l, err := Parse(b[begin+1 : end]); err == nil {
			return l.Time, nil
		}
		end = begin
	}
	return time.Time{}, nil
}

// segment is one file of a log, rotated or current, at the offset from which
// it is to be read. Its owner closes it.
type segment struct {
	f     *os.File
	id    fileID
	gz    bool
	skip  int       // entries to pass over
	first time.Time // of its first entry; zero if it has none
	mtime time.Time
}

// openSegment opens a file of a log. The name tells whether it is compressed.
func openSegment(path string) (*segment, error) {
	// A pod may have put a link or a FIFO there, see open.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link", path)
	}
	if err != nil {
		return nil, err
	}
	s := &segment{f: f, gz: strings.HasSuffix(path, ".gz")}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil {
		s.mtime = st.ModTime()
		s.id, _, err = identify(f)
	}
	if err == nil {
		err = s.readFirst()
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

// isStale tells whether what was found since s was opened at path may not be all
// that comes before it. It was rotated when it had been empty: then nothing
// tells whether a file comes before. Or its rotation was taken back, so that it
// has no name any more and the file before it is at path (see Writer.recall).
func (s *segment) isStale(path string) bool {
	_, linked, err := identify(s.f)
	return err == nil && !linked || s.first.IsZero() && !s.isAt(path)
}

// readFirst finds the time of the first entry. A file whose beginning is none
// is as good as one without entries.
func (s *segment) readFirst() error {
	r, err := s.reader()
	if err != nil {
		return err
	}
	if b, err := bufio.NewReaderSize(r, maxEntry).ReadSlice('\n'); err == nil {
		if l, err := Parse(b); err == nil {
			s.first = l.Time
		}
	}
	return s.rewind(0)
}

// reader reads the segment's text from its offset on.
func (s *segment) reader() (io.Reader, error) {
	if !s.gz {
		return s.f, nil
	}
	return gzip.NewReader(s.f)
}

func (s *segment) rewind(to int64) error {
	_, err := s.f.Seek(to, io.SeekStart)
	return err
}

// tail leaves of the segment its last n entries, and tells how many there are.
func (s *segment) tail(n int) (have int, err error) {
	if s.gz {
		have, err = s.count()
		s.skip = max(0, have-n)
		return min(have, n), err
	}
	end, err := s.f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return 0, err
	}
	buf := make([]byte, 32<<10)
	for at := end; at > 0; {
		b := buf[:min(at, int64(len(buf)))]
		at -= int64(len(b))
		if _, err := s.f.ReadAt(b, at); err != nil {
			return 0, err
		}
		for i := len(b); i > 0; {
			i = bytes.LastIndexByte(b[:i], '\n')
			if i < 0 {
				break
			}
			start := at + int64(i) + 1
			if start == end {
				continue // the newline of the last entry
			}
			if have++; have == n {
				return have, s.rewind(start)
			}
		}
	}
	if end > 0 {
		have++ // the first entry, which follows no newline
	}
	return have, s.rewind(0)
}

// count is how many entries a compressed segment has.
func (s *segment) count() (n int, err error) {
	r, err := s.reader()
	if err != nil {
		return 0, err
	}
	br := bufio.NewReaderSize(r, maxEntry)
	for {
		_, err := br.ReadSlice('\n')
		switch {
		case err == nil:
			n++
		case errors.Is(err, io.EOF):
			return n, s.rewind(0)
		case !errors.Is(err, bufio.ErrBufferFull):
			return 0, err
		}
	}
}

// isAt tells whether path names the segment.
func (s *segment) isAt(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && (fileID{st.Dev, st.Ino}) == s.id
}

// rotated opens the rotated files of the log at path that in admits, the
// oldest first. What was not rotated by renaming, or cannot be decompressed, is
// passed over: it is somebody else's.
func rotated(path string, in func(*segment) bool) (found []*segment) {
	// A file that has gone since it was listed may be there compressed by now.
	for whole, tries := false, 3; !whole && tries > 0; tries-- {
		closeSegments(found)
		found, whole = nil, true
		for _, name := range rotatedNames(path) {
			s, err := openSegment(name)
			if err != nil {
				whole = whole && !errors.Is(err, fs.ErrNotExist)
				continue
			}
			if s.first.IsZero() || !in(s) {
				_ = s.f.Close()
				continue
			}
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *segment) int { return a.first.Compare(b.first) })
	return found
}

// rotatedNames lists the files that a log was rotated to. While one is being
// compressed it is the plain one.
func rotatedNames(path string) (names []string) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries { // in the order of their names
		name := dir + e.Name()
		plain, gz := strings.CutSuffix(name, ".gz")
		switch {
		case !e.Type().IsRegular() || !strings.HasPrefix(e.Name(), base+".") || strings.HasSuffix(name, ".tmp"):
		case gz && slices.Contains(names, plain):
		default:
			names = append(names, name)
		}
	}
	return names
}

func closeSegments(all []*segment) {
	for _, s := range all {
		_ = s.f.Close()
	}
}
