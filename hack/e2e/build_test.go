//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// context makes a build context of files, by name.
func (n *node) context(files map[string]string) string {
	n.t.Helper()
	dir, err := os.MkdirTemp(n.Dir, "context-")
	if err != nil {
		n.t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			n.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			n.t.Fatal(err)
		}
	}
	return dir
}

// built is what berth build says that it did.
type built struct {
	id                       string
	commands, layers, cached int
	said                     string
}

var buildSummary = regexp.MustCompile(`(\d+) commands run, (\d+) layers written, (\d+) steps from the cache`)

// build runs berth build, which may fail.
func (n *node) build(args ...string) (built, error) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), filepath.Join(n.Clone, "bin/berth"), append([]string{"--socket", n.Socket, "build"}, args...)...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	b := built{id: strings.TrimSpace(out.String()), said: said.String()}
	if m := buildSummary.FindStringSubmatch(b.said); m != nil {
		_, _ = fmt.Sscan(strings.Join(m[1:], " "), &b.commands, &b.layers, &b.cached)
	}
	return b, err
}

// builds is build that must succeed.
func (n *node) builds(args ...string) built {
	n.t.Helper()
	b, err := n.build(args...)
	if err != nil {
		n.t.Fatalf("berth build %s: %v\n%s", strings.Join(args, " "), err, b.said)
	}
	return b
}

// TestBuild builds an image of two stages, runs it, and builds it again: from
// the cache, and without it, with the same id.
func TestBuild(t *testing.T) {
	n := newNode(t, lab.Options{})
	dir := n.context(map[string]string{
		"Dockerfile": `# syntax=docker/dockerfile:1
ARG BASE=` + n.shell + `
FROM $BASE AS maker
ARG WORDS=none
WORKDIR /src
COPY words.txt .
RUN echo "made of $WORDS: $(cat words.txt)" > out.txt && mkdir -p /opt/deep && ln -s /src/out.txt /opt/link
RUN ["/bin/sh", "-c", "echo exec form >> out.txt"]
RUN <<EOF
set -e
echo heredoc >> out.txt
EOF

FROM $BASE AS unused
RUN exit 1

FROM ${BASE}
LABEL kind=test
ENV GREETING="hello there" PATH=/bin
COPY --from=maker --chown=1000:1000 /src/out.txt /app/
COPY --chmod=0755 run.sh /app/run.sh
USER default-user
EXPOSE 8080/tcp
ENTRYPOINT ["/app/run.sh"]
CMD ["world"]
`,
		"words.txt":     "some words\n",
		"run.sh":        "#!/bin/sh\necho $GREETING $1; cat /app/out.txt; id -u\n",
		".dockerignore": "ignored\n",
		"ignored/huge":  "not sent",
	})
	first := n.builds("-t", "local/app:1", "--build-arg", "WORDS=letters", dir)
	if first.commands != 3 || first.layers == 0 || first.cached != 0 {
		t.Errorf("the first build: %+v", first)
	}
	out := n.berth("run", "--rm", "local/app:1")
	for _, part := range []string{"hello there world", "made of letters: some words", "exec form", "heredoc", "1000"} {
		want(t, out, part)
	}
	second := n.builds("-t", "local/app:2", "--build-arg", "WORDS=letters", dir)
	if second.id != first.id || second.commands != 0 || second.layers != 0 {
		t.Errorf("the second build: %+v, want id %s and nothing done", second, first.id)
	}
	again := n.builds("--no-cache", "--build-arg", "WORDS=letters", dir)
	if again.id != first.id || again.commands != 3 {
		t.Errorf("without the cache: %+v, want id %s", again, first.id)
	}
	other := n.builds("--build-arg", "WORDS=others", dir)
	if other.id == first.id {
		t.Error("another argument gives the same image")
	}
}

// TestBuildSandbox: commands of builds have what every container has of
// capabilities, filters, masks and namespaces, and the network that is asked for.
func TestBuildSandbox(t *testing.T) {
	n := newNode(t, lab.Options{})
	const look = `grep -E 'Cap(Inh|Prm|Eff|Bnd|Amb)|Seccomp:|NoNewPrivs' /proc/self/status; wc -c < /proc/kcore; ls /dev; touch /proc/sys/kernel/x 2>&1; id -u; id -g`
	same := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	container := same(n.berth("run", "--rm", n.shell, "sh", "-c", look))
	b := n.builds("--progress", "plain", "-t", "local/look:1", n.context(map[string]string{"Dockerfile": "FROM " + n.shell + "\nRUN (" + look + ") > /look\nRUN --network=none ls /sys/class/net > /none\nRUN ls /sys/class/net > /default\nRUN --network=host ls /sys/class/net > /host\n"}))
	if b.commands != 4 {
		t.Errorf("%+v", b)
	}
	if got := same(n.berth("run", "--rm", "local/look:1", "cat", "/look")); got != container {
		t.Errorf("a command of a build sees\n%s\nand a container\n%s", got, container)
	}
	nets := map[string]string{}
	for _, name := range []string{"none", "default", "host"} {
		nets[name] = same(n.berth("run", "--rm", "local/look:1", "cat", "/"+name))
	}
	if nets["none"] != "lo" || !strings.Contains(nets["default"], "eth0") || !strings.Contains(nets["host"], n.Bridge) {
		t.Errorf("the networks are %v", nets)
	}
}

// TestBuildInterrupted: a build whose client is interrupted, or whose daemon is
// killed, leaves no container, mount, snapshot or file. T-BUILD.
func TestBuildInterrupted(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	dir := n.context(map[string]string{"f": "x", "Dockerfile": "FROM " + n.shell + "\nCOPY f /f\nRUN --mount=type=tmpfs,target=/t --mount=type=secret,id=s --mount=from=" + n.shell + ",source=/bin,target=/b,rw echo started; sleep 1000\n"})
	begin := func() (cmd *exec.Cmd, ended chan error) {
		cmd = exec.CommandContext(t.Context(), filepath.Join(n.Clone, "bin/berth"), "--socket", n.Socket, "build", "--secret", "id=s,src="+filepath.Join(dir, "f"), dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended = make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		n.eventually(func() error {
			for _, p := range n.podsOfBuilds() {
				if p != "" {
					return nil
				}
			}
			return errors.New("no command runs")
		})
		return cmd, ended
	}
	clean := func() {
		t.Helper()
		n.eventually(func() error {
			if left := n.podsOfBuilds(); len(left) > 0 {
				return fmt.Errorf("pods are left: %v", left)
			}
			if entries, err := os.ReadDir(filepath.Join(n.Root, "images/b")); err != nil || len(entries) > 0 {
				return fmt.Errorf("files are left: %v, %v", entries, err)
			}
			return nil
		})
		if problems, err := n.Admin().Check(t.Context()); err != nil || len(problems) > 0 {
			t.Errorf("berth check: %+v, %v", problems, err)
		}
		if left := n.OfPods(); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
	cmd, ended := begin()
	_ = cmd.Process.Signal(os.Interrupt)
	if err := <-ended; err == nil {
		t.Error("an interrupted build ended well")
	}
	clean()
	_, ended = begin()
	n.Kill()
	if err := <-ended; err == nil {
		t.Error("a build outlived its daemon")
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	clean()
}

// podsOfBuilds lists the pods in which commands of builds run.
func (n *node) podsOfBuilds() (ids []string) {
	n.t.Helper()
	r, err := n.runtime().ListPodSandbox(n.t.Context(), &criv1.ListPodSandboxRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, p := range r.Items {
		if p.Metadata.Namespace == "berth.build" {
			ids = append(ids, p.Id)
		}
	}
	return ids
}

// TestBuildSources: a Dockerfile on stdin, a tar on stdin, an image for the
// kubelet, and errors with their line.
func TestBuildSources(t *testing.T) {
	n := newNode(t, lab.Options{})
	pipe := func(stdin []byte, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(n.Clone, "bin/berth"), append([]string{"--socket", n.Socket, "build"}, args...)...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := pipe([]byte("FROM "+n.shell+"\nRUN echo from stdin > /f\nCMD cat /f\n"), "-q", "-t", "local/stdin:1", "-"); err != nil || !strings.HasPrefix(out, "sha256:") {
		t.Fatalf("%s, %v", out, err)
	}
	want(t, n.berth("run", "--rm", "local/stdin:1"), "from stdin")
	dir := n.context(map[string]string{"deep/Dockerfile": "FROM " + n.shell + "\nCOPY f /f\nCMD cat /f\n", "f": "from a tar"})
	packed, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-cz", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	iid := filepath.Join(n.Dir, "iid")
	if out, err := pipe(packed, "--iidfile", iid, "-t", "local/tar:1", "-f", "deep/Dockerfile", "-"); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	want(t, n.berth("run", "--rm", "local/tar:1"), "from a tar")
	id := readText(t, iid)
	kubelet, err := n.Dial(n.Kubelet)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = kubelet.Close() }()
	st, err := criv1.NewImageServiceClient(kubelet).ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: "local/tar:1"}})
	if err != nil || st.Image.GetId() != id || !st.Image.GetPinned() {
		t.Errorf("the kubelet sees %v, %v", st, err)
	}
	for text, words := range map[string][]string{
		"FROM " + n.shell + "\nRUN echo words; exit 9\n": {"Dockerfile:2", "exit code 9", "words"},
		"FROM " + n.shell + "\n\nFLY\n":                  {"Dockerfile:3", "FLY"},
		"FROM " + n.shell + "\nCOPY none /\n":            {"Dockerfile:2", "none"},
	} {
		out, err := pipe([]byte(text), "-")
		if err == nil {
			t.Errorf("%q was built", text)
		}
		for _, w := range append(words, "berth: cannot build", "  why: ", "  try: ") {
			want(t, out, w)
		}
	}
}
