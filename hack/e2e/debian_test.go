//go:build e2e && debian

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// debian gives the name of an image of this machine's release of Debian. Its
// root file system is made once, by hack/builds/debian.sh.
func (n *node) debian() string {
	n.t.Helper()
	if out, err := exec.CommandContext(n.t.Context(), filepath.Join(n.Clone, "hack/builds/debian.sh")).CombinedOutput(); err != nil {
		n.t.Fatalf("hack/builds/debian.sh: %v\n%s", err, out)
	}
	n.builds("-t", "local/debian:base", filepath.Join(n.Clone, "hack/.cache/debian"))
	return "local/debian:base"
}

// goImage makes an image of this machine's toolchain, and gives its name.
func (n *node) goImage() string {
	n.t.Helper()
	dir := n.context(map[string]string{
		"Dockerfile": "FROM " + n.shell + "\nCOPY . /usr/local/go/\nENV PATH=/usr/local/go/bin:/bin GOTOOLCHAIN=local HOME=/root\n",
		"Dockerfile.dockerignore": "*\n!bin\n!pkg\n!src\n!go.env\n!VERSION\npkg/*_race\nsrc/cmd\n!src/cmd/go\n!src/cmd/internal\n!src/cmd/vendor\n" +
			"**/testdata\n",
	})
	out, err := exec.CommandContext(n.t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		n.t.Fatal(err)
	}
	n.builds("-t", "local/go:1", "-f", filepath.Join(dir, "Dockerfile"), strings.TrimSpace(string(out)))
	return "local/go:1"
}

// TestLargeDockerfiles builds the Dockerfiles of hack/builds that need Go's
// toolchain or Debian's packages, twice.
func TestLargeDockerfiles(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	args := []string{"--network", "host", "--build-arg", "BASE=" + n.shell, "--build-arg", "GO=" + n.goImage(), "--build-arg", "DEBIAN=" + n.debian()}
	for _, s := range []ship{
		{"go/go-service", nil, "hello, service in Go"},
		{"go/distroless-go", nil, "user 65532 in /home/nonroot with /etc/ssl/certs/ca-certificates.crt"},
		{"debian/distroless-c", nil, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"},
		{"debian/toolbox", nil, "jq less"},
		{"debian/node-app", nil, "hello, node service 900"},
		{"debian/python-app", nil, "hello, python service"},
		{"debian/python-zipapp", nil, "hello from a zip"},
		{"debian/c-program", nil, "hello from C"},
		{"debian/nginx-service", []string{"nginx", "-t"}, ""},
		{"debian/redis-service", nil, "Redis server"},
	} {
		t.Run(s.dir, func(t *testing.T) {
			m := *n
			m.t = t
			m.ships(s, filepath.Join(n.Clone, "hack/builds", s.dir), args, strings.HasPrefix(s.dir, "go/"))
		})
	}
}

// TestPostgreSQL is hack/example as a user has it: a database with a volume and
// a port, whose rows outlive the container, and the same image as a pod, of CRI and
// of a manifest.
func TestPostgreSQL(t *testing.T) {
	n := newNode(t, lab.Options{})
	dir := filepath.Join(n.Clone, "hack/example")
	args := []string{"--network", "host", "--build-arg", "DEBIAN=" + n.debian(), "-t", "db:1", dir}
	first := n.builds(args...)
	if second := n.builds(args...); second.id != first.id || second.commands+second.layers != 0 {
		t.Errorf("the second build: %+v, want id %s and nothing done", second, first.id)
	}
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(n.Dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	// psql is of the image too: the machine needs none.
	sql := func(container, text string) (string, error) {
		return n.Berth(t.Context(), "exec", "-e", "PGPASSWORD=secret", container, "psql", "-h", "127.0.0.1", "-U", "postgres", "-AtqXc", text)
	}
	through := func(text string) (string, error) {
		return n.Berth(t.Context(), "run", "--rm", "--network", "host", "-e", "PGPASSWORD=secret", "--entrypoint", "psql", "db:1", "-h", "127.0.0.1", "-p", fmt.Sprint(port), "-U", "postgres", "-AtqXc", text)
	}
	eventually := func(ask func(string) (string, error), text string) string {
		t.Helper()
		out := ""
		err := lab.Eventually(t.Context(), 2*time.Minute, func() (err error) {
			out, err = ask(text)
			return err
		})
		if err != nil {
			t.Fatalf("%s: %v\n%s", text, err, n.berth("logs", "some-db"))
		}
		return strings.TrimSpace(out)
	}
	run := func(more ...string) {
		t.Helper()
		n.berth(append(append([]string{"run", "-d", "--name", "some-db", "-p", fmt.Sprintf("%d:5432", port), "-e", "POSTGRES_PASSWORD=secret"}, more...), "db:1")...)
	}
	tables := "SELECT count(*) FROM information_schema.tables WHERE table_name = 'kept'"
	ask := func(text string) (string, error) { return sql("some-db", text) }

	run("-v", data+":/data/db")
	eventually(ask, "SELECT 1")
	eventually(through, "CREATE TABLE kept (n int); INSERT INTO kept SELECT * FROM generate_series(1, 1000)")
	n.berth("rm", "-f", "some-db")
	run("-v", data+":/data/db")
	if got := eventually(ask, "SELECT sum(n) FROM kept"); got != "500500" {
		t.Errorf("a new container on the same directory reads %q", got)
	}
	if got, err := through("SELECT count(*) FROM kept"); err != nil || strings.TrimSpace(got) != "1000" {
		t.Errorf("through the port there are %q rows, %v", got, err)
	}
	n.berth("rm", "-f", "some-db")

	run()
	eventually(ask, "CREATE TABLE kept (n int)")
	n.berth("rm", "-f", "some-db")
	run()
	if got := eventually(ask, tables); got != "0" {
		t.Errorf("without a volume a new container has %q", got)
	}
	n.berth("rm", "-f", "some-db")

	// The same image as a pod, by CRI alone.
	sandbox := n.podConfig("db")
	sandbox.PortMappings = []*criv1.PortMapping{{ContainerPort: 5432, HostPort: int32(port)}}
	podFile := n.file("db-pod.json", sandbox)
	config := lab.ContainerConfig("db", "db:1")
	config.Command = nil
	config.Envs = []*criv1.KeyValue{{Key: "POSTGRES_PASSWORD", Value: []byte("secret")}}
	config.Mounts = []*criv1.Mount{{ContainerPath: "/data/db", HostPath: data}}
	pod := n.crictl("runp", podFile)
	container := n.crictl("create", pod, n.file("db-container.json", config), podFile)
	n.crictl("start", container)
	if got := eventually(through, "SELECT sum(n) FROM kept"); got != "500500" {
		t.Errorf("through the pod's port there is %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.RemovePod(ctx, pod); err != nil {
		t.Error(err)
	}

	// And as a manifest has it.
	manifest, err := os.ReadFile(filepath.Join(dir, "pod.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("path: /srv/db", "path: "+data, "hostPort: 5432", fmt.Sprintf("hostPort: %d", port))
	file := n.write("pod.yaml", here.Replace(string(manifest)))
	n.berth("apply", "-f", file)
	if got := eventually(through, "SELECT sum(n) FROM kept"); got != "500500" {
		t.Errorf("through the port of the manifest's pod there is %q", got)
	}
	n.berth("delete", "-f", file)
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err != nil {
		t.Errorf("what was in the manifest's volume: %v", err)
	}
}
