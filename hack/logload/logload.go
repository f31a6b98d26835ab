// Package logload makes a container write both streams of its log at full
// speed while a kubelet rotates the log and processes of the runtime are
// killed, and reads the log back byte for byte: from its files, and from a
// `berth logs -f` that followed meanwhile. It is for the tests of logs.
package logload

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// Load is what happens to one log.
type Load struct {
	Name        string        // of the pod
	Bytes       int64         // of the log's files together, at least
	RotateEvery time.Duration // as a kubelet does, which compresses old files
	DaemonKills int           // with SIGKILL; the daemon is started again at once
	ShimKills   int
}

// Result is what came of it.
type Result struct {
	Bytes     int64
	Rotations int
	TakenBack int // rotations among them that the kubelet took back
	Wrote     time.Duration
	// Lost is what the log lacks of each stream, in bytes. A shim that is killed
	// takes with it what it has in hand.
	Lost map[string]int64
}

// block is how many lines one seq prints, each but the last with filler.
const block = 50_000

var filler = " " + strings.Repeat("abcdefghijklm", 5)

// script counts on both streams until the gate says stop, and then says how far
// it came.
const script = `flow() { i=0; while ! [ -e /gate/stop ]; do seq -s "$SEP" $i $((i+49999)); i=$((i+50000)); done; echo end $i; }
flow & flow >&2; wait`

// Run runs the load with image, which has a shell and seq, and checks the log.
func (o Load) Run(ctx context.Context, l *lab.Lab, image string) (r Result, err error) {
	gate := filepath.Join(l.Dir, "gate")
	if err := os.Mkdir(gate, 0o755); err != nil {
		return r, err
	}
	defer func() { _ = os.RemoveAll(gate) }()
	config, pod := lab.ContainerConfig("c", image, "sh", "-c", script), l.PodConfig(o.Name)
	config.Envs = []*criv1.KeyValue{{Key: "SEP", Value: []byte(filler + "\n")}}
	config.Mounts = []*criv1.Mount{{HostPath: gate, ContainerPath: "/gate", Readonly: true}}
	_, id, err := l.RunPod(ctx, pod, config)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	conn, err := l.Dial(l.Socket)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	k := &kubelet{path: filepath.Join(pod.LogDirectory, config.LogPath), container: id, runtime: criv1.NewRuntimeServiceClient(conn)}
	follower, err := follow(ctx, l, id, o.ShimKills > 0)
	if err != nil {
		return r, err
	}
	rotating, endRotating := context.WithCancel(ctx)
	var rotator sync.WaitGroup
	rotator.Go(func() { k.rotate(rotating, o.RotateEvery) })
	err = o.kill(ctx, l, k)
	r.Wrote = time.Since(begin)
	// The last of it is written while the log is rotated.
	err = errors.Join(err, os.WriteFile(filepath.Join(gate, "stop"), nil, 0o644), exited(ctx, conn, id))
	endRotating()
	rotator.Wait()
	if err = errors.Join(err, k.err); err != nil {
		return r, errors.Join(err, follower.kill())
	}
	if r.Bytes, err = k.size(); err != nil {
		return r, errors.Join(err, follower.kill())
	}
	r.Rotations, r.TakenBack = len(k.rotated)+k.takenBack, k.takenBack
	files := newReader(o.ShimKills > 0)
	if err := k.read(files); err != nil {
		return r, errors.Join(err, follower.kill())
	}
	r.Lost = files.lost()
	if err := files.done(); err != nil {
		return r, errors.Join(fmt.Errorf("in the log's files: %w", err), follower.kill())
	}
	if err := follower.wait(); err != nil {
		return r, fmt.Errorf("in what berth logs -f printed: %w", err)
	}
	return r, nil
}

// kill kills what is to be killed, at equal distances of the log's size.
func (o Load) kill(ctx context.Context, l *lab.Lab, k *kubelet) error {
	all := o.DaemonKills + o.ShimKills
	for n := 1; n <= all+1; n++ {
		if err := k.reaches(ctx, o.Bytes*int64(n)/int64(all+1)); err != nil {
			return err
		}
		switch {
		case n > all:
		case n > o.DaemonKills:
			if killed, err := l.KillShims(ctx); err != nil || killed == 0 {
				return fmt.Errorf("killed %d shims: %w", killed, err)
			}
		default:
			l.Kill()
			if err := l.Start(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

func exited(ctx context.Context, conn *grpc.ClientConn, id string) error {
	return lab.Eventually(ctx, 2*time.Minute, func() error {
		r, err := criv1.NewRuntimeServiceClient(conn).ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id})
		if err == nil && r.Status.State != criv1.ContainerState_CONTAINER_EXITED {
			err = errors.New("the container has not ended")
		}
		return err
	})
}

// kubelet rotates one log, by the kubelet's rules.
type kubelet struct {
	path, container string
	runtime         criv1.RuntimeServiceClient

	mu        sync.Mutex
	rotated   []string // guarded by mu, as all below; the oldest first
	bytes     int64    // in rotated files, before they were compressed
	takenBack int
	err       error // of the rotator
}

func (k *kubelet) rotate(ctx context.Context, every time.Duration) {
	for n, ended := 0, false; !ended; n++ {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		k.mu.Lock()
		if k.err = k.rotateOnce(ctx, n); k.err != nil {
			k.err = fmt.Errorf("cannot rotate: %w", k.err)
			ended = true
		}
		k.mu.Unlock()
	}
}

// rotateOnce is called with mu held.
func (k *kubelet) rotateOnce(ctx context.Context, n int) error {
	rotated := fmt.Sprintf("%s.%06d", k.path, n)
	if err := os.Rename(k.path, rotated); err != nil {
		return err
	}
	_, err := k.runtime.ReopenContainerLog(ctx, &criv1.ReopenContainerLogRequest{ContainerId: k.container})
	// An answer may also be lost with a daemon that was killed.
	if err != nil || n%3 == 2 {
		k.takenBack++
		return os.Rename(rotated, k.path)
	}
	k.rotated = append(k.rotated, rotated)
	st, err := os.Stat(rotated)
	if err != nil {
		return err
	}
	k.bytes += st.Size()
	if last := len(k.rotated) - 2; last >= 0 && n%4 == 0 {
		if err := compress(k.rotated[last]); err != nil {
			return err
		}
		k.rotated[last] += ".gz"
	}
	return nil
}

func compress(path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	defer out.Close()
	z, err := gzip.NewWriterLevel(out, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(z, in)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return err
	}
	return errors.Join(os.Rename(path+".tmp", path+".gz"), os.Remove(path))
}

// size is that of the log's files together.
func (k *kubelet) size() (int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	st, err := os.Stat(k.path)
	if err = errors.Join(k.err, err); err != nil {
		return 0, err
	}
	return k.bytes + st.Size(), nil
}

func (k *kubelet) reaches(ctx context.Context, size int64) error {
	return lab.Eventually(ctx, 5*time.Minute, func() error {
		now, err := k.size()
		if err == nil && now < size {
			err = fmt.Errorf("the log stands at %d bytes, want %d", now, size)
		}
		return err
	})
}

// entry is the form of a line, to the byte.
var entry = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([PF]) `)

// read gives the streams, as the entries of all files tell them.
func (k *kubelet) read(to *reader) error {
	for _, path := range append(k.rotated, k.path) {
		if err := readFile(path, to); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func readFile(path string, to *reader) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return err
		}
	}
	br := bufio.NewReaderSize(in, 64<<10)
	for n := 1; ; n++ {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		m := entry.FindSubmatch(line)
		if err != nil || m == nil {
			return fmt.Errorf("line %d is no entry: %.100q, %w", n, line, err)
		}
		text := line[len(m[0]):]
		if m[2][0] == 'P' {
			text = text[:len(text)-1]
		}
		to.streams[string(m[1])].take(text)
	}
}

// reader checks both streams of the script.
type reader struct {
	streams map[string]*counting
}

// newReader makes a reader that forgives gaps or not.
func newReader(gaps bool) *reader {
	return &reader{map[string]*counting{"stdout": {gaps: gaps}, "stderr": {gaps: gaps}}}
}

func (r *reader) lost() map[string]int64 {
	lost := map[string]int64{}
	for name, s := range r.streams {
		lost[name] = s.lost
	}
	return lost
}

func (r *reader) done() (err error) {
	for name, s := range r.streams {
		switch {
		case s.err != nil:
			err = errors.Join(err, fmt.Errorf("%s: %w", name, s.err))
		case !s.ended || len(s.begun) > 0:
			err = errors.Join(err, fmt.Errorf("%s ends after number %d: %q", name, s.next-1, s.begun))
		}
	}
	return err
}

// counting checks the text of one stream as it comes.
type counting struct {
	gaps  bool
	next  int64
	begun []byte
	lost  int64
	ended bool
	err   error
}

func (c *counting) take(p []byte) {
	for c.err == nil && len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			c.begun = append(c.begun, p...)
			return
		}
		line := p[:i]
		if len(c.begun) > 0 {
			line = append(c.begun, line...)
			c.begun = nil
		}
		c.err = c.line(string(line))
		p = p[i+1:]
	}
}

// Write takes what a command prints.
func (c *counting) Write(p []byte) (int, error) {
	c.take(p)
	return len(p), nil
}

// text is that of a line.
func text(number int64) string {
	if number%block == block-1 {
		return strconv.FormatInt(number, 10)
	}
	return strconv.FormatInt(number, 10) + filler
}

func (c *counting) line(got string) error {
	switch want := text(c.next); {
	case c.ended:
		return fmt.Errorf("%.100q comes after the end", got)
	case got == want:
		c.next++
		return nil
	case got == fmt.Sprintf("end %d", c.next):
		c.ended = true
		return nil
	case !c.gaps:
		return fmt.Errorf("got %.100q, want %q", got, want)
	}
	// Of a gap whole lines remain on both sides, and the two parts of lines cut
	// by it, in one or in two pieces.
	number, _, _ := strings.Cut(got, " ")
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n > c.next && got == text(n) {
		for ; c.next < n; c.next++ {
			c.lost += int64(len(text(c.next)) + 1)
		}
		c.next++
	}
	return nil
}

// follower is a berth logs -f.
type follower struct {
	cmd  *exec.Cmd
	text *reader
}

func follow(ctx context.Context, l *lab.Lab, id string, gaps bool) (*follower, error) {
	f := &follower{text: newReader(gaps)}
	f.cmd = exec.CommandContext(ctx, filepath.Join(l.Clone, "bin/berth"), "--socket", l.Socket, "logs", "-f", id)
	out := &first{Writer: f.text.streams["stdout"], came: make(chan struct{})}
	f.cmd.Stdout, f.cmd.Stderr = out, f.text.streams["stderr"]
	if err := f.cmd.Start(); err != nil {
		return nil, err
	}
	// From here on a killed daemon does not end it.
	select {
	case <-out.came:
		return f, nil
	case <-time.After(time.Minute):
		return nil, errors.Join(fmt.Errorf("berth logs -f printed nothing of a log that is written"), f.kill())
	}
}

// first tells when something was written.
type first struct {
	io.Writer
	once sync.Once
	came chan struct{}
}

func (f *first) Write(p []byte) (int, error) {
	f.once.Do(func() { close(f.came) })
	return f.Writer.Write(p)
}

func (f *follower) kill() error {
	_ = f.cmd.Process.Kill()
	_ = f.cmd.Wait()
	return nil
}

func (f *follower) wait() error {
	err := f.cmd.Wait()
	return errors.Join(err, f.text.done())
}
