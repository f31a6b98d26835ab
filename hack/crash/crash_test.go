//go:build crash

package crash

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

func TestEveryStep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for group, userns := range map[string]bool{"node": false, "pod": true} {
		t.Run(fmt.Sprintf("shim per %s, user namespace %v", group, userns), func(t *testing.T) { everyStep(t, group, userns) })
	}
}

func everyStep(t *testing.T, group string, userns bool) {
	l := newLab(t, lab.Options{ShimGroup: group})
	image := setUp(t, l)
	names := slices.DeleteFunc(failpoints(t, l.Daemon), func(name string) bool {
		return ofImages(name) || ofBuilds(name) || ofCheckpoints(name) || ofVolumes(name)
	})
	killed := 0
	for n, name := range names {
		t.Run(name, func(t *testing.T) {
			c := &client{Lab: l, t: t, image: image, pod: fmt.Sprintf("pod%d", n), failpoint: name, userns: userns}
			c.life()
			if c.kills != 1 {
				t.Errorf("the daemon was killed %d times at %s, want once", c.kills, name)
			}
			killed += c.kills
		})
	}
	t.Logf("shim per %s: killed the daemon at %d of %d points", group, killed, len(names))
}

// newLab makes a node whose daemon has failpoints. It is taken down at the end
// of the test.
func newLab(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	o.Env = map[string]string{}
	l, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	l.Daemon = filepath.Join(l.Clone, "bin/failpoint/berthd")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if l.Running() {
			if err := l.RemoveAll(ctx); err != nil {
				t.Error(err)
			}
		}
		if t.Failed() {
			t.Logf("berthd's last words:\n%s", lab.Tail(l.DaemonLog(), 60))
		}
		if err := l.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return l
}

// setUp starts the node and pulls the image that all lives use.
func setUp(t *testing.T, l *lab.Lab) string {
	t.Helper()
	if err := l.StartRegistry(t.Context()); err != nil {
		t.Fatal(err)
	}
	image := l.Registry + "/shell:1"
	shell, err := testimage.Shell()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testimage.Push(t.Context(), image, shell); err != nil {
		t.Fatal(err)
	}
	if err := l.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Pull(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return image
}

func failpoints(t *testing.T, daemon string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), daemon, "steps").Output()
	if err != nil {
		t.Fatalf("berthd steps: %v", err)
	}
	names := strings.Fields(string(out))
	if len(names) == 0 {
		t.Fatal("berthd steps names no failpoints")
	}
	return names
}

// client lives one pod's life and survives one crash of the daemon in it.
type client struct {
	*lab.Lab
	t         *testing.T
	image     string
	pod       string
	failpoint string
	userns    bool // the pod has one
	kills     int
	running   string // id of a container that must be found running after a crash
}

func (c *client) life() {
	t := c.t
	c.restart(c.failpoint)
	rt := criv1.NewRuntimeServiceClient(c.Conn())
	config := c.PodConfig(c.pod)
	// A shared PID namespace has an init, whose steps are to be crashed too.
	config.Linux.SecurityContext.NamespaceOptions.Pid = criv1.NamespaceMode_POD
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	config.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: int32(port)}}
	container := lab.ContainerConfig("c", c.image, "sh", "-c", "trap 'exit 3' TERM; touch /tmp/ready; while :; do sleep 0.05; done")
	container.Linux.SecurityContext.NamespaceOptions.Pid = criv1.NamespaceMode_POD
	if c.userns {
		ids := []*criv1.IDMapping{{HostId: 1 << 20, Length: 1 << 16}}
		ns := &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: ids, Gids: ids}
		config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = ns
		container.Linux.SecurityContext.NamespaceOptions.UsernsOptions = ns
	}
	container.Mounts = []*criv1.Mount{{ContainerPath: "/image", Readonly: true, Image: &criv1.ImageSpec{Image: c.image}}}

	var podID, id string
	c.do("RunPodSandbox", func(ctx context.Context) error {
		r, err := rt.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
		podID = r.GetPodSandboxId()
		return err
	})
	c.do("CreateContainer", func(ctx context.Context) error {
		r, err := rt.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: podID, Config: container, SandboxConfig: config})
		id = r.GetContainerId()
		return err
	})
	c.do("StartContainer", func(ctx context.Context) error {
		_, err := rt.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
		if status.Code(err) == codes.FailedPrecondition && c.state(id) == criv1.ContainerState_CONTAINER_RUNNING {
			return nil // it was started before the daemon died
		}
		return err
	})
	c.running = id
	c.do("ExecSync", func(ctx context.Context) error {
		r, err := rt.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "until [ -e /tmp/ready ]; do sleep 0.01; done; echo here"}, Timeout: 10})
		if err == nil && string(r.Stdout) != "here\n" {
			t.Errorf("exec: %q", r.Stdout)
		}
		return err
	})
	c.running = ""
	c.do("StopContainer", func(ctx context.Context) error {
		_, err := rt.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id, Timeout: 10})
		return err
	})
	c.exited(id)
	c.do("RemoveContainer", func(ctx context.Context) error {
		_, err := rt.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id})
		return err
	})
	c.do("StopPodSandbox", func(ctx context.Context) error {
		_, err := rt.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: podID})
		return err
	})
	c.do("RemovePodSandbox", func(ctx context.Context) error {
		_, err := rt.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: podID})
		return err
	})
	c.check("after the life")
	if left := c.OfPods(); len(left) > 0 {
		t.Errorf("the pod left %q", left)
	}
}

// do calls f, and once more after each crash of the daemon.
func (c *client) do(verb string, f func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil && c.alive() {
			return
		}
		if c.alive() {
			c.t.Fatalf("%s: %v", verb, err)
		}
		c.kills++
		c.restart("")
		c.check("after the crash in " + verb)
		if c.running != "" {
			if s := c.state(c.running); s != criv1.ContainerState_CONTAINER_RUNNING {
				c.t.Errorf("after the crash in %s the container is %s", verb, s)
			}
		}
		if err == nil {
			return // the answer came before the crash
		}
	}
}

// alive tells whether the daemon lives; one that has just killed itself may
// need a moment to be seen dead.
func (c *client) alive() bool {
	for range 1000 {
		if !c.Running() {
			return false
		}
		if _, err := c.Admin().Info(c.t.Context()); err == nil {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return c.Running()
}

func (c *client) restart(failpoint string) {
	c.t.Helper()
	if c.Running() {
		c.Stop()
	}
	c.Env["BERTH_FAILPOINT"] = failpoint
	if err := c.Start(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) check(when string) {
	c.t.Helper()
	problems, err := c.Admin().Check(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range problems {
		c.t.Errorf("%s: %s %s: %s", when, p.Kind, p.Object, p.Detail)
	}
}

func (c *client) state(id string) criv1.ContainerState {
	c.t.Helper()
	r, err := criv1.NewRuntimeServiceClient(c.Conn()).ContainerStatus(c.t.Context(), &criv1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		c.t.Errorf("ContainerStatus: %v", err)
		return criv1.ContainerState_CONTAINER_UNKNOWN
	}
	return r.Status.State
}

// exited wants the code that the container's trap gives.
func (c *client) exited(id string) {
	c.t.Helper()
	r, err := criv1.NewRuntimeServiceClient(c.Conn()).ContainerStatus(c.t.Context(), &criv1.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		c.t.Errorf("ContainerStatus: %v", err)
		return
	}
	if s := r.Status; s.State != criv1.ContainerState_CONTAINER_EXITED || s.ExitCode != 3 {
		c.t.Errorf("the stopped container is %s with code %d (%s), want exited with 3", s.State, s.ExitCode, s.Reason)
	}
}
