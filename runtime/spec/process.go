package spec

import (
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// process describes the first process.
func process(in Input) (*specs.Process, error) {
	c, sec := in.Container, &in.Container.Security
	args, err := commandLine(c, in.Image)
	if err != nil {
		return nil, err
	}
	env, err := environment(in)
	if err != nil {
		return nil, err
	}
	caps, err := processCaps(sec, in.HostCaps)
	if err != nil {
		return nil, err
	}
	score := c.Resources.OOMScoreAdj
	if score < -1000 || score > 1000 {
		return nil, errkind.New(errkind.InvalidArgument, "oom_score_adj %d is not in -1000 to 1000", score)
	}
	// Zero is set too: the daemon's own score must not be inherited.
	adj := int(score)
	p := &specs.Process{
		Terminal: c.TTY,
		User: specs.User{
			UID:            in.User.UID,
			GID:            in.User.GID,
			AdditionalGids: slices.Clone(in.User.Groups),
		},
		Args:            args,
		Env:             env,
		Cwd:             workingDir(c, in.Image),
		Capabilities:    caps,
		NoNewPrivileges: sec.NoNewPrivs,
		OOMScoreAdj:     &adj,
		Rlimits:         rlimits(in),
		SelinuxLabel:    in.ProcessLabel,
	}
	if !sec.Privileged {
		p.ApparmorProfile = in.AppArmor
	}
	return p, nil
}

// rlimits are the handler's, but for those that the container has its own of.
func rlimits(in Input) []specs.POSIXRlimit {
	out := slices.Clone(in.Handler.Rlimits)
	for _, u := range in.Container.Extra.Ulimits {
		own := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: u.Soft, Hard: u.Hard}
		i := slices.IndexFunc(out, func(l specs.POSIXRlimit) bool { return l.Type == own.Type })
		if i >= 0 {
			out[i] = own
		} else {
			out = append(out, own)
		}
	}
	return out
}

// commandLine joins what was asked for with what the image has: a command
// replaces the entry point and drops the image's arguments, which were meant
// for that entry point; arguments alone keep the entry point.
func commandLine(c *Container, image *ImageConfig) ([]string, error) {
	entrypoint, args := image.Entrypoint, image.Cmd
	if len(c.Command) != 0 {
		entrypoint, args = c.Command, nil
	}
	if len(c.Args) != 0 {
		args = c.Args
	}
	line := slices.Concat(entrypoint, args)
	switch {
	case len(line) == 0 || line[0] == "":
		return nil, errkind.New(errkind.InvalidArgument, "neither the container nor its image %s says what to run", image.Name)
	case slices.ContainsFunc(line, hasNUL):
		return nil, errkind.New(errkind.InvalidArgument, "the command line %q has a NUL byte", line)
	}
	return line, nil
}

func hasNUL(s string) bool { return strings.ContainsRune(s, 0) }

// environment lists the runtime's own variables, then the image's, then those
// asked for; the last value of a variable takes the place of the first.
func environment(in Input) ([]string, error) {
	var out []string
	place := map[string]int{}
	set := func(key, value string) {
		i, ok := place[key]
		if !ok {
			place[key], out = len(out), append(out, key+"="+value)
			return
		}
		out[i] = key + "=" + value
	}
	set("PATH", defaultPath)
	set("HOSTNAME", in.Hostname)
	if in.User.Home != "" {
		set("HOME", in.User.Home)
	}
	if in.Container.TTY {
		set("TERM", "xterm")
	}
	for _, kv := range in.Image.Env {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			continue // no variable; execve would pass it on as rubbish
		}
		if hasNUL(kv) {
			return nil, errkind.New(errkind.InvalidArgument, "variable %q of image %s has a NUL byte", key, in.Image.Name)
		}
		set(key, value)
	}
	for _, e := range in.Container.Env {
		if e.Key == "" || strings.ContainsRune(e.Key, '=') || hasNUL(e.Key) || hasNUL(e.Value) {
			return nil, errkind.New(errkind.InvalidArgument, "%q is not a variable of an environment", e.Key)
		}
		set(e.Key, e.Value)
	}
	return out, nil
}

func workingDir(c *Container, image *ImageConfig) string {
	dir := c.WorkingDir
	if dir == "" {
		dir = image.WorkingDir
	}
	return path.Join("/", dir)
}
