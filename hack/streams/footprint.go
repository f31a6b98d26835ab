package streams

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berth-runtime/berth/hack/lab"
)

// Footprint is what daemon and shims hold at one moment.
type Footprint struct {
	Goroutines  int // of the daemon
	Descriptors int // of the daemon and of its shims
	Processes   int // children of the shims: containers, and what is executed in them
	Heap        int // bytes that the daemon still refers to
	DaemonPSS   int // bytes
	ShimPSS     int // bytes, of all shims
}

// Tolerances are by how much memory may grow with any number of sessions. What
// is referred to tells of a leak of some hundred bytes a session; a process'
// share also has pages that the allocator keeps of what was used once.
const (
	HeapTolerance   = 1 << 20
	DaemonTolerance = 12 << 20
	ShimTolerance   = 4 << 20
)

// Take counts, after a collection of the daemon's garbage.
func Take(ctx context.Context, l *lab.Lab) (Footprint, error) {
	info, err := l.Admin().Info(ctx)
	if err != nil {
		return Footprint{}, err
	}
	var f Footprint
	heap, err := debug(ctx, l, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return f, err
	}
	_, alloc, _ := strings.Cut(heap, "# HeapAlloc = ")
	if _, err := fmt.Sscan(alloc, &f.Heap); err != nil {
		return f, fmt.Errorf("cannot find the heap's size in the daemon's profile: %w", err)
	}
	profile, err := debug(ctx, l, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return f, err
	}
	if _, err := fmt.Sscanf(profile, "goroutine profile: total %d", &f.Goroutines); err != nil {
		return f, fmt.Errorf("cannot read the profile %q: %w", profile[:min(80, len(profile))], err)
	}
	if f.DaemonPSS, err = pss(l.Pid()); err != nil {
		return f, err
	}
	for _, pid := range append([]int{l.Pid()}, info.Pids.Shims...) {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			return f, err
		}
		f.Descriptors += len(fds)
	}
	for _, pid := range info.Pids.Shims {
		n, err := pss(pid)
		if err != nil {
			return f, err
		}
		f.ShimPSS += n
		if n, err = children(pid); err != nil {
			return f, err
		}
		f.Processes += n
	}
	return f, nil
}

// Exceeds tells by what f is more than before; nil if it is not.
func (f Footprint) Exceeds(before Footprint) error {
	var errs []error
	for _, c := range []struct {
		what              string
		now, was, allowed int
	}{
		{"goroutines", f.Goroutines, before.Goroutines, 0},
		{"descriptors", f.Descriptors, before.Descriptors, 0},
		{"processes", f.Processes, before.Processes, 0},
		{"bytes of the daemon's heap", f.Heap, before.Heap, HeapTolerance},
		{"bytes of PSS of the daemon", f.DaemonPSS, before.DaemonPSS, DaemonTolerance},
		{"bytes of PSS of the shim", f.ShimPSS, before.ShimPSS, ShimTolerance},
	} {
		if c.now > c.was+c.allowed {
			errs = append(errs, fmt.Errorf("%d %s, %d before, and %d more are allowed", c.now, c.what, c.was, c.allowed))
		}
	}
	return errors.Join(errs...)
}

// Settle waits until the footprint does not exceed the one before, and returns
// it; with the stacks of the daemon's goroutines in the error if it does.
func Settle(ctx context.Context, l *lab.Lab, before Footprint, within time.Duration) (now Footprint, err error) {
	err = lab.Eventually(ctx, within, func() (err error) {
		if now, err = Take(ctx, l); err == nil {
			err = now.Exceeds(before)
		}
		return err
	})
	if err != nil {
		stacks, _ := debug(ctx, l, "/debug/pprof/goroutine?debug=1")
		err = fmt.Errorf("%w\n%s", err, stacks)
	}
	return now, err
}

// debug asks the daemon's debug socket.
func debug(ctx context.Context, l *lab.Lab, path string) (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(l.State, "debug.sock"))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://debug"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), errors.Join(err, wantStatus(resp, http.StatusOK))
}

// pss is a process' share of memory in bytes.
func pss(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 1 && fields[0] == "Pss:" {
			kib, err := strconv.Atoi(fields[1])
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("process %d tells no PSS", pid)
}

// children counts those that a process has, dead ones too.
func children(pid int) (int, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0, err
	}
	n := 0
	for _, file := range tasks {
		b, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // a thread that has ended
			return 0, err
		}
		n += len(bytes.Fields(b))
	}
	return n, nil
}

// Rest waits until a footprint does not change any more, and returns it.
func Rest(ctx context.Context, l *lab.Lab) (Footprint, error) {
	last, err := Take(ctx, l)
	if err != nil {
		return last, err
	}
	err = lab.Eventually(ctx, time.Minute, func() error {
		was := last
		time.Sleep(500 * time.Millisecond)
		var err error
		if last, err = Take(ctx, l); err != nil {
			return err
		}
		if last.Goroutines != was.Goroutines || last.Descriptors != was.Descriptors || last.Processes != was.Processes {
			return fmt.Errorf("still changing: %+v, %+v before", last, was)
		}
		return nil
	})
	return last, err
}
