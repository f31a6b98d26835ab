package unpack

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Layers spell deletions as aufs did: ".wh.NAME" hides NAME of the layers
// below, ".wh..wh..opq" all that they have in its directory. Other names that
// begin with ".wh..wh." are aufs' own bookkeeping.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..opq" // after the prefix
)

// isAufsOwn reports whether name is, or is below, bookkeeping of aufs.
func isAufsOwn(name string) bool {
	for c := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(c, whiteoutPrefix+whiteoutPrefix) && c != whiteoutPrefix+opaqueMarker {
			return true
		}
	}
	return false
}

// whiteout hides what the layers below have as name in dir. What this layer
// has there stays, whichever came first in the tar: a whiteout speaks of the
// layers below only.
func (u *unpacker) whiteout(dir *os.File, name string) error {
	switch name {
	case opaqueMarker:
		if dir == u.tree.root {
			u.opaque = true
			return nil
		}
		d, err := openDirAt(dir, ".")
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }()
		return setOpaque(d)
	case "", ".", "..":
		return errkind.New(errkind.InvalidArgument, "a whiteout of %q hides nothing", name)
	}
	err := unix.Mknodat(int(dir.Fd()), name, unix.S_IFCHR, 0)
	if err == nil {
		u.tree.inodes++
		return nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	d, err := openDirAt(dir, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // no directory: it hides what is below by being there
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return setOpaque(d)
}
