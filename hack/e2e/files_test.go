//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/hack/lab"
)

// put writes a file of the test's own and returns its path.
func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	return path
}

func fileIs(t *testing.T, path, text string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("%s: %q, %v; want %q", path, got, err, text)
	}
}

// TestCopy copies files both ways, with containers that run, have ended or were
// only created, on volumes too, and by links that would lead out.
func TestCopy(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	dir := filepath.Join(n.Dir, "cp")
	put(t, dir+"/in/file", "one\n")
	put(t, dir+"/in/sub/deep", "two\n")
	if err := os.Symlink("sub/deep", dir+"/in/link"); err != nil {
		t.Fatal(err)
	}
	host := put(t, dir+"/host-secret", "the host's\n")

	n.berth("create", "--name", "c", "-v", "data:/vol", "-v", "/own", n.shell, "sleep", "1000")
	n.berth("cp", "-q", dir+"/in", "c:/created") // into what was only created
	n.berth("start", "c")
	want(t, n.berth("exec", "c", "cat", "/created/file", "/created/link"), "one\ntwo")
	want(t, n.berth("exec", "c", "stat", "-c", "%u:%g %a", "/created/file"), "0:0 640")

	// docker's rules of where it goes.
	n.berth("cp", dir+"/in", "c:/tmp")   // a directory that is there: into it
	n.berth("cp", dir+"/in/.", "c:/tmp") // what it has
	n.berth("cp", dir+"/in/file", "c:/tmp/named")
	n.berth("cp", dir+"/in/file", "c:/vol/") // on a volume
	n.berth("cp", dir+"/in/file", "c:own/here")
	want(t, n.berth("exec", "c", "sh", "-c", "cat /tmp/in/sub/deep /tmp/sub/deep /tmp/named /vol/file /own/here"), "two\ntwo\none\none\none")
	for why, args := range map[string][]string{
		"does not exist":                {dir + "/in/file", "c:/nowhere/"},
		"a file":                        {dir + "/in", "c:/tmp/named"},
		"neither is in a container":     {"/a", "/b"},
		"both are in containers":        {"c:/a", "c:/b"},
		"no such file":                  {"c:/absent", dir},
		"no directory in the container": {"-", "c:/tmp/named"},
	} {
		if code, _, errs := n.outcome(append([]string{"cp"}, args...)...); code != 125 || !strings.Contains(errs, why) || !strings.Contains(errs, "  try: ") {
			t.Errorf("cp %q: %d, %q; want %q", args, code, errs, why)
		}
	}

	// Links of the container lead into the container.
	n.berth("exec", "c", "sh", "-c", "ln -s "+host+" /escape; ln -s / /root-link; mkdir -p "+dir+"; echo inside >"+host)
	if code, _, _ := n.outcome("cp", "-L", "c:/escape", dir+"/escaped"); code != 0 {
		t.Errorf("cp -L ended with %d", code)
	}
	fileIs(t, dir+"/escaped", "inside\n")
	n.berth("cp", dir+"/in/file", "c:/root-link"+dir+"/host-secret")
	fileIs(t, host, "the host's\n")
	want(t, n.berth("exec", "c", "cat", host), "one")

	out := dir + "/out"
	n.berth("cp", "c:/tmp/in", out) // what is not there is made
	fileIs(t, out+"/sub/deep", "two\n")
	if link, err := os.Readlink(out + "/link"); err != nil || link != "sub/deep" {
		t.Errorf("link: %q, %v", link, err)
	}
	n.berth("cp", "c:/tmp/in/.", out)
	n.berth("cp", "c:/tmp/in", out)
	fileIs(t, out+"/in/file", "one\n")

	// Tars on stdin and stdout.
	cmd := exec.CommandContext(t.Context(), filepath.Join(n.Clone, "bin/berth"), "--socket", n.Socket, "cp", "c:/tmp/in", "-")
	packed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(packed)); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
	}
	if want := []string{"in/", "in/file", "in/link", "in/sub/", "in/sub/deep"}; !slices.Equal(names, want) {
		t.Errorf("the tar has %q", names)
	}
	n.berth("stop", "-t", "0", "c")
	cmd = exec.CommandContext(t.Context(), filepath.Join(n.Clone, "bin/berth"), "--socket", n.Socket, "cp", "-", "c:/vol")
	cmd.Stdin = bytes.NewReader(packed)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}

	// One that has ended has its files still, and its volumes.
	n.berth("cp", "c:/vol/in/sub/deep", dir+"/from-volume")
	fileIs(t, dir+"/from-volume", "two\n")
	n.berth("cp", "c:/own/here", dir+"/from-own")
	fileIs(t, dir+"/from-own", "one\n")
	n.berth("cp", dir+"/in/file", "c:/after-the-end")
	n.berth("start", "--keep", "c")
	want(t, n.berth("exec", "c", "cat", "/after-the-end", "/vol/in/file"), "one\none")
	n.berth("rm", "-f", "c")
	n.berth("volume", "rm", "data")
}

// TestDiffAndCommit makes an image of a container, which crictl runs.
func TestDiffAndCommit(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	n.berth("run", "-d", "--name", "c", "-e", "GREETING=hello", "-w", "/tmp", "--label", "team=blue", n.shell, "sh", "-c",
		"echo data >/data; rm /bin/wc; mkdir /made; exec sleep 1000")
	n.eventually(func() error { return wantText(n.berth("diff", "c"), "C /bin\nD /bin/wc\nA /data\nA /made") })

	id := n.berth("commit", "-m", "with data", "-a", "me", "c", "example.org/committed:1")
	want(t, n.berth("run", "--rm", "example.org/committed:1", "sh", "-c", "cat /data; echo $GREETING $PWD; [ -e /bin/wc ] || echo gone"), "data\nhello /tmp\ngone")
	want(t, n.berth("history", "example.org/committed:1"), "with data")
	want(t, n.berth("inspect", id), `"team": "blue"`)
	want(t, n.berth("ps"), "Up") // it goes on

	changed := n.berth("commit", "--change", `CMD ["echo", "changed"]`, "--change", "ENV A=b", "c", "example.org/changed:1")
	if changed == id {
		t.Error("the changed image is the same")
	}
	want(t, n.berth("run", "--rm", "example.org/changed:1"), "changed")
	if code, _, errs := n.outcome("commit", "--change", "RUN rm -rf /", "c"); code != 125 || !strings.Contains(errs, "it is not one of CMD") {
		t.Errorf("a change that is none: %d, %q", code, errs)
	}
	// The image is the kubelet's to run too, and no registry was asked.
	pod := n.crictl("runp", n.file("pod.json", n.podConfig("theirs")))
	container := n.crictl("create", pod, n.file("c.json", lab.ContainerConfig("made", "example.org/committed:1", "sleep", "1000")), n.file("pod.json", n.podConfig("theirs")))
	n.crictl("start", container)
	want(t, n.crictl("exec", container, "cat", "/data"), "data")

	// The base may be gone.
	n.berth("rmi", "-f", n.shell)
	n.berth("stop", "-t", "0", "c")
	n.berth("commit", "c", "example.org/orphan:1")
	want(t, n.berth("run", "--rm", "example.org/orphan:1", "cat", "/data"), "data")
}

// TestPause lets a container stand still, over a restart of the daemon, and a
// stop end it.
func TestPause(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.berth("pull", n.shell)
	n.berth("run", "-d", "--name", "c", n.shell, "sh", "-c", "trap 'exit 9' TERM; while :; do echo tick; sleep 0.01; done")
	ticks := func() int { return strings.Count(n.berth("logs", "c"), "tick") }
	n.berth("pause", "c")
	want(t, n.berth("ps"), "(Paused)")
	before := ticks()
	n.Kill()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := ticks(); now != before {
		t.Errorf("a paused container wrote %d lines", now-before)
	}
	if code, _, errs := n.outcome("pause", "c"); code != 125 || !strings.Contains(errs, "paused already") {
		t.Errorf("%d, %q", code, errs)
	}
	n.berth("unpause", "c")
	n.eventually(func() error {
		if ticks() == before {
			return wantText("nothing", "more lines")
		}
		return nil
	})
	n.berth("pause", "c")
	n.berth("stop", "-t", "30", "c")
	want(t, n.berth("ps", "-a"), "Exited (9)")
}
