//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
)

// shop is a pod with an init container, a sidecar and two containers that share
// volumes on the disk and in memory, and a port of the host.
func (n *node) shop(port int) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: shop
  labels: {app: shop}
spec:
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: www, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - {name: host, hostPath: {path: %[1]s, type: DirectoryOrCreate}}
  initContainers:
  - name: prepare
    image: %[2]s
    command: [sh, -c, "echo started >>/host/inits; cat /proc/sys/kernel/random/uuid >/www/index.html; echo $(POD) >>/www/index.html"]
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    volumeMounts:
    - {name: www, mountPath: /www}
    - {name: host, mountPath: /host}
  - name: proxy
    image: %[2]s
    restartPolicy: Always
    command: [sleep, "1000"]
  containers:
  - name: server
    image: %[2]s
    command: [sh, -c, "cp /www/index.html /ram/copy; exec httpd -f -p 80 -h /www"]
    ports:
    - {containerPort: 80, hostPort: %[3]d, hostIP: 127.0.0.1}
    resources: {limits: {cpu: 500m, memory: 64Mi}}
    volumeMounts:
    - {name: www, mountPath: /www, readOnly: true}
    - {name: ram, mountPath: /ram}
  - name: client
    image: %[2]s
    command: [sh, -c, "while ! wget -qO- http://127.0.0.1/; do sleep 0.1; done; exec sleep 1000"]
    volumeMounts:
    - {name: ram, mountPath: /mem}
    securityContext: {runAsUser: 1000, capabilities: {drop: [ALL]}}
`, filepath.Join(n.Dir, "host"), n.shell, port)
}

func (n *node) write(name, text string) string {
	path := filepath.Join(n.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		n.t.Fatal(err)
	}
	return path
}

// answers is what a port of the host says to HTTP.
func answers(port int) (string, error) {
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// serves waits until the page is there, and returns it.
func (n *node) serves(port int) (page string) {
	n.t.Helper()
	n.eventually(func() (err error) {
		if page, err = answers(port); err == nil && !strings.Contains(page, "shop") {
			err = fmt.Errorf("it serves %q", page)
		}
		return err
	})
	return page
}

func (n *node) inits() int {
	b, _ := os.ReadFile(filepath.Join(n.Dir, "host/inits"))
	return strings.Count(string(b), "started")
}

func TestPodsOfManifests(t *testing.T) {
	for _, group := range []string{"node", "pod"} {
		t.Run(group, func(t *testing.T) {
			n := newNode(t, lab.Options{ShimGroup: group})
			port, err := lab.FreePort()
			if err != nil {
				t.Fatal(err)
			}
			file := n.write("pod.yaml", n.shop(port))

			// What cannot be honoured is told, and nothing is done.
			bad := n.write("bad.yaml", strings.Replace(n.shop(port), "  - name: client\n", "  - name: client\n    livenessProbe: {exec: {command: [x]}}\n", 1))
			if code, _, errs := n.outcome("apply", "-f", bad); code == 0 || !strings.Contains(errs, "line 36: spec.containers[1].livenessProbe: it is not honoured here") {
				t.Errorf("a probe: %d %s", code, errs)
			}
			if got := n.berth("pods", "-q") + n.berth("images", "-q"); got != "" {
				t.Errorf("a refused manifest has made %q", got)
			}

			if out := n.berth("apply", "-f", file); out != "pod default/shop created" {
				t.Errorf("apply says %q", out)
			}
			page := n.serves(port)
			n.eventually(func() error { return n.says(strings.TrimSpace(page), "logs", "shop/client") })
			n.eventually(func() error { return n.says(strings.TrimSpace(page), "exec", "shop/client", "cat", "/mem/copy") })
			if got := n.berth("exec", "shop/client", "sh", "-c", "id -u; df -m /mem | tail -1 | awk '{print $2}'"); got != "1000\n1" {
				t.Errorf("the client is %q", got)
			}
			if out := n.berth("apply", "-f", file); out != "pod default/shop unchanged" {
				t.Errorf("apply again says %q", out)
			}

			// A container that ends is started again, alone, also by a daemon that
			// was not there when it ended.
			server := n.idOf("server")
			if err := unix.Kill(n.pidOf("shop/server"), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			n.eventually(func() error { return differs(n.idOf("server"), server) })
			n.serves(port)
			server = n.idOf("server")
			pid := n.pidOf("shop/server")
			n.Kill()
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			n.eventually(func() error { return differs(n.idOf("server"), server) })
			if got := n.serves(port); got != page || n.inits() != 1 {
				t.Errorf("it serves %q instead of %q, after %d inits", got, page, n.inits())
			}

			// After a reboot all is made anew, the init container first.
			if err := n.Reboot(t.Context()); err != nil {
				t.Fatal(err)
			}
			n.eventually(func() error {
				if n.inits() != 2 {
					return fmt.Errorf("%d inits", n.inits())
				}
				return nil
			})
			if got := n.serves(port); got == page {
				t.Error("the page is of before the reboot")
			}
			n.eventually(func() error { return wantText(fmt.Sprint(strings.Count(n.berth("ps", "-q"), "\n")+1), "3") })
			if lines := strings.Split(n.berth("pods", "-q"), "\n"); len(lines) != 1 {
				t.Errorf("pods after the reboot: %q", lines)
			}

			// One that is stopped stays so; by hand it is made anew.
			n.berth("stop", "-t", "0", "shop")
			n.Kill()
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := n.berth("ps", "-q"); got != "" {
				t.Errorf("runs after a stop and a start of the daemon: %q", got)
			}
			n.berth("start", "shop/server")
			n.serves(port)

			// Another manifest replaces it, and says why.
			changed := n.write("changed.yaml", strings.Replace(n.shop(port), "labels: {app: shop}", "labels: {app: other}", 1))
			if out := n.berth("apply", "-f", changed); out != "pod default/shop replaced; it differed in metadata.labels" {
				t.Errorf("apply of another says %q", out)
			}
			n.serves(port)

			// What inspect gives makes the same pod.
			again := n.write("again.yaml", n.berth("inspect", "--output", "pod", "shop")+"\n")
			if out := n.berth("apply", "-f", again); out != "pod default/shop unchanged" {
				t.Errorf("apply of what inspect gave says %q", out)
			}

			if out := n.berth("delete", "-f", file); out != "pod default/shop deleted" {
				t.Errorf("delete says %q", out)
			}
			if left := n.OfPods(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			for _, dir := range []string{n.Root, n.State} {
				if entries, _ := os.ReadDir(filepath.Join(dir, "local")); len(entries) > 0 {
					t.Errorf("left in %s: %v", dir, entries)
				}
			}
			if out := n.berth("delete", "-f", file); out != "" {
				t.Errorf("delete again says %q", out)
			}
		})
	}
}

// says runs berth, which may fail for what it names is not there yet.
func (n *node) says(want string, args ...string) error {
	_, out, errs := n.outcome(args...)
	if got := strings.TrimSpace(out); got != want {
		return fmt.Errorf("berth %s: %q, want %q: %s", strings.Join(args, " "), got, want, errs)
	}
	return nil
}

func differs(got, not string) error {
	if got == "" || got == not {
		return fmt.Errorf("it is %q still", got)
	}
	return nil
}

// idOf is the id of the container of that name that runs.
func (n *node) idOf(name string) string { return n.crictl("ps", "-q", "--name", "^"+name+"$") }

// A pod of a job ends with its containers, and gives back what it holds. A job
// that fails is told apart.
func TestJobsOfManifests(t *testing.T) {
	n := newNode(t, lab.Options{})
	job := func(name, policy, init, main string) string {
		return n.write(name+".yaml", fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {"restartPolicy": %q,
			"initContainers": [{"name": "first", "image": %[5]q, "command": ["sh", "-c", %[3]q], "volumeMounts": [{"name": "d", "mountPath": "/d"}]},
				{"name": "beside", "image": %[5]q, "restartPolicy": "Always", "command": ["sleep", "1000"]}],
			"containers": [{"name": "main", "image": %[5]q, "command": ["sh", "-c", %[4]q], "volumeMounts": [{"name": "d", "mountPath": "/d"}]}],
			"volumes": [{"name": "d", "emptyDir": {}}]}}`, name, policy, init, main, n.shell))
	}
	over := func(name string) {
		t.Helper()
		n.eventually(func() error {
			for line := range strings.Lines(n.berth("pods")) {
				if strings.Contains(line, " "+name+" ") && strings.Contains(line, "stopped") {
					return nil
				}
			}
			return fmt.Errorf("pod %s is not over", name)
		})
		n.eventually(func() error { return n.says("", "ps", "-q") }) // sidecars end with the pod
	}
	n.berth("apply", "-f", job("good", "Never", "echo 1 >/d/x", "cat /d/x; exit 3"))
	over("good")
	if got := n.berth("logs", "good/main"); got != "1" {
		t.Errorf("the main container says %q", got)
	}
	// An init container that fails is tried again where the policy says so, and
	// else the main one never begins.
	n.berth("apply", "-f", job("bad", "Never", "exit 1", "touch /d/never"))
	over("bad")
	if out := n.berth("ps", "-a"); strings.Contains(out, "bad/main") {
		t.Errorf("the main container began:\n%s", out)
	}
	n.berth("apply", "-f", job("late", "OnFailure", "echo >>/d/tries; [ $(wc -l </d/tries) = 3 ]", "cat /d/tries | wc -l"))
	over("late")
	if got := strings.TrimSpace(n.berth("logs", "late/main")); got != "3" {
		t.Errorf("after %q tries", got)
	}
	// Nothing comes back with a reboot.
	if err := n.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := n.berth("ps", "-q"); got != "" {
		t.Errorf("runs after a reboot: %q", got)
	}
	// What its volumes hold goes with a pod, however it is removed.
	for _, name := range []string{"good", "bad", "late"} {
		n.berth("rm", "-f", name)
	}
	n.eventually(func() error {
		left, err := os.ReadDir(filepath.Join(n.Root, "local"))
		if len(left) > 0 {
			return fmt.Errorf("left: %v", left)
		}
		return err
	})
}

// A pod of berth run becomes a manifest that makes an equal one.
func TestManifestOfAContainerThatWasRun(t *testing.T) {
	n := newNode(t, lab.Options{})
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(n.Dir, "data")
	n.berth("run", "-d", "--name", "web", "--restart", "always", "-p", fmt.Sprintf("%d:80", port), "-v", data+":/data:ro", "-e", "A=$(B)", "-u", "7:8", "--cap-drop", "ALL",
		"--memory", "64m", "-l", "x=y", n.shell, "sh", "-c", "echo $A; trap exit TERM; sleep 1000 & wait")
	text := n.berth("inspect", "--output", "pod", "web")
	n.berth("rm", "-f", "web")
	n.berth("apply", "-f", n.write("web.yaml", text+"\n"))
	if again := n.berth("inspect", "--output", "pod", "web"); again != text {
		t.Errorf("it became\n%s\nof\n%s", again, text)
	}
	n.eventually(func() error { return n.says("$(B)", "logs", "web/web") })
	if got := n.berth("exec", "web/web", "sh", "-c", "id -u; id -g; grep CapEff /proc/self/status; touch /data/x 2>/dev/null || echo read-only"); got != "7\n8\nCapEff:\t0000000000000000\nread-only" {
		t.Errorf("inside: %q", got)
	}
	n.berth("delete", "-f", filepath.Join(n.Dir, "web.yaml"))
}
