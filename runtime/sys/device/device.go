// Package device describes the device nodes of the host for the OCI spec.
package device

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Node is one device node.
type Node struct {
	Path         string // on the host
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         os.FileMode // permission bits
	UID, GID     uint32
}

// Stat describes the node at path, following links.
func Stat(path string) (Node, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Node{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	n := Node{Path: path, UID: st.Uid, GID: st.Gid, Mode: os.FileMode(st.Mode & 0o7777),
		Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		n.Type = "c"
	case unix.S_IFBLK:
		n.Type = "b"
	default:
		return Node{}, fmt.Errorf("%s is not a device node", path)
	}
	return n, nil
}

// Below lists the nodes below dir. Under /dev, what belongs to a container
// itself (pts, shm, mqueue, console, fd) is left out.
func Below(dir string) ([]Node, error) {
	var out []Node
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			if rel, _ := filepath.Rel("/dev", path); rel == "pts" || rel == "shm" || rel == "mqueue" || rel == "fd" || strings.HasPrefix(d.Name(), ".") && path != dir {
				return filepath.SkipDir
			}
			return nil
		case d.Type()&fs.ModeDevice == 0 || path == "/dev/console":
			return nil
		}
		n, err := Stat(path)
		if os.IsNotExist(err) {
			return nil // hot-unplugged meanwhile
		} else if err != nil {
			return err
		}
		out = append(out, n)
		return nil
	})
	return out, err
}
