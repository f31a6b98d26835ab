package unpack

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// view reads a stack of layer directories as overlayfs would merge them.
type view struct{ layers []*os.File } // topmost first

// node is one file of a view.
type node struct {
	file *os.File // O_PATH
	stat unix.Stat_t
}

func (n *node) close() {
	if n != nil {
		_ = n.file.Close()
	}
}

func openView(dirs []string) (*view, error) {
	v := &view{}
	for _, dir := range dirs {
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		if err != nil {
			v.close()
			return nil, err
		}
		v.layers = append(v.layers, f)
	}
	return v, nil
}

func (v *view) close() {
	for _, f := range v.layers {
		_ = f.Close()
	}
}

// lookup gives the file name, or nil if the view has none. No symbolic link
// is followed: below one there is nothing. The caller closes the node.
func (v *view) lookup(name string) (*node, error) {
	layers, at := v.layers, ""
	for rest := name; ; {
		c, tail, more := strings.Cut(rest, "/")
		at = path.Join(at, c)
		found, dirs, err := lookupIn(layers, at)
		if err != nil || found == nil || !more {
			return found, err
		}
		found.close()
		if len(dirs) == 0 {
			return nil, nil
		}
		layers, rest = dirs, tail
	}
}

// lookupIn looks for name in layers, each of which has its parent directory
// in the view. It gives the topmost and, if that is a directory, the layers
// whose directories merge with it.
func lookupIn(layers []*os.File, name string) (found *node, dirs []*os.File, err error) {
	for _, layer := range layers {
		n, err := openNode(layer, name)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			found.close()
			return nil, nil, err
		}
		if n.stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			if found == nil && !isWhiteout(&n.stat) {
				return n, nil, nil
			}
			n.close()
			return found, dirs, nil
		}
		dirs = append(dirs, layer)
		opaque := isOpaque(n.file)
		if found == nil {
			found = n
		} else {
			n.close()
		}
		if opaque {
			break
		}
	}
	return found, dirs, nil
}

func openNode(layer *os.File, name string) (*node, error) {
	fd, err := unix.Openat2(int(layer.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, err
	}
	n := &node{file: os.NewFile(uintptr(fd), name)}
	if err := unix.Fstat(fd, &n.stat); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// resolve gives the path without symbolic links to which name leads in the
// view, the missing rest of it taken as it stands. "" is the root, or a path
// with too many links.
func (v *view) resolve(name string) (string, error) {
	rest, at := strings.Split(name, "/"), []string(nil)
	for links := 0; len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		switch c {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 0)]
			continue
		}
		n, err := v.lookup(path.Join(path.Join(at...), c))
		if err != nil {
			return "", err
		}
		if n == nil || n.stat.Mode&unix.S_IFMT != unix.S_IFLNK {
			n.close()
			at = append(at, c)
			continue
		}
		target, err := readlinkAt(n.file, "")
		n.close()
		if err != nil {
			return "", err
		}
		if links++; links > maxLinks {
			return "", nil
		}
		if strings.HasPrefix(target, "/") {
			at = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return path.Join(at...), nil
}

// resolveParent resolves all of name but its last component.
func (v *view) resolveParent(name string) (string, error) {
	dir, base := path.Split(name)
	if dir == "" {
		return base, nil
	}
	at, err := v.resolve(strings.TrimSuffix(dir, "/"))
	return path.Join(at, base), err
}
