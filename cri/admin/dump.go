package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"runtime/pprof"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/pod"
)

// secrets are what looks like one in an error, a URL or a setting. Requests,
// the values of variables and annotations, and arguments are left out whatever
// they look like.
var secrets = []*regexp.Regexp{
	regexp.MustCompile(`(//)[^/\s'"@]+@`),
	regexp.MustCompile(`(?i)((?:bearer|basic)\s+)[^\s'",;]{6,}`),
	regexp.MustCompile(`(?i)(--?[\w-]*(?:pass|secret|token|key)[\w-]*[\s=]+)[^\s'",;]+`),
	regexp.MustCompile(`(?i)((?:pass(?:word|wd)?|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|signature|sig|auth(?:orization)?)["']?\s*[=:]\s*["']?)[^\s'"&,;]+`),
}

// mask takes secrets out of text.
func mask(text []byte) []byte {
	for i, s := range secrets {
		to := "${1}***"
		if i == 0 {
			to += "@"
		}
		text = s.ReplaceAll(text, []byte(to))
	}
	return text
}

// Dump sends what the daemon knows of itself.
func (s *Server) Dump(_ *api.Empty, out grpc.ServerStreamingServer[api.Chunk]) error {
	ctx := out.Context()
	var d dump
	d.section("daemon", s.cfg.Info(ctx))
	d.title("configuration")
	for _, c := range s.cfg.Settings {
		fmt.Fprintf(&d, "%s = %s # %s\n", c.Key, c.Value, c.Origin)
	}
	work, err := s.Work(ctx, &api.Empty{})
	if err != nil {
		return err
	}
	d.section("under way", work)
	d.title("last operations")
	for _, o := range s.cfg.Operations() {
		d.operation(o)
	}
	d.title("pods")
	for _, p := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		d.line(podState(p))
	}
	d.title("containers")
	for _, c := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		d.line(containerState(c))
	}
	d.title("events")
	err = s.cfg.Events(ctx, time.Time{}, false, func(e *api.Event) error {
		d.line(e)
		return nil
	})
	if err != nil {
		return err
	}
	d.title("goroutines")
	if err := pprof.Lookup("goroutine").WriteTo(&d, 2); err != nil {
		return err
	}
	for chunk := range slices.Chunk(mask(d.Bytes()), api.MaxChunk) {
		if err := out.Send(&api.Chunk{Data: chunk}); err != nil {
			return err
		}
	}
	return nil
}

// dump is the text that is made.
type dump struct{ bytes.Buffer }

func (d *dump) title(name string) { fmt.Fprintf(d, "\n==== %s ====\n", name) }

// section is one value, for reading.
func (d *dump) section(name string, v any) {
	d.title(name)
	enc := json.NewEncoder(d)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // plain data, into memory
}

// line is one of many values.
func (d *dump) line(v any) {
	enc := json.NewEncoder(d)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // plain data, into memory
}

func (d *dump) operation(o api.Operation) {
	by, how := "", o.Code
	if o.Own {
		by = " by itself"
	}
	if how == "" {
		how = "under way"
	}
	fmt.Fprintf(d, "%s %s %s%s: %s, %s", o.Began.UTC().Format(time.RFC3339Nano), o.Verb, o.Object, by, how, o.Took)
	if o.Error != "" {
		fmt.Fprintf(d, ": %q", o.Error)
	}
	for _, s := range o.Steps {
		fmt.Fprintf(d, "\n    %s/%s %s", s.Verb, s.Step, s.Took)
		if s.Error != "" {
			fmt.Fprintf(d, ": %q", s.Error)
		}
	}
	fmt.Fprintln(d)
}

// podState is what a dump tells of a pod: nothing in which its author may have
// put a secret.
func podState(p *pod.PodStatus) map[string]any {
	c := p.Config
	return map[string]any{
		"id": p.ID, "metadata": c.Metadata, "origin": p.Origin, "ready": p.Ready, "created": p.CreatedAt,
		"addresses": p.Addresses, "netns": p.Netns, "cgroup_parent": c.CgroupParent, "log_directory": c.LogDirectory,
		"handler": c.RuntimeHandler, "ports": c.Ports, "namespaces": c.Namespaces, "sysctls": c.Sysctls,
	}
}

// containerState is the same of a container.
func containerState(c *pod.ContainerStatus) map[string]any {
	cfg := c.Config
	var variables, mounts []string
	for _, e := range cfg.Env {
		variables = append(variables, e.Key)
	}
	for _, m := range cfg.Mounts {
		mounts = append(mounts, fmt.Sprintf("%s%s:%s", m.HostPath, m.Image, m.ContainerPath))
	}
	program := ""
	if argv := slices.Concat(cfg.Command, cfg.Args); len(argv) > 0 {
		program = fmt.Sprintf("%s and %d arguments", argv[0], len(argv)-1)
	}
	return map[string]any{
		"id": c.ID, "pod": c.PodID, "metadata": cfg.Metadata, "origin": c.Origin, "image": cfg.Image, "state": c.State, "pid": c.Pid,
		"created": c.CreatedAt, "started": c.StartedAt, "finished": c.FinishedAt, "exit_code": c.ExitCode, "reason": c.Reason,
		"message": c.Message, "log": c.LogPath, "user": c.User, "stop_signal": c.StopSignal, "program": program,
		"variables": variables, "mounts": mounts, "resources": c.Resources,
	}
}
