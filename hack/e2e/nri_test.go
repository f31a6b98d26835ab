//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// plugin is one of NRI in the test's own process, which is not the daemon's.
type plugin struct {
	synced chan struct{} // closed when it has been shown the node
	closed chan struct{} // closed when the daemon is gone

	mu    sync.Mutex
	told  []string // events and of whom; guarded by mu
	shown []string // ids that Synchronize showed; guarded by mu

	// on, if set, answers an event; it may block.
	on func(event string) error
}

func (p *plugin) tell(event, whom string) error {
	p.mu.Lock()
	p.told = append(p.told, event+" "+whom)
	p.mu.Unlock()
	if p.on == nil {
		return nil
	}
	return p.on(event)
}

// want compares all events so far with those wanted, and forgets them.
func (p *plugin) want(t *testing.T, want ...string) {
	t.Helper()
	p.mu.Lock()
	got := p.told
	p.told = nil
	p.mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("the plugin was told\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, sb := range pods {
		p.shown = append(p.shown, sb.GetId())
	}
	for _, c := range containers {
		p.shown = append(p.shown, c.GetId())
	}
	close(p.synced)
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, sb *api.PodSandbox) error {
	return p.tell("RunPodSandbox", sb.GetName())
}

func (p *plugin) UpdatePodSandbox(_ context.Context, sb *api.PodSandbox, over, r *api.LinuxResources) error {
	return p.tell("UpdatePodSandbox", fmt.Sprint(sb.GetName(), " ", over.GetMemory().GetLimit().GetValue(), " ", r.GetMemory().GetLimit().GetValue()))
}

func (p *plugin) StopPodSandbox(_ context.Context, sb *api.PodSandbox) error {
	return p.tell("StopPodSandbox", sb.GetName())
}

func (p *plugin) RemovePodSandbox(_ context.Context, sb *api.PodSandbox) error {
	return p.tell("RemovePodSandbox", sb.GetName())
}

func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.tell("CreateContainer", c.GetName()); err != nil {
		return nil, nil, err
	}
	a := &api.ContainerAdjustment{}
	a.AddEnv("OF_PLUGIN", "yes")
	a.SetLinuxCPUShares(300)
	return a, nil, nil
}

func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.tell("StartContainer", c.GetName())
}

func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	return nil, p.tell("UpdateContainer", fmt.Sprint(c.GetName(), " ", r.GetCpu().GetShares().GetValue()))
}

func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.tell("StopContainer", fmt.Sprint(c.GetName(), " ", c.GetExitCode()))
}

func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	return p.tell("RemoveContainer", c.GetName())
}

// quiet keeps the library's lines out of the test's.
type quiet struct{}

func (quiet) Debugf(context.Context, string, ...any) {}
func (quiet) Infof(context.Context, string, ...any)  {}
func (quiet) Warnf(context.Context, string, ...any)  {}
func (quiet) Errorf(context.Context, string, ...any) {}

// newPluggableNode is a node with NRI, and where plugins connect to it.
func newPluggableNode(t *testing.T) (n *node, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "bnri-") // not t.TempDir: a unix socket's path ends at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "nri.sock")
	n = newNode(t, lab.Options{Config: fmt.Sprintf("nri = { enable = true, socket_path = %q, plugin_path = %q, plugin_config_path = %q, plugin_request_timeout = '60s' }",
		socket, filepath.Join(dir, "plugins"), filepath.Join(dir, "conf.d"))})
	return n, socket
}

// plug connects a plugin and waits until it has been shown the node and is told
// what happens in it: that the resources of pod, one of the node's, are noted.
func (n *node) plug(t *testing.T, socket, pod string, on func(event string) error) *plugin {
	t.Helper()
	p := &plugin{on: on, synced: make(chan struct{}), closed: make(chan struct{})}
	s, err := stub.New(p, stub.WithPluginName("e2e"), stub.WithPluginIdx("10"), stub.WithSocketPath(socket), stub.WithLogger(quiet{}),
		stub.WithOnClose(sync.OnceFunc(func() { close(p.closed) })))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	select {
	case <-p.synced:
	case <-time.After(time.Minute):
		t.Fatal("the plugin was shown nothing")
	}
	n.eventually(func() error {
		if _, err := n.runtime().UpdatePodSandboxResources(t.Context(), &criv1.UpdatePodSandboxResourcesRequest{PodSandboxId: pod}); err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.told) == 0 {
			return errors.New("the plugin is told nothing")
		}
		p.told = nil
		return nil
	})
	return p
}

// TestNRI follows and changes a container by a plugin at the daemon's socket.
func TestNRI(t *testing.T) {
	n, socket := newPluggableNode(t)
	n.crictl("pull", n.shell)
	before, _ := n.run("before", lab.ContainerConfig("there", n.shell, "sleep", "600"))
	refuse := ""
	p := n.plug(t, socket, before, func(event string) error {
		if event == refuse {
			return errors.New("the plugin says no")
		}
		return nil
	})
	if len(p.shown) != 2 || p.shown[0] != before {
		t.Errorf("a plugin that connects late is shown %q", p.shown)
	}
	rt, ctx := n.runtime(), t.Context()
	pod, id := n.run("plugged", lab.ContainerConfig("c", n.shell, "sleep", "600"))
	if err := n.finds(id, "echo $OF_PLUGIN; cat /sys/fs/cgroup/"+ofVersion("cpu/cpu.shares", "cpu.weight"), ofVersion("yes\n300", "yes\n39")); err != nil {
		t.Error(err)
	}
	p.want(t, "RunPodSandbox plugged", "CreateContainer c", "StartContainer c")
	if _, err := rt.UpdateContainerResources(ctx, &criv1.UpdateContainerResourcesRequest{ContainerId: id, Linux: &criv1.LinuxContainerResources{CpuShares: 512}}); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.UpdatePodSandboxResources(ctx, &criv1.UpdatePodSandboxResourcesRequest{PodSandboxId: pod,
		Overhead: &criv1.LinuxContainerResources{MemoryLimitInBytes: 11}, Resources: &criv1.LinuxContainerResources{MemoryLimitInBytes: 22}}); err != nil {
		t.Fatal(err)
	}
	if err := n.RemovePod(ctx, pod); err != nil {
		t.Fatal(err)
	}
	p.want(t, "UpdateContainer c 512", "UpdatePodSandbox plugged 11 22", "StopContainer c 137", "StopPodSandbox plugged", "RemoveContainer c", "RemovePodSandbox plugged")

	// What a plugin refuses is not made, and its name is free.
	for event, verb := range map[string]string{"RunPodSandbox": "RunPodSandbox", "CreateContainer": "CreateContainer"} {
		refuse = event
		sandbox, config := n.podConfig("refused"), lab.ContainerConfig("c", n.shell, "sleep", "600")
		pod, _, err := n.RunPod(ctx, sandbox, config)
		if err == nil || !strings.Contains(err.Error(), "the plugin says no") || !strings.HasPrefix(err.Error(), verb) {
			t.Errorf("refused %s: %v", event, err)
		}
		refuse = ""
		if pod != "" {
			if err := n.RemovePod(ctx, pod); err != nil {
				t.Error(err)
			}
		}
		if problems, err := n.Admin().Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("left of a refused %s: %v, %v", event, problems, err)
		}
		if pod, _, err = n.RunPod(ctx, sandbox, config); err != nil {
			t.Fatalf("again after a refused %s: %v", event, err)
		}
		if err := n.RemovePod(ctx, pod); err != nil {
			t.Error(err)
		}
	}
}

// TestNRIDaemonKilled kills the daemon while a plugin answers, at each of the
// turns that a verb waits for: the next daemon leaves nothing behind, the verb
// can be said again, and a plugin that comes back is shown what there is.
func TestNRIDaemonKilled(t *testing.T) {
	n, socket := newPluggableNode(t)
	n.crictl("pull", n.shell)
	rt := n.runtime()
	stays, running := n.run("stays", lab.ContainerConfig("c", n.shell, "sleep", "600"))
	sandbox, config := n.podConfig("turns"), lab.ContainerConfig("c", n.shell, "sleep", "600")
	var pod, id string
	for _, turn := range []struct {
		event string
		verb  func(context.Context) error
	}{
		{"RunPodSandbox", func(ctx context.Context) error {
			r, err := rt.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: sandbox})
			pod = r.GetPodSandboxId()
			return err
		}},
		{"CreateContainer", func(ctx context.Context) error {
			r, err := rt.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: pod, Config: proto.CloneOf(config), SandboxConfig: sandbox})
			id = r.GetContainerId()
			return err
		}},
		{"StartContainer", func(ctx context.Context) error {
			_, err := rt.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
			if status.Code(err) == codes.FailedPrecondition && n.status(id).State == criv1.ContainerState_CONTAINER_RUNNING {
				return nil // the next daemon has gone on with the start
			}
			return err
		}},
		{"StopContainer", func(ctx context.Context) error {
			_, err := rt.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id})
			return err
		}},
		{"RemoveContainer", func(ctx context.Context) error {
			_, err := rt.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id})
			return err
		}},
		{"StopPodSandbox", func(ctx context.Context) error {
			_, err := rt.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod})
			return err
		}},
		{"RemovePodSandbox", func(ctx context.Context) error {
			_, err := rt.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: pod})
			return err
		}},
	} {
		t.Run(turn.event, func(t *testing.T) {
			entered, gone := make(chan struct{}), make(chan struct{})
			held := n.plug(t, socket, stays, func(event string) error {
				if event == turn.event {
					close(entered)
					<-gone
				}
				return nil
			})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- turn.verb(ctx) }()
			select {
			case <-entered:
			case <-ctx.Done():
				t.Fatal("the plugin was not asked")
			}
			n.Kill()
			close(gone)
			<-held.closed
			<-done
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if problems, err := n.Admin().Check(t.Context()); err != nil || len(problems) > 0 {
				t.Errorf("left behind: %v, %v", problems, err)
			}
			if s := n.status(running); s.State != criv1.ContainerState_CONTAINER_RUNNING {
				t.Errorf("the other container is %s", s.State)
			}
			back := n.plug(t, socket, stays, nil)
			if !slices.Contains(back.shown, stays) || !slices.Contains(back.shown, running) {
				t.Errorf("a plugin that comes back is shown %q, which lacks %q or %q", back.shown, stays, running)
			}
			if err := turn.verb(t.Context()); err != nil {
				t.Errorf("again: %v", err)
			}
		})
	}
}
