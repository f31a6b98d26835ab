package local

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Check is a health check as images and docker have it; durations are in
// nanoseconds. Zero values have docker's defaults.
type Check struct {
	Test          []string      `json:"Test"` // CMD and an argv, or CMD-SHELL and a line for /bin/sh; NONE: there is none
	Interval      time.Duration `json:"Interval,omitempty"`
	Timeout       time.Duration `json:"Timeout,omitempty"`
	StartPeriod   time.Duration `json:"StartPeriod,omitempty"`   // failures do not count until then, or the first success
	StartInterval time.Duration `json:"StartInterval,omitempty"` // Interval, until then
	Retries       int           `json:"Retries,omitempty"`       // failures in a row that make it unhealthy
}

// docker's defaults.
const (
	defaultInterval      = 30 * time.Second
	defaultStartInterval = 5 * time.Second
	defaultRetries       = 3
	minInterval          = time.Millisecond
)

// maxHealthOutput is how much of a probe's output is kept, in bytes, and
// maxHealthLog how many probes.
const (
	maxHealthOutput = 4096
	maxHealthLog    = 5
)

// ParseCheck reads the JSON of a check and completes it. nil: there is none.
func ParseCheck(text string) (*Check, error) {
	if text == "" {
		return nil, nil
	}
	var c Check
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return nil, errkind.New(errkind.InvalidArgument, "cannot read the health check: %v", err)
	}
	if len(c.Test) == 0 || c.Test[0] == "NONE" {
		return nil, nil
	}
	switch {
	case c.Test[0] != "CMD" && c.Test[0] != "CMD-SHELL":
		return nil, errkind.New(errkind.InvalidArgument, "the health check begins with %q, not with CMD, CMD-SHELL or NONE", c.Test[0])
	case len(c.Test) == 1 || c.Test[0] == "CMD-SHELL" && len(c.Test) > 2:
		return nil, errkind.New(errkind.InvalidArgument, "the health check %q has no command, or more than one", c.Test)
	case c.Retries < 0 || min(c.Interval, c.Timeout, c.StartPeriod, c.StartInterval) < 0:
		return nil, errkind.New(errkind.InvalidArgument, "the health check has a negative number")
	}
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
		*d = max(*d, minInterval)
	}
	set(&c.Interval, defaultInterval)
	set(&c.Timeout, defaultInterval)
	set(&c.StartInterval, defaultStartInterval)
	if c.Retries == 0 {
		c.Retries = defaultRetries
	}
	return &c, nil
}

// argv is what is executed.
func (c *Check) argv() []string {
	if c.Test[0] == "CMD-SHELL" {
		return []string{"/bin/sh", "-c", c.Test[1]}
	}
	return c.Test[1:]
}

// The states of a container that has a check.
const (
	Starting  = "starting"
	Healthy   = "healthy"
	Unhealthy = "unhealthy"
)

// Health is what the checks of a container have found.
type Health struct {
	Status string
	Streak int           // failures in a row
	Log    []HealthProbe // the last ones, oldest first
}

// HealthProbe is one run of a check.
type HealthProbe struct {
	Start, End time.Time
	ExitCode   int32 // -1: it could not be run, or took too long
	Output     string
}

// probe looks after the health of one running container.
type probe struct {
	end   context.CancelFunc
	state Health // guarded by Service.mu
}

// health is a copy. The Service's mu is held.
func (p *probe) health() *Health {
	h := p.state
	h.Log = append([]HealthProbe(nil), h.Log...)
	return &h
}

// beginProbe checks the health of a running container that asks for it.
func (s *Service) beginProbe(c *pod.ContainerStatus) {
	check, err := ParseCheck(c.Config.Annotations[HealthAnnotation])
	if err != nil {
		s.logged("Cannot check the health of a container", c, err)
	}
	if check == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.probes[c.ID] != nil || s.ctx.Err() != nil {
		return
	}
	ctx, end := context.WithCancel(s.ctx)
	p := &probe{end: end, state: Health{Status: Starting}}
	s.probes[c.ID] = p
	s.work.Go(func() { s.probe(ctx, p, c, check) })
}

// endProbe ends the checks of a container. mu is held.
func (s *Service) endProbe(id string) {
	if p := s.probes[id]; p != nil {
		p.end()
		delete(s.probes, id)
	}
}

// probe runs the check again and again until ctx ends.
func (s *Service) probe(ctx context.Context, p *probe, c *pod.ContainerStatus, check *Check) {
	grown := c.StartedAt.Add(check.StartPeriod)
	for {
		s.mu.Lock()
		young := p.state.Status == Starting && time.Now().Before(grown)
		s.mu.Unlock()
		pause := check.Interval
		if young {
			pause = min(pause, check.StartInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if found, ok := s.run(ctx, c.ID, check); ok {
			s.judge(p, c, check, found, grown)
		}
	}
}

// run runs the check once; ok is false if nothing was found out.
func (s *Service) run(ctx context.Context, id string, check *Check) (found HealthProbe, ok bool) {
	found.Start = time.Now()
	res, err := s.cfg.Pods.ExecSync(ctx, pod.ViewAll, id, check.argv(), check.Timeout)
	found.End, found.ExitCode = time.Now(), res.Code
	out := slices.Concat(res.Stdout, res.Stderr)
	if err != nil {
		found.ExitCode, out = -1, []byte(err.Error())
	}
	found.Output = string(out[:min(len(out), maxHealthOutput)])
	if ctx.Err() != nil {
		return found, false
	}
	c, serr := s.cfg.Pods.Container(pod.ViewAll, id)
	return found, serr == nil && c.State == pod.StateRunning
}

// judge draws the conclusion of one run.
func (s *Service) judge(p *probe, c *pod.ContainerStatus, check *Check, found HealthProbe, grown time.Time) {
	s.mu.Lock()
	st := &p.state
	before := st.Status
	st.Log = append(st.Log, found)
	st.Log = st.Log[max(0, len(st.Log)-maxHealthLog):]
	switch {
	case found.ExitCode == 0:
		st.Status, st.Streak = Healthy, 0
	case st.Status == Starting && found.End.Before(grown):
	default:
		if st.Streak++; st.Streak >= check.Retries {
			st.Status = Unhealthy
		}
	}
	after := st.Status
	s.mu.Unlock()
	if after != before {
		s.tell(after, c, nil)
	}
}
