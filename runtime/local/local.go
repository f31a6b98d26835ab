// Package local is what only the command line's pods have: restart policies,
// new attempts, health checks, and pods that give back what they hold when they
// have ended.
//
// Model. A Service uses the verbs of package pod as the kubelet would. A
// container runs once; to start one that has ended is to make a new attempt: a
// new container with the same name and configuration, which takes over its
// volumes, and on request its writable layer, and to remove the old one. Where
// the pod has been stopped, a reboot has ended it or it had nothing left to do,
// there is a new attempt of the pod first.
//
// A pod of a manifest (package manifest) has that as an annotation in its row.
// What is to be done next for it (an init container, the others, its end, a new
// attempt with all of them) follows from that and from the rows of its
// containers, whenever one of them has changed and at Begin.
//
// Law. There are no records here: what was asked for are annotations in the
// containers' rows, what became of them are the rows themselves. A new attempt
// stands before the old one is removed, so that Begin finds after a crash what
// was under way, and ends it. Only local pods are touched, never the kubelet's.
// Without containers that wait for a restart or have a health check, nothing
// ticks: the Service waits for the next event.
package local

import (
	"context"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/keylock"
)

// What clients write on containers to have it done, and on pods.
const (
	RestartAnnotation = "io.berth.restart" // a Policy, on a container
	RemoveAnnotation  = "io.berth.remove"  // "true" on a container: with its end goes its pod
	HealthAnnotation  = "io.berth.health"  // JSON of a Check, on a container
	RunLabel          = "io.berth.run"     // on a pod: it has one container, and holds nothing when that has ended
)

// retriesAnnotation counts the restarts since somebody last started the
// container by hand, and says how long the last was waited for.
const retriesAnnotation = "io.berth.retries"

// Pods is what the Service needs of the pods domain; *pod.Table has it.
type Pods interface {
	Pod(v pod.View, id string) (*pod.PodStatus, error)
	Pods(v pod.View, f pod.PodFilter) []*pod.PodStatus
	Container(v pod.View, id string) (*pod.ContainerStatus, error)
	Containers(v pod.View, f pod.ContainerFilter) []*pod.ContainerStatus
	Run(ctx context.Context, v pod.View, cfg spec.Pod) (string, error)
	Create(ctx context.Context, v pod.View, podID string, cfg spec.Container) (string, error)
	CreateAgain(ctx context.Context, v pod.View, podID string, cfg spec.Container, from string, keep bool) (string, error)
	Start(ctx context.Context, v pod.View, id string) error
	StopContainer(ctx context.Context, v pod.View, id string, grace time.Duration) error
	Stop(ctx context.Context, v pod.View, id string) error
	Remove(ctx context.Context, v pod.View, id string) error
	RemoveContainer(ctx context.Context, v pod.View, id string) error
	ExecSync(ctx context.Context, v pod.View, id string, argv []string, timeout time.Duration) (pod.ExecResult, error)
	Subscribe(ctx context.Context) <-chan pod.Event
}

// Event is something that the Service did, or saw, to a container.
type Event struct {
	Action    string // restarting, healthy, unhealthy or failed
	Container *pod.ContainerStatus
	Pod       *pod.PodStatus // nil if it is gone
	Err       error          // of failed
}

// Config of a Service.
type Config struct {
	Pods Pods
	Tell func(Event) // may be nil

	Root, State string // below which the emptyDirs of manifests are, on the disk and in memory
	LogRoot     string // below which the logs of manifests' pods are
}

// Service looks after the local pods. New makes one.
type Service struct {
	cfg   Config
	ctx   context.Context // of all that it does by itself; ended by Close
	end   context.CancelFunc
	work  sync.WaitGroup
	locks keylock.Locks // by the identity of pods: who makes attempts, or ends pods

	mu      sync.Mutex
	waiting map[string]*wait  // guarded by mu; containers that are to be restarted, by id
	probes  map[string]*probe // guarded by mu; by id of the container
}

// wait is a restart to come.
type wait struct {
	timer *time.Timer
	at    time.Time
	err   error // of the last try
}

// New makes a Service. Begin starts it.
func New(cfg Config) *Service {
	if cfg.Tell == nil {
		cfg.Tell = func(Event) {}
	}
	s := &Service{cfg: cfg, waiting: map[string]*wait{}, probes: map[string]*probe{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// Begin ends what a crash cut, before it returns, and looks after local pods
// from then on. The pods must have been recovered.
func (s *Service) Begin(ctx context.Context) {
	s.ctx = withValues{s.ctx, ctx}
	s.finish(ctx)
	s.beginPods(ctx)
	s.work.Go(s.follow)
}

// withValues has the life of one context and the values of another.
type withValues struct {
	context.Context
	values context.Context
}

func (c withValues) Value(key any) any { return c.values.Value(key) }

// Close ends what the Service does. What it waits for, the next one does.
func (s *Service) Close() {
	s.end()
	s.mu.Lock()
	for id, w := range s.waiting {
		w.timer.Stop()
		delete(s.waiting, id)
	}
	s.mu.Unlock()
	s.work.Wait()
}

// follow sees what happens, until Close.
func (s *Service) follow() {
	for s.ctx.Err() == nil {
		events := s.cfg.Pods.Subscribe(s.ctx)
		for _, c := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
			s.see(c) // what happened before, or was missed
		}
		for e := range events {
			if e.Pod == nil || e.Pod.Origin != pod.OriginLocal {
				continue
			}
			if e.ContainerID == e.Pod.ID {
				if e.Kind == pod.EventDeleted {
					s.removed(e.Pod)
				}
				continue
			}
			if e.Kind == pod.EventDeleted {
				s.forget(e.ContainerID)
			} else if c, err := s.cfg.Pods.Container(pod.ViewAll, e.ContainerID); err == nil {
				s.see(c)
			}
		}
	}
}

// forget is told of a container that was removed.
func (s *Service) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.waiting[id]; w != nil {
		w.timer.Stop()
		delete(s.waiting, id)
	}
	s.endProbe(id)
}

// see looks at a container that came to be, or changed. It may be called any
// number of times.
func (s *Service) see(c *pod.ContainerStatus) {
	if c.Origin != pod.OriginLocal {
		return
	}
	switch c.State {
	case pod.StateRunning:
		s.beginProbe(c)
	case pod.StateExited:
		s.mu.Lock()
		s.endProbe(c.ID)
		s.mu.Unlock()
		s.ended(c)
	}
}

// ended does what is due at the end of a container: a restart, or that its pod
// goes or gives back what it holds.
func (s *Service) ended(c *pod.ContainerStatus) {
	if policyOf(c).again(c, triesOf(c).count) {
		s.await(c, triesOf(c).next(c), nil)
		return
	}
	if p, err := s.cfg.Pods.Pod(pod.ViewAll, c.PodID); err == nil && ofManifest(p) {
		s.advanceSoon(p)
		return
	}
	do := s.release
	if c.Config.Annotations[RemoveAnnotation] == "true" {
		do = s.remove
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() == nil {
		s.work.Go(func() { do(c) })
	}
}

// remove takes away the pod of a container that was not to be kept.
func (s *Service) remove(c *pod.ContainerStatus) {
	if _, unlock, err := s.lockPod(c.PodID); err == nil {
		defer unlock()
		s.logged("Cannot remove the pod of a container that was not to be kept", c, s.cfg.Pods.Remove(s.ctx, pod.ViewAll, c.PodID))
	}
}

// release stops a pod of one whose container has ended for good: its address
// and ports are free then.
func (s *Service) release(c *pod.ContainerStatus) {
	p, unlock, err := s.lockPod(c.PodID)
	if err != nil {
		return
	}
	defer unlock()
	if p.Config.Labels[RunLabel] == "" || !p.Ready {
		return
	}
	for _, o := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{PodID: p.ID}) {
		if o.State != pod.StateExited || s.awaited(o.ID) {
			return
		}
	}
	s.logged("Cannot stop the pod of a container that has ended", c, s.cfg.Pods.Stop(s.ctx, pod.ViewAll, p.ID))
}

// lockPod keeps others from making attempts of a pod, or of its containers.
func (s *Service) lockPod(id string) (*pod.PodStatus, func(), error) {
	p, err := s.cfg.Pods.Pod(pod.ViewAll, id)
	if err != nil {
		return nil, nil, err
	}
	unlock := s.locks.Lock(lockName(p))
	if p, err = s.cfg.Pods.Pod(pod.ViewAll, id); err != nil { // it may have gone meanwhile
		unlock()
		return nil, nil, err
	}
	return p, unlock, nil
}

// lockName is what the attempts of a pod are locked by.
func lockName(p *pod.PodStatus) string {
	m := p.Config.Metadata
	return m.Namespace + "/" + m.Name + "/" + m.UID
}

func (s *Service) logged(what string, c *pod.ContainerStatus, err error) {
	if err != nil && s.ctx.Err() == nil {
		klog.FromContext(s.ctx).Error(err, what, "container", c.ID)
	}
}

func (s *Service) tell(action string, c *pod.ContainerStatus, why error) {
	p, err := s.cfg.Pods.Pod(pod.ViewAll, c.PodID)
	if err != nil {
		p = nil
	}
	s.cfg.Tell(Event{Action: action, Container: c, Pod: p, Err: why})
}

// State is what the Service knows of a container, beyond its status.
type State struct {
	Restarting bool
	Next       time.Time // when, if Restarting
	Restarts   int       // since somebody last started it
	Why        string    // the last restart failed
	Health     *Health   // nil: it has no check
	Paused     bool      // its processes stand still
}

// States tells of every local container that there is something to tell of, by
// id.
func (s *Service) States() map[string]State {
	out := map[string]State{}
	for _, c := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		if c.Origin != pod.OriginLocal {
			continue
		}
		st := State{Restarts: triesOf(c).count, Paused: c.Paused}
		s.mu.Lock()
		if w := s.waiting[c.ID]; w != nil && !c.StopAsked {
			st.Restarting, st.Next = true, w.at
			if w.err != nil {
				st.Why = w.err.Error()
			}
		}
		if p := s.probes[c.ID]; p != nil {
			st.Health = p.health()
		}
		s.mu.Unlock()
		if st != (State{}) {
			out[c.ID] = st
		}
	}
	return out
}

// gone tells whether an error says that what was meant is not there any more.
func gone(err error) bool { return errkind.Is(err, errkind.NotFound) }
