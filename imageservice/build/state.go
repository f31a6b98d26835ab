package build

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// defaultPath is what docker gives images that are made from scratch.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// state is what a stage has made so far.
type state struct {
	image dockerspec.DockerOCIImage
	stack Stack
	args  variables // of ARG, with a value
	epoch time.Time
	cmd   bool // CMD was said in this stage
}

// clone gives a copy that may be changed: slices of an image are replaced,
// never written, but maps are.
func (s *state) clone() *state {
	c := *s
	c.stack = slices.Clone(s.stack)
	c.args = *s.args.clone()
	c.image.Config.Env = slices.Clone(s.image.Config.Env)
	c.image.Config.Labels = maps.Clone(s.image.Config.Labels)
	c.image.Config.Volumes = maps.Clone(s.image.Config.Volumes)
	c.image.Config.ExposedPorts = maps.Clone(s.image.Config.ExposedPorts)
	c.image.History = slices.Clone(s.image.History)
	return &c
}

// environment is what words are expanded with: ENV wins over ARG.
func (s *state) environment() *variables {
	v := s.args.clone()
	for _, e := range s.image.Config.Env {
		name, value, _ := strings.Cut(e, "=")
		v.set(name, value)
	}
	return v
}

// setEnv sets a variable of the image.
func (s *state) setEnv(name, value string) {
	v := environment(s.image.Config.Env)
	v.set(name, value)
	s.image.Config.Env = v.list()
}

// abs gives a path relative to the working directory as an absolute one.
func (s *state) abs(p string) string {
	if path.IsAbs(p) {
		return path.Clean(p)
	}
	return path.Join("/", s.image.Config.WorkingDir, p)
}

// note writes an instruction into the history. Without a layer it is an empty one.
func (s *state) note(text string, layer bool) {
	created := s.epoch
	if len(text) > maxNote {
		text = strings.ToValidUTF8(text[:maxNote], "") + "..."
	}
	s.image.History = append(s.image.History, v1.History{Created: &created, CreatedBy: text, Comment: "berth", EmptyLayer: !layer})
}

// maxNote bounds a line of the history, in bytes.
const maxNote = 4096

// push adds a layer, if there is one, and its line of history.
func (s *state) push(l Layer, text string) {
	if l != (Layer{}) {
		s.stack = append(slices.Clone(s.stack), l)
	}
	s.note(text, l != (Layer{}))
}

// identity names all that the state is: what a step does depends on nothing
// else that came before it.
func (s *state) identity() digest.Digest {
	config, err := json.Marshal(s.image.Config)
	if err != nil {
		panic(err) // strings and maps of them
	}
	return digest.FromString(fmt.Sprintf("%s %s %d", s.stack.chain(), digest.FromBytes(config), s.epoch.Unix()))
}

// chain names the layers and their order.
func (s Stack) chain() digest.Digest {
	if len(s) == 0 {
		return "scratch"
	}
	return identity.ChainID(s.diffIDs())
}

func (s Stack) diffIDs() []digest.Digest {
	ids := make([]digest.Digest, 0, len(s))
	for _, l := range s {
		ids = append(ids, l.DiffID)
	}
	return ids
}

// run makes the stage.
func (s *stage) run(ctx context.Context) (*state, error) {
	b := s.b
	spec := &b.file.stages[s.number]
	st, err := s.start(ctx, spec)
	if err != nil {
		return nil, err
	}
	commands := spec.Commands
	triggers, err := s.triggers(st)
	if err != nil {
		return nil, err
	}
	commands = append(triggers, commands...)
	total := 1 + len(commands)
	for i, c := range commands {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		step := &step{stage: s, state: st, number: int(b.steps.Add(1)), name: fmt.Sprintf("[%s %d/%d] %s", s.title(), i+2, total, b.shown(c))}
		if err := step.do(ctx, c); err != nil {
			return nil, err
		}
	}
	return st, nil
}

// start gives the state on which the stage begins.
func (s *stage) start(ctx context.Context, spec *instructions.Stage) (*state, error) {
	b := s.b
	if s.from >= 0 {
		st, err := b.stages[s.from].wait(ctx)
		if err != nil {
			return nil, err
		}
		st = st.clone()
		st.args, st.cmd = variables{}, false
		return st, nil
	}
	step := &step{stage: s, number: int(b.steps.Add(1)), name: fmt.Sprintf("[%s 1/%d] FROM %s", s.title(), 1+len(spec.Commands), clip(s.base, b.limits.OutputLine))}
	step.begin()
	st, err := b.fromImage(ctx, s.base)
	if err != nil {
		return nil, step.fail(b.file.at(spec.Location, fmt.Errorf("FROM %s: %w", s.base, err)))
	}
	step.end(EventDone)
	return st, nil
}

// fromImage gives the state of a base image.
func (b *builder) fromImage(ctx context.Context, ref string) (*state, error) {
	st := &state{epoch: b.epochOf(nil)}
	st.image.OS, st.image.Architecture, st.image.Variant = b.req.Platform.OS, b.req.Platform.Architecture, b.req.Platform.Variant
	st.image.RootFS.Type = "layers"
	if ref == "scratch" {
		st.setEnv("PATH", defaultPath)
		return st, nil
	}
	base, err := b.store.Base(ctx, ref, b.req.Pull)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(base.Config, &st.image); err != nil {
		return nil, errkind.New(errkind.InvalidArgument, "cannot read the configuration of image %s: %w", base.ID, err)
	}
	if len(st.image.RootFS.DiffIDs) != len(base.Stack) {
		return nil, errkind.New(errkind.FailedPrecondition, "image %s is no container image", base.ID)
	}
	st.stack, st.epoch = base.Stack, b.epochOf(st.image.Created)
	if len(st.image.History) == 0 { // some builders write none; then theirs would be taken for ours
		for range base.Stack {
			st.note("FROM "+ref, true)
		}
	}
	return st, nil
}

// triggers takes the instructions of ONBUILD out of the base.
func (s *stage) triggers(st *state) (out []instructions.Command, err error) {
	b := s.b
	triggers := st.image.Config.OnBuild
	st.image.Config.OnBuild = nil
	if len(triggers) > b.limits.Steps {
		return nil, errkind.New(errkind.ResourceExhausted, "cannot build on %s: it has %d ONBUILD triggers, and %d are the most", s.base, len(triggers), b.limits.Steps)
	}
	at := b.file.stages[s.number].Location
	for _, t := range triggers {
		c, err := b.file.trigger(t, at)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// shown is an instruction as progress shows it.
func (b *builder) shown(c instructions.Command) string {
	text := strings.ToUpper(c.Name())
	if s, ok := c.(fmt.Stringer); ok {
		text = s.String()
	}
	return clip(strings.Join(strings.Fields(text), " "), b.limits.OutputLine)
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "..."
	}
	return s
}

// commit makes an image of the state.
func (b *builder) commit(ctx context.Context, st *state) (string, error) {
	if st.image.Config.Labels == nil && len(b.req.Labels) > 0 {
		st.image.Config.Labels = map[string]string{}
	}
	maps.Copy(st.image.Config.Labels, b.req.Labels)
	created := st.epoch
	st.image.Created = &created
	st.image.RootFS = v1.RootFS{Type: "layers", DiffIDs: st.stack.diffIDs()}
	config, err := json.Marshal(st.image)
	if err != nil {
		return "", err
	}
	step := &step{stage: b.stages[0], number: int(b.steps.Add(1)), name: "image"}
	step.begin()
	id, err := b.store.Image(ctx, config, st.stack, b.req.Tags)
	if err != nil {
		return "", step.fail(err)
	}
	step.end(EventDone)
	return id, nil
}

// lex expands words by the file's own escape character.
func (s *stage) lex() *shell.Lex { return shell.NewLex(s.b.file.escape) }
