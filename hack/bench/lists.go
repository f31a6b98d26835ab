package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// A kubelet asks for statistics every ten seconds: the calls are as far apart
// as it takes that none is answered from what the one before has read.
const (
	statsCalls = 10
	statsGap   = 1100 * time.Millisecond
	listCalls  = 100
)

// runningSizes are how many containers run, two in a pod, when statistics are
// asked for. allContainers is how many there are when lists are: those that
// were added are created and not started, which no list tells apart.
var runningSizes = []int{10, 100, 500}

const (
	perPod        = 2
	allContainers = 1000
)

// endpoint is a CRI socket on trial.
type endpoint struct {
	name       string
	socket     string
	runtime    criv1.RuntimeServiceClient
	pid        int // of who serves it: its CPU time is what counts, not that of processes it asks
	pods       []string
	containers []string
}

// calls prints what the calls of a node's day take: execs, logs, statistics and
// lists, as what says.
func calls(ctx context.Context, what, peer string) (err error) {
	l, err := lab.New(lab.Options{LogLevel: 1})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Minute)
		defer cancel()
		if l.Running() {
			err = errors.Join(err, l.RemoveAll(end))
		}
		err = errors.Join(err, l.Close(end))
	}()
	image, err := prepare(ctx, l)
	if err != nil {
		return err
	}
	own, err := newEndpoint(ctx, "berth", l.Socket, l.Conn())
	if err != nil {
		return err
	}
	all := []*endpoint{own}
	if peer != "" {
		socket := strings.TrimPrefix(peer, "unix://")
		conn, err := l.Dial(socket)
		if err != nil {
			return err
		}
		defer conn.Close()
		other, err := newEndpoint(ctx, "peer", socket, conn)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, other.removeAll(context.WithoutCancel(ctx))) }()
		pull := &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: image}}
		if _, err := criv1.NewImageServiceClient(conn).PullImage(ctx, pull); err != nil {
			return fmt.Errorf("cannot pull with %s: %w", peer, err)
		}
		all = append(all, other)
	}
	if what != "lists" {
		if err := logs(ctx, l, all, image); err != nil {
			return err
		}
	}
	if what == "logs" {
		return nil
	}
	fmt.Printf("\n  %-44s %12s %12s %14s\n", "calls", "p50", "p95", "CPU each")
	for _, size := range runningSizes {
		for _, e := range all {
			if err := e.run(ctx, l, image, size); err != nil {
				return err
			}
			if size == runningSizes[0] {
				if err := e.printExec(ctx); err != nil {
					return err
				}
			}
			if err := e.printStats(ctx, size); err != nil {
				return err
			}
		}
	}
	for _, e := range all {
		if err := e.fill(ctx, l, image, allContainers); err != nil {
			return err
		}
		if err := e.printLists(ctx); err != nil {
			return err
		}
	}
	return nil
}

// newEndpoint finds out who serves the socket.
func newEndpoint(ctx context.Context, name, socket string, conn *grpc.ClientConn) (*endpoint, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) {
		peer, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || optErr != nil {
		return nil, errors.Join(err, optErr)
	}
	return &endpoint{name: name, socket: socket, runtime: criv1.NewRuntimeServiceClient(conn), pid: int(peer.Pid)}, nil
}

// run has pods until there run so many containers in them.
func (e *endpoint) run(ctx context.Context, l *lab.Lab, image string, containers int) error {
	from := len(e.pods)
	e.pods = append(e.pods, make([]string, containers/perPod-from)...)
	e.containers = append(e.containers, make([]string, containers-len(e.containers))...)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for n := from; n < len(e.pods); n++ {
		g.Go(func() error {
			config := l.PodConfig(fmt.Sprintf("%s%d", e.name, n))
			pod, err := e.runtime.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
			if err != nil {
				return fmt.Errorf("RunPodSandbox: %w", err)
			}
			e.pods[n] = pod.PodSandboxId
			for c := n * perPod; c < (n+1)*perPod; c++ {
				if e.containers[c], err = e.create(ctx, config, pod.PodSandboxId, fmt.Sprintf("c%d", c), image); err != nil {
					return err
				}
				if _, err = e.runtime.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: e.containers[c]}); err != nil {
					return fmt.Errorf("StartContainer: %w", err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (e *endpoint) create(ctx context.Context, config *criv1.PodSandboxConfig, pod, name, image string) (string, error) {
	c, err := e.runtime.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: pod, SandboxConfig: config,
		Config: lab.ContainerConfig(name, image, "sleep", "100000")})
	if err != nil {
		return "", fmt.Errorf("CreateContainer: %w", err)
	}
	return c.ContainerId, nil
}

// fill creates containers in the pods until there are so many.
func (e *endpoint) fill(ctx context.Context, l *lab.Lab, image string, containers int) error {
	from := len(e.containers)
	e.containers = append(e.containers, make([]string, containers-from)...)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for n := from; n < containers; n++ {
		g.Go(func() (err error) {
			pod := n % len(e.pods)
			e.containers[n], err = e.create(ctx, l.PodConfig(fmt.Sprintf("%s%d", e.name, pod)), e.pods[pod], fmt.Sprintf("c%d", n), image)
			return err
		})
	}
	return g.Wait()
}

func (e *endpoint) removeAll(ctx context.Context) error {
	var errs []error
	for _, id := range e.pods {
		if id == "" {
			continue
		}
		_, stop := e.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id})
		_, remove := e.runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id})
		errs = append(errs, stop, remove)
	}
	return errors.Join(errs...)
}

// execCalls are execs one after another, as probes are.
const execCalls = 100

// printExec prints ExecSync, with the CPU time of the whole machine: most of it
// is of processes that end in the call.
func (e *endpoint) printExec(ctx context.Context) error {
	var s samples
	for n := range execCalls + 1 {
		if n == 1 {
			s = samples{} // one to warm up
		}
		err := s.take(func() error {
			r, err := e.runtime.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: e.containers[n%len(e.containers)], Cmd: []string{"/bin/true"}, Timeout: 10})
			if err == nil && r.ExitCode != 0 {
				err = fmt.Errorf("it ended with %d: %s", r.ExitCode, r.Stderr)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("ExecSync: %w", err)
		}
	}
	slices.Sort(s.took)
	const digits = 10 * time.Microsecond
	fmt.Printf("  %-6s %-37s %12s %12s %14s\n", e.name, "ExecSync /bin/true (CPU of all)", s.took[execCalls/2].Round(digits), s.took[execCalls*95/100].Round(digits), (s.cpu / execCalls).Round(digits))
	return nil
}

func (e *endpoint) printStats(ctx context.Context, size int) error {
	err := e.print(fmt.Sprintf("ListContainerStats, %d", size), statsCalls, statsGap, func(int) error {
		r, err := e.runtime.ListContainerStats(ctx, &criv1.ListContainerStatsRequest{})
		return wants(size, len(r.GetStats()), err)
	})
	if err != nil {
		return err
	}
	return e.print(fmt.Sprintf("ListPodSandboxStats, %d in %d", size, len(e.pods)), statsCalls, statsGap, func(int) error {
		r, err := e.runtime.ListPodSandboxStats(ctx, &criv1.ListPodSandboxStatsRequest{})
		return wants(len(e.pods), len(r.GetStats()), err)
	})
}

func (e *endpoint) printLists(ctx context.Context) error {
	return errors.Join(
		e.print(fmt.Sprintf("ListContainers, %d", len(e.containers)), listCalls, 0, func(int) error {
			r, err := e.runtime.ListContainers(ctx, &criv1.ListContainersRequest{})
			return wants(len(e.containers), len(r.GetContainers()), err)
		}),
		e.print(fmt.Sprintf("ListPodSandbox, %d", len(e.pods)), listCalls, 0, func(int) error {
			r, err := e.runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
			return wants(len(e.pods), len(r.GetItems()), err)
		}),
		e.print(fmt.Sprintf("ContainerStatus, one of %d", len(e.containers)), listCalls, 0, func(n int) error {
			_, err := e.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: e.containers[n*7%len(e.containers)]})
			return err
		}),
		e.print(fmt.Sprintf("PodSandboxStatus, one of %d", len(e.pods)), listCalls, 0, func(n int) error {
			_, err := e.runtime.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: e.pods[n*7%len(e.pods)]})
			return err
		}),
		e.print("Status", listCalls, 0, func(int) error {
			_, err := e.runtime.Status(ctx, &criv1.StatusRequest{})
			return err
		}),
	)
}

// wants refuses the figures of a list that is not what was asked for.
func wants(want, got int, err error) error {
	if err == nil && got != want {
		return fmt.Errorf("%d are listed, want %d: is the endpoint used by others?", got, want)
	}
	return err
}

// print takes the time and the server's CPU time of calls, after one to warm up.
func (e *endpoint) print(what string, calls int, gap time.Duration, call func(n int) error) error {
	if err := call(0); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var took []time.Duration
	cpu := cpuOf([]int{e.pid})
	for n := range calls {
		time.Sleep(gap)
		begin := time.Now()
		if err := call(n); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		took = append(took, time.Since(begin))
	}
	cpu = (cpuOf([]int{e.pid}) - cpu) / time.Duration(calls)
	slices.Sort(took)
	const digits = 10 * time.Microsecond
	fmt.Printf("  %-6s %-37s %12s %12s %14s\n", e.name, what, took[calls/2].Round(digits), took[calls*95/100].Round(digits), cpu.Round(digits))
	return nil
}
