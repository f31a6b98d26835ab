package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/cri/admin"
	"github.com/berth-runtime/berth/imageservice"
	buildroom "github.com/berth-runtime/berth/imageservice/build"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// buildNamespace is the namespace of the pods in which commands of builds run.
// Kubernetes has none of that name: it is no DNS label.
const buildNamespace = "berth.build"

// buildRunner runs the commands of builds, each in a pod of its own, in the
// sandbox of every container.
type buildRunner struct{ pods *pod.Table }

var _ imageservice.BuildRunner = buildRunner{}

// undoPatience bounds the removal of a command's pod.
const undoPatience = time.Minute

// Run executes a command. Making the pod is not interrupted with ctx: the call
// would end and the making go on, and nobody would know its id.
func (r buildRunner) Run(ctx context.Context, p imageservice.BuildProcess, done func(context.Context, string) error) (code int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	whole := context.WithoutCancel(ctx)
	podID, err := r.pods.Run(whole, pod.ViewAll, buildPod(p))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.remove(whole, podID)) }()
	id, err := r.pods.Create(whole, pod.ViewAll, podID, buildContainer(p))
	if err != nil {
		return 0, err
	}
	if code, err = r.follow(ctx, id, p); err != nil || code != 0 {
		return code, err
	}
	return 0, done(ctx, id)
}

// follow starts the container and reads its output to its end.
func (r buildRunner) follow(ctx context.Context, id string, p imageservice.BuildProcess) (int, error) {
	session, err := r.pods.AttachStream(ctx, pod.ViewAll, id, pod.Stdio{Stdout: true, Stderr: true})
	if err != nil {
		return 0, err
	}
	var read sync.WaitGroup
	defer read.Wait() // nobody hears of the output any more when this returns
	defer session.Close()
	if err := r.pods.Start(context.WithoutCancel(ctx), pod.ViewAll, id); err != nil {
		return 0, err
	}
	read.Go(func() { relay(session.Stdout(), func(b []byte) { p.Output(false, b) }) })
	read.Go(func() { relay(session.Stderr(), func(b []byte) { p.Output(true, b) }) })
	if _, err := session.Wait(ctx); err != nil {
		return 0, err
	}
	read.Wait()
	c, err := admin.Ended(ctx, r.pods, id)
	if err != nil {
		return 0, err
	}
	if c.Message != "" && c.Reason == "StartError" {
		return int(c.ExitCode), errors.New(c.Message)
	}
	return int(c.ExitCode), nil
}

// relay passes on what is read until its end.
func relay(from io.Reader, to func([]byte)) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			to(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// remove ends and removes a pod with all that it has.
func (r buildRunner) remove(ctx context.Context, podID string) error {
	ctx, cancel := context.WithTimeout(ctx, undoPatience)
	defer cancel()
	for _, c := range r.pods.Containers(pod.ViewAll, pod.ContainerFilter{PodID: podID}) {
		if err := r.pods.StopContainer(ctx, pod.ViewAll, c.ID, 0); err != nil {
			return err
		}
	}
	if err := r.pods.Stop(ctx, pod.ViewAll, podID); err != nil {
		return err
	}
	return r.pods.Remove(ctx, pod.ViewAll, podID)
}

// sweep removes the pods of builds that ended with the former daemon.
func (r buildRunner) sweep(ctx context.Context) {
	for _, p := range r.pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		if p.Config.Metadata.Namespace != buildNamespace {
			continue
		}
		if err := r.remove(ctx, p.ID); err != nil {
			klog.FromContext(ctx).Error(err, "Cannot remove what is left of a build", "pod", p.ID)
		}
	}
}

func buildPod(p imageservice.BuildProcess) spec.Pod {
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	id := hex.EncodeToString(raw[:])
	network := map[buildroom.Network]spec.NamespaceMode{
		buildroom.NetworkHost: spec.ModeNode, buildroom.NetworkNone: spec.ModeNone, buildroom.NetworkDefault: spec.ModePod,
	}[p.Network]
	out := spec.Pod{
		Metadata:   spec.PodMetadata{Name: "build-" + id, UID: id, Namespace: buildNamespace},
		Namespaces: spec.Namespaces{Network: network, PID: spec.ModeContainer, IPC: spec.ModePod},
		Seccomp:    &spec.Seccomp{Mode: spec.SeccompDefault},
	}
	if network != spec.ModeNode {
		out.Hostname = "build"
	}
	return out
}

func buildContainer(p imageservice.BuildProcess) spec.Container {
	network := spec.ModePod
	if p.Network == buildroom.NetworkHost {
		network = spec.ModeNode
	}
	out := spec.Container{
		Metadata:   spec.ContainerMetadata{Name: "run"},
		Image:      p.Root,
		UserImage:  p.Root,
		Command:    p.Args,
		WorkingDir: p.Dir,
		Security: spec.Security{
			GroupsPolicy:  spec.GroupsMerge,
			MaskedPaths:   spec.DefaultMaskedPaths(),
			ReadonlyPaths: spec.DefaultReadonlyPaths(),
			Seccomp:       &spec.Seccomp{Mode: spec.SeccompDefault},
			Namespaces:    spec.Namespaces{Network: network, PID: spec.ModeContainer, IPC: spec.ModePod},
		},
	}
	for _, e := range p.Env {
		key, value, _ := strings.Cut(e, "=")
		out.Env = append(out.Env, spec.Env{Key: key, Value: value})
	}
	for _, m := range p.Mounts {
		out.Mounts = append(out.Mounts, spec.Mount{ContainerPath: m.Target, HostPath: m.Source, ReadOnly: m.ReadOnly, Propagation: spec.PropagationPrivate})
	}
	return out
}
