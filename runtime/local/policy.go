package local

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Policy says when a container that has ended is started again.
type Policy struct {
	kind string
	most int // restarts, of on-failure; 0: no limit
}

// The policies, with docker's names.
const (
	never         = "no"
	always        = "always"
	onFailure     = "on-failure"
	unlessStopped = "unless-stopped"
)

// ParsePolicy reads no, always, unless-stopped, on-failure or on-failure:N.
func ParsePolicy(text string) (Policy, error) {
	kind, number, limited := strings.Cut(text, ":")
	p := Policy{kind: kind}
	switch kind {
	case "", never:
		p.kind = never
	case always, unlessStopped, onFailure:
	default:
		return Policy{kind: never}, errkind.New(errkind.InvalidArgument, "there is no restart policy %q", text)
	}
	if !limited {
		return p, nil
	}
	n, err := strconv.ParseUint(number, 10, 16)
	if err != nil || kind != onFailure {
		return Policy{kind: never}, errkind.New(errkind.InvalidArgument, "restart policy %q: only on-failure has a number, of restarts", text)
	}
	p.most = int(n)
	return p, nil
}

// policyOf is the policy of a container; one that cannot be read restarts nothing.
func policyOf(c *pod.ContainerStatus) Policy {
	p, _ := ParsePolicy(c.Config.Annotations[RestartAnnotation])
	return p
}

// again tells whether a container that has ended, after so many restarts, is to
// be started again.
func (p Policy) again(c *pod.ContainerStatus, restarts int) bool {
	switch {
	case p.kind == never, c.State != pod.StateExited:
		return false
	case c.StartedAt.IsZero() && restarts == 0:
		return false // it never ran, and who wanted it to was told why
	case c.StopAsked:
		// A stop holds until the machine is booted, as docker has it.
		return p.kind == always && c.EarlierBoot
	case p.kind == onFailure:
		return c.ExitCode != 0 && (p.most == 0 || restarts < p.most)
	}
	return true
}

// The waits before restarts: from the first, each twice the one before. A
// container that ran for long enough begins anew.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Minute
	longRun    = 10 * time.Second
)

// tries is what retriesAnnotation says.
type tries struct {
	count int
	delay time.Duration
}

func triesOf(c *pod.ContainerStatus) (t tries) {
	count, delay, _ := strings.Cut(c.Config.Annotations[retriesAnnotation], " ")
	n, err := strconv.Atoi(count)
	d, err2 := time.ParseDuration(delay)
	if err != nil || err2 != nil || n < 0 || d < 0 {
		return tries{}
	}
	return tries{count: n, delay: min(d, lastDelay)}
}

func (t tries) String() string { return fmt.Sprintf("%d %s", t.count, t.delay) }

// next is how long to wait before the restart of c.
func (t tries) next(c *pod.ContainerStatus) time.Duration {
	if t.delay == 0 || !c.StartedAt.IsZero() && c.FinishedAt.Sub(c.StartedAt) >= longRun {
		return firstDelay
	}
	return min(2*t.delay, lastDelay)
}
