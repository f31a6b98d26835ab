package unpack

import (
	"errors"
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

// whiteout hides name, in at's directory, of the layers below. What this layer
// has there stays, whichever came first in the tar: a whiteout speaks of the
// layers below only.
func (u *unpacker) whiteout(at place, name string) error {
	switch name {
	case opaqueMarker:
		if at.path == at.base {
			u.opaque = true // of the root
			return nil
		}
		return setOpaque(at.dir)
	case "", ".", "..":
		return errkind.New(errkind.InvalidArgument, "a whiteout of %q hides nothing", name)
	}
	err := unix.Mknodat(int(at.dir.Fd()), name, unix.S_IFCHR, 0)
	if err == nil {
		return u.tree.count()
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	d, err := openDirAt(at.dir, name)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // no directory: it hides what is below by being there
	}
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return setOpaque(d)
}
