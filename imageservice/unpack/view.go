package unpack

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// view reads a stack of layer directories as overlayfs would merge them.
type view struct {
	layers []*os.File // topmost first

	// The last directory that was looked into, as what is asked for next is
	// most often beside or below it.
	at     string     // "" for none
	inside []*os.File // its handles in the layers of which it is merged
}

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

// is reports whether there is a node and it has the type.
func (n *node) is(format uint32) bool { return n != nil && n.stat.Mode&unix.S_IFMT == format }

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
	v.forget()
	closeAll(v.layers)
}

func (v *view) forget() {
	closeAll(v.inside)
	v.inside, v.at = nil, ""
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// lookup gives the file name, or nil if the view has none. No symbolic link
// is followed: below one there is nothing. The caller closes the node.
func (v *view) lookup(name string) (*node, error) {
	dir, base := splitPath(name)
	inside, err := v.dir(dir)
	if err != nil {
		return nil, err
	}
	found, dirs, err := merge(inside, base)
	closeAll(dirs)
	return found, err
}

// dir gives the handles of the directory name in the layers that it is merged
// of, none if there is no such directory. They are the view's, until the next
// call.
func (v *view) dir(name string) ([]*os.File, error) {
	if name == "" {
		return v.layers, nil
	}
	if name == v.at {
		return v.inside, nil
	}
	rest, ok := strings.CutPrefix(name, v.at+"/")
	if v.at == "" || !ok {
		v.forget()
		rest = name
	}
	for c := range strings.SplitSeq(rest, "/") {
		from := v.inside
		if v.at == "" {
			from = v.layers
		}
		found, dirs, err := merge(from, c)
		found.close()
		at := path.Join(v.at, c)
		v.forget()
		if err != nil {
			return nil, err
		}
		v.at, v.inside = at, dirs
	}
	return v.inside, nil
}

// merge looks for base in the directories inside, topmost first. It gives the
// topmost and, if that is a directory, handles of all that merge with it.
func merge(inside []*os.File, base string) (found *node, dirs []*os.File, err error) {
	for _, dir := range inside {
		n, err := openNode(dir, base)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			found.close()
			closeAll(dirs)
			return nil, nil, err
		}
		if !n.is(unix.S_IFDIR) {
			if found == nil && !isWhiteout(&n.stat) {
				return n, nil, nil
			}
			n.close()
			return found, dirs, nil
		}
		d, err := openAt(n.file, ".", unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			n.close()
			found.close()
			closeAll(dirs)
			return nil, nil, err
		}
		dirs = append(dirs, d)
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

func openNode(dir *os.File, base string) (*node, error) {
	f, err := openAt(dir, base, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	n := &node{file: f}
	if err := unix.Fstat(int(f.Fd()), &n.stat); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// resolve gives the real path to which name leads in the view, the missing
// rest of it taken as it stands.
func (v *view) resolve(name string) (string, error) {
	return followLinks(name, func(dir, c string) (string, error) {
		n, err := v.lookup(path.Join(dir, c))
		defer n.close()
		if err != nil || !n.is(unix.S_IFLNK) {
			return "", err
		}
		return readlinkAt(n.file, "")
	})
}

// resolveParent resolves all of name but its last component.
func (v *view) resolveParent(name string) (string, error) {
	dir, base := splitPath(name)
	at, err := v.resolve(dir)
	return path.Join(at, base), err
}
