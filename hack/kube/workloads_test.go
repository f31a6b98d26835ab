//go:build kube

package kube

import (
	"fmt"
	"strings"
	"testing"
)

// probed is a pod of four containers, each with a probe of another kind. Those
// of the first three hold as long as their file /www/ok is there.
func probed(name, probe string) string {
	toggled := func(port int) string {
		return fmt.Sprintf(`command: [sh, -c, "mkdir /www; touch /www/ok; while :; do if [ -e /www/ok ]; then pidof httpd >/dev/null || httpd -p %d -h /www; else kill $(pidof httpd) 2>/dev/null; fi; sleep 0.2; done"]`, port)
	}
	return podYAML(name, fmt.Sprintf(`
  containers:
  - name: exec
    image: $BOX
    %[2]s
    startupProbe: {exec: {command: [cat, /www/ok]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 100}
    %[1]s: {exec: {command: [cat, /www/ok]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
  - name: http
    image: $BOX
    %[3]s
    startupProbe: {httpGet: {path: /ok, port: 8082}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 100}
    %[1]s: {httpGet: {path: /ok, port: 8082}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
  - name: tcp
    image: $BOX
    %[4]s
    startupProbe: {tcpSocket: {port: 8083}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 100}
    %[1]s: {tcpSocket: {port: 8083}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
  - name: grpc
    image: $AGNHOST
    args: [grpc-health-checking, --port, "5001", --http-port, "8084"]
    startupProbe: {grpc: {port: 5001}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 100}
    %[1]s: {grpc: {port: 5001}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 2}
`, probe, toggled(8081), toggled(8082), toggled(8083)))
}

// fails makes every probe of a probed pod fail from now on.
func (s *space) fails(name string) {
	s.t.Helper()
	for _, c := range []string{"exec", "http", "tcp"} {
		s.kubectl("exec", name, "-c", c, "--", "rm", "/www/ok")
	}
	s.kubectl("exec", name, "-c", "grpc", "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8084/make-not-serving")
}

// TestReadiness makes probes of all four kinds fail and hold again: the
// containers are not ready meanwhile, and none is restarted.
func TestReadiness(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(probed("p", "readinessProbe"))
	s.ready("p")
	s.fails("p")
	s.until("p", func(p pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if c.Ready {
				return fmt.Errorf("container %s is ready", c.Name)
			}
		}
		return nil
	})
	for _, c := range []string{"exec", "http", "tcp"} {
		s.kubectl("exec", "p", "-c", c, "--", "touch", "/www/ok")
	}
	s.kubectl("exec", "p", "-c", "grpc", "--", "wget", "-q", "-O", "-", "http://127.0.0.1:8084/make-serving")
	for _, c := range s.ready("p").Status.ContainerStatuses {
		if c.RestartCount != 0 {
			t.Errorf("restarted: %v", c)
		}
	}
}

// TestLiveness makes them fail where they say whether a container lives: each
// is killed and started again, once.
func TestLiveness(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(probed("p", "livenessProbe"))
	s.ready("p")
	s.fails("p")
	p := s.until("p", func(p pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if c.RestartCount != 1 || c.State.Running == nil {
				return fmt.Errorf("not restarted: %v", c)
			}
		}
		return isReady(p)
	})
	for _, c := range p.Status.ContainerStatuses {
		if c.LastState.Terminated == nil {
			t.Errorf("it is not said how it ended: %v", c)
		}
	}
	s.event("p", "Unhealthy: Liveness probe failed")
	s.event("p", "Killing: Container http failed liveness probe, will be restarted")
}

// TestStartupProbe holds the other probes back until the program is up.
func TestStartupProbe(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "sleep 4; touch /started; trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    startupProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 60}
    livenessProbe: {exec: {command: [test, -e, /started]}, periodSeconds: 1, timeoutSeconds: 20, failureThreshold: 1}
`)
	if c := s.ready("p").Status.ContainerStatuses[0]; c.RestartCount != 0 || !c.Started {
		t.Errorf("restarted before it was up: %v", c)
	}
}

// TestRollingUpdate changes a Deployment and undoes it: at every moment as many
// pods as are wanted serve, and those of the old kind are gone afterwards.
func TestRollingUpdate(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	deployment := func(version string) string {
		return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: c
        image: $BOX
        command: [sh, -c, "mkdir /www; echo %s >/www/index.html; trap 'exit 0' TERM; httpd -p 80 -h /www; while :; do sleep 0.2; done"]
        readinessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1, timeoutSeconds: 20}
        livenessProbe: {exec: {command: [pidof, httpd]}, periodSeconds: 2, timeoutSeconds: 20}
`, version)
	}
	pages := func(want string) {
		t.Helper()
		s.kubectl("rollout", "status", "deployment/web", "--timeout", patience.String())
		s.eventually(func() error {
			pods := s.pods()
			if len(pods) != 3 {
				return fmt.Errorf("%d pods", len(pods))
			}
			for _, p := range pods {
				if err := isReady(p); err != nil {
					return err
				}
				body, err := s.node.get(t.Context(), "http://"+p.Status.PodIP+"/")
				if err != nil || string(body) != want+"\n" {
					return fmt.Errorf("pod %s serves %q, %v", p.Metadata.Name, body, err)
				}
				if n := p.Status.ContainerStatuses[0].RestartCount; n != 0 {
					t.Errorf("pod %s was restarted %d times", p.Metadata.Name, n)
				}
			}
			return nil
		})
	}
	s.apply(deployment("one"))
	pages("one")
	s.apply(deployment("two"))
	s.eventually(func() error {
		var d struct {
			Metadata struct{ Generation int }
			Status   struct{ ObservedGeneration, AvailableReplicas, UpdatedReplicas, Replicas int }
		}
		if err := s.read("deployments/web", &d); err != nil {
			return err
		}
		if d.Status.AvailableReplicas < 3 {
			t.Errorf("only %d pods serve during the update", d.Status.AvailableReplicas)
		}
		if d.Status.ObservedGeneration < d.Metadata.Generation || d.Status.UpdatedReplicas < 3 || d.Status.Replicas > 3 {
			return fmt.Errorf("not yet updated: %+v", d)
		}
		return nil
	})
	pages("two")
	s.kubectl("rollout", "undo", "deployment/web")
	pages("one")
}

// TestJobs runs one that succeeds, with two pods at a time, and one that fails
// twice.
func TestJobs(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: batch/v1
kind: Job
metadata: {name: good}
spec:
  completions: 4
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: $BOX, command: [sh, -c, "echo did $JOB_COMPLETION_INDEX"]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: bad}
spec:
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: $BOX, command: [sh, -c, "exit 4"]}
`)
	s.kubectl("wait", "job/good", "--for=condition=Complete", "--timeout", patience.String())
	s.kubectl("wait", "job/bad", "--for=condition=Failed", "--timeout", patience.String())
	var said []string
	for _, p := range s.pods() {
		c := p.Status.ContainerStatuses[0]
		if c.RestartCount != 0 || c.State.Terminated == nil {
			t.Errorf("pod %s: %v", p.Metadata.Name, c)
			continue
		}
		if strings.HasPrefix(p.Metadata.Name, "good-") {
			said = append(said, s.logs(p.Metadata.Name))
		} else if c.State.Terminated.ExitCode != 4 || c.State.Terminated.Reason != "Error" {
			t.Errorf("pod %s ended with %v", p.Metadata.Name, c)
		}
	}
	if all := strings.Join(said, " "); len(said) != 4 || !strings.Contains(all, "did 0") || !strings.Contains(all, "did 3") {
		t.Errorf("the pods of the Job said %q", said)
	}
}

// TestCronJob waits for the next full minute.
func TestCronJob(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - {name: c, image: $BOX, command: [echo, tick]}
`)
	s.eventually(func() error {
		for _, p := range s.pods() {
			if p.Status.Phase == "Succeeded" {
				if said := s.logs(p.Metadata.Name); said != "tick" {
					t.Errorf("it said %q", said)
				}
				return nil
			}
		}
		return fmt.Errorf("no pod has succeeded")
	})
}

// TestInitAndSidecars wants containers in their order: two of init, a sidecar
// that is up before the program begins and is ended after it.
func TestInitAndSidecars(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("order", `
  restartPolicy: Never
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: one, image: $BOX, command: [sh, -c, "echo one >>/v/log"], volumeMounts: [{name: v, mountPath: /v}]}
  - name: side
    image: $BOX
    restartPolicy: Always
    command: [sh, -c, "echo side >>/v/log; trap 'cat /v/log; exit 0' TERM; touch /up; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [test, -e, /up]}, periodSeconds: 1, timeoutSeconds: 20}
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: two, image: $BOX, command: [sh, -c, "echo two >>/v/log"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: c, image: $BOX, command: [sh, -c, "echo main >>/v/log; sleep 1; echo end >>/v/log"], volumeMounts: [{name: v, mountPath: /v}]}
`)
	p := s.ended("order")
	if p.Status.Phase != "Succeeded" {
		t.Errorf("the pod %s: %v", p.Status.Phase, p.Status.InitContainerStatuses)
	}
	for _, c := range p.Status.InitContainerStatuses {
		if c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 || c.RestartCount != 0 {
			t.Errorf("container %s: %v", c.Name, c)
		}
	}
	if got := strings.Fields(s.logs("order", "-c", "side")); strings.Join(got, " ") != "one side two main end" {
		t.Errorf("the order was %q", got)
	}

	s.run("failing", `
  restartPolicy: Never
  initContainers:
  - {name: one, image: $BOX, command: [sh, -c, "exit 9"]}
  containers:
  - {name: c, image: $BOX, command: [echo, never]}
`)
	p = s.ended("failing")
	init, main := p.Status.InitContainerStatuses[0], p.Status.ContainerStatuses[0]
	if p.Status.Phase != "Failed" || init.State.Terminated.ExitCode != 9 || main.State.Waiting == nil || main.State.Waiting.Reason != "PodInitializing" {
		t.Errorf("phase %s, init %v, main %v", p.Status.Phase, init, main)
	}
}

// TestRestartPolicies runs programs that end, in well and in ill, under each
// policy.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	one := func(name, policy, script string) {
		s.run(name, fmt.Sprintf(`
  restartPolicy: %s
  containers:
  - {name: c, image: $BOX, command: [sh, -c, %q]}
`, policy, script))
	}
	one("always", "Always", "echo run; exit 0")
	one("crash", "Always", "echo crash $(date +%s%N); exit 3")
	one("done", "OnFailure", "exit 0")
	one("thrice", "OnFailure", "echo x >>/dev/termination-log; exit 5")
	one("never", "Never", "exit 7")
	one("signal", "Never", "kill -KILL $$")
	one("missing", "Never", "exec /no/such/program")

	for name, want := range map[string]int{"always": 0, "crash": 3, "thrice": 5} {
		s.until(name, func(p pod) error {
			if len(p.Status.ContainerStatuses) == 0 {
				return fmt.Errorf("no container yet")
			}
			c := p.Status.ContainerStatuses[0]
			if c.RestartCount < 2 || c.State.Waiting == nil || c.State.Waiting.Reason != "CrashLoopBackOff" || c.LastState.Terminated == nil {
				return fmt.Errorf("%s is not backing off: %v", name, c)
			}
			if c.LastState.Terminated.ExitCode != want {
				t.Errorf("%s ended with %v, want %d", name, c, want)
			}
			return nil
		})
	}
	s.event("crash", "BackOff: Back-off restarting failed container")
	s.eventually(func() error {
		// It may be of a run that is removed at this moment for the next.
		if before := s.logs("crash", "--previous"); !strings.HasPrefix(before, "crash ") {
			return fmt.Errorf("the log of the previous run is %q", before)
		}
		return nil
	})
	if p := s.ended("done"); p.Status.Phase != "Succeeded" || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("done: %v", p.Status)
	}
	// A shell as the first process of its namespace ignores its own SIGKILL.
	for name, want := range map[string][2]any{"never": {7, "Error"}, "missing": {127, "Error"}} {
		p := s.ended(name)
		term := p.Status.ContainerStatuses[0].State.Terminated
		if p.Status.Phase != "Failed" || term.ExitCode != want[0] || term.Reason != want[1] {
			t.Errorf("%s: phase %s, %v, want %v", name, p.Status.Phase, p.Status.ContainerStatuses, want)
		}
	}
	if p := s.ended("signal"); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("signal: %v", p.Status.ContainerStatuses)
	}

	s.run("nostart", `
  restartPolicy: Never
  containers:
  - {name: c, image: $BOX, command: [/no/such/program]}
`)
	p := s.ended("nostart")
	term := p.Status.ContainerStatuses[0].State.Terminated
	if term.ExitCode != 128 || term.Reason != "StartError" || !strings.Contains(term.Message, "/no/such/program") {
		t.Errorf("nostart: %v", p.Status.ContainerStatuses)
	}
}

// TestOOM lets programs take more memory than they may have.
func TestOOM(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("first", `
  restartPolicy: Never
  containers:
  - {name: c, image: $BOX, command: [tail, /dev/zero], resources: {limits: {memory: 48Mi}}}
`)
	s.run("child", `
  restartPolicy: Never
  containers:
  - {name: c, image: $BOX, command: [sh, -c, "tail /dev/zero; echo it ended with $?; sleep 1"], resources: {limits: {memory: 48Mi}}}
`)
	p := s.ended("first")
	if term := p.Status.ContainerStatuses[0].State.Terminated; term.Reason != "OOMKilled" || term.ExitCode != 137 {
		t.Errorf("first: %v", p.Status.ContainerStatuses)
	}
	p = s.ended("child")
	if said := s.logs("child"); said != "it ended with 137" && !strings.HasSuffix(said, "it ended with 137") {
		// On cgroup v2 the whole container goes (memory.oom.group).
		if term := p.Status.ContainerStatuses[0].State.Terminated; term.Reason != "OOMKilled" {
			t.Errorf("child said %q: %v", said, p.Status.ContainerStatuses)
		}
	}
	s.run("loop", `
  containers:
  - {name: c, image: $BOX, command: [tail, /dev/zero], resources: {limits: {memory: 48Mi}}}
`)
	s.until("loop", func(p pod) error {
		if len(p.Status.ContainerStatuses) == 0 {
			return fmt.Errorf("no container yet")
		}
		c := p.Status.ContainerStatuses[0]
		if c.RestartCount < 2 || c.LastState.Terminated == nil {
			return fmt.Errorf("not restarted: %v", c)
		}
		if c.LastState.Terminated.Reason != "OOMKilled" {
			t.Errorf("loop: %v", c)
		}
		return nil
	})
}

// TestTerminationMessages reads what programs leave behind, and what is taken
// from their logs where they leave nothing.
func TestTerminationMessages(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for name, c := range map[string]struct{ more, script, want string }{
		"file":     {"", "echo from the log; echo -n from the file >/dev/termination-log; exit 1", "from the file"},
		"path":     {"terminationMessagePath: /tmp/last, ", "echo -n words >/tmp/last; exit 0", "words"},
		"fallback": {"terminationMessagePolicy: FallbackToLogsOnError, ", "echo first; echo second; exit 1", "first\nsecond\n"},
		"well":     {"terminationMessagePolicy: FallbackToLogsOnError, ", "echo first; exit 0", ""},
		"long":     {"", "yes | head -c 10000 >/dev/termination-log; exit 1", strings.Repeat("y\n", 2048)},
	} {
		s.run(name, fmt.Sprintf(`
  restartPolicy: Never
  containers:
  - {name: c, image: $BOX, %scommand: [sh, -c, %q]}
`, c.more, c.script))
		if got := s.ended(name).Status.ContainerStatuses[0].State.Terminated.Message; got != c.want {
			t.Errorf("%s: the message is %q, want %q", name, got, c.want)
		}
	}
}
