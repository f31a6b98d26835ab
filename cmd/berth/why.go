package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func whyVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "why POD|CONTAINER|IMAGE",
		Short: "Say what something waits for, or why it failed",
		Long: "Say what a pod, a container or an image waits for, or why it failed: the step that is\n" +
			"under way and since when, the last error, how far a pull is. A pod or container that is\n" +
			"still being made, which no list shows, is found by NAMESPACE/POD or NAMESPACE/POD/CONTAINER.",
		Example: examples("berth why web", "berth why kube-system/coredns-5d78"),
	}
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		w, err := cl.why(ctx, args[0])
		if err != nil {
			return err
		}
		if c.structured() {
			return c.show(w)
		}
		return w.print(c.out, c.now())
	})
}

// reasons is what is known of one object's waiting or failing.
type reasons struct {
	Object string            `json:"object"` // "pod", "container" or "image", and its name
	State  string            `json:"state"`  // being made, created, running, exited, ready, stopped, being pulled, here
	Exit   *exitReasons      `json:"exit,omitempty"`
	Since  time.Time         `json:"since,omitzero"`
	Works  []api.Work        `json:"works,omitempty"`
	Pulls  []api.RunningPull `json:"pulls,omitempty"`

	self string // id
}

// exitReasons is how a container ended.
type exitReasons struct {
	Code    int32  `json:"code"`
	Reason  string `json:"reason"`
	Message string `json:"message,omitempty"`
}

// why looks for a container or pod that is listed, then for one that is being
// made, then for a pull, then for an image.
func (cl *client) why(ctx context.Context, name string) (*reasons, error) {
	work, err := cl.admin.Work(ctx)
	if err != nil {
		return nil, cannot(err, "ask what is under way")
	}
	inv, err := cl.look(ctx)
	if err != nil {
		return nil, err
	}
	o, notFound := inv.choose(name, append(inv.allContainers(), inv.allPods()...), "container, pod or image")
	if notFound == nil {
		return cl.whyListed(ctx, o, work)
	}
	var made []api.Work
	for _, w := range work.Works {
		if slices.Contains(workNames(w), name) || len(name) >= 4 && strings.HasPrefix(workID(w), name) {
			made = append(made, w)
		}
	}
	if len(made) > 0 {
		return &reasons{Object: workObject(made[0]), State: "being made", Works: made, self: workID(made[0])}, nil
	}
	for _, p := range work.Pulls {
		if p.Ref == name || familiar(p.Ref) == name || strings.TrimSuffix(familiar(p.Ref), ":latest") == name {
			return &reasons{Object: "image " + familiar(p.Ref), State: "being pulled", Pulls: []api.RunningPull{p}}, nil
		}
	}
	image, err := cl.admin.InspectImage(ctx, name)
	if err != nil {
		return nil, notFound // says that nothing of any kind has this name
	}
	return &reasons{Object: "image " + short(image.ID, false), State: "here"}, nil
}

func (cl *client) whyListed(ctx context.Context, o object, work *api.WorkResult) (*reasons, error) {
	r := &reasons{Object: o.String(), self: o.id()}
	if o.container == nil {
		r.State, r.Since = "stopped", nanos(o.pod.CreatedAt)
		if o.pod.State == criv1.PodSandboxState_SANDBOX_READY {
			r.State = "ready"
		}
		r.Works = filter(work.Works, func(w api.Work) bool { return w.PodID == o.id() })
		return r, nil
	}
	r.Works = filter(work.Works, func(w api.Work) bool {
		return w.ContainerID == o.id() || w.PodID == o.container.PodSandboxId && w.ContainerID == ""
	})
	answer, err := cl.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: o.id()})
	if err != nil {
		return nil, cannot(err, "read the status of %s", o)
	}
	switch s := answer.Status; s.State {
	case criv1.ContainerState_CONTAINER_CREATED:
		r.State, r.Since = "created", nanos(s.CreatedAt)
	case criv1.ContainerState_CONTAINER_RUNNING:
		r.State, r.Since = "running", nanos(s.StartedAt)
	case criv1.ContainerState_CONTAINER_EXITED:
		r.State, r.Since = "exited", nanos(s.FinishedAt)
		r.Exit = &exitReasons{Code: s.ExitCode, Reason: s.Reason, Message: s.Message}
	default:
		r.State = "unknown"
	}
	return r, nil
}

func workID(w api.Work) string {
	if w.ContainerID != "" {
		return w.ContainerID
	}
	return w.PodID
}

// workNames is everything but the id by which it may be called.
func workNames(w api.Work) []string {
	if w.ContainerID == "" {
		return []string{w.Pod, w.Namespace + "/" + w.Pod}
	}
	return []string{w.Container, w.Pod + "/" + w.Container, w.Namespace + "/" + w.Pod + "/" + w.Container}
}

func workObject(w api.Work) string {
	if w.ContainerID == "" {
		return "pod " + w.Namespace + "/" + w.Pod
	}
	return "container " + w.Namespace + "/" + w.Pod + "/" + w.Container
}

// print says it in sentences, the most telling first.
func (r *reasons) print(w io.Writer, now time.Time) error {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	ago := func(t time.Time) string { return units.HumanDuration(now.Sub(t)) }
	say("%s %s", r.Object, r.state(ago))
	for _, work := range r.Works {
		of := "it"
		if workID(work) != r.self {
			of = "its " + workObject(work)
		}
		for _, d := range work.Doing {
			say("%s", doingText(of, d, ago))
		}
		if t := work.Trouble; t != nil {
			say("%s %s ago: %s", troubleText(of, t.Verb), ago(t.At), oneLine(t.Why))
		}
	}
	for _, p := range r.Pulls {
		lines = append(lines, pullText(p, ago)...)
	}
	if len(lines) == 1 && (r.State == "running" || r.State == "ready" || r.State == "here") {
		lines[0] += ": nothing waits"
	}
	_, err := fmt.Fprintln(w, strings.Join(lines, "\n  "))
	return err
}

// state is how things stand, as the rest of a sentence.
func (r *reasons) state(ago func(time.Time) string) string {
	switch r.State {
	case "running":
		return "runs since " + ago(r.Since)
	case "ready":
		return "is ready"
	case "created":
		return "was made " + ago(r.Since) + " ago and waits to be started by whoever made it"
	case "exited":
		return "ended " + ago(r.Since) + " ago: " + r.Exit.text()
	case "stopped":
		return "is stopped and waits to be removed"
	case "here":
		return "is on this node"
	}
	return "is " + r.State
}

// text says why a container ended.
func (e *exitReasons) text() string {
	switch {
	case e.Reason == "OOMKilled":
		return fmt.Sprintf("the kernel killed it (code %d) because its memory reached the limit", e.Code)
	case e.Reason == "StartError":
		return "it could not be started: " + oneLine(e.Message)
	case e.Message != "":
		return fmt.Sprintf("code %d: %s", e.Code, oneLine(e.Message))
	case e.Code == 0:
		return "its program was done (code 0)"
	case e.Code > 128 && unix.SignalName(unix.Signal(e.Code-128)) != "":
		return fmt.Sprintf("code %d, as of a program that %s ends", e.Code, unix.SignalName(unix.Signal(e.Code-128)))
	}
	return fmt.Sprintf("its program ended with code %d; its last words: berth logs --tail 20", e.Code)
}

// verbs and steps are the daemon's, in a person's words. What is missing here
// is shown by its own name.
func verbText(verb string) string {
	words := map[string]string{
		"pod.run": "is being made", "pod.stop": "is being stopped", "pod.remove": "is being removed",
		"container.create": "is being made", "container.start": "is being started", "container.stop": "is being stopped",
		"container.remove": "is being removed",
	}
	if text, ok := words[verb]; ok {
		return text
	}
	return "is in " + verb
}

func stepText(verb, step string) string {
	words := map[string]string{
		"hook": "plugins of NRI are asked", "network": "the network", "namespaces": "its namespaces", "shim": "the shim", "init": "its first process",
		"lease": "addresses and ports", "record": "its record on disk", "commit": "its record on disk", "directory": "its directory",
		"files": "its files in /etc and /dev/shm", "shm": "its /dev/shm", "containers": "its containers", "logs": "its log directory",
		"image": "its image", "snapshot": "its writable layer", "bundle": "its directory and what is mounted there",
		"rootfs": "the mount of its root file system", "images": "the mounts of its image volumes", "spec": "its volumes and specification",
		"volumes": "its volumes", "exec": "its program is executed", "pod": "its pod",
		"grace": "its program has got the stop signal and has time to end", "kill": "its program was killed and has not ended yet",
		"publish": "its end, which the shim has to tell",
	}
	if verb == "container.create" && step == "shim" {
		return "its first process, which the shim makes"
	}
	if text, ok := words[step]; ok {
		return text
	}
	return "something"
}

func doingText(of string, d api.Doing, ago func(time.Time) string) string {
	if d.Undoing {
		return fmt.Sprintf("the step %q of what failed is being undone for %s (%s); it failed because: %s",
			d.Step, ago(d.Since), stepText(d.Verb, d.Step), oneLine(d.Failure))
	}
	return fmt.Sprintf("%s %s for %s: at the step %q for %s (%s)", of, verbText(d.Verb), ago(d.Began), d.Step, ago(d.Since), stepText(d.Verb, d.Step))
}

func troubleText(of, verb string) string {
	switch verb {
	case "run":
		return of + " could not be made, nor wholly undone; its stop or removal tries again. It was tried"
	case "free":
		return "what " + of + " used could not be freed; its removal tries again. It was tried"
	}
	return fmt.Sprintf("%s could not be ended by the last %s; the next one tries again. It was tried", of, verb)
}

// pullText says how far a pull is, with the layers that are not there yet.
func pullText(p api.RunningPull, ago func(time.Time) string) []string {
	steps := map[string]string{
		"resolve": "its registry is asked for the manifest", "config": "its configuration is fetched",
		"verify": "the image verifier " + p.Asking + " is asked", "layers": "its layers are fetched",
	}
	lines := []string{fmt.Sprintf("the pull began %s ago; %s; nothing new for %s", ago(p.Began), steps[p.Step], ago(p.Moved))}
	for _, l := range p.Layers {
		if l.Status == "done" || l.Status == "exists" {
			continue
		}
		lines = append(lines, fmt.Sprintf("layer %s: %s of %s", short(l.Layer, false), size(uint64(l.Done)), size(uint64(l.Total))))
	}
	return lines
}

func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' }), "; ")
}
