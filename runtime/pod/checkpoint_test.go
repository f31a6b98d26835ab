package pod_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/hack/fakecriu"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// standIn is a program with CRIU's command line where CRIU does not run. It
// notes its arguments, and of each dump which cgroups beside the container's
// stand still; then it does what the file mode says. What it restores is a shell
// in the place of the processes: see fakecriu.
const standIn = `mode=$(cat "$here/mode")
echo "$*" >>"$here/calls"
if [ "$1" = check ]; then
	[ "$mode" != broken ] || { echo "Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds"; exit 1; }
	exit 0
fi
while [ $# -gt 0 ]; do
	case $1 in
	--images-dir) images=$2 ;;
	--work-dir) work=$2 ;;
	--freeze-cgroup) group=$2 ;;
	esac
	shift
done
cat "${group%/*}"/*/cgroup.freeze "${group%/*}"/*/freezer.state 2>/dev/null | tr '\n' ' ' >>"$here/still"
echo >>"$here/still"
case $mode in
fail)
	echo "(00.1) Error (criu/sk-unix.c:1): unix: a socket leads outside" >"$work/dump.log"
	exit 1 ;;
hang)
	: >"$here/hangs"
	exec sleep 600 ;;
esac
echo "(00.1) Dumping finished successfully" >"$work/dump.log"
for image in pstree inventory core-1; do echo "$image" >"$images/$image.img"; done
: >"$work/stats-dump"
`

// diffs are told by a text, which has no end if the file endless is there.
type diffs struct{ endless string }

func (d diffs) WriteDiff(_ context.Context, id string, w io.Writer) error {
	for {
		_, err := io.WriteString(w, "what "+id+" changed")
		if _, serr := os.Stat(d.endless); err != nil || serr != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

func (d diffs) ApplyDiff(_ context.Context, id string, r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(d.endless), "applied-"+id), b, 0o600)
	}
	return err
}

// newCheckpointNode is a node with the stand-in, and the directory where that keeps its notes.
func newCheckpointNode(t *testing.T) (n *node, notes string) {
	t.Helper()
	n, notes = newNode(t, pod.GroupNode), t.TempDir()
	program := filepath.Join(notes, "criu")
	begin, err := fakecriu.Script()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte(begin+standIn), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(notes, "mode"), "works")
	n.with(t, func(c *pod.Config) {
		c.Checkpoint = pod.CheckpointConfig{CRIU: program, Diffs: diffs{filepath.Join(notes, "endless")}}
	})
	return n, notes
}

func (n *node) save(t *testing.T, id, location string) error {
	return n.CheckpointContainer(t.Context(), pod.ViewAll, id, location, 0)
}

// goesOn is an error unless the container runs and no checkpoint has left a thing.
func (n *node) goesOn(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if cgroup.Frozen(n.group(id)) {
			t.Errorf("container %s stands still", id)
		}
		if res, err := n.ExecSync(t.Context(), pod.ViewAll, id, []string{"/bin/echo", "here"}, time.Minute); err != nil || string(res.Stdout) != "here\n" {
			t.Errorf("container %s: %q, %v", id, res.Stdout, err)
		}
	}
	if left, err := os.ReadDir(filepath.Join(n.cfg.Root, "checkpoints")); err != nil && !errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		t.Errorf("left of checkpoints: %v, %v", left, err)
	}
}

// names are those of the directory's entries.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// untar reads the regular files of an archive that only root can read.
func untar(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err != nil || st.Mode() != 0o600 {
		t.Errorf("%s has mode %v, %v", path, st.Mode(), err)
	}
	out := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			out[h.Name] = string(b)
		}
	}
}

func TestCheckpointOfAContainer(t *testing.T) {
	n, notes := newCheckpointNode(t)
	podID, id := n.up(t, "saved", "/bin/sleep", "600")
	other := n.second(t, podID, "second", func(*spec.Container) {})
	dir := t.TempDir()
	location := filepath.Join(dir, "c.tar")
	writeFile(t, location, "of an earlier time")
	if err := n.save(t, id[:12], location); err != nil {
		t.Fatal(err)
	}
	n.goesOn(t, id, other)
	if got := names(t, dir); !slices.Equal(got, []string{"c.tar"}) {
		t.Errorf("beside the archive there is %q", got)
	}
	files := untar(t, location)
	want := []string{"bind.mounts", "checkpoint/core-1.img", "checkpoint/descriptors.json", "checkpoint/inventory.img", "checkpoint/pstree.img", "checkpoint/stdio.json",
		"config.dump", "dump.log", "rootfs-diff.tar", "spec.dump", "stats-dump", "status"}
	var got []string
	for name := range files {
		got = append(got, name)
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the archive has %q, want %q", got, want)
	}
	if files["rootfs-diff.tar"] != "what "+id+" changed" {
		t.Errorf("the diff is %q", files["rootfs-diff.tar"])
	}
	for name, text := range map[string]string{"config.dump": `"id": "` + id + `"`, "spec.dump": "/bin/sleep", "bind.mounts": `"destination": "/etc/hosts"`, "status": "StartedAt"} {
		if !json.Valid([]byte(files[name])) || !strings.Contains(files[name], text) {
			t.Errorf("%s has no %s: %s", name, text, files[name])
		}
	}
	calls := strings.Split(strings.TrimSpace(readFile(t, filepath.Join(notes, "calls"))), "\n")
	st, err := n.Container(pod.ViewAll, id)
	if err != nil || len(calls) != 2 || !strings.HasPrefix(calls[0], "check ") {
		t.Fatalf("CRIU was called %q, %v", calls, err)
	}
	var stdio []string
	if err := json.Unmarshal([]byte(files["checkpoint/descriptors.json"]), &stdio); err != nil || len(stdio) != 3 || stdio[0] != "/dev/null" || stdio[1] == stdio[2] {
		t.Errorf("stdio is %q, %v", stdio, err)
	}
	for _, arg := range []string{fmt.Sprintf("dump --no-default-config --tree %d --leave-running ", st.Pid), "]:extRootNetNS", "--external mnt[/etc/hosts]:/etc/hosts",
		"--external " + stdio[1], "--external " + stdio[2], "--freeze-cgroup /sys/fs/cgroup"} {
		if !strings.Contains(calls[1]+" ", arg) {
			t.Errorf("CRIU was not given %q: %s", arg, calls[1])
		}
	}
	if still := readFile(t, filepath.Join(notes, "still")); strings.Count(still, "1")+strings.Count(still, "FROZEN") != 1 {
		t.Errorf("while one container was saved these stood still: %s", still)
	}
	if err := n.save(t, id, location); err != nil { // again, and CRIU is not asked again whether it works
		t.Error(err)
	}
	if calls := readFile(t, filepath.Join(notes, "calls")); strings.Count(calls, "check ") != 1 {
		t.Errorf("CRIU was called %s", calls)
	}
}

// CheckpointPod's contract: all stand still before the first is saved and until
// the last one is, nothing is written elsewhere.
func TestCheckpointOfAPodIsOneMoment(t *testing.T) {
	n, notes := newCheckpointNode(t)
	podID, id := n.up(t, "moment", "/bin/sleep", "600")
	other := n.second(t, podID, "second", func(*spec.Container) {})
	dir := t.TempDir()
	if err := n.CheckpointPod(t.Context(), pod.ViewAll, podID, dir, []string{other, id}, nil); err != nil {
		t.Fatal(err)
	}
	n.goesOn(t, id, other)
	still := strings.Split(strings.TrimSpace(readFile(t, filepath.Join(notes, "still"))), "\n")
	if len(still) != 2 {
		t.Errorf("%d containers were saved: %q", len(still), still)
	}
	for i, line := range still {
		if strings.Count(line, "1")+strings.Count(line, "FROZEN") != 2 {
			t.Errorf("at dump %d the containers of the pod were %q, want both frozen", i, line)
		}
	}
	want := []string{id + ".tar", other + ".tar", "pod.json", "pod.mac"}
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Fatalf("the checkpoint has %q, want %q", got, want)
	}
	index := readFile(t, filepath.Join(dir, "pod.json"))
	for _, text := range []string{`"version": 2`, `"id": "` + podID + `"`, `"name": "main"`, `"name": "second"`, `"archive": "` + other + `.tar"`} {
		if !strings.Contains(index, text) {
			t.Errorf("pod.json has no %s: %s", text, index)
		}
	}
	for _, c := range []string{id, other} {
		if diff := untar(t, filepath.Join(dir, c+".tar"))["rootfs-diff.tar"]; diff != "what "+c+" changed" {
			t.Errorf("the diff of %s is %q", c, diff)
		}
	}
}

// What is refused leaves no trace and calls no CRIU.
func TestCheckpointsThatAreRefused(t *testing.T) {
	n, notes := newCheckpointNode(t)
	podID, id := n.up(t, "refused", "/bin/sleep", "600")
	other := n.second(t, podID, "second", func(*spec.Container) {})
	_, stranger := n.up(t, "stranger", "/bin/sleep", "600")
	full := t.TempDir()
	writeFile(t, filepath.Join(full, "mine"), "")
	empty := t.TempDir()
	for name, c := range map[string]struct {
		dir     string
		ids     []string
		options map[string]string
		kind    errkind.Kind
	}{
		"no container":      {empty, nil, nil, errkind.InvalidArgument},
		"one that runs not": {empty, []string{id}, nil, errkind.FailedPrecondition},
		"one twice":         {empty, []string{id, other, id}, nil, errkind.InvalidArgument},
		"a stranger":        {empty, []string{id, other, stranger}, nil, errkind.InvalidArgument},
		"an absent one":     {empty, []string{id, other, strings.Repeat("0", 64)}, nil, errkind.NotFound},
		"an option":         {empty, []string{id, other}, map[string]string{"leave-stopped": "true"}, errkind.InvalidArgument},
		"a full directory":  {full, []string{id, other}, nil, errkind.InvalidArgument},
		"no directory":      {filepath.Join(empty, "absent"), []string{id, other}, nil, errkind.InvalidArgument},
		"a relative one":    {"checkpoint", []string{id, other}, nil, errkind.InvalidArgument},
	} {
		if err := n.CheckpointPod(t.Context(), pod.ViewAll, podID, c.dir, c.ids, c.options); !errkind.Is(err, c.kind) {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
	made, err := n.Create(t.Context(), pod.ViewAll, podID, containerConfig("made", "/bin/sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	terminal := containerConfig("terminal", "/bin/sleep", "600")
	terminal.TTY = true
	onHost := containerConfig("host", "/bin/sleep", "600")
	onHost.Security.Namespaces.PID = spec.ModeNode
	hostPod := podConfig("host")
	hostPod.Namespaces.PID = spec.ModeNode
	hostPodID, err := n.Run(t.Context(), pod.ViewAll, hostPod)
	if err != nil {
		t.Fatal(err)
	}
	containers := map[string]string{"one that is only created": made}
	for what, c := range map[string]spec.Container{"one with a terminal": terminal, "one in the host's PID namespace": onHost} {
		in := podID
		if c.Security.Namespaces.PID == spec.ModeNode {
			in = hostPodID
		}
		cid, err := n.Create(t.Context(), pod.ViewAll, in, c)
		if err == nil {
			err = n.Start(t.Context(), pod.ViewAll, cid)
		}
		if err != nil {
			t.Fatal(err)
		}
		containers[what] = cid
	}
	for what, cid := range containers {
		if err := n.save(t, cid, filepath.Join(empty, "c.tar")); !errkind.Is(err, errkind.FailedPrecondition) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, location := range map[string]string{"a relative file": "c.tar", "a path with ..": empty + "/../c.tar", "a directory": empty + "/"} {
		if err := n.save(t, id, location); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := n.CheckpointContainer(t.Context(), pod.ViewAll, id, filepath.Join(empty, "c.tar"), -1); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a negative time: %v", err)
	}
	if err := n.CheckpointContainer(t.Context(), pod.ViewKubelet, id, filepath.Join(empty, "c.tar"), 0); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a local container by the kubelet's socket: %v", err)
	}
	n.goesOn(t, id, other)
	if got := append(names(t, empty), names(t, full)...); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("what was refused left %q", got)
	}
	if _, err := os.Stat(filepath.Join(notes, "still")); err == nil {
		t.Error("what was refused was saved")
	}
}

// However a checkpoint ends, what it stopped goes on and what it wrote is gone.
func TestCheckpointThatFails(t *testing.T) {
	n, notes := newCheckpointNode(t)
	podID, id := n.up(t, "fails", "/bin/sleep", "600")
	other := n.second(t, podID, "second", func(*spec.Container) {})
	dir := t.TempDir()
	location := filepath.Join(dir, "c.tar")
	both := func(ctx context.Context) error {
		return n.CheckpointPod(ctx, pod.ViewAll, podID, dir, []string{id, other}, nil)
	}
	writeFile(t, filepath.Join(notes, "mode"), "fail")
	for what, err := range map[string]error{"container": n.save(t, id, location), "pod": both(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "unix: a socket leads outside") {
			t.Errorf("%s: %v", what, err)
		}
		n.goesOn(t, id, other)
	}
	writeFile(t, filepath.Join(notes, "mode"), "hang")
	if err := n.CheckpointContainer(t.Context(), pod.ViewAll, id, location, time.Second); !errkind.Is(err, errkind.DeadlineExceeded) {
		t.Errorf("a container whose time is over: %v", err)
	}
	n.goesOn(t, id, other)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := both(ctx); !errkind.Is(err, errkind.DeadlineExceeded) {
		t.Errorf("a pod whose time is over: %v", err)
	}
	n.goesOn(t, id, other)
	writeFile(t, filepath.Join(notes, "mode"), "works")
	writeFile(t, filepath.Join(notes, "endless"), "")
	if err := n.CheckpointContainer(t.Context(), pod.ViewAll, id, location, time.Second); !errkind.Is(err, errkind.DeadlineExceeded) {
		t.Errorf("a container that changed more than can be written in time: %v", err)
	}
	n.goesOn(t, id, other)
	if err := os.Remove(filepath.Join(notes, "endless")); err != nil {
		t.Fatal(err)
	}
	if err := n.save(t, id, filepath.Join(dir, "absent", "c.tar")); err == nil {
		t.Error("an archive was written into a directory that is absent")
	}
	n.goesOn(t, id, other)
	if got := names(t, dir); len(got) > 0 {
		t.Errorf("what failed left %q", got)
	}
	if err := both(t.Context()); err != nil {
		t.Errorf("after the failures: %v", err)
	}
}

// A container that stands still for a checkpoint can be killed, which ends both.
func TestStopDuringACheckpoint(t *testing.T) {
	n, notes := newCheckpointNode(t)
	podID, id := n.up(t, "stopped", "/bin/sleep", "600")
	writeFile(t, filepath.Join(notes, "mode"), "hang")
	result := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		result <- n.CheckpointContainer(ctx, pod.ViewAll, id, filepath.Join(notes, "c.tar"), time.Minute)
	}()
	eventually(t, "the dump", func() bool { _, err := os.Stat(filepath.Join(notes, "hangs")); return err == nil })
	stopped := make(chan error, 1)
	go func() { stopped <- n.StopContainer(context.WithoutCancel(ctx), pod.ViewAll, id, 0) }()
	eventually(t, "the kill", func() bool { procs, err := cgroup.Procs(n.group(id)); return err == nil && len(procs) == 0 })
	cancel() // the stand-in knows nothing of the end of what it dumps
	if err := <-result; !errkind.Is(err, errkind.Canceled) {
		t.Errorf("the checkpoint: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if st := n.ended(t, id); st.ExitCode != 137 {
		t.Errorf("exit code %d", st.ExitCode)
	}
	if err := n.Remove(t.Context(), pod.ViewAll, podID); err != nil {
		t.Error(err)
	}
}

// A daemon that was killed during a checkpoint has left its record; the next
// one lets go on what stands still, and removes what was written.
func TestCheckpointIsUndoneAfterACrash(t *testing.T) {
	n, notes := newCheckpointNode(t)
	_, id := n.up(t, "crash", "/bin/sleep", "600")
	dir := t.TempDir()
	writeFile(t, filepath.Join(notes, "mode"), "hang")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() {
		result <- n.CheckpointContainer(ctx, pod.ViewAll, id, filepath.Join(dir, "c.tar"), time.Minute)
	}()
	eventually(t, "the dump", func() bool { _, err := os.Stat(filepath.Join(notes, "hangs")); return err == nil })
	// What a kill would leave on disk and in the kernel at this moment.
	row := filepath.Join(n.cfg.Root, "containers", id+".json")
	killed := readFile(t, row)
	cancel()
	if err := <-result; err == nil {
		t.Fatal("a checkpoint that hangs succeeded")
	}
	stray := filepath.Join(n.cfg.Root, "checkpoints", id)
	if err := os.MkdirAll(stray, 0o700); err != nil {
		t.Fatal(err)
	}
	if problems, err := n.Check(t.Context()); err != nil || len(problems) != 1 || problems[0].Object != stray {
		t.Errorf("of a directory that no checkpoint makes the check says %v, %v", problems, err)
	}
	n.Close()
	writeFile(t, row, "%s", killed)
	var record struct{ Checkpoint []string }
	if err := json.Unmarshal([]byte(killed), &record); err != nil || len(record.Checkpoint) != 2 {
		t.Fatalf("the record tells of %q, %v", record.Checkpoint, err)
	}
	if err := os.MkdirAll(filepath.Join(record.Checkpoint[0], "checkpoint"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, record.Checkpoint[1], "half an archive")
	if err := cgroup.Freeze(t.Context(), n.group(id)); err != nil {
		t.Fatal(err)
	}
	n.boot(t)
	n.goesOn(t, id)
	if got := names(t, dir); len(got) > 0 {
		t.Errorf("the crash left %q", got)
	}
	writeFile(t, filepath.Join(notes, "mode"), "works")
	if err := n.save(t, id, filepath.Join(dir, "c.tar")); err != nil {
		t.Errorf("after the crash: %v", err)
	}
	if strings.Contains(readFile(t, row), `"checkpoint"`) {
		t.Error("the record still tells of a checkpoint")
	}
}

// Where there are no checkpoints the error is Unimplemented and says what to do.
func TestCheckpointsThatCannotBe(t *testing.T) {
	n, notes := newCheckpointNode(t)
	podID, id := n.up(t, "cannot", "/bin/sleep", "600")
	program := n.cfg.Checkpoint.CRIU
	location := filepath.Join(notes, "c.tar")
	for what, c := range map[string]struct{ program, mode, says string }{
		"off":    {"", "works", "enabled = true"},
		"absent": {filepath.Join(notes, "none"), "works", "install CRIU"},
		"broken": {program, "broken", "vdso: Unexpected rt vDSO area bounds"},
	} {
		n.with(t, func(cfg *pod.Config) { cfg.Checkpoint.CRIU = c.program })
		writeFile(t, filepath.Join(notes, "mode"), "%s", c.mode)
		_, _, restore := n.RestorePod(t.Context(), pod.ViewAll, t.TempDir(), podConfig("restored"), []spec.Container{containerConfig("main")}, nil)
		for _, err := range []error{n.save(t, id, location), n.CheckpointPod(t.Context(), pod.ViewAll, podID, t.TempDir(), []string{id}, nil), restore} {
			if !errkind.Is(err, errkind.Unimplemented) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	n.with(t, func(cfg *pod.Config) { cfg.Checkpoint.CRIU = program })
	writeFile(t, filepath.Join(notes, "mode"), "works")
	if err := n.save(t, id, location); err != nil {
		t.Errorf("after it was mended: %v", err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
