package pod_test

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

	"github.com/berth-runtime/berth/runtime/cdi"
	"github.com/berth-runtime/berth/runtime/nri"
	"github.com/berth-runtime/berth/runtime/pod"
)

// plugin is an NRI plugin on the real wire that remembers what it is told.
type plugin struct {
	stub   stub.Stub
	closed chan struct{}
	synced chan struct{} // closed when Synchronize has been called

	mu         sync.Mutex
	told       []string // guarded by mu
	pods       []string // ids that Synchronize showed; guarded by mu
	containers []string // guarded by mu

	// on, if set, answers an event; it may block.
	on func(event string, p *api.PodSandbox, c *api.Container) error
	// adjust, if set, answers CreateContainer.
	adjust func(c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate)
	// limit, if set, answers UpdateContainer.
	limit func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate
}

func (p *plugin) tell(event string, sb *api.PodSandbox, c *api.Container) error {
	line := event + " " + sb.GetName()
	if c != nil {
		line += "/" + c.GetName()
	}
	p.mu.Lock()
	p.told = append(p.told, line)
	p.mu.Unlock()
	if p.on != nil {
		return p.on(event, sb, c)
	}
	return nil
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	p.mu.Lock()
	for _, sb := range pods {
		p.pods = append(p.pods, sb.GetId())
	}
	for _, c := range containers {
		p.containers = append(p.containers, c.GetId()+" "+strings.Join(c.GetArgs(), " "))
	}
	p.mu.Unlock()
	if p.on != nil {
		if err := p.on("Synchronize", nil, nil); err != nil {
			return nil, err
		}
	}
	close(p.synced)
	return nil, nil
}

func (p *plugin) RunPodSandbox(_ context.Context, sb *api.PodSandbox) error {
	return p.tell("RunPodSandbox", sb, nil)
}
func (p *plugin) UpdatePodSandbox(_ context.Context, sb *api.PodSandbox, over, r *api.LinuxResources) error {
	return p.tell(fmt.Sprintf("UpdatePodSandbox %d %d", over.GetMemory().GetLimit().GetValue(), r.GetMemory().GetLimit().GetValue()), sb, nil)
}
func (p *plugin) PostUpdatePodSandbox(_ context.Context, sb *api.PodSandbox) error {
	return p.tell("PostUpdatePodSandbox", sb, nil)
}
func (p *plugin) StopPodSandbox(_ context.Context, sb *api.PodSandbox) error {
	return p.tell("StopPodSandbox", sb, nil)
}
func (p *plugin) RemovePodSandbox(_ context.Context, sb *api.PodSandbox) error {
	return p.tell("RemovePodSandbox", sb, nil)
}
func (p *plugin) CreateContainer(_ context.Context, sb *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if err := p.tell("CreateContainer", sb, c); err != nil || p.adjust == nil {
		return nil, nil, err
	}
	a, u := p.adjust(c)
	return a, u, nil
}
func (p *plugin) PostCreateContainer(_ context.Context, sb *api.PodSandbox, c *api.Container) error {
	return p.tell("PostCreateContainer", sb, c)
}
func (p *plugin) StartContainer(_ context.Context, sb *api.PodSandbox, c *api.Container) error {
	return p.tell("StartContainer", sb, c)
}
func (p *plugin) PostStartContainer(_ context.Context, sb *api.PodSandbox, c *api.Container) error {
	return p.tell("PostStartContainer", sb, c)
}
func (p *plugin) UpdateContainer(_ context.Context, sb *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	if err := p.tell("UpdateContainer", sb, c); err != nil || p.limit == nil {
		return nil, err
	}
	return p.limit(c, r), nil
}
func (p *plugin) PostUpdateContainer(_ context.Context, sb *api.PodSandbox, c *api.Container) error {
	return p.tell("PostUpdateContainer", sb, c)
}
func (p *plugin) StopContainer(_ context.Context, sb *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	return nil, p.tell(fmt.Sprintf("StopContainer %d", c.GetExitCode()), sb, c)
}
func (p *plugin) RemoveContainer(_ context.Context, sb *api.PodSandbox, c *api.Container) error {
	return p.tell("RemoveContainer", sb, c)
}

// events are those told so far.
func (p *plugin) events() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.told)
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

// shown is what Synchronize showed.
func (p *plugin) shown() (pods, containers []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.pods), slices.Clone(p.containers)
}

// pluggedNode is a node that plugins can connect to.
type pluggedNode struct {
	*node
	service *nri.Service
	socket  string
	config  nri.Config
}

// requestTimeout is long, but where a test waits for it.
const requestTimeout = 30 * time.Second

func newPluggedNode(t *testing.T, change func(*nri.Config)) *pluggedNode {
	t.Helper()
	n := &pluggedNode{node: newNode(t, pod.GroupNode)}
	dir := t.TempDir()
	n.socket = filepath.Join(filepath.Dir(n.cfg.Root), "nri.sock")
	n.config = nri.Config{Version: "0.0.0", SocketPath: n.socket, PluginPath: filepath.Join(dir, "plugins"), PluginConfigPath: filepath.Join(dir, "conf.d"),
		RegistrationTimeout: requestTimeout, RequestTimeout: requestTimeout, CDI: cdi.Dirs{filepath.Join(dir, "cdi")}}
	if change != nil {
		change(&n.config)
	}
	n.Close()
	n.restart(t)
	t.Cleanup(func() { n.service.Stop() })
	return n
}

// restart opens the Table and the service as a daemon that starts does.
func (n *pluggedNode) restart(t *testing.T) {
	t.Helper()
	var err error
	if n.service, err = nri.New(t.Context(), n.config); err != nil {
		t.Fatal(err)
	}
	n.cfg.Hooks = n.service
	n.boot(t)
	if err := n.service.Start(n.Table); err != nil {
		t.Fatal(err)
	}
}

// plug connects a plugin and waits until it is registered.
func (n *pluggedNode) plug(t *testing.T, p *plugin) *plugin {
	t.Helper()
	n.connect(t, p)
	select {
	case <-p.synced:
	case <-time.After(requestTimeout):
		t.Fatal("the plugin was shown nothing")
	}
	n.service.Hold()() // waits for the end of its registration
	return p
}

// connect begins to connect a plugin.
func (n *pluggedNode) connect(t *testing.T, p *plugin) {
	t.Helper()
	p.synced, p.closed = make(chan struct{}), make(chan struct{})
	var err error
	p.stub, err = stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx("10"), stub.WithSocketPath(n.socket),
		stub.WithOnClose(sync.OnceFunc(func() { close(p.closed) })))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stub.Stop)
}

// processPlugin is a plugin in a process of its own that writes what it is
// told into the file that its configuration names.
type processPlugin struct {
	plugin
	file string
}

func (p *processPlugin) Configure(_ context.Context, config, runtime, _ string) (api.EventMask, error) {
	p.file = strings.TrimSpace(config)
	p.on = func(event string, sb *api.PodSandbox, _ *api.Container) error {
		f, err := os.OpenFile(p.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, runtime, event, sb.GetName())
		return errors.Join(err, f.Close())
	}
	return 0, nil
}

// beAPlugin is the whole life of such a process.
func beAPlugin() int {
	p := &processPlugin{plugin: plugin{synced: make(chan struct{})}}
	s, err := stub.New(p)
	if err == nil {
		err = s.Run(context.Background())
	}
	if err != nil {
		return 1
	}
	return 0
}
