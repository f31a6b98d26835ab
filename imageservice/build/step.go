package build

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// step is one instruction of a stage.
type step struct {
	stage  *stage
	state  *state
	number int
	name   string
}

func (t *step) tell(kind EventKind, e Event) {
	e.Kind, e.Step = kind, t.number
	t.stage.b.tell(e)
}

func (t *step) begin()             { t.tell(EventBegin, Event{Name: t.name}) }
func (t *step) end(kind EventKind) { t.tell(kind, Event{}) }

func (t *step) fail(err error) error {
	t.tell(EventFailed, Event{Text: err.Error()})
	return err
}

// do carries out an instruction.
func (t *step) do(ctx context.Context, c instructions.Command) error {
	t.begin()
	how, err := t.dispatch(ctx, c)
	if err != nil {
		f := t.stage.b.file
		if errkind.Is(err, errkind.Canceled) {
			return t.fail(err)
		}
		return t.fail(f.at(c.Location(), fmt.Errorf("%s: %w", strings.ToUpper(c.Name()), err)))
	}
	t.end(how)
	return nil
}

// expander expands the variables of one instruction.
func (t *step) expander() instructions.SingleWordExpander {
	lex, env := t.stage.lex(), t.state.environment()
	return func(word string) (string, error) { return t.stage.b.expand(lex, word, env) }
}

// expand expands the variables of an instruction, of those that have any.
func (t *step) expand(c instructions.Command) error {
	if x, ok := c.(instructions.SupportsSingleWordExpansion); ok {
		if err := x.Expand(t.expander()); err != nil {
			return errkind.New(max(errkind.Of(err), errkind.InvalidArgument), "%w", err)
		}
	}
	if x, ok := c.(instructions.SupportsSingleWordExpansionRaw); ok {
		lex, env := t.stage.lex(), t.state.environment()
		lex.RawQuotes, lex.SkipProcessQuotes = true, false
		err := x.ExpandRaw(func(word string) (string, error) {
			lex.SkipProcessQuotes = true
			return t.stage.b.expand(lex, word, env)
		})
		if err != nil {
			return errkind.New(max(errkind.Of(err), errkind.InvalidArgument), "%w", err)
		}
	}
	return nil
}

// key names a step by all that its outcome depends on.
func (t *step) key(parts ...any) digest.Digest {
	sum := sha256.New()
	enc := json.NewEncoder(sum)
	p := t.stage.b.req.Platform
	for _, part := range append([]any{"berth build 1", p, t.state.identity()}, parts...) {
		if err := enc.Encode(part); err != nil {
			panic(err) // strings, numbers, and lists of them
		}
	}
	return digest.NewDigest(digest.SHA256, sum)
}

// layer gives the layer that key names: from the cache, or made of what write
// writes. plan prepares write; it is called if it is needed.
func (t *step) layer(ctx context.Context, key digest.Digest, plan func() (func(context.Context, io.Writer) error, error)) (Layer, EventKind, error) {
	b := t.stage.b
	if !b.req.NoCache {
		if l, ok := b.store.Cached(key); ok {
			b.cached.Add(1)
			return l, EventCached, nil
		}
	}
	write, err := plan()
	if err != nil {
		return Layer{}, "", err
	}
	return t.commit(ctx, key, write)
}

func (t *step) commit(ctx context.Context, key digest.Digest, write func(context.Context, io.Writer) error) (Layer, EventKind, error) {
	l, fresh, err := t.stage.b.store.Commit(ctx, key, t.state.stack, write)
	if err != nil {
		return Layer{}, "", err
	}
	if fresh {
		t.stage.b.layers.Add(1)
	}
	return l, EventDone, nil
}

// dispatch changes the state as c says and tells how that came.
func (t *step) dispatch(ctx context.Context, c instructions.Command) (EventKind, error) {
	if err := t.expand(c); err != nil {
		return "", err
	}
	switch c := c.(type) {
	case *instructions.RunCommand:
		return t.run(ctx, c)
	case *instructions.CopyCommand:
		return t.copy(ctx, c)
	case *instructions.AddCommand:
		return t.add(ctx, c)
	case *instructions.WorkdirCommand:
		return t.workdir(ctx, c)
	}
	text, err := t.configure(c)
	if err == nil {
		t.state.note(text, false)
	}
	return EventDone, err
}

// configure carries out what changes the configuration only, and spells it for
// the history.
func (t *step) configure(c instructions.Command) (string, error) {
	config := &t.state.image.Config
	switch c := c.(type) {
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			if kv.Key == "" || strings.ContainsRune(kv.Key+kv.Value, 0) {
				return "", errkind.New(errkind.InvalidArgument, "%q is not the name of a variable", kv.Key)
			}
			t.state.setEnv(kv.Key, kv.Value)
		}
		return "ENV " + pairs(c.Env), nil
	case *instructions.LabelCommand:
		if config.Labels == nil {
			config.Labels = map[string]string{}
		}
		for _, kv := range c.Labels {
			config.Labels[kv.Key] = kv.Value
		}
		return "LABEL " + pairs(c.Labels), nil
	case *instructions.ArgCommand:
		return t.arg(c)
	case *instructions.UserCommand:
		config.User = c.User
		return "USER " + c.User, nil
	case *instructions.ExposeCommand:
		return t.expose(c)
	case *instructions.VolumeCommand:
		if config.Volumes == nil {
			config.Volumes = map[string]struct{}{}
		}
		for _, v := range c.Volumes {
			if v == "" {
				return "", errkind.New(errkind.InvalidArgument, "a path is empty")
			}
			config.Volumes[v] = struct{}{}
		}
		return fmt.Sprintf("VOLUME %v", c.Volumes), nil
	case *instructions.EntrypointCommand:
		config.Entrypoint = t.shell(c.ShellDependantCmdLine)
		if !t.state.cmd {
			config.Cmd = nil // it was for another program
		}
		return fmt.Sprintf("ENTRYPOINT %q", config.Entrypoint), nil
	case *instructions.CmdCommand:
		config.Cmd = t.shell(c.ShellDependantCmdLine)
		t.state.cmd = true
		return fmt.Sprintf("CMD %q", config.Cmd), nil
	case *instructions.HealthCheckCommand:
		config.Healthcheck = c.Health
		return fmt.Sprintf("HEALTHCHECK %q", c.Health.Test), nil
	case *instructions.StopSignalCommand:
		config.StopSignal = c.Signal
		return "STOPSIGNAL " + c.Signal, nil
	case *instructions.ShellCommand:
		config.Shell = c.Shell
		return fmt.Sprintf("SHELL %v", c.Shell), nil
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, c.Expression)
		return "ONBUILD " + c.Expression, nil
	case *instructions.MaintainerCommand:
		t.state.image.Author = c.Maintainer
		return "MAINTAINER " + c.Maintainer, nil
	}
	return "", errkind.New(errkind.Unimplemented, "the instruction is not supported")
}

func pairs(list instructions.KeyValuePairs) string {
	var out []string
	for _, kv := range list {
		out = append(out, kv.String())
	}
	return strings.Join(out, " ")
}

// arg gives variables that the caller may set their values.
func (t *step) arg(c *instructions.ArgCommand) (string, error) {
	b := t.stage.b
	var names []string
	for _, a := range c.Args {
		text := a.Key
		value, ok := b.req.Args[a.Key]
		if !ok && a.Value != nil {
			value, ok = *a.Value, true
			text += "=" + value
		}
		if !ok {
			value, ok = b.globals.Get(a.Key)
		}
		if ok {
			t.state.args.set(a.Key, value)
		}
		names = append(names, text)
	}
	return "ARG " + strings.Join(names, " "), nil
}

// shell gives a command line, with the shell before it if it is one for that.
func (t *step) shell(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	return append(t.shellArgs(), strings.Join(c.CmdLine, " "))
}

func (t *step) shellArgs() []string {
	if s := t.state.image.Config.Shell; len(s) > 0 {
		return append([]string{}, s...)
	}
	return []string{"/bin/sh", "-c"}
}

func (t *step) expose(c *instructions.ExposeCommand) (string, error) {
	words, err := t.words(c.Ports)
	if err != nil {
		return "", err
	}
	config := &t.state.image.Config
	if config.ExposedPorts == nil {
		config.ExposedPorts = map[string]struct{}{}
	}
	for _, w := range words {
		ports, err := parsePort(w)
		if err != nil {
			return "", err
		}
		for _, p := range ports {
			config.ExposedPorts[p] = struct{}{}
		}
	}
	return "EXPOSE " + strings.Join(words, " "), nil
}

// words expands words of which one may become several.
func (t *step) words(list []string) (out []string, err error) {
	lex, env := t.stage.lex(), t.state.environment()
	for _, w := range list {
		more, err := lex.ProcessWords(w, env)
		if err != nil {
			return nil, errkind.New(errkind.InvalidArgument, "%w", err)
		}
		out = append(out, more...)
	}
	return out, nil
}

// workdir sets the working directory, which becomes the current user's if it
// has to be made.
func (t *step) workdir(ctx context.Context, c *instructions.WorkdirCommand) (EventKind, error) {
	if c.Path == "" {
		return "", errkind.New(errkind.InvalidArgument, "the path is empty once variables are expanded")
	}
	dir := t.state.abs(c.Path)
	key := t.key("WORKDIR", dir)
	l, how, err := t.layer(ctx, key, func() (func(context.Context, io.Writer) error, error) {
		out, err := t.newOutput()
		if err != nil {
			return nil, err
		}
		defer out.close()
		owner, err := out.owner(t.state.image.Config.User)
		if err != nil {
			return nil, err
		}
		if err := out.mkdir(dir, owner); err != nil {
			return nil, err
		}
		if len(out.items) == 0 {
			return nil, nil // it was there
		}
		return out.write, nil
	})
	if err != nil {
		return "", err
	}
	t.state.image.Config.WorkingDir = dir
	t.state.push(l, "WORKDIR "+path.Clean(c.Path))
	return how, nil
}
