package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// transfer is a COPY or an ADD.
type transfer struct {
	t       *step
	verb    string
	from    string // of COPY
	sources []string
	files   []instructions.SourceContent
	dest    string // as written
	chown   string
	chmod   string
	exclude []string
	parents bool
	unpack  *bool // of ADD; nil: archives of the context, and none of URLs
	isAdd   bool
	sum     string // of ADD
}

func (t *step) copy(ctx context.Context, c *instructions.CopyCommand) (EventKind, error) {
	return t.transfer(ctx, &transfer{t: t, verb: "COPY", from: c.From, sources: c.SourcePaths, files: c.SourceContents, dest: c.DestPath,
		chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns, parents: c.Parents})
}

func (t *step) add(ctx context.Context, c *instructions.AddCommand) (EventKind, error) {
	for _, src := range c.SourcePaths {
		if isGit(src) {
			return "", errkind.New(errkind.Unimplemented, "git repositories are not fetched; clone it into the context, or RUN git clone")
		}
	}
	return t.transfer(ctx, &transfer{t: t, verb: "ADD", sources: c.SourcePaths, files: c.SourceContents, dest: c.DestPath,
		chown: c.Chown, chmod: c.Chmod, exclude: c.ExcludePatterns, unpack: c.Unpack, isAdd: true, sum: c.Checksum})
}

func (t *step) transfer(ctx context.Context, x *transfer) (EventKind, error) {
	if err := t.stage.b.file.checkMode(nil, x.chmod); err != nil {
		return "", err
	}
	from, err := x.origin(ctx)
	if err != nil {
		return "", err
	}
	defer from.close()
	content, err := x.content(ctx, from)
	if err != nil {
		return "", err
	}
	key := t.key(x.verb, x.sources, x.dest, x.chown, x.chmod, x.exclude, x.parents, x.unpack, content)
	l, how, err := t.layer(ctx, key, func() (func(context.Context, io.Writer) error, error) {
		out, err := t.newOutput()
		if err != nil {
			return nil, err
		}
		out.ctx = ctx
		from.closers = append(from.closers, out.close)
		if err := x.fill(ctx, out, from); err != nil {
			return nil, err
		}
		return out.write, nil
	})
	if err != nil {
		return "", err
	}
	t.state.push(l, x.note())
	return how, nil
}

// note is the line of history.
func (x *transfer) note() string {
	words := []string{x.verb}
	for _, f := range [][2]string{{"from", x.from}, {"chown", x.chown}, {"chmod", x.chmod}, {"checksum", x.sum}} {
		if f[1] != "" {
			words = append(words, "--"+f[0]+"="+f[1])
		}
	}
	words = append(words, x.sources...)
	for _, f := range x.files {
		words = append(words, "<<"+f.Path)
	}
	return strings.Join(append(words, x.dest), " ")
}

// origin is where sources come from.
type origin struct {
	tree    tree
	context *archive      // if it is that
	id      digest.Digest // of a stage or an image: all of it
	remote  map[string]*remote
	closers []func()
}

func (o *origin) close() {
	for _, f := range o.closers {
		f()
	}
}

// origin opens the tree that is copied from.
func (x *transfer) origin(ctx context.Context) (*origin, error) {
	b := x.t.stage.b
	if x.from == "" {
		return x.contextOrigin(ctx)
	}
	stack, err := b.stackOf(ctx, x.from, x.t.stage.number)
	if err != nil {
		return nil, fmt.Errorf("--from=%s: %w", x.from, err)
	}
	o := &origin{id: stack.chain()}
	o.tree = &lazyView{mount: func() (view, error) {
		root, err := b.store.View(stack)
		return view{root}, err
	}, origin: o}
	return o, nil
}

// stackOf gives the layers of what --from says: a stage, else an image.
func (b *builder) stackOf(ctx context.Context, from string, before int) (Stack, error) {
	if i, ok := b.file.find(from, before); ok {
		st, err := b.stages[i].wait(ctx)
		if err != nil {
			return nil, err
		}
		return st.stack, nil
	}
	if from == "scratch" {
		return nil, nil
	}
	base, err := b.store.Base(ctx, from, b.req.Pull)
	return base.Stack, err
}

// contextOrigin is the context, and what comes from URLs.
func (x *transfer) contextOrigin(ctx context.Context) (*origin, error) {
	b := x.t.stage.b
	o := &origin{remote: map[string]*remote{}}
	for _, src := range x.sources {
		if x.isAdd && isURL(src) {
			r, err := b.fetch(ctx, src, x.sum)
			if err != nil {
				o.close()
				return nil, err
			}
			o.remote[src] = r
			o.closers = append(o.closers, r.close)
			continue
		}
		if x.sum != "" {
			o.close()
			return nil, errkind.New(errkind.InvalidArgument, "--checksum is for URLs, and %s is none", src)
		}
		if o.context == nil {
			var err error
			if o.context, err = b.contextTree(ctx); err != nil {
				o.close()
				return nil, err
			}
			o.tree = o.context
		}
	}
	return o, nil
}

// lazyView is a view that is opened when it is first needed: a step whose
// outcome is in the cache needs none.
type lazyView struct {
	view
	mount  func() (view, error)
	origin *origin
	opened bool
}

func (l *lazyView) ready() error {
	if l.opened {
		return nil
	}
	v, err := l.mount()
	if err != nil {
		return err
	}
	l.view, l.opened = v, true
	l.origin.closers = append(l.origin.closers, func() { _ = v.root.Close() })
	return nil
}

// content names what is copied.
func (x *transfer) content(ctx context.Context, from *origin) (string, error) {
	parts := []string{from.id.String()}
	for _, f := range x.files {
		parts = append(parts, fmt.Sprintf("inline %q %s", f.Path, digest.FromString(f.Data)))
	}
	for _, src := range x.sources {
		if r := from.remote[src]; r != nil {
			parts = append(parts, fmt.Sprintf("url %q %s", src, r.sum))
			continue
		}
		if from.context == nil {
			continue
		}
		names, err := x.matches(from.context, src)
		if err != nil {
			return "", err
		}
		sum, err := from.context.contentSum(names, x.t.stage.b.limits)
		if err != nil {
			return "", err
		}
		parts = append(parts, sum.String())
	}
	return strings.Join(parts, "\n"), nil
}

// matches gives the paths in from that a source means; none is a failure.
func (x *transfer) matches(from tree, src string) ([]string, error) {
	found, err := glob(from, src)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, errkind.New(errkind.NotFound, "nothing matches %s", src)
	}
	for _, p := range found {
		_, n, err := resolve(from, p)
		if err != nil {
			return nil, err
		}
		if n == nil {
			return nil, errkind.New(errkind.NotFound, "%s is not there%s", p, x.hint())
		}
	}
	return found, nil
}

func (x *transfer) hint() string {
	if x.from == "" {
		return ": the context has no such file, or .dockerignore leaves it out"
	}
	return " in " + x.from
}

// fill composes the layer.
func (x *transfer) fill(ctx context.Context, out *output, from *origin) error {
	if l, ok := from.tree.(*lazyView); ok {
		if err := l.ready(); err != nil {
			return err
		}
		from.tree = l.view
	}
	whose, err := x.owner(out)
	if err != nil {
		return err
	}
	dest := x.t.state.abs(x.dest)
	if strings.HasSuffix(x.dest, "/") || path.Base(x.dest) == "." {
		dest = strings.TrimSuffix(dest, "/") + "/"
	}
	several := len(x.sources)+len(x.files) > 1
	for _, f := range x.files {
		n := &node{mode: unix.S_IFREG | 0o644, size: int64(len(f.Data))}
		data := []byte(f.Data)
		to, err := x.target(out, dest, f.Path, several)
		if err != nil {
			return err
		}
		if err := out.copyFile(to, true, whose, x.attributes(out, n, whose), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }); err != nil {
			return err
		}
	}
	for _, src := range x.sources {
		if r := from.remote[src]; r != nil {
			if err := x.remote(ctx, out, r, dest, several, whose); err != nil {
				return fmt.Errorf("%s: %w", src, err)
			}
			continue
		}
		found, err := x.matches(from.tree, src)
		if err != nil {
			return err
		}
		for _, p := range found {
			if err := x.one(ctx, out, from, src, p, dest, several || len(found) > 1, whose); err != nil {
				return fmt.Errorf("%s: %w", src, err)
			}
		}
	}
	return nil
}

// owner is whom what is copied belongs to.
func (x *transfer) owner(out *output) (owner, error) {
	whose, err := out.owner(x.chown)
	if err != nil {
		return whose, fmt.Errorf("--chown=%s: %w", x.chown, err)
	}
	return whose, nil
}

// target is the path that a file named base gets.
func (x *transfer) target(out *output, dest, base string, several bool) (string, error) {
	if strings.HasSuffix(dest, "/") {
		return path.Join(dest, path.Base(base)), nil
	}
	if several {
		return "", errkind.New(errkind.InvalidArgument, "with more than one source the destination must be a directory and end with a /")
	}
	_, n, err := resolve(out, dest)
	if n.isDir() {
		return path.Join(dest, path.Base(base)), err
	}
	return dest, err
}

// one copies one path.
func (x *transfer) one(ctx context.Context, out *output, from *origin, src, p, dest string, several bool, whose owner) error {
	name, n, err := resolve(from.tree, p)
	if err != nil {
		return err
	}
	keep, err := x.filter(out, p, whose)
	if err != nil {
		return err
	}
	if x.parents {
		_, below, pivot := strings.Cut(p, "/./")
		if !pivot {
			below = p
		}
		return out.copyIn(from.tree, name, path.Join(dest, below), whose, keep)
	}
	if n.isDir() {
		if several && !strings.HasSuffix(dest, "/") {
			return errkind.New(errkind.InvalidArgument, "with more than one source the destination must be a directory and end with a /")
		}
		if _, err := out.directory(dest, whose, x.mode(0o755)); err != nil {
			return err
		}
		return out.copyIn(from.tree, name, dest, whose, keep)
	}
	if x.isAdd && n.is(unix.S_IFREG) && (x.unpack == nil || *x.unpack) {
		done, err := x.extract(ctx, out, func() (io.ReadCloser, error) { return from.tree.open(name) }, dest, whose)
		if done || err != nil {
			return err
		}
	}
	to, err := x.target(out, dest, p, several)
	if err != nil {
		return err
	}
	return out.copyIn(from.tree, name, to, whose, keep)
}

// filter tells what becomes of each node of a source.
func (x *transfer) filter(out *output, source string, whose owner) (func(string, *node) *node, error) {
	var leaveOut *patternmatcher.PatternMatcher
	if len(x.exclude) > 0 {
		var err error
		if leaveOut, err = patternmatcher.New(x.exclude); err != nil {
			return nil, errkind.New(errkind.InvalidArgument, "--exclude: %w", err)
		}
	}
	return func(rel string, n *node) *node {
		if leaveOut != nil && rel != "" {
			for _, p := range []string{rel, path.Join(strings.TrimPrefix(path.Clean("/"+source), "/"), rel)} {
				if hit, err := leaveOut.MatchesOrParentMatches(p); err == nil && hit {
					return nil
				}
			}
		}
		return x.attributes(out, n, whose)
	}, nil
}

// attributes gives a node what it has in the layer: from the context nothing
// but its permissions is taken, since the rest is whoever's checked it out.
func (x *transfer) attributes(out *output, n *node, whose owner) *node {
	made := *n
	if x.from == "" {
		made = out.made(made)
		made.uid, made.gid, made.xattrs = 0, 0, nil
	}
	if x.chown != "" {
		made.uid, made.gid = whose.uid, whose.gid
	}
	if x.chmod != "" && !n.is(unix.S_IFLNK) {
		made.mode = n.mode&unix.S_IFMT | x.mode(0)
	}
	return &made
}

// mode is that of --chmod, else otherwise.
func (x *transfer) mode(otherwise uint32) uint32 {
	if m, err := strconv.ParseUint(x.chmod, 8, 12); err == nil {
		return uint32(m)
	}
	return otherwise
}

// extract unpacks an archive into dest; it does nothing if the file is none.
func (x *transfer) extract(ctx context.Context, out *output, open func() (io.ReadCloser, error), dest string, whose owner) (bool, error) {
	f, err := open()
	if err != nil {
		return false, err
	}
	is, err := isArchive(f)
	_ = f.Close()
	if err != nil || !is {
		return false, err
	}
	b := x.t.stage.b
	if f, err = open(); err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	a, err := readArchive(ctx, f, b.dir.path, archiveLimits{bytes: b.limits.Download, entries: b.limits.Entries, depth: b.limits.Depth})
	if err != nil {
		return false, fmt.Errorf("cannot unpack it: %w", err)
	}
	out.keep(func() { _ = a.Close() })
	if _, err := out.directory(dest, whose, 0o755); err != nil {
		return false, err
	}
	return true, out.copyIn(a, "", dest, whose, func(rel string, n *node) *node {
		made := *n
		if x.chown != "" {
			made.uid, made.gid = whose.uid, whose.gid
		}
		return &made
	})
}

// remote puts a file from an URL.
func (x *transfer) remote(ctx context.Context, out *output, r *remote, dest string, several bool, whose owner) error {
	if err := r.ready(); err != nil {
		return err
	}
	if x.unpack != nil && *x.unpack {
		done, err := x.extract(ctx, out, r.open, dest, whose)
		if done || err != nil {
			return err
		}
	}
	if r.name == "" && strings.HasSuffix(dest, "/") {
		return errkind.New(errkind.InvalidArgument, "the URL names no file; write the destination with its file name")
	}
	to, err := x.target(out, dest, r.name, several)
	if err != nil {
		return err
	}
	n := &node{mode: unix.S_IFREG | 0o600, size: r.size}
	return out.copyFile(to, true, whose, x.attributes(out, n, whose), r.open)
}
