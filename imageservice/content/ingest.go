package content

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const partSuffix = ".part"

// Ingest is a blob under way into the store. What was written survives Close
// and a restart, so that the download goes on at Offset, or with what is
// Missing. It is not synced before Commit: after a power cut the part may hold
// anything, which its hash will show. WriteAt, ReadAt, Reached and Missing may
// be called concurrently; nothing else may.
type Ingest struct {
	store  *Store
	digest digest.Digest
	file   *os.File // locked
	next   int64    // where Write goes on

	mu   sync.Mutex
	have extents // what was written; guarded by mu
	gaps bool    // the file's extents lie beside its bytes; guarded by mu
}

// Ingest opens the download of blob d, going on with what an earlier one
// left. While it is open no other can be: a second is FailedPrecondition.
func (s *Store) Ingest(d digest.Digest) (_ *Ingest, err error) {
	if err := check(d); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.part(d), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errkind.New(errkind.Unknown, "cannot ingest blob %s: %w", d, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if !s.own(f, d) {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot ingest blob %s: it is being ingested already", d)
	}
	in := &Ingest{store: s, digest: d, file: f}
	if in.have, in.gaps, err = loadExtents(f); err != nil {
		return nil, errkind.New(errkind.Unknown, "cannot ingest blob %s: %w", d, err)
	}
	in.next = in.have.reached(0)
	return in, nil
}

// own locks f and makes sure that it still is the part of d: between open and
// lock another's Commit may have made it the blob itself, not to be written to.
func (s *Store) own(f *os.File, d digest.Digest) bool {
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false
	}
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(s.part(d))
	return err == nil && os.SameFile(mine, named)
}

// Offset is how many bytes of the blob are there from its first on.
func (in *Ingest) Offset() int64 { return in.Reached(0) }

// Reached is where the bytes that are there from at on end.
func (in *Ingest) Reached(at int64) int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.have.reached(at)
}

// End is one more than the last byte that is there, whatever lacks before it.
func (in *Ingest) End() int64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.have.end()
}

// Missing gives what lacks of a blob of size bytes, in order.
func (in *Ingest) Missing(size int64) []Extent {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.have.missing(size)
}

// Received reads the bytes that are there, from the first. They are not
// verified before Commit.
func (in *Ingest) Received() io.Reader { return io.NewSectionReader(in.file, 0, in.Offset()) }

// ReadAt reads bytes that are there.
func (in *Ingest) ReadAt(p []byte, at int64) (int, error) { return in.file.ReadAt(p, at) }

// Write adds p at what was Offset when the ingest began, and then after what
// Write added before.
func (in *Ingest) Write(p []byte) (int, error) {
	n, err := in.WriteAt(p, in.next)
	in.next += int64(n)
	return n, err
}

// WriteAt adds p at a place of its own.
func (in *Ingest) WriteAt(p []byte, at int64) (int, error) {
	n, err := in.writeAt(p, at)
	if err != nil {
		err = errkind.New(errkind.Unknown, "cannot ingest blob %s: %w", in.digest, err)
	}
	return n, err
}

func (in *Ingest) writeAt(p []byte, at int64) (int, error) {
	// Before the first byte beyond a gap, since the file's size speaks for
	// those that have none.
	if err := in.announce(at); err != nil {
		return 0, err
	}
	n, err := in.file.WriteAt(p, at)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.have = in.have.with(Extent{at, at + int64(n)})
	if in.gaps {
		err = errors.Join(err, in.have.save(in.file))
	}
	return n, err
}

// announce sees to it that a part which gets a gap is known to have some.
func (in *Ingest) announce(at int64) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.gaps || at <= in.have.end() {
		return nil
	}
	if err := in.have.save(in.file); err != nil {
		return err
	}
	in.gaps = true
	return nil
}

// Commit verifies the bytes and makes them a blob, durably. If they are not
// the digest's it is DataLoss and the part is gone. Either way in is closed.
func (in *Ingest) Commit() error {
	defer func() { _ = in.file.Close() }()
	// Only here, since most who ingest verify the bytes on their way themselves.
	h := sha256.New()
	if _, err := io.Copy(h, in.Received()); err != nil {
		return errkind.New(errkind.Unknown, "cannot store blob %s: %w", in.digest, err)
	}
	if got := digest.NewDigest(digest.SHA256, h); got != in.digest {
		err := errkind.New(errkind.DataLoss, "cannot store blob %s: the %d bytes received have digest %s", in.digest, in.End(), got)
		return errors.Join(err, os.Remove(in.file.Name()))
	}
	if err := in.publish(); err != nil {
		return errkind.New(errkind.Unknown, "cannot store blob %s: %w", in.digest, err)
	}
	return nil
}

func (in *Ingest) publish() error {
	if in.gaps {
		if err := unix.Fremovexattr(int(in.file.Fd()), extentsXattr); err != nil {
			return err
		}
	}
	if err := in.file.Sync(); err != nil {
		return err
	}
	// What was abandoned meanwhile may have a successor under its name, whose
	// bytes nobody has verified.
	mine, err := in.file.Stat()
	if err != nil {
		return err
	}
	if named, err := os.Lstat(in.file.Name()); err != nil || !os.SameFile(mine, named) {
		return errkind.New(errkind.FailedPrecondition, "its part was abandoned meanwhile")
	}
	if err := os.Rename(in.file.Name(), in.store.Path(in.digest)); err != nil {
		return err
	}
	return atomicfile.SyncDir(in.store.blobs)
}

// Close ends the writing and keeps the part. After Commit it does nothing.
func (in *Ingest) Close() error {
	if err := in.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Ingests lists the blobs of which a part is there, for whoever knows which
// downloads are no longer wanted.
func (s *Store) Ingests() ([]digest.Digest, error) {
	entries, err := os.ReadDir(s.ingest)
	if err != nil {
		return nil, errkind.New(errkind.Unknown, "cannot list ingests: %w", err)
	}
	var all []digest.Digest
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), partSuffix)
		if d := digest.NewDigestFromEncoded(digest.SHA256, hex); ok && check(d) == nil {
			all = append(all, d)
		}
	}
	return all, nil
}

// Abandon removes the part of blob d. To abandon none does nothing.
func (s *Store) Abandon(d digest.Digest) error {
	if err := check(d); err != nil {
		return err
	}
	if err := os.Remove(s.part(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.Unknown, "cannot abandon ingest of blob %s: %w", d, err)
	}
	return nil
}

// Age is how long ago the part of blob d was begun; 0 if there is none, or the
// file system does not know.
func (s *Store) Age(d digest.Digest) time.Duration {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, s.part(d), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st)
	if err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return max(0, time.Since(time.Unix(st.Btime.Sec, int64(st.Btime.Nsec))))
}

// AbandonBefore removes the parts that nobody writes and that were last
// written before at.
func (s *Store) AbandonBefore(at time.Time) error {
	all, err := s.Ingests()
	for _, d := range all {
		fi, statErr := os.Lstat(s.part(d))
		if statErr != nil || !fi.ModTime().Before(at) {
			continue
		}
		in, openErr := s.Ingest(d)
		if openErr != nil {
			continue // it is being written
		}
		err = errors.Join(err, s.Abandon(d), in.Close())
	}
	return err
}

func (s *Store) part(d digest.Digest) string {
	return filepath.Join(s.ingest, d.Encoded()+partSuffix)
}
