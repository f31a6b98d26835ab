package build

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// builder is one build under way.
type builder struct {
	req     Request
	limits  Limits
	file    *file
	store   Store
	runner  Runner
	dir     *workspace
	globals *variables // ARG before the first FROM, and of the platform
	stages  []*stage
	turns   chan struct{} // one for each command that may run at a time

	context struct {
		once sync.Once
		tree *archive
		err  error
	}

	steps                    atomic.Int32
	commands, layers, cached atomic.Int32
}

// Build builds what r asks for and commits it to store. dir is a directory of
// the build's own, which the caller removes afterwards, with what is mounted
// below it, by RemoveWorkspace.
func Build(ctx context.Context, r Request, store Store, runner Runner, dir string) (Result, error) {
	b := &builder{req: r, limits: r.Limits.orDefault(), store: store, runner: runner,
		turns: make(chan struct{}, max(4, runtime.GOMAXPROCS(0)))}
	var err error
	if b.dir, err = newWorkspace(dir, r.Secrets); err != nil {
		return Result{}, err
	}
	defer b.closeContext()
	if err := b.check(); err != nil {
		return Result{}, err
	}
	text, err := b.dockerfile(ctx)
	if err != nil {
		return Result{}, err
	}
	if b.file, err = parse(b.req.File, text, b.limits); err != nil {
		return Result{}, err
	}
	for _, note := range b.file.notes {
		b.tell(Event{Kind: EventNote, Text: note})
	}
	if err := b.plan(); err != nil {
		return Result{}, err
	}
	target, err := b.file.target(r.Target)
	if err != nil {
		return Result{}, err
	}
	// What one stage meets ends the others.
	ctx, cancel := context.WithCancel(ctx)
	err = b.begin(ctx, target)
	var st *state
	if err == nil {
		st, err = b.stages[target].wait(ctx)
	}
	cancel()
	b.settle()
	if err != nil {
		return Result{}, b.first(err)
	}
	id, err := b.commit(context.WithoutCancel(ctx), st)
	return Result{ID: id, Commands: int(b.commands.Load()), Layers: int(b.layers.Load()), Cached: int(b.cached.Load())}, err
}

// check refuses what of the request can be refused without the file.
func (b *builder) check() error {
	r := &b.req
	if r.File == "" {
		r.File = "Dockerfile"
	}
	if r.Progress == nil {
		r.Progress = func(Event) {}
	}
	if r.Network == "" {
		r.Network = NetworkDefault
	}
	if !slices.Contains([]Network{NetworkDefault, NetworkHost, NetworkNone}, r.Network) {
		return errkind.New(errkind.InvalidArgument, "cannot build with network %q: it must be default, host or none", r.Network)
	}
	own := Platform{OS: "linux", Architecture: runtime.GOARCH}
	if r.Platform == (Platform{}) {
		r.Platform = own
	}
	if r.Platform.OS != own.OS || r.Platform.Architecture != own.Architecture {
		return errkind.New(errkind.Unimplemented, "cannot build for %s/%s: commands run on this machine, which is %s/%s", r.Platform.OS, r.Platform.Architecture, own.OS, own.Architecture)
	}
	for what, m := range map[string]map[string]string{"build argument": r.Args, "label": r.Labels} {
		if len(m) > b.limits.Args {
			return errkind.New(errkind.ResourceExhausted, "cannot build: there are %d %ss, and %d are the most", len(m), what, b.limits.Args)
		}
		for k, v := range m {
			if k == "" || strings.ContainsRune(k, '=') || strings.ContainsRune(k+v, 0) {
				return errkind.New(errkind.InvalidArgument, "cannot build: %q is not the name of a %s", k, what)
			}
			if len(k)+len(v) > b.limits.Value {
				return errkind.New(errkind.ResourceExhausted, "cannot build: the %s %.50q has more than %d bytes", what, k, b.limits.Value)
			}
		}
	}
	if len(r.Secrets) > b.limits.Args {
		return errkind.New(errkind.ResourceExhausted, "cannot build: there are %d secrets, and %d are the most", len(r.Secrets), b.limits.Args)
	}
	return nil
}

// dockerfile gives the text of the file, from the context if it is not in the
// request.
func (b *builder) dockerfile(ctx context.Context) ([]byte, error) {
	if b.req.Dockerfile != nil {
		return b.req.Dockerfile, nil
	}
	t, err := b.contextTree(ctx)
	if err != nil {
		return nil, err
	}
	name, n, err := resolve(t, b.req.File)
	if err == nil && !n.is(unix.S_IFREG) {
		err = errkind.New(errkind.NotFound, "the context has no such file")
	}
	if err != nil {
		return nil, errkind.New(max(errkind.Of(err), errkind.InvalidArgument), "cannot read %s: %w", b.req.File, err)
	}
	return readSmall(t, name, b.limits.File)
}

// contextTree gives the context, which is received when this is called first.
func (b *builder) contextTree(ctx context.Context) (*archive, error) {
	c := &b.context
	c.once.Do(func() {
		if b.req.Context == nil {
			c.tree = emptyArchive()
			return
		}
		r, err := b.req.Context(ctx)
		if err == nil {
			c.tree, err = readArchive(ctx, r, b.dir.path, archiveLimits{bytes: b.limits.Context, entries: b.limits.Entries, depth: b.limits.Depth, plain: true})
		}
		if err != nil {
			c.err = errkind.New(errkind.Of(err), "cannot read the build context: %w", err)
		}
	})
	return c.tree, c.err
}

func (b *builder) closeContext() {
	b.context.once.Do(func() {})
	if t := b.context.tree; t != nil && t.file != nil {
		_ = t.Close()
	}
}

// platformArgs are the variables that every file may use without a value.
func (b *builder) platformArgs() map[string]string {
	p := b.req.Platform
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	out := map[string]string{}
	for _, of := range []string{"BUILD", "TARGET"} {
		out[of+"PLATFORM"], out[of+"OS"], out[of+"ARCH"], out[of+"VARIANT"] = text, p.OS, p.Architecture, p.Variant
	}
	out["TARGETSTAGE"] = b.req.Target
	return out
}

// plan gives the global variables their values and each stage its base.
func (b *builder) plan() error {
	b.globals = &variables{}
	for k, v := range b.platformArgs() {
		b.globals.set(k, v)
	}
	lex := shell.NewLex(b.file.escape)
	for _, c := range b.file.args {
		for _, a := range c.Args {
			value, given := b.req.Args[a.Key]
			if !given && a.Value != nil {
				var err error
				if value, err = b.expand(lex, *a.Value, b.globals); err != nil {
					return b.file.invalid(c.Location(), err)
				}
				given = true
			}
			if given {
				b.globals.set(a.Key, value)
			}
		}
	}
	for i := range b.file.stages {
		s := &b.file.stages[i]
		st := &stage{b: b, number: i, from: -1, done: make(chan struct{})}
		b.stages = append(b.stages, st)
		base, err := b.expand(lex, s.BaseName, b.globals)
		if err != nil {
			return b.file.invalid(s.Location, err)
		}
		if base == "" {
			return b.file.refuse(s.Location, errkind.InvalidArgument, "FROM %s: the base is empty once variables are expanded", s.BaseName)
		}
		st.base = base
		if n, ok := b.file.findName(base, i); ok {
			st.from = n
		}
		platform, err := b.expand(lex, s.Platform, b.globals)
		if err != nil {
			return b.file.invalid(s.Location, err)
		}
		if err := b.checkPlatform(platform, s.Location); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) checkPlatform(asked string, at []parser.Range) error {
	p := b.req.Platform
	if asked == "" || asked == p.OS+"/"+p.Architecture || asked == p.OS+"/"+p.Architecture+"/"+p.Variant || asked == p.Architecture {
		return nil
	}
	return b.file.refuse(at, errkind.Unimplemented, "FROM --platform=%s: only %s/%s, this machine's own, is supported", asked, p.OS, p.Architecture)
}

// expand expands the variables of a word, to no more than the limit.
func (b *builder) expand(lex *shell.Lex, word string, in shell.EnvGetter) (string, error) {
	out, _, err := lex.ProcessWord(word, in)
	if err == nil && len(out) > b.limits.Value {
		err = errkind.New(errkind.ResourceExhausted, "%.50q becomes longer than %d bytes once variables are expanded", word, b.limits.Value)
	}
	return out, err
}

// begin begins the stages that target needs, it too.
func (b *builder) begin(ctx context.Context, target int) error {
	for _, n := range b.needed(target) {
		b.stages[n].begin(ctx)
	}
	return nil
}

// settle waits for the stages that have begun.
func (b *builder) settle() {
	for _, s := range b.stages {
		if s.begun.Load() {
			<-s.done
		}
	}
}

// first gives the failure that came before the others, which it ended.
func (b *builder) first(err error) error {
	for _, s := range b.stages {
		if s.begun.Load() && s.err != nil && errkind.Is(err, errkind.Canceled) && !errkind.Is(s.err, errkind.Canceled) {
			return s.err
		}
	}
	return err
}

func (b *builder) tell(e Event) { b.req.Progress(e) }

// stage is one stage of the file.
type stage struct {
	b      *builder
	number int
	base   string // expanded
	from   int    // number of the stage that is its base; -1 for none

	once  sync.Once
	begun atomic.Bool
	done  chan struct{}
	end   *state // once done is closed
	err   error  // likewise
}

// begin runs the stage, if that has not begun.
func (s *stage) begin(ctx context.Context) {
	s.once.Do(func() {
		s.begun.Store(true)
		go func() {
			defer close(s.done)
			defer func() {
				// The parser's code works on what the file's author wrote; a
				// mistake of it is this build's, not the daemon's.
				if p := recover(); p != nil {
					klog.FromContext(ctx).Error(nil, "Build panicked", "panic", p, "stack", string(debug.Stack()))
					s.err = errkind.New(errkind.Unknown, "cannot build stage %s: internal error: %v", s.title(), p)
				}
			}()
			s.end, s.err = s.run(ctx)
		}()
	})
}

// wait begins the stage if need be and gives what became of it.
func (s *stage) wait(ctx context.Context) (*state, error) {
	s.begin(ctx)
	select {
	case <-s.done:
		return s.end, s.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *stage) title() string {
	if name := s.b.file.stages[s.number].Name; name != "" {
		return name
	}
	return fmt.Sprintf("stage-%d", s.number)
}

// defaultEpoch is the build's time where nothing says another: the first that
// a zip archive can hold, so that what is built can be packed.
var defaultEpoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// epochOf is the build's time on a base that was made then.
func (b *builder) epochOf(created *time.Time) time.Time {
	switch {
	case b.req.Epoch != nil:
		return b.req.Epoch.UTC()
	case created != nil && created.After(defaultEpoch):
		return created.UTC().Truncate(time.Second)
	}
	return defaultEpoch
}
