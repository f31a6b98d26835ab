package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// owner is whom files belong to.
type owner struct{ uid, gid int }

// output composes the tar of one layer over the tree that is there. Its names
// are real ones: none of them leads through a link.
type output struct {
	ctx    context.Context
	below  view
	limits Limits
	epoch  time.Time
	items  map[string]*item // by name
	kept   []func()         // to be called when it is closed
}

// item is one file of the layer.
type item struct {
	node
	open func() (io.ReadCloser, error) // of a regular file
}

// newOutput begins a layer on what the step's state has.
func (t *step) newOutput() (*output, error) {
	b := t.stage.b
	root, err := b.store.View(t.state.stack)
	if err != nil {
		return nil, err
	}
	return &output{below: view{root}, limits: b.limits, epoch: t.state.epoch, items: map[string]*item{}}, nil
}

func (o *output) close() {
	_ = o.below.root.Close()
	for _, f := range o.kept {
		f()
	}
}

func (o *output) keep(f func()) { o.kept = append(o.kept, f) }

// lstat, names and open make an output the tree as it will be, as far as paths
// are resolved in it.
func (o *output) lstat(name string) (*node, error) {
	if it := o.items[name]; it != nil {
		return &it.node, nil
	}
	return o.below.lstat(name)
}

func (o *output) names(name string) ([]string, error)     { return o.below.names(name) }
func (o *output) open(name string) (io.ReadCloser, error) { return o.below.open(name) }

// made gives n the build's time.
func (o *output) made(n node) node {
	n.mtime = unix.NsecToTimespec(o.epoch.UnixNano())
	return n
}

// put gives a file its name, below directories that are named too, with what
// they are, so that the layer needs nothing of those below it.
func (o *output) put(name string, it *item) error {
	for _, c := range components(name) {
		if strings.HasPrefix(c, ".wh.") {
			return errkind.New(errkind.InvalidArgument, "%q has a name that means a deletion in a layer", "/"+name)
		}
	}
	for dir := name; dir != ""; {
		dir = parent(dir)
		if o.items[dir] != nil {
			break
		}
		n, err := o.below.lstat(dir)
		if err != nil {
			return err
		}
		o.items[dir] = &item{node: *n}
	}
	if len(o.items) >= o.limits.Layer {
		return errkind.New(errkind.ResourceExhausted, "it writes more than %d files and directories", o.limits.Layer)
	}
	o.items[name] = it
	return nil
}

// mkdir makes the directory p and those above it that are missing. Links on
// the way lead where they lead in the image.
func (o *output) mkdir(p string, whose owner) error {
	_, err := o.directory(p, whose, 0o755)
	return err
}

// directory is mkdir; it gives the real name.
func (o *output) directory(p string, whose owner, mode uint32) (string, error) {
	name, n, err := resolve(o, p)
	if err != nil {
		return "", err
	}
	if n != nil {
		if !n.isDir() {
			return "", errkind.New(errkind.InvalidArgument, "%s is there and is no directory", p)
		}
		return name, nil
	}
	var missing []string
	for at := name; ; at = parent(at) {
		n, err := stat(o, at)
		if err != nil {
			return "", err
		}
		if n != nil {
			break
		}
		missing = append(missing, at)
	}
	if len(missing) > o.limits.Depth {
		return "", errkind.New(errkind.ResourceExhausted, "directories lie in each other more than %d deep", o.limits.Depth)
	}
	for _, at := range slices.Backward(missing) {
		it := &item{node: o.made(node{mode: unix.S_IFDIR | mode, uid: whose.uid, gid: whose.gid})}
		if err := o.put(at, it); err != nil {
			return "", err
		}
	}
	return name, nil
}

// write writes the tar. It may be called again.
func (o *output) write(ctx context.Context, w io.Writer) error {
	tw := tar.NewWriter(w)
	first := map[inode]string{}
	for _, name := range slices.Sorted(maps.Keys(o.items)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := o.writeItem(tw, name, o.items[name], first); err != nil {
			return fmt.Errorf("cannot copy to /%s: %w", name, err)
		}
	}
	return tw.Close()
}

func (o *output) writeItem(tw *tar.Writer, name string, it *item, first map[inode]string) error {
	h := &tar.Header{Name: "./" + name, Mode: int64(it.mode & 0o7777), Uid: it.uid, Gid: it.gid, ModTime: time.Unix(it.mtime.Unix()), Format: tar.FormatPAX}
	for k, v := range it.xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	switch it.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, strings.TrimSuffix(h.Name, "/")+"/"
		return tw.WriteHeader(h)
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, it.link, 0o777
		return tw.WriteHeader(h)
	case unix.S_IFREG:
		if it.inode != (inode{}) {
			if to, ok := first[it.inode]; ok {
				h.Typeflag, h.Linkname, h.PAXRecords = tar.TypeLink, to, nil
				return tw.WriteHeader(h)
			}
			first[it.inode] = h.Name
		}
		return writeFile(tw, h, it)
	case unix.S_IFCHR:
		h.Typeflag = tar.TypeChar
	case unix.S_IFBLK:
		h.Typeflag = tar.TypeBlock
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return errkind.New(errkind.InvalidArgument, "it is a socket")
	}
	h.Devmajor, h.Devminor = int64(unix.Major(it.rdev)), int64(unix.Minor(it.rdev))
	return tw.WriteHeader(h)
}

func writeFile(tw *tar.Writer, h *tar.Header, it *item) error {
	h.Typeflag, h.Size = tar.TypeReg, it.size
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	f, err := it.open()
	if err != nil {
		return err
	}
	_, err = io.CopyN(tw, f, it.size)
	return errors.Join(err, f.Close())
}

// owner reads USER[:GROUP], names looked up in the files of the image. "" is root.
func (o *output) owner(text string) (owner, error) {
	if text == "" {
		return owner{}, nil
	}
	user, group, hasGroup := strings.Cut(text, ":")
	var out owner
	uid, err := strconv.ParseUint(user, 10, 31)
	if err == nil {
		out = owner{int(uid), int(uid)}
	} else {
		fields, err := o.account("etc/passwd", user)
		if err != nil {
			return out, err
		}
		if out.uid, out.gid, err = twoNumbers(fields[2], fields[3]); err != nil {
			return out, errkind.New(errkind.InvalidArgument, "user %q of /etc/passwd has no number", user)
		}
	}
	if !hasGroup {
		return out, nil
	}
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		out.gid = int(gid)
		return out, nil
	}
	fields, err := o.account("etc/group", group)
	if err != nil {
		return out, err
	}
	if out.gid, _, err = twoNumbers(fields[2], "0"); err != nil {
		return out, errkind.New(errkind.InvalidArgument, "group %q of /etc/group has no number", group)
	}
	return out, nil
}

func twoNumbers(a, b string) (int, int, error) {
	x, err := strconv.ParseUint(a, 10, 31)
	y, err2 := strconv.ParseUint(b, 10, 31)
	return int(x), int(y), errors.Join(err, err2)
}

// maxAccounts bounds /etc/passwd and /etc/group, in bytes.
const maxAccounts = 4 << 20

// account gives the line of name in a file of accounts, split; it has four
// fields at least.
func (o *output) account(file, name string) ([]string, error) {
	at, n, err := resolve(o.below, file)
	if err != nil {
		return nil, err
	}
	var text []byte
	if n.is(unix.S_IFREG) {
		if text, err = readSmall(o.below, at, maxAccounts); err != nil {
			return nil, err
		}
	}
	for l := range strings.SplitSeq(string(text), "\n") {
		if fields := strings.Split(l, ":"); len(fields) >= 4 && fields[0] == name {
			return fields, nil
		}
	}
	return nil, errkind.New(errkind.InvalidArgument, "%q is neither a number nor in /%s of the image", name, file)
}

// copyIn puts the file or the tree name of from at p. keep tells of a node
// what becomes of it, or that it is left out.
func (o *output) copyIn(from tree, name, p string, whose owner, keep func(rel string, n *node) *node) error {
	return walk(from, name, o.limits.Depth, func(rel, at string, n *node) error {
		if err := o.ctx.Err(); err != nil {
			return err
		}
		kept := keep(rel, n)
		if kept == nil {
			return nil
		}
		if n.isDir() {
			return o.copyDir(path.Join(p, rel), whose, kept)
		}
		return o.copyFile(path.Join(p, rel), rel == "", whose, kept, func() (io.ReadCloser, error) { return from.open(at) })
	})
}

// copyDir makes a directory as n is, unless there is one.
func (o *output) copyDir(p string, whose owner, n *node) error {
	name, have, err := resolve(o, p)
	if err != nil {
		return err
	}
	if have.isDir() {
		return nil
	}
	if have != nil {
		return errkind.New(errkind.InvalidArgument, "%s is there and is no directory", p)
	}
	if _, err := o.directory("/"+parent(name), whose, 0o755); err != nil {
		return err
	}
	return o.put(name, &item{node: *n})
}

// copyFile puts what is no directory at p. top follows a link at p itself.
func (o *output) copyFile(p string, top bool, whose owner, n *node, open func() (io.ReadCloser, error)) error {
	dir, err := o.directory(path.Dir(p), whose, 0o755)
	if err != nil {
		return err
	}
	name := path.Join(dir, path.Base(p))
	if top {
		to, _, err := resolve(o, p)
		if err != nil {
			return err
		}
		if _, err := o.directory("/"+parent(to), whose, 0o755); err != nil {
			return err
		}
		name = to
	}
	have, err := stat(o, name)
	if err != nil {
		return err
	}
	if have.isDir() {
		return errkind.New(errkind.InvalidArgument, "%s is a directory, which a file cannot replace", p)
	}
	return o.put(name, &item{node: *n, open: open})
}

var _ tree = (*output)(nil)
