package build

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// file is a Dockerfile that can be built, as far as that can be told before.
type file struct {
	name   string
	escape rune
	args   []instructions.ArgCommand // before the first FROM
	stages []instructions.Stage
	notes  []string
}

// syntaxes are the frontends whose language this is. Another one is a program
// that would have to be fetched and run.
var syntaxes = regexp.MustCompile(`^(docker\.io/)?docker/dockerfile(-upstream)?:(1|latest|stable)(\.[0-9]+)*(-labs)?(@sha256:[0-9a-f]{64})?$|^(docker\.io/)?docker/dockerfile$`)

// parse reads a Dockerfile and refuses what cannot be built, naming its line.
func parse(name string, text []byte, limits Limits) (*file, error) {
	if int64(len(text)) > limits.File {
		return nil, errkind.New(errkind.ResourceExhausted, "cannot read %s: it has %d bytes, and %d are the most", name, len(text), limits.File)
	}
	if n := bytes.Count(text, []byte("\n")); n > limits.Lines {
		return nil, errkind.New(errkind.ResourceExhausted, "cannot read %s: it has %d lines, and %d are the most", name, n, limits.Lines)
	}
	f := &file{name: name}
	if syntax, _, at, ok := parser.DetectSyntax(text); ok && !syntaxes.MatchString(syntax) {
		return nil, f.refuse(at, errkind.Unimplemented, "syntax=%s: only docker/dockerfile:1 is understood, and frontends are never fetched", syntax)
	}
	parsed, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, f.invalid(nil, err)
	}
	f.escape = parsed.EscapeToken
	for _, w := range parsed.Warnings {
		f.notes = append(f.notes, w.Short)
	}
	if f.stages, f.args, err = instructions.Parse(parsed.AST, nil); err != nil {
		return nil, f.invalid(nil, err)
	}
	if len(f.stages) == 0 {
		return nil, f.invalid(nil, errors.New("it has no FROM"))
	}
	if len(f.stages) > limits.Stages {
		return nil, errkind.New(errkind.ResourceExhausted, "cannot read %s: it has %d stages, and %d are the most", name, len(f.stages), limits.Stages)
	}
	steps := 0
	for i := range f.stages {
		stage := &f.stages[i]
		if steps += 1 + len(stage.Commands); steps > limits.Steps {
			return nil, errkind.New(errkind.ResourceExhausted, "cannot read %s: it has more than %d instructions", name, limits.Steps)
		}
		for _, c := range stage.Commands {
			if err := f.check(c, c.Location()); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// refuse is the error of something at a line of the file.
func (f *file) refuse(at []parser.Range, kind errkind.Kind, format string, args ...any) error {
	return errkind.New(kind, "%s%s: %s", f.name, line(at), fmt.Sprintf(format, args...))
}

// at gives err the line to which it belongs.
func (f *file) at(at []parser.Range, err error) error {
	return errkind.New(errkind.Of(err), "%s%s: %w", f.name, line(at), err)
}

// invalid is the error of a file that cannot be read.
func (f *file) invalid(at []parser.Range, err error) error {
	var located *parser.LocationError
	if at == nil && errors.As(err, &located) && len(located.Locations) > 0 {
		at = located.Locations[0]
	}
	text := err.Error()
	// The parser's own word for the line.
	if i := strings.Index(text, "dockerfile parse error on line "); i == 0 {
		if _, rest, ok := strings.Cut(text, ": "); ok {
			text = rest
		}
	}
	return errkind.New(errkind.InvalidArgument, "%s%s: %s", f.name, line(at), text)
}

func line(at []parser.Range) string {
	if len(at) == 0 {
		return ""
	}
	return ":" + strconv.Itoa(at[0].Start.Line)
}

// check refuses an instruction that no build can do; at is where the file has it.
func (f *file) check(c instructions.Command, at []parser.Range) error {
	no := func(format string, args ...any) error {
		return f.refuse(at, errkind.Unimplemented, format, args...)
	}
	switch c := c.(type) {
	case *instructions.RunCommand:
		if s := instructions.GetSecurity(c); s != "" && s != instructions.SecuritySandbox {
			return no("RUN --security=%s is not supported: commands run in the sandbox of every container", s)
		}
		if len(instructions.GetDevices(c)) > 0 {
			return no("RUN --device is not supported: commands see no devices of the host")
		}
		return f.checkMounts(c, at)
	case *instructions.CopyCommand:
		if strings.ContainsRune(c.From, '$') {
			return f.refuse(at, errkind.InvalidArgument, "COPY --from=%s: variables are not expanded there; give the image a stage of its own", c.From)
		}
		if _, err := strconv.Atoi(c.From); err == nil && c.From != "" && !f.isStage(c.From, at) {
			return f.refuse(at, errkind.InvalidArgument, "COPY --from=%s: there is no stage of that number before this one", c.From)
		}
		return f.checkMode(at, c.Chmod)
	case *instructions.AddCommand:
		if c.KeepGitDir != nil {
			return no("ADD --keep-git-dir is not supported: git repositories are not fetched")
		}
		for _, src := range c.SourcePaths {
			if isGit(src) {
				return no("ADD %s: git repositories are not fetched; clone it into the context, or RUN git clone", src)
			}
		}
		return f.checkMode(at, c.Chmod)
	case *instructions.OnbuildCommand:
		_, err := f.trigger(c.Expression, at)
		return err
	}
	return nil
}

// checkMounts refuses mounts that cannot be had. Their values are not known
// before variables are expanded, but for type and from.
func (f *file) checkMounts(c *instructions.RunCommand, at []parser.Range) error {
	for _, m := range instructions.GetMounts(c) {
		if strings.ContainsRune(m.From, '$') {
			return f.refuse(at, errkind.InvalidArgument, "RUN --mount=from=%s: variables are not expanded there; give the image a stage of its own", m.From)
		}
	}
	// Once with nothing expanded, to have what is plain refused at once.
	clone := *c
	if err := clone.Expand(func(word string) (string, error) { return word, nil }); err != nil {
		if strings.Contains(c.String(), "$") {
			return nil // may become right
		}
		return f.invalid(at, err)
	}
	for _, m := range instructions.GetMounts(&clone) {
		if err := f.checkMount(m); err != nil {
			return f.at(at, err)
		}
	}
	return nil
}

// checkMount refuses a mount of which all is known.
func (f *file) checkMount(m *instructions.Mount) error {
	no := func(format string, args ...any) error {
		return errkind.New(errkind.Unimplemented, "RUN --mount=type="+string(m.Type)+format, args...)
	}
	switch m.Type {
	case instructions.MountTypeSSH:
		return no(" is not supported: pass a key as a secret")
	case instructions.MountTypeSecret:
		if m.Env != nil {
			return no(",env= is not supported: variables are written into the container's record; read the secret from its file")
		}
	case instructions.MountTypeCache:
		if m.From != "" || m.Source != "" {
			return no(" has no from and no source here: a cache begins empty")
		}
	}
	if m.Target == "" && m.Type != instructions.MountTypeSecret {
		return errkind.New(errkind.InvalidArgument, "RUN --mount=type=%s lacks a target", m.Type)
	}
	if slices.Contains(components(m.Target), "..") {
		return errkind.New(errkind.InvalidArgument, "RUN --mount target %q has a ..", m.Target)
	}
	return nil
}

var octal = regexp.MustCompile(`^[0-7]{1,4}$`)

func (f *file) checkMode(at []parser.Range, mode string) error {
	if mode == "" || octal.MatchString(mode) || strings.ContainsRune(mode, '$') {
		return nil
	}
	return f.refuse(at, errkind.Unimplemented, "--chmod=%s: only octal modes such as 0755 are supported", mode)
}

func isGit(src string) bool {
	if strings.HasPrefix(src, "git@") || strings.HasPrefix(src, "git://") || strings.HasPrefix(src, "ssh://") {
		return true
	}
	url, _, _ := strings.Cut(src, "#")
	return isURL(src) && (strings.HasSuffix(url, ".git") || strings.Contains(src, ".git#"))
}

func isURL(src string) bool {
	return strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")
}

// trigger reads an instruction of ONBUILD.
func (f *file) trigger(expression string, at []parser.Range) (instructions.Command, error) {
	parsed, err := parser.Parse(strings.NewReader(expression))
	if err != nil {
		return nil, f.invalid(at, err)
	}
	if len(parsed.AST.Children) != 1 {
		return nil, f.refuse(at, errkind.InvalidArgument, "ONBUILD %q is not one instruction", expression)
	}
	c, err := instructions.ParseCommand(parsed.AST.Children[0])
	if err != nil {
		return nil, f.invalid(at, err)
	}
	if _, ok := c.(*instructions.OnbuildCommand); ok {
		return nil, f.refuse(at, errkind.InvalidArgument, "ONBUILD ONBUILD is not allowed")
	}
	return c, f.check(c, at)
}

// find gives the number of the stage that name, a name or a number, means to
// what comes before stage number before.
func (f *file) find(name string, before int) (int, bool) {
	if i, ok := instructions.HasStage(f.stages[:before], name); ok {
		return i, true
	}
	i, err := strconv.Atoi(name)
	return i, err == nil && i >= 0 && i < before
}

// isStage tells whether a number is that of a stage before the one that has the
// line at.
func (f *file) isStage(number string, at []parser.Range) bool {
	before := 0
	for _, s := range f.stages[min(1, len(f.stages)):] {
		if len(at) > 0 && len(s.Location) > 0 && s.Location[0].Start.Line <= at[0].Start.Line {
			before++
		}
	}
	_, ok := f.find(number, min(before, len(f.stages)))
	return ok
}

// target gives the number of the stage to be built.
func (f *file) target(name string) (int, error) {
	if name == "" {
		return len(f.stages) - 1, nil
	}
	if i, ok := f.find(name, len(f.stages)); ok {
		return i, nil
	}
	var names []string
	for _, s := range f.stages {
		if s.Name != "" {
			names = append(names, s.Name)
		}
	}
	return 0, errkind.New(errkind.NotFound, "cannot build target %q: %s has no such stage; its stages are %s", name, f.name, strings.Join(names, ", "))
}

// variables are an environment in which later values win.
type variables struct {
	names  []string
	values map[string]string
}

var _ shell.EnvGetter = (*variables)(nil)

func (v *variables) Get(name string) (string, bool) { s, ok := v.values[name]; return s, ok }
func (v *variables) Keys() []string                 { return v.names }

func (v *variables) set(name, value string) {
	if v.values == nil {
		v.values = map[string]string{}
	}
	if _, ok := v.values[name]; !ok {
		v.names = append(v.names, name)
	}
	v.values[name] = value
}

// list spells the variables as an environment, in the order in which they came.
func (v *variables) list() []string {
	out := make([]string, 0, len(v.names))
	for _, name := range v.names {
		out = append(out, name+"="+v.values[name])
	}
	return out
}

// clone gives a copy that may be changed.
func (v *variables) clone() *variables {
	out := &variables{}
	for _, name := range v.names {
		out.set(name, v.values[name])
	}
	return out
}

func environment(list []string) *variables {
	v := &variables{}
	for _, e := range list {
		name, value, _ := strings.Cut(e, "=")
		v.set(name, value)
	}
	return v
}
