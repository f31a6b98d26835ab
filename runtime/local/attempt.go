package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Again says how a new attempt is made.
type Again struct {
	Keep    bool          // the writable layer comes along
	Restart bool          // one that runs is stopped first
	Grace   time.Duration // of that stop
	NoStart bool          // it is made and not started
}

// Again makes a new attempt of a container that has ended, starts it and
// removes the old one; it returns the new one's id. One that was never started
// is only started. One of the kubelet's is refused.
func (s *Service) Again(ctx context.Context, id string, how Again) (string, error) {
	c, err := s.cfg.Pods.Container(pod.ViewAll, id)
	if err != nil {
		return "", err
	}
	if c.Origin != pod.OriginLocal {
		return "", errkind.New(errkind.FailedPrecondition, "cannot start container %s again: it is the kubelet's, which makes attempts of its own", c.ID)
	}
	p, unlock, err := s.lockPod(c.PodID)
	if err != nil {
		return "", err
	}
	defer unlock()
	// The policy may have been faster.
	if c, err = s.cfg.Pods.Container(pod.ViewAll, c.ID); err != nil {
		return "", err
	}
	if c.State == pod.StateRunning {
		if !how.Restart {
			return c.ID, nil
		}
		if err := s.cfg.Pods.StopContainer(ctx, pod.ViewAll, c.ID, how.Grace); err != nil {
			return "", err
		}
		if c, err = s.cfg.Pods.Container(pod.ViewAll, c.ID); err != nil {
			return "", err
		}
	}
	if c.State == pod.StateCreated {
		if how.NoStart {
			return c.ID, nil
		}
		return c.ID, s.cfg.Pods.Start(ctx, pod.ViewAll, c.ID)
	}
	if ofManifest(p) && !p.Ready {
		return s.renewed(ctx, p, c)
	}
	return s.attempt(ctx, p, c, how, tries{})
}

// renewed makes the next attempt of the pod of a manifest for somebody who has
// asked for one of its containers, and returns that one's id, or with init
// containers under way the pod's.
func (s *Service) renewed(ctx context.Context, p *pod.PodStatus, c *pod.ContainerStatus) (string, error) {
	if err := s.renew(ctx, p); err != nil {
		return "", err
	}
	next := s.readyAttempt(p)
	if now := s.latest(next)[c.Config.Metadata.Name]; now != nil {
		return now.ID, nil
	}
	return next, nil
}

// attempt makes the next attempt of c, which has ended, in the pod p or, if
// that is stopped, in a new attempt of it. The caller has the pod locked.
func (s *Service) attempt(ctx context.Context, p *pod.PodStatus, c *pod.ContainerStatus, how Again, t tries) (id string, err error) {
	// Once begun it is carried through: the old one may have nothing more.
	ctx = context.WithoutCancel(ctx)
	target, made := p.ID, false
	if ready := s.readyAttempt(p); ready != "" {
		target = ready // another container of the pod has made it
	} else if !p.Ready {
		made = true
		if target, err = s.cfg.Pods.Run(ctx, pod.ViewAll, s.nextPod(p)); err != nil {
			return "", err
		}
	}
	cfg := nextContainer(c, t)
	id, err = s.cfg.Pods.CreateAgain(ctx, pod.ViewAll, target, cfg, c.ID, how.Keep)
	if err != nil {
		if made {
			err = errors.Join(err, s.cfg.Pods.Remove(ctx, pod.ViewAll, target))
		}
		return "", err
	}
	// From here on the new one is the container.
	s.forget(c.ID)
	if err := s.replace(ctx, p, c); err != nil {
		s.logged("Cannot remove an earlier attempt; the next start of the daemon does", c, err)
	}
	if how.NoStart {
		return id, nil
	}
	return id, s.cfg.Pods.Start(ctx, pod.ViewAll, id)
}

// readyAttempt is the attempt of a pod that is ready; empty: there is none.
func (s *Service) readyAttempt(p *pod.PodStatus) string {
	for _, o := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		if o.Ready && o.Origin == pod.OriginLocal && identity(o) == identity(p) {
			return o.ID
		}
	}
	return ""
}

// nextPod is the configuration of the next attempt of a pod.
func (s *Service) nextPod(p *pod.PodStatus) spec.Pod {
	cfg := *p.Config
	for _, o := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		if identity(o) == identity(p) {
			cfg.Metadata.Attempt = max(cfg.Metadata.Attempt, o.Config.Metadata.Attempt)
		}
	}
	cfg.Metadata.Attempt++
	return cfg
}

func nextContainer(c *pod.ContainerStatus, t tries) spec.Container {
	cfg := *c.Config
	cfg.Metadata.Attempt++
	cfg.Annotations = maps.Clone(cfg.Annotations)
	delete(cfg.Annotations, retriesAnnotation)
	if t != (tries{}) {
		if cfg.Annotations == nil {
			cfg.Annotations = map[string]string{}
		}
		cfg.Annotations[retriesAnnotation] = t.String()
	}
	return cfg
}

// replace removes an attempt that has a successor, and its pod if that has
// nothing else and a successor too.
func (s *Service) replace(ctx context.Context, p *pod.PodStatus, c *pod.ContainerStatus) error {
	if err := s.cfg.Pods.RemoveContainer(ctx, pod.ViewAll, c.ID); err != nil {
		return err
	}
	if len(s.members(p.ID)) > 0 || p.Ready {
		return nil
	}
	return s.cfg.Pods.Remove(ctx, pod.ViewAll, p.ID)
}

func (s *Service) members(podID string) []*pod.ContainerStatus {
	return s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{PodID: podID})
}

// identity is what the attempts of a pod have in common.
func identity(p *pod.PodStatus) spec.PodMetadata {
	m := p.Config.Metadata
	m.Attempt = 0
	return m
}

// finish ends what a crash cut: attempts that have a successor are removed, the
// successor is started, and a new attempt of a pod to which no container came
// is undone.
func (s *Service) finish(ctx context.Context) {
	for _, c := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		if c.From == "" || c.Origin != pod.OriginLocal {
			continue
		}
		var p *pod.PodStatus
		old, err := s.cfg.Pods.Container(pod.ViewAll, c.From)
		if err == nil {
			p, err = s.cfg.Pods.Pod(pod.ViewAll, old.PodID)
		}
		if err == nil {
			err = s.replace(ctx, p, old)
		}
		if gone(err) {
			err = nil // the crash came after its removal, and before the start
		}
		if err == nil && c.State == pod.StateCreated {
			err = s.cfg.Pods.Start(ctx, pod.ViewAll, c.ID)
		}
		s.logged("Cannot finish a new attempt", c, err)
	}
	for _, p := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		// A new attempt to which no container came, or one that all have left.
		if p.Origin == pod.OriginLocal && p.Config.Labels[RunLabel] != "" && len(s.members(p.ID)) == 0 && (p.Config.Metadata.Attempt > 0 || s.attempts(p) > 1) {
			s.logged("Cannot remove an attempt of a pod", &pod.ContainerStatus{ID: p.ID}, s.cfg.Pods.Remove(ctx, pod.ViewAll, p.ID))
		}
	}
}

// attempts counts those of a pod.
func (s *Service) attempts(p *pod.PodStatus) (n int) {
	for _, o := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		if identity(o) == identity(p) {
			n++
		}
	}
	return n
}

// await restarts a container after a while, unless that is due already.
func (s *Service) await(c *pod.ContainerStatus, delay time.Duration, why error) {
	s.mu.Lock()
	if s.waiting[c.ID] != nil || s.ctx.Err() != nil {
		s.mu.Unlock()
		return
	}
	w := &wait{at: time.Now().Add(delay), err: why}
	w.timer = time.AfterFunc(delay, func() { s.due(c.ID, w, delay) })
	s.waiting[c.ID] = w
	s.mu.Unlock()
	if why == nil {
		s.tell("restarting", c, nil)
	}
}

func (s *Service) awaited(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.waiting[id] != nil
}

// due restarts a container for which has been waited.
func (s *Service) due(id string, w *wait, waited time.Duration) {
	s.mu.Lock()
	mine := s.waiting[id] == w && s.ctx.Err() == nil
	if mine {
		s.work.Add(1) // before Close waits
	}
	s.mu.Unlock()
	if !mine {
		return
	}
	defer s.work.Done()
	c, err := s.restart(id, waited)
	s.mu.Lock()
	if s.waiting[id] == w {
		delete(s.waiting, id)
	}
	s.mu.Unlock()
	switch {
	case err == nil || c == nil || s.ctx.Err() != nil:
	case gone(err):
	default:
		s.tell("failed", c, err)
		// The old one is there still unless a new one is, whose end is seen.
		if now, serr := s.cfg.Pods.Container(pod.ViewAll, id); serr == nil && policyOf(now).again(now, triesOf(now).count) {
			s.logged("Cannot restart a container", c, err)
			s.await(now, min(2*waited, lastDelay), err)
		}
	}
}

// restart makes the attempt that the policy wants, if it wants it still.
func (s *Service) restart(id string, waited time.Duration) (*pod.ContainerStatus, error) {
	c, err := s.cfg.Pods.Container(pod.ViewAll, id)
	if err != nil {
		return nil, err
	}
	p, unlock, err := s.lockPod(c.PodID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c, err = s.cfg.Pods.Container(pod.ViewAll, id); err != nil {
		return nil, err
	}
	t := triesOf(c)
	if !policyOf(c).again(c, t.count) {
		return nil, nil
	}
	if ofManifest(p) && !p.Ready {
		if err := s.advanceLocked(s.ctx, p); err != nil {
			return c, fmt.Errorf("cannot make pod %s again: %w", p.ID, err)
		}
		return c, nil
	}
	t = tries{count: t.count + 1, delay: waited}
	if _, err := s.attempt(s.ctx, p, c, Again{}, t); err != nil {
		return c, fmt.Errorf("cannot restart container %s: %w", c.ID, err)
	}
	return c, nil
}
