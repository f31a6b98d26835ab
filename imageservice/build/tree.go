package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// tree is files to copy from, or the tree into which they go. Names are
// relative to its root, "" is the root itself, and none leads through a link.
type tree interface {
	// lstat gives what is under name; fs.ErrNotExist if nothing is.
	lstat(name string) (*node, error)
	// names lists a directory, sorted.
	names(name string) ([]string, error)
	// open opens a regular file.
	open(name string) (io.ReadCloser, error)
}

// node is one file of a tree.
type node struct {
	mode     uint32 // type and permissions, as stat(2) has them
	uid, gid int
	size     int64
	mtime    unix.Timespec
	link     string
	rdev     uint64
	inode    inode // zero if it has one name only
	xattrs   map[string]string
	sum      digest.Digest // of a regular file's content, where the tree knows it
}

// inode tells which names are one file.
type inode struct{ dev, ino uint64 }

func (n *node) is(format uint32) bool { return n != nil && n.mode&unix.S_IFMT == format }
func (n *node) isDir() bool           { return n.is(unix.S_IFDIR) }

// maxLinks is how many links one path may lead through, as in the kernel.
const maxLinks = 40

// resolve gives the name to which p leads in t as if t's root were "/": all of
// it, the last component too. What of it is missing is taken as it stands, and
// there is no node then.
func resolve(t tree, p string) (name string, n *node, err error) {
	at, links := "", 0
	n, err = t.lstat("")
	rest := components(p)
	for err == nil && len(rest) > 0 {
		c := rest[0]
		rest = rest[1:]
		if n != nil && !n.isDir() {
			return "", nil, errkind.New(errkind.InvalidArgument, "/%s is no directory", at)
		}
		if c == ".." {
			at = parent(at)
			n, err = stat(t, at)
			continue
		}
		below := path.Join(at, c)
		n, err = stat(t, below)
		if err != nil || !n.is(unix.S_IFLNK) {
			at = below
			continue
		}
		if links++; links > maxLinks {
			return "", nil, errkind.New(errkind.InvalidArgument, "%.200q leads through more than %d links", p, maxLinks)
		}
		if path.IsAbs(n.link) {
			at = ""
		}
		rest = append(components(n.link), rest...)
		n, err = stat(t, at)
	}
	return at, n, err
}

// stat is lstat where nothing is no failure.
func stat(t tree, name string) (*node, error) {
	n, err := t.lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return n, err
}

// components are those of a path that mean something.
func components(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(c string) bool { return c == "" || c == "." })
}

// parent is the directory of a name, "" for those in the root.
func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i]
	}
	return ""
}

// glob gives the paths in t that pattern matches, sorted. A pattern without
// wildcards is its own only match, be it there or not.
func glob(t tree, pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?[\\") {
		return []string{pattern}, nil
	}
	found := []string{""}
	for _, c := range components(pattern) {
		if _, err := path.Match(c, ""); err != nil {
			return nil, errkind.New(errkind.InvalidArgument, "%q is not a pattern: %w", pattern, err)
		}
		var next []string
		for _, dir := range found {
			names, err := matching(t, dir, c)
			if err != nil {
				return nil, err
			}
			next = append(next, names...)
		}
		found = next
	}
	return found, nil
}

func matching(t tree, dir, pattern string) (found []string, err error) {
	if pattern == ".." || !strings.ContainsAny(pattern, "*?[\\") {
		p := path.Join("/", dir, pattern)[1:]
		if _, n, err := resolve(t, p); err != nil || n == nil {
			return nil, nil //nolint:nilerr // what cannot be there does not match
		}
		return []string{p}, nil
	}
	at, n, err := resolve(t, dir)
	if err != nil || !n.isDir() {
		return nil, err
	}
	names, err := t.names(at)
	for _, name := range names {
		if ok, _ := path.Match(pattern, name); ok {
			found = append(found, path.Join(dir, name))
		}
	}
	return found, err
}

// walk calls visit for name and all below it, directories first, names sorted.
// rel is the name relative to where it began.
func walk(t tree, name string, depth int, visit func(rel, name string, n *node) error) error {
	var below func(rel, name string, left int) error
	below = func(rel, name string, left int) error {
		n, err := t.lstat(name)
		if err != nil {
			return err
		}
		if err := visit(rel, name, n); err != nil || !n.isDir() {
			return err
		}
		if left == 0 {
			return errkind.New(errkind.ResourceExhausted, "directories lie in each other more than %d deep", depth)
		}
		names, err := t.names(name)
		if err != nil {
			return err
		}
		for _, base := range names {
			if err := below(path.Join(rel, base), path.Join(name, base), left-1); err != nil {
				return err
			}
		}
		return nil
	}
	if err := below("", name, depth); err != nil {
		return fmt.Errorf("cannot read %s: %w", "/"+name, err)
	}
	return nil
}
