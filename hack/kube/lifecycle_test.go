//go:build kube

package kube

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestHooks wants postStart to run beside the program, preStop before it is told to
// end, and a failed postStart to end it.
func TestHooks(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(held("p", `
  terminationGracePeriodSeconds: 20
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "mkdir /www; httpd -p 80 -h /www; trap 'echo TERM; exit 6' TERM; while [ ! -e /begun ]; do sleep 0.1; done; echo begun; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo postStart >/proc/1/fd/1; touch /begun"]}}
      preStop: {exec: {command: [sh, -c, "echo preStop >/proc/1/fd/1; sleep 1; echo preStop ends >/proc/1/fd/1"]}}
`))
	s.ready("p")
	said := s.follow("p")
	s.kubectl("delete", "pod", "p", "--wait=false")
	p := s.stopped("p")
	if term := p.Status.ContainerStatuses[0].State.Terminated; term.ExitCode != 6 {
		t.Errorf("it ended with %v", p.Status.ContainerStatuses)
	}
	if got := strings.Join(strings.Fields(said()), " "); got != "postStart begun preStop preStop ends TERM" {
		t.Errorf("the order was %q", got)
	}
	s.release("p")

	s.run("bad", `
  restartPolicy: Never
  containers:
  - name: c
    image: $BOX
    command: [sleep, "1000"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo why it failed; exit 1"]}}
`)
	s.event("bad", "FailedPostStartHook")
	s.ended("bad")

	s.run("asks", `
  terminationGracePeriodSeconds: 20
  containers:
  - name: c
    image: $AGNHOST
    args: [netexec, --http-port, "8080"]
    lifecycle:
      preStop: {httpGet: {port: 8080, path: "/shell?cmd=touch%20/seen/asked"}}
    readinessProbe: {httpGet: {port: 8080, path: /healthz}, periodSeconds: 1, timeoutSeconds: 20}
    volumeMounts: [{name: v, mountPath: /seen}]
  volumes: [{name: v, hostPath: {path: `+s.hostDir()+`}}]
`)
	s.ready("asks")
	s.kubectl("delete", "pod", "asks")
	s.gone("asks")
	if _, err := os.Stat(filepath.Join(s.hostDir(), "asked")); err != nil {
		t.Errorf("preStop did not ask: %v", err)
	}

	s.apply(held("naps", `
  terminationGracePeriodSeconds: 20
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle: {preStop: {sleep: {seconds: 2}}}
`))
	s.ready("naps")
	s.kubectl("delete", "pod", "naps", "--wait=false")
	deleted := time.Now()
	p = s.stopped("naps")
	if took := time.Since(deleted); took < 2*time.Second || p.Status.ContainerStatuses[0].State.Terminated.ExitCode != 0 {
		t.Errorf("it ended after %s: %v", took, p.Status.ContainerStatuses)
	}
	s.release("naps")
}

// follow reads the log of a pod from its beginning to its end, for which the
// function that it returns waits: with a deleted pod goes its log.
func (s *space) follow(name string, args ...string) func() string {
	s.t.Helper()
	cmd := s.kubectlCommand(s.t.Context(), append([]string{"-n", s.ns, "logs", "-f", name}, args...)...)
	var said syncBuffer
	cmd.Stdout = &said
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.eventually(func() error {
		if said.String() == "" {
			return fmt.Errorf("kubectl shows nothing of the log of %s", name)
		}
		return nil
	})
	return func() string {
		_ = cmd.Wait()
		return said.String()
	}
}

// syncBuffer can be read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// held is a pod that, once deleted, stays to be looked at until it is released.
func held(name, spec string) string {
	return strings.Replace(podYAML(name, spec), "  name: "+name, "  name: "+name+"\n  finalizers: [berth.test/held]", 1)
}

func (s *space) release(name string) {
	s.t.Helper()
	url := apiURL("/api/v1/namespaces/" + s.ns + "/pods/" + name)
	if _, err := s.do(s.t.Context(), http.MethodPatch, url, "application/merge-patch+json", `{"metadata":{"finalizers":null}}`); err != nil {
		s.t.Fatal(err)
	}
	s.gone(name)
}

// stopped waits until no container of a deleted pod runs.
func (s *space) stopped(name string) pod {
	s.t.Helper()
	return s.until(name, func(p pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if c.State.Terminated == nil {
				return fmt.Errorf("container %s runs: %v", c.Name, c)
			}
		}
		return nil
	})
}

// TestGracefulDeletion deletes pods that end when told to, that do not, and
// that must go at once; nothing of them is left in the runtime.
func TestGracefulDeletion(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	container := func(trap string) string {
		return fmt.Sprintf(`
  terminationGracePeriodSeconds: 3
  containers:
  - {name: c, image: $BOX, command: [sh, -c, %q]}
`, trap+"; echo begun; while :; do sleep 0.1; done")
	}
	s.apply(held("willing", container("trap 'echo ending; sleep 1; echo ended; exit 5' TERM")))
	s.apply(held("deaf", container("trap '' TERM")))
	s.run("hurried", container("trap '' TERM"))
	for name, code := range map[string]int{"willing": 5, "deaf": 137} {
		words := "begun\n"
		if code == 5 {
			words += "ending\nended\n"
		}
		s.ready(name)
		said := s.follow(name)
		s.kubectl("delete", "pod", name, "--wait=false")
		p := s.stopped(name)
		if got := p.Status.ContainerStatuses[0].State.Terminated; got.ExitCode != code {
			t.Errorf("%s ended with %v, want %d", name, p.Status.ContainerStatuses, code)
		}
		if p.Metadata.DeletionTimestamp == "" {
			t.Errorf("%s is not deleted", name)
		}
		if got := said(); got != words {
			t.Errorf("%s said %q, want %q", name, got, words)
		}
	}
	s.release("willing")
	s.release("deaf")
	uid := s.ready("hurried").Metadata.UID
	s.kubectl("delete", "pod", "hurried", "--grace-period=0", "--force")
	s.gone("hurried")
	s.eventually(func() error {
		pods, err := s.kubeletsPods(t.Context())
		if err != nil {
			return err
		}
		for _, p := range pods {
			if p.Metadata.Uid == uid && p.State.String() == "SANDBOX_READY" {
				return fmt.Errorf("it still runs: %v", p)
			}
		}
		return nil
	})
}

// TestResize changes what a running container may have, without a restart; and
// with one where its policy says so.
func TestResize(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers:
  - name: c
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
  - name: again
    image: $BOX
    command: [sh, -c, "trap 'exit 0' TERM; while :; do sleep 0.2; done"]
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
`)
	before := s.ready("p")
	const limits = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"
	s.says("p", "67108864\n10000\n51", limits)
	patch := func(container string) {
		t.Helper()
		s.kubectl("patch", "pod", "p", "--subresource", "resize", "--patch",
			fmt.Sprintf(`{"spec":{"containers":[{"name":%q,"resources":{"requests":{"cpu":"100m","memory":"48Mi"},"limits":{"cpu":"200m","memory":"96Mi"}}}]}}`, container))
	}
	resized := func(container string, restarts int) {
		t.Helper()
		s.until("p", func(p pod) error {
			for _, c := range p.Status.ContainerStatuses {
				if c.Name == container && (c.Resources.Limits["memory"] != "96Mi" || c.Resources.Limits["cpu"] != "200m" || c.Resources.Requests["cpu"] != "100m" || c.RestartCount != restarts || c.State.Running == nil) {
					return fmt.Errorf("not resized: %v, %v", c, p.Status.Conditions)
				}
			}
			return nil
		})
	}
	patch("c")
	resized("c", 0)
	s.says("p", "100663296\n20000\n102", limits)
	if got := s.pod("p").Status.ContainerStatuses; got[0].ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("another container: %v", got)
	}
	patch("again")
	resized("again", 1)
	s.kubectl("exec", "p", "-c", "again", "--", "true")
}

// TestEphemeralContainers looks into running pods with kubectl debug.
func TestEphemeralContainers(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers:
  - {name: c, image: $AGNHOST, args: [netexec, --http-port, "8080"]}
`)
	id := s.ready("p").Status.ContainerStatuses[0].ContainerID
	s.kubectl("debug", "p", "--image", s.box, "-c", "look", "--target", "c", "--profile", "general", "--", "sh", "-c",
		"cat /proc/1/cmdline | tr '\\0' ' '; echo; hostname; wget -q -O - http://127.0.0.1:8080/echo?msg=hello; exit 3")
	p := s.until("p", func(p pod) error {
		for _, c := range p.Status.EphemeralContainerStatuses {
			if c.State.Terminated != nil {
				return nil
			}
		}
		return fmt.Errorf("not ended: %v", p.Status.EphemeralContainerStatuses)
	})
	if got := strings.Fields(s.logs("p", "-c", "look")); strings.Join(got, " ") != "/agnhost netexec --http-port 8080 p hello" {
		t.Errorf("it saw %q", got)
	}
	if c := p.Status.EphemeralContainerStatuses[0]; c.State.Terminated.ExitCode != 3 {
		t.Errorf("it ended with %v", c)
	}
	if c := p.Status.ContainerStatuses[0]; c.ContainerID != id || c.RestartCount != 0 {
		t.Errorf("the container beside it was disturbed: %v", c)
	}

	// A look at the node itself.
	out := s.kubectl("debug", "node/"+nodeName, "--image", s.box, "--profile", "general", "--", "sh", "-c", "ls /host/proc/1/comm && hostname")
	name := strings.Fields(out[strings.Index(out, "node-debugger"):])[0]
	if p := s.ended(name); p.Status.Phase != "Succeeded" {
		t.Errorf("the pod on the node: %v, %s", p.Status, s.logs(name))
	}
}
