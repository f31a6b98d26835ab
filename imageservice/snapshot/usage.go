package snapshot

import (
	"context"
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	// longestPath is how long a path from one handle gets before a directory
	// on it becomes a handle of its own: half of what openat2 takes.
	longestPath = unix.PathMax / 2
	// maxHandles bounds the handles of one walk. It takes a million nested
	// directories to need them.
	maxHandles = 1000
)

// Usage adds up the upper directory. Files with several links count once. The
// container may change the tree meanwhile, and would like to lead us out of
// it: each directory is opened from a handle above it, following no link. It
// may be deeper than any path reaches, which hides nothing; beyond a million
// directories in each other it is ResourceExhausted.
func (d Dirs) Usage(ctx context.Context) (bytes, inodes uint64, err error) {
	root, err := os.OpenFile(d.Upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, 0, err
	}
	w := walk{linked: map[uint64]bool{}, inodes: 1, handles: 1}
	w.todo = []below{{from: &handle{File: root, users: 1}, path: "."}}
	defer func() {
		for _, b := range w.todo {
			w.leave(b.from)
		}
	}()
	for len(w.todo) > 0 {
		if err := ctx.Err(); err != nil {
			return 0, 0, err
		}
		next := w.todo[len(w.todo)-1]
		w.todo = w.todo[:len(w.todo)-1]
		err := w.directory(next)
		w.leave(next.from)
		// Gone or changed meanwhile.
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return w.bytes, w.inodes, nil
}

// handle is an open directory, with those of walk.todo that are below it.
type handle struct {
	*os.File
	users int
}

// below is a directory to be walked.
type below struct {
	from *handle
	path string // from there
}

type walk struct {
	todo          []below
	handles       int             // open
	linked        map[uint64]bool // inodes with several links; all are on one device
	bytes, inodes uint64
}

// leave closes a handle of which nobody is left.
func (w *walk) leave(h *handle) {
	if h.users--; h.users == 0 {
		w.handles--
		_ = h.Close()
	}
}

func (w *walk) directory(b below) error {
	fd, err := unix.Openat2(int(b.from.Fd()), b.path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	here := &handle{File: os.NewFile(uintptr(fd), b.path), users: 1}
	w.handles++
	defer func() { w.leave(here) }()
	if w.handles > maxHandles {
		return errkind.New(errkind.ResourceExhausted, "cannot add up directories that are nested deeper than %d bytes of path", maxHandles*longestPath)
	}
	names, err := here.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			w.push(b, here, name)
		} else if st.Nlink > 1 {
			if w.linked[st.Ino] {
				continue
			}
			w.linked[st.Ino] = true
		}
		w.bytes += uint64(st.Blocks) * 512
		w.inodes++
	}
	return nil
}

// push adds the directory name, which is in b, to what is to be walked.
func (w *walk) push(b below, here *handle, name string) {
	sub := below{from: b.from, path: path.Join(b.path, name)}
	if len(sub.path) > longestPath {
		sub = below{from: here, path: name}
	}
	sub.from.users++
	w.todo = append(w.todo, sub)
}
