//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
