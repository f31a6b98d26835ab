package build

import (
	"context"
	"errors"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// exported is what export makes.
const exported = "f"

// export writes the file or the tree name of from to dir/f, for a command to
// see. Nothing of what it writes leads out of dir, where nobody else writes.
func export(ctx context.Context, from tree, name, dir string, at time.Time, limits Limits) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	return walk(from, name, limits.Depth, func(rel, name string, n *node) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := path.Join(exported, rel)
		mode := os.FileMode(n.mode & 0o777)
		switch n.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			err = errors.Join(root.Mkdir(to, 0o700), root.Chmod(to, mode))
		case unix.S_IFLNK:
			return root.Symlink(n.link, to)
		case unix.S_IFREG:
			err = exportFile(root, from, name, to, mode)
		default:
			return errkind.New(errkind.InvalidArgument, "%s is neither a file, a directory nor a link", name)
		}
		return errors.Join(err, root.Chtimes(to, at, at))
	})
}

func exportFile(root *os.Root, from tree, name, to string, mode os.FileMode) error {
	in, err := from.open(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	f, err := root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, in)
	return errors.Join(err, f.Chmod(mode), f.Close())
}
