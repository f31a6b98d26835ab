// Package nri lets plugins of the Node Resource Interface follow pods and
// containers and change containers that are made: it is the pods' hooks, by
// github.com/containerd/nri.
//
// Model. A plugin is a trusted program of the node: it connects to a socket
// that only root can reach, or is started from a directory. It is shown what
// exists, then told of every turn in its order, local pods too.
//
// Law. A plugin that refuses fails the call; one that does not answer in time
// is cut off, and the call goes on without it unless the plugin's own policy
// says otherwise. The library asks one plugin about one turn at a time, so a
// plugin that hangs holds up other pods' turns until its timeout, once, and
// nothing else of theirs. What a plugin asks for and cannot have here is an
// error, never left out in silence. Limits of other containers that come with
// an answer are set after it, since two turns must not wait for each other.
package nri

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/cdi"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// Config of a Service. All paths are absolute.
type Config struct {
	Version             string // of the daemon, for plugins
	SocketPath          string // where plugins connect
	PluginPath          string // directory of plugins to start
	PluginConfigPath    string // directory of their configurations
	RegistrationTimeout time.Duration
	RequestTimeout      time.Duration
	CDI                 cdi.Dirs // where the devices are specified that plugins inject
}

// Node is what plugins are shown and may change. The pods' Table is one.
type Node interface {
	Pods(v pod.View, f pod.PodFilter) []*pod.PodStatus
	Containers(v pod.View, f pod.ContainerFilter) []*pod.ContainerStatus
	Spec(id string) (*specs.Spec, error)
	Limit(ctx context.Context, id string, r spec.Resources) error
}

// Service speaks to the plugins. It is a pod.Hooks.
type Service struct {
	cfg     Config
	plugins *adaptation.Adaptation
	node    atomic.Pointer[Node] // nil until Start
	ctx     context.Context      // ends with Stop
	end     context.CancelFunc
	updates sync.WaitGroup
}

// LogTo makes the library's lines ours. The library has one logger a process:
// it is set once, before any Service is made.
func LogTo(l klog.Logger) { nrilog.Set(logger{l}) }

// New makes a Service that tells nobody of anything until Start. The timeouts
// are the library's, which has one pair of them a process.
func New(ctx context.Context, cfg Config) (*Service, error) {
	adaptation.SetPluginRegistrationTimeout(cfg.RegistrationTimeout)
	adaptation.SetPluginRequestTimeout(cfg.RequestTimeout)
	s := &Service{cfg: cfg}
	s.ctx, s.end = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	s.plugins, err = adaptation.New("berth", cfg.Version, s.synchronize, s.update,
		adaptation.WithSocketPath(cfg.SocketPath), adaptation.WithPluginPath(cfg.PluginPath), adaptation.WithPluginConfigPath(cfg.PluginConfigPath))
	if err != nil {
		return nil, fmt.Errorf("cannot set up NRI: %w", err)
	}
	return s, nil
}

// Start starts the plugins of the directory, shows them node and takes
// connections from others.
func (s *Service) Start(node Node) error {
	s.node.Store(&node)
	if err := s.plugins.Start(); err != nil {
		return fmt.Errorf("cannot start NRI: %w", err)
	}
	return nil
}

// Stop ends the plugins' connections, and the plugins that were started.
func (s *Service) Stop() {
	s.plugins.Stop()
	s.end()
	s.updates.Wait()
}

// Hold keeps plugins that connect from being shown the node.
func (s *Service) Hold() func() { return s.plugins.BlockPluginSync().Unblock }

// synchronize shows a plugin what exists. Turns that would change it wait.
func (s *Service) synchronize(ctx context.Context, show adaptation.SyncCB) error {
	node := *s.node.Load()
	pods := make([]*api.PodSandbox, 0)
	for _, p := range node.Pods(pod.ViewAll, pod.PodFilter{}) {
		pods = append(pods, sandbox(p))
	}
	containers := make([]*api.Container, 0)
	for _, c := range node.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		if c.State == pod.StateCreated || c.State == pod.StateRunning {
			containers = append(containers, s.container(node, c))
		}
	}
	updates, err := show(ctx, pods, containers)
	s.later(updates)
	return err
}

// Pod tells of a turn of a pod.
func (s *Service) Pod(ctx context.Context, turn pod.Turn, p *pod.PodStatus) error {
	if s.node.Load() == nil {
		return nil
	}
	sb := sandbox(p)
	switch turn {
	case pod.TurnRun:
		return s.plugins.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: sb})
	case pod.TurnUpdate:
		_, err := s.plugins.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{Pod: sb,
			OverheadLinuxResources: sb.Linux.PodOverhead, LinuxResources: sb.Linux.PodResources})
		return err
	case pod.TurnUpdated:
		return s.plugins.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: sb})
	case pod.TurnStop:
		return s.plugins.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: sb})
	case pod.TurnRemove:
		return s.plugins.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: sb})
	}
	return fmt.Errorf("NRI has no event for the turn %q of a pod", turn)
}

// Container tells of a turn of a container.
func (s *Service) Container(ctx context.Context, turn pod.Turn, p *pod.PodStatus, c *pod.ContainerStatus) error {
	node := s.node.Load()
	if node == nil {
		return nil
	}
	sb, ctr := sandbox(p), s.container(*node, c)
	switch turn {
	case pod.TurnCreated:
		return s.plugins.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: sb, Container: ctr})
	case pod.TurnStart:
		return s.plugins.StartContainer(ctx, &api.StartContainerRequest{Pod: sb, Container: ctr})
	case pod.TurnStarted:
		return s.plugins.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: sb, Container: ctr})
	case pod.TurnUpdated:
		return s.plugins.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: sb, Container: ctr})
	case pod.TurnStop:
		answer, err := s.plugins.StopContainer(ctx, &api.StopContainerRequest{Pod: sb, Container: ctr})
		s.later(answer.GetUpdate())
		return err
	case pod.TurnRemove:
		return s.plugins.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: sb, Container: ctr})
	}
	return fmt.Errorf("NRI has no event for the turn %q of a container", turn)
}

// Adjust lets the plugins change the specification of a new container.
func (s *Service) Adjust(ctx context.Context, p *pod.PodStatus, c *pod.ContainerStatus, oci *specs.Spec) error {
	if s.node.Load() == nil {
		return nil
	}
	asked := &api.CreateContainerRequest{Pod: sandbox(p), Container: described(c, oci)}
	answer, err := s.plugins.CreateContainer(ctx, asked)
	if err != nil {
		return err
	}
	// A variable that was removed is in no answer, only missing where the next
	// plugin would be shown it.
	oci.Process.Env = stillSet(oci.Process.Env, asked.Container.GetEnv())
	if err := adjust(oci, answer.GetAdjust(), s.cfg.CDI); err != nil {
		return fmt.Errorf("cannot do what an NRI plugin asks for: %w", err)
	}
	s.later(answer.GetUpdate())
	return nil
}

// Limit lets the plugins change an update of a container's limits.
func (s *Service) Limit(ctx context.Context, p *pod.PodStatus, c *pod.ContainerStatus, r spec.Resources) (spec.Resources, error) {
	node := s.node.Load()
	if node == nil {
		return r, nil
	}
	answer, err := s.plugins.UpdateContainer(ctx, &api.UpdateContainerRequest{Pod: sandbox(p), Container: s.container(*node, c), LinuxResources: limits(r)})
	if err != nil {
		return r, err
	}
	var others []*api.ContainerUpdate
	for _, u := range answer.GetUpdate() {
		if u.GetContainerId() != c.ID {
			others = append(others, u)
			continue
		}
		asked, err := resources(u.GetLinux().GetResources())
		if err != nil {
			return r, err
		}
		asked.OOMScoreAdj = r.OOMScoreAdj
		r = asked
	}
	s.later(others)
	return r, nil
}

// later sets limits that came with an answer, once the turn is over.
func (s *Service) later(updates []*api.ContainerUpdate) {
	if len(updates) == 0 || s.ctx.Err() != nil {
		return
	}
	s.updates.Go(func() {
		failed, err := s.update(s.ctx, updates)
		for _, u := range failed {
			klog.FromContext(s.ctx).Error(err, "Cannot set limits as an NRI plugin asks", "container", u.GetContainerId())
		}
	})
}

// update sets limits that a plugin asks for, and returns those it could not
// set and may not forget.
func (s *Service) update(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	node := s.node.Load()
	var errs []error
	for _, u := range updates {
		if u == nil {
			continue
		}
		asked, err := resources(u.GetLinux().GetResources())
		if err == nil {
			err = s.limit(ctx, *node, u.GetContainerId(), asked)
		}
		if err != nil && !u.GetIgnoreFailure() {
			failed, errs = append(failed, u), append(errs, err)
		}
	}
	return failed, errors.Join(errs...)
}

// limit waits no longer than a plugin may: it may be a plugin's own turn that
// the container is held by.
func (s *Service) limit(ctx context.Context, node Node, id string, r spec.Resources) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	return node.Limit(ctx, id, r)
}

// logger writes the library's lines as ours.
type logger struct{ klog.Logger }

func (l logger) Debugf(_ context.Context, format string, args ...any) {
	l.V(5).Info("NRI: " + fmt.Sprintf(format, args...))
}

func (l logger) Infof(_ context.Context, format string, args ...any) {
	l.V(4).Info("NRI: " + fmt.Sprintf(format, args...))
}

func (l logger) Warnf(_ context.Context, format string, args ...any) {
	l.Info("NRI: " + fmt.Sprintf(format, args...))
}

func (l logger) Errorf(_ context.Context, format string, args ...any) {
	l.Error(nil, "NRI: "+fmt.Sprintf(format, args...))
}
