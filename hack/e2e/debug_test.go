//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestDebugDump looks for what a dump must tell, and for secrets in all places
// where the daemon was told one.
func TestDebugDump(t *testing.T) {
	const secret = "hunter2-f00d"
	n := newNode(t, lab.Options{Config: `image.proxies = {"proxied.example" = "http://ann:` + secret + `@127.0.0.1:1"}`})
	n.crictl("pull", n.shell)
	config := n.podConfig("secretive")
	config.Annotations = map[string]string{"kubectl.kubernetes.io/last-applied-configuration": secret}
	c := lab.ContainerConfig("c", n.shell, "sh", "-c", "echo "+secret+"; exec sleep 1000", secret)
	c.Envs = []*criv1.KeyValue{{Key: "DB_PASSWORD", Value: []byte(secret)}}
	c.Annotations = map[string]string{"note": secret}
	pod, id, err := n.RunPod(t.Context(), config, c)
	if err != nil {
		t.Fatal(err)
	}
	rt := n.runtime()
	if _, err := rt.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"echo", secret}, Timeout: 10}); err != nil {
		t.Fatal(err)
	}
	if _, err := rt.ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"no-such-program", "--token", secret}, Timeout: 10}); err == nil {
		t.Error("an absent program was executed")
	}
	for _, image := range []string{"127.0.0.1:1/private:1", "proxied.example/private:1"} {
		_, err = n.images().PullImage(t.Context(), &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: image},
			Auth: &criv1.AuthConfig{Username: "ann", Password: secret}})
		if err == nil {
			t.Errorf("%s was pulled", image)
		}
	}
	absent := lab.ContainerConfig("d", n.Registry+"/absent:1", "true")
	absent.Envs = c.Envs
	if _, err := rt.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config, Config: absent}); err == nil {
		t.Error("a container of an absent image was created")
	}

	dump := n.berth("debug", "dump")
	for _, want := range []string{
		`(?m)^==== configuration ====$`, `(?m)^image\.proxies = .*//\*\*\*@127\.0\.0\.1:1.* # .*config\.toml:\d+$`,
		`(?m)^\S+Z PullImage ` + regexp.QuoteMeta(n.shell) + `: OK, \S+\n    image-pull/resolve \S+\n`, `(?m)^    image-pull/commit \S+$`,
		`(?m)^\S+Z RunPodSandbox lab/secretive: OK, \S+\n    pod\.run/\S+ \S+$`, `(?m)^    pod\.run/network \S+$`,
		`(?m)^    container\.start/\S+ \S+$`, `(?m)^\S+Z CreateContainer \S+/d: NotFound, \S+: "cannot create container .*absent:1`,
		`(?m)^\S+Z PullImage 127\.0\.0\.1:1/private:1: \w+, \S+: ".*cannot pull `, `(?m)^\S+Z ExecSync ` + id + `: \w+, \S+: ".*no-such-program`,
		`(?m)^\S+Z Dump : under way, \S+$`, `"program":"sh and 3 arguments"`, `"variables":\["DB_PASSWORD"\]`, `"state":"running"`,
		`(?m)^==== events ====$`, `"action":"started"`, `(?m)^==== goroutines ====\ngoroutine \d+ \[running\]:$`, `runtime/pprof`,
	} {
		if !regexp.MustCompile(want).MatchString(dump) {
			t.Errorf("the dump lacks %s", want)
		}
	}
	for line := range strings.Lines(dump) {
		if strings.Contains(line, secret) || strings.Contains(line, "hunter2") {
			t.Errorf("the dump has a secret: %s", line)
		}
	}
	if t.Failed() {
		before, _, _ := strings.Cut(dump, "==== goroutines")
		t.Log(before)
	}

	file := filepath.Join(n.Dir, "dump.txt")
	n.berth("debug", "dump", file)
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 || st.Size() < 1000 {
		t.Errorf("the file: %v, %v", st, err)
	}
	if code := exitCode(n, "debug", "dump", file); code != 125 {
		t.Errorf("over a file that is there: exit code %d", code)
	}
}
