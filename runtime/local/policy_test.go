package local

import (
	"slices"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Policy{
		"": {kind: never}, "no": {kind: never}, "always": {kind: always}, "unless-stopped": {kind: unlessStopped},
		"on-failure": {kind: onFailure}, "on-failure:7": {kind: onFailure, most: 7}, "on-failure:0": {kind: onFailure},
	} {
		if got, err := ParsePolicy(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"sometimes", "always:3", "on-failure:", "on-failure:-1", "on-failure:x", "on-failure:70000"} {
		if got, err := ParsePolicy(text); !errkind.Is(err, errkind.InvalidArgument) || got.kind != never {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// ended is a container that ran for a second.
func ended(policy string, code int32) *pod.ContainerStatus {
	at := time.Unix(1_000, 0)
	return &pod.ContainerStatus{State: pod.StateExited, StartedAt: at, FinishedAt: at.Add(time.Second), ExitCode: code,
		Config: &spec.Container{Annotations: map[string]string{RestartAnnotation: policy}}}
}

func TestWhoIsRestarted(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		c        *pod.ContainerStatus
		restarts int
		stopped  bool
		rebooted bool
		want     bool
	}{
		{name: "no policy", c: ended("", 1)},
		{name: "no", c: ended("no", 1)},
		{name: "always, well", c: ended("always", 0), want: true},
		{name: "always, stopped", c: ended("always", 137), stopped: true},
		{name: "always, stopped before the boot", c: ended("always", 137), stopped: true, rebooted: true, want: true},
		{name: "unless stopped", c: ended("unless-stopped", 0), want: true},
		{name: "unless stopped, stopped before the boot", c: ended("unless-stopped", 137), stopped: true, rebooted: true},
		{name: "on failure, well", c: ended("on-failure", 0)},
		{name: "on failure, badly", c: ended("on-failure", 1), restarts: 1000, want: true},
		{name: "on failure, one left", c: ended("on-failure:3", 1), restarts: 2, want: true},
		{name: "on failure, none left", c: ended("on-failure:3", 1), restarts: 3},
		{name: "on failure, killed by the boot", c: ended("on-failure", 255), rebooted: true, want: true},
		{name: "a policy that is none", c: ended("often", 1)},
	} {
		tc.c.StopAsked, tc.c.EarlierBoot = tc.stopped, tc.rebooted
		if got := policyOf(tc.c).again(tc.c, tc.restarts); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
	unstarted := ended("always", 128)
	unstarted.StartedAt = time.Time{}
	if policyOf(unstarted).again(unstarted, 0) {
		t.Error("one that never ran is restarted")
	}
	if !policyOf(unstarted).again(unstarted, 1) {
		t.Error("one whose restart failed is given up")
	}
}

func TestTheWaitDoublesUntilOneRunsLongEnough(t *testing.T) {
	t.Parallel()
	c, total := ended("always", 1), time.Duration(0)
	for range 20 {
		d := triesOf(c).next(c)
		total += d
		c.Config = &spec.Container{Annotations: map[string]string{retriesAnnotation: tries{count: triesOf(c).count + 1, delay: d}.String()}}
	}
	if got := triesOf(c); got.count != 20 || got.delay != lastDelay {
		t.Errorf("%+v", got)
	}
	if want := 102300*time.Millisecond + 10*lastDelay; total != want { // 100 ms to 51.2 s, then a minute each
		t.Errorf("waited %v, want %v", total, want)
	}
	c.FinishedAt = c.StartedAt.Add(longRun)
	if d := triesOf(c).next(c); d != firstDelay {
		t.Errorf("after a long run it waits %v", d)
	}
	for _, text := range []string{"", "x", "1", "-1 1s", "1 -1s", "1 x"} {
		c.Config.Annotations = map[string]string{retriesAnnotation: text}
		if got := triesOf(c); got != (tries{}) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestParseCheck(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", `{}`, `{"Test":[]}`, `{"Test":["NONE"]}`} {
		if c, err := ParseCheck(text); c != nil || err != nil {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
	for _, text := range []string{`x`, `{"Test":["SHELL","x"]}`, `{"Test":["CMD"]}`, `{"Test":["CMD-SHELL","a","b"]}`, `{"Test":["CMD","a"],"Retries":-1}`, `{"Test":["CMD","a"],"Timeout":-1}`} {
		if c, err := ParseCheck(text); c != nil || !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %+v, %v", text, c, err)
		}
	}
	c, err := ParseCheck(`{"Test":["CMD-SHELL","true || false"],"Interval":1000000000}`)
	if err != nil || c.Interval != time.Second || c.Timeout != 30*time.Second || c.Retries != 3 || c.StartInterval != 5*time.Second || len(c.argv()) != 3 || c.argv()[2] != "true || false" {
		t.Errorf("%+v, %v", c, err)
	}
}

// judged is the states that a check's exit codes lead to, one after another.
func judged(check *Check, young bool, codes ...int32) (states []string, told []string) {
	s := New(Config{Pods: nobody{}, Tell: func(e Event) { told = append(told, e.Action) }})
	p, c := &probe{state: Health{Status: Starting}}, ended("", 0)
	at := time.Unix(2_000, 0)
	grown := at.Add(-time.Hour)
	if young {
		grown = at.Add(time.Hour)
	}
	for _, code := range codes {
		s.judge(p, c, check, HealthProbe{End: at, ExitCode: code}, grown)
		states = append(states, p.state.Status)
	}
	if len(p.state.Log) > maxHealthLog {
		states = append(states, "the log has no bound")
	}
	return states, told
}

// nobody is a pods domain without pods.
type nobody struct{ domain }

type domain interface{ Pods }

func (nobody) Pod(pod.View, string) (*pod.PodStatus, error) {
	return nil, errkind.New(errkind.NotFound, "there are no pods")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	check := &Check{Retries: 2}
	states, told := judged(check, false, 1, 1, 1, 0, 1, 0, 1, 1)
	if want := []string{Starting, Unhealthy, Unhealthy, Healthy, Healthy, Healthy, Healthy, Unhealthy}; !slices.Equal(states, want) {
		t.Errorf("%q", states)
	}
	if want := []string{Unhealthy, Healthy, Unhealthy}; !slices.Equal(told, want) {
		t.Errorf("told %q", told)
	}
	// In its start period failures do not count until the first success.
	if states, _ = judged(check, true, 1, 1, 1, 0, 1, 1); !slices.Equal(states, []string{Starting, Starting, Starting, Healthy, Healthy, Unhealthy}) {
		t.Errorf("young: %q", states)
	}
}
