package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// proxies are variables that commands get from the caller without ARG. They
// belong to where a build runs and not to what it makes, so no key and no
// history knows of them, unless an ARG names them.
var proxies = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"}

// run carries out RUN.
func (t *step) run(ctx context.Context, c *instructions.RunCommand) (EventKind, error) {
	b := t.stage.b
	args, inline, err := t.commandLine(c)
	if err != nil {
		return "", err
	}
	network := Network(instructions.GetNetwork(c))
	if network == NetworkDefault {
		network = b.req.Network
	}
	mounts, err := t.mounts(ctx, c)
	if err != nil {
		return "", err
	}
	var described []string
	for _, m := range mounts {
		described = append(described, m.key)
	}
	key := t.key("RUN", args, inline, network, described, t.state.args.list())
	note := "RUN " + t.noteOfArgs() + strings.Join(args, " ")
	if !b.req.NoCache {
		if l, ok := b.store.Cached(key); ok {
			b.cached.Add(1)
			t.state.push(l, note)
			return EventCached, nil
		}
	}
	select {
	case b.turns <- struct{}{}:
		defer func() { <-b.turns }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	l, err := t.execute(ctx, key, args, inline, network, mounts)
	if err != nil {
		return "", err
	}
	t.state.push(l, note)
	return EventDone, nil
}

// execute runs the command and makes a layer of what it has changed.
func (t *step) execute(ctx context.Context, key digest.Digest, args []string, inline *instructions.ShellInlineFile, network Network, mounts []runMount) (l Layer, err error) {
	b := t.stage.b
	var undo []func() error
	defer func() {
		for _, f := range slices.Backward(undo) {
			err = errors.Join(err, f())
		}
	}()
	p := Process{Title: t.name, Args: args, Env: t.commandEnv(), Dir: t.state.abs("."), Network: network,
		Output: func(stderr bool, out []byte) { t.tell(EventOutput, Event{Output: out, Stderr: stderr}) }}
	if inline != nil {
		script, err := t.script(inline)
		if err != nil {
			return l, err
		}
		p.Mounts = append(p.Mounts, script)
	}
	for _, m := range mounts {
		bind, f, err := m.prepare(ctx)
		undo = append(undo, f)
		if err != nil {
			return l, fmt.Errorf("--mount=type=%s: %w", m.kind, err)
		}
		if bind.Source != "" {
			p.Mounts = append(p.Mounts, bind)
		}
	}
	how, err := t.diffOptions(p.Mounts)
	if err != nil {
		return l, err
	}
	name, release := b.store.Serve(t.state.stack, t.state.image.Config.User)
	defer release()
	p.Root = name
	b.commands.Add(1)
	code, err := b.runner.Run(ctx, p, func(ctx context.Context, container string) error {
		l, _, err = t.commit(ctx, key, func(ctx context.Context, w io.Writer) error { return b.store.Diff(ctx, container, how, w) })
		return err
	})
	if err == nil && code != 0 {
		err = errkind.New(errkind.FailedPrecondition, "the command ended with exit code %d", code)
	}
	return l, err
}

// diffOptions say what a layer of the command leaves out, and what times it has.
func (t *step) diffOptions(mounts []Bind) (how snapshot.DiffOptions, err error) {
	root, err := t.stage.b.store.View(t.state.stack)
	if err != nil {
		return how, err
	}
	defer func() { _ = root.Close() }()
	// What is mounted needs places, which are made where the image has none.
	points := []string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
	for _, m := range mounts {
		points = append(points, m.Target)
	}
	how.Drop = map[string]bool{}
	for _, p := range points {
		name, n, err := resolve(view{root}, p)
		for err == nil && n == nil && name != "" {
			how.Drop[name] = true
			name = parent(name)
			n, err = stat(view{root}, name)
		}
	}
	// The clock that files get is a little behind.
	begin, epoch := time.Now().Add(-time.Second), t.state.epoch
	how.Time = func(at time.Time) time.Time {
		if at.Before(begin) {
			return at
		}
		return epoch
	}
	return how, nil
}

// commandLine gives what is executed, and a script that it needs.
func (t *step) commandLine(c *instructions.RunCommand) (args []string, inline *instructions.ShellInlineFile, err error) {
	line := c.ShellDependantCmdLine
	if len(line.Files) > 0 {
		if len(line.CmdLine) != 1 || !line.PrependShell {
			return nil, nil, errkind.New(errkind.InvalidArgument, "a heredoc cannot be combined with the exec form")
		}
		doc, err := parser.ParseHeredoc(line.CmdLine[0])
		switch first := line.Files[0]; {
		case err == nil && doc != nil && strings.HasPrefix(first.Data, "#!"):
			return []string{scriptPath}, &first, nil
		case err == nil && doc != nil:
			text := first.Data
			if first.Chomp {
				text = parser.ChompHeredocContent(text)
			}
			line.CmdLine = []string{text}
		default:
			text := line.CmdLine[0]
			for _, f := range line.Files {
				text += "\n" + f.Data + f.Name
			}
			line.CmdLine = []string{text}
		}
	}
	args = t.shell(line)
	if len(args) == 0 {
		return nil, nil, errkind.New(errkind.InvalidArgument, "there is no command")
	}
	return args, nil, nil
}

// scriptPath is where a heredoc that is a script of its own is to be found. In
// /dev nothing stays of it.
const scriptPath = "/dev/berth-heredoc"

func (t *step) script(f *instructions.ShellInlineFile) (Bind, error) {
	text := f.Data
	if f.Chomp {
		text = parser.ChompHeredocContent(text)
	}
	dir, err := t.stage.b.dir.fresh()
	if err != nil {
		return Bind{}, err
	}
	file := filepath.Join(dir, "script")
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		return Bind{}, err
	}
	return Bind{Source: file, Target: scriptPath, ReadOnly: true}, os.Chmod(file, 0o755)
}

// commandEnv is the environment of a command.
func (t *step) commandEnv() []string {
	v := &variables{}
	for _, name := range proxies {
		if value, ok := t.stage.b.req.Args[name]; ok {
			v.set(name, value)
		}
	}
	for _, name := range t.state.args.names {
		v.set(name, t.state.args.values[name])
	}
	for _, e := range t.state.image.Config.Env {
		name, value, _ := strings.Cut(e, "=")
		v.set(name, value)
	}
	if t.stage.b.req.Epoch != nil {
		if _, ok := v.Get("SOURCE_DATE_EPOCH"); !ok {
			v.set("SOURCE_DATE_EPOCH", strconv.FormatInt(t.state.epoch.Unix(), 10))
		}
	}
	return v.list()
}

// noteOfArgs tells in the history with which arguments a command was run.
func (t *step) noteOfArgs() string {
	list := t.state.args.list()
	if len(list) == 0 {
		return ""
	}
	return "|" + strconv.Itoa(len(list)) + " " + strings.Join(list, " ") + " "
}

// runMount is one --mount of a command.
type runMount struct {
	kind string
	key  string // all that the outcome depends on
	// prepare makes what is mounted; a bind without a source is none. undo is
	// to be called even after a failure.
	prepare func(ctx context.Context) (bind Bind, undo func() error, err error)
}

func nothing() error { return nil }

// mounts reads the mounts of a command.
func (t *step) mounts(ctx context.Context, c *instructions.RunCommand) (out []runMount, err error) {
	for _, m := range instructions.GetMounts(c) {
		if err := t.stage.b.file.checkMount(m); err != nil {
			return nil, err
		}
		one, err := t.mountOf(ctx, m)
		if err != nil {
			return nil, fmt.Errorf("--mount=type=%s: %w", m.Type, err)
		}
		one.kind = string(m.Type)
		out = append(out, one)
	}
	return out, nil
}

func (t *step) mountOf(ctx context.Context, m *instructions.Mount) (runMount, error) {
	target, err := t.mountTarget(m)
	if err != nil {
		return runMount{}, err
	}
	switch m.Type {
	case instructions.MountTypeSecret:
		return t.secret(m, target)
	case instructions.MountTypeTmpfs:
		return runMount{key: fmt.Sprintf("tmpfs %q %d", target, m.SizeLimit), prepare: func(context.Context) (Bind, func() error, error) {
			dir, err := t.stage.b.dir.tmpfs(m.SizeLimit)
			return Bind{Source: dir, Target: target, ReadOnly: m.ReadOnly}, func() error { return unmount(dir) }, err
		}}, nil
	case instructions.MountTypeCache:
		return t.cache(m, target), nil
	}
	return t.bind(ctx, m, target)
}

// mountTarget is where a mount appears; what the runtime mounts is not covered.
func (t *step) mountTarget(m *instructions.Mount) (string, error) {
	target := m.Target
	if target == "" { // of a secret
		id := m.CacheID
		if id == "" {
			id = m.Source
		}
		target = path.Join("/run/secrets", path.Base(id))
	}
	target = t.state.abs(target)
	for _, own := range []string{"/proc", "/sys", "/dev"} {
		if target == own || strings.HasPrefix(target, own+"/") {
			return "", errkind.New(errkind.InvalidArgument, "the target %s is in %s, which is the runtime's", target, own)
		}
	}
	if target == "/" {
		return "", errkind.New(errkind.InvalidArgument, "the target is the root")
	}
	return target, nil
}

func (t *step) secret(m *instructions.Mount, target string) (runMount, error) {
	id := m.CacheID
	if id == "" {
		id = m.Source
	}
	if id == "" {
		id = path.Base(m.Target)
	}
	w := t.stage.b.dir
	file, ok := w.secrets[id]
	if !ok && m.Required {
		return runMount{}, errkind.New(errkind.FailedPrecondition, "the secret %q is required and was not given: --secret id=%s,src=FILE", id, id)
	}
	return runMount{key: fmt.Sprintf("secret %q %q", id, target), prepare: func(context.Context) (Bind, func() error, error) {
		if !ok {
			return Bind{}, nothing, nil
		}
		own, err := w.secretFor(file, number(m.Mode, 0o400), int(number(m.UID, 0)), int(number(m.GID, 0)))
		return Bind{Source: own, Target: target, ReadOnly: true}, func() error { return os.Remove(own) }, err
	}}, nil
}

func number(p *uint64, otherwise uint64) uint64 {
	if p == nil {
		return otherwise
	}
	return *p
}

func (t *step) cache(m *instructions.Mount, target string) runMount {
	id := m.CacheID
	if id == "" {
		id = target
	}
	return runMount{key: fmt.Sprintf("cache %q %q", id, target), prepare: func(ctx context.Context) (Bind, func() error, error) {
		dir, release, err := t.stage.b.store.CacheDir(ctx, id, string(m.CacheSharing))
		if err != nil {
			return Bind{}, nothing, err
		}
		undo := func() error { release(); return nil }
		if m.Mode != nil || m.UID != nil || m.GID != nil {
			err = errors.Join(os.Chown(dir, int(number(m.UID, 0)), int(number(m.GID, 0))), unix.Chmod(dir, uint32(number(m.Mode, 0o755))&0o7777))
		}
		return Bind{Source: dir, Target: target, ReadOnly: m.ReadOnly}, undo, err
	}}
}

// bind shows files of the context, of a stage or of an image.
func (t *step) bind(ctx context.Context, m *instructions.Mount, target string) (runMount, error) {
	b := t.stage.b
	if m.From == "" {
		a, err := b.contextTree(ctx)
		if err != nil {
			return runMount{}, err
		}
		name, n, err := resolve(a, m.Source)
		if err == nil && n == nil {
			err = errkind.New(errkind.NotFound, "the context has no %s", m.Source)
		}
		if err != nil {
			return runMount{}, err
		}
		sum, err := a.contentSum([]string{m.Source}, b.limits)
		return runMount{key: fmt.Sprintf("bind context %s %q %t", sum, target, m.ReadOnly), prepare: func(ctx context.Context) (Bind, func() error, error) {
			dir, err := b.dir.fresh()
			if err == nil {
				err = export(ctx, a, name, dir, t.state.epoch, b.limits)
			}
			// The copy is the command's own, so that it may be written.
			return Bind{Source: filepath.Join(dir, exported), Target: target, ReadOnly: m.ReadOnly}, func() error { return os.RemoveAll(dir) }, err
		}}, err
	}
	stack, err := b.stackOf(ctx, m.From, t.stage.number)
	if err != nil {
		return runMount{}, fmt.Errorf("from=%s: %w", m.From, err)
	}
	return runMount{key: fmt.Sprintf("bind %s %q %q %t", stack.chain(), m.Source, target, m.ReadOnly), prepare: func(context.Context) (Bind, func() error, error) {
		return b.bindOf(stack, m, target)
	}}, nil
}

// bindOf mounts the tree of the layers, writable if the command may, for its
// own eyes only, and finds what the mount shows of it.
func (b *builder) bindOf(stack Stack, m *instructions.Mount, target string) (Bind, func() error, error) {
	dir, err := b.dir.fresh()
	if err != nil {
		return Bind{}, nothing, err
	}
	merged := filepath.Join(dir, "m")
	undo := func() error {
		if err := unmountBelow(dir); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	}
	if err := b.store.Mount(stack, filepath.Join(dir, "s"), merged, !m.ReadOnly); err != nil {
		return Bind{}, undo, err
	}
	root, err := os.Open(merged)
	if err != nil {
		return Bind{}, undo, err
	}
	defer func() { _ = root.Close() }()
	// Nobody changes the tree before the container does: what is found now is
	// what will be mounted.
	name, n, err := resolve(view{root}, m.Source)
	if err == nil && n == nil {
		err = errkind.New(errkind.NotFound, "%s has no %s", m.From, m.Source)
	}
	if err == nil && !n.isDir() && !n.is(unix.S_IFREG) {
		err = errkind.New(errkind.InvalidArgument, "%s of %s is neither a file nor a directory", m.Source, m.From)
	}
	return Bind{Source: filepath.Join(merged, name), Target: target, ReadOnly: m.ReadOnly}, undo, err
}

func unmount(dir string) error {
	if dir == "" {
		return nil
	}
	if err := mount.Unmount(dir); err != nil {
		return err
	}
	return os.Remove(dir)
}
