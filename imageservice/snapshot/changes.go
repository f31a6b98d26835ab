package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// ChangeKind is what became of a path.
type ChangeKind string

// The kinds of changes, with docker's letters.
const (
	Added   ChangeKind = "A"
	Changed ChangeKind = "C"
	Deleted ChangeKind = "D"
)

// Change is one path that differs from the image.
type Change struct {
	Kind ChangeKind
	Path string // absolute, in the container
}

// Changes tells what the container has changed on the layers lowers, topmost
// first, by path. A directory in which something changed is changed too. What
// drop names is not told of if it is empty.
func (d Dirs) Changes(ctx context.Context, lowers []string, drop map[string]bool) ([]Change, error) {
	fd, err := unix.Open(d.Upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: d.Upper, Err: err}
	}
	root := os.NewFile(uintptr(fd), d.Upper)
	defer func() { _ = root.Close() }()
	x := &comparer{ctx: ctx, drop: drop}
	for _, dir := range lowers {
		f, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		x.lowers = append(x.lowers, f)
	}
	if _, err := x.directory(root, "", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(x.found, func(a, b Change) int { return strings.Compare(a.Path, b.Path) })
	return x.found, nil
}

// comparer is one Changes under way.
type comparer struct {
	ctx    context.Context // of one Changes
	lowers []*os.File
	drop   map[string]bool
	found  []Change
}

// directory compares what the upper directory has; any tells whether something
// in it was told of.
func (x *comparer) directory(dir *os.File, name string, depth int) (any bool, err error) {
	if depth > maxDepth {
		return false, errkind.New(errkind.ResourceExhausted, "directory %q is nested deeper than %d", name, maxDepth)
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false, err
	}
	for _, base := range names {
		if err := x.ctx.Err(); err != nil {
			return any, err
		}
		told, err := x.entry(dir, base, path.Join(name, base), depth)
		if err != nil {
			return any, err
		}
		any = any || told
	}
	return any, nil
}

func (x *comparer) entry(dir *os.File, base, name string, depth int) (told bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil // a container that runs goes on
	}
	if err != nil {
		return false, fmt.Errorf("cannot stat %q: %w", name, err)
	}
	kind := st.Mode & unix.S_IFMT
	if kind == unix.S_IFCHR && st.Rdev == 0 {
		x.found = append(x.found, Change{Deleted, "/" + name})
		return true, nil
	}
	below := false
	if kind == unix.S_IFDIR {
		sub, err := openAt(dir, base, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return false, err
		}
		if below, err = x.directory(sub, name, depth+1); err == nil && isOpaque(sub) {
			err = x.replaced(sub, name)
		}
		_ = sub.Close()
		if err != nil {
			return false, err
		}
	}
	if x.drop[name] && !below && (kind == unix.S_IFDIR || st.Size == 0) {
		return false, nil
	}
	was, err := x.had(name)
	if err != nil {
		return false, err
	}
	if was && !below && x.holdsDropped(name) {
		return false, nil // it was copied up for a mount point in it
	}
	change := Change{Changed, "/" + name}
	if !was {
		change.Kind = Added
	}
	x.found = append(x.found, change)
	return true, nil
}

// holdsDropped tells whether something that is not told of may be in name.
func (x *comparer) holdsDropped(name string) bool {
	for dropped := range x.drop {
		if path.Dir(dropped) == name {
			return true
		}
	}
	return false
}

// replaced tells of what a directory had that was removed and made anew.
func (x *comparer) replaced(now *os.File, name string) error {
	gone := map[string]bool{}
	for _, layer := range x.lowers {
		dir, final, err := walkTo(layer, strings.Split(name, "/"))
		if err != nil {
			return err
		}
		if dir != nil {
			names, err := dir.Readdirnames(-1)
			final = final || isOpaque(dir)
			_ = dir.Close()
			if err != nil {
				return err
			}
			for _, base := range names {
				gone[base] = true
			}
		}
		if final {
			break
		}
	}
	for base := range gone {
		var st unix.Stat_t
		if unix.Fstatat(int(now.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			continue
		}
		was, err := x.had(path.Join(name, base)) // not if a layer between has deleted it
		if err != nil {
			return err
		}
		if was {
			x.found = append(x.found, Change{Deleted, "/" + path.Join(name, base)})
		}
	}
	return nil
}

// had tells whether the layers together show the name.
func (x *comparer) had(name string) (bool, error) {
	for _, layer := range x.lowers {
		shown, final, err := inLayer(layer, name)
		if err != nil || final {
			return shown, err
		}
	}
	return false, nil
}

// inLayer looks for a name in one layer. final says that what is below does not
// count: it is there, was deleted, or is below an opaque directory.
func inLayer(layer *os.File, name string) (shown, final bool, err error) {
	parts := strings.Split(name, "/")
	dir, final, err := walkTo(layer, parts[:len(parts)-1])
	if err != nil || dir == nil {
		return false, final, err
	}
	defer func() { _ = dir.Close() }()
	var st unix.Stat_t
	err = unix.Fstatat(int(dir.Fd()), parts[len(parts)-1], &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, final || len(parts) > 1 && isOpaque(dir), nil
	case err != nil:
		return false, true, err
	}
	return st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0, true, nil
}

// walkTo opens a directory of one layer; nil if the layer has none. final is as
// for inLayer. The caller closes it.
func walkTo(layer *os.File, parts []string) (dir *os.File, final bool, err error) {
	if dir, err = openAt(layer, ".", unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return nil, true, err
	}
	for _, part := range parts {
		var st unix.Stat_t
		err := unix.Fstatat(int(dir.Fd()), part, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			_ = dir.Close()
			if errors.Is(err, unix.ENOENT) {
				return nil, final, nil
			}
			return nil, true, err // something else is in its place, or a deletion
		}
		next, err := openAt(dir, part, unix.O_RDONLY|unix.O_DIRECTORY)
		_ = dir.Close()
		if err != nil {
			return nil, true, err
		}
		dir, final = next, final || isOpaque(next)
	}
	return dir, final, nil
}
