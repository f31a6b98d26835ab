// Command bench prints what a node costs. Of pods: memory of daemon and shim
// with 0, 10 and 50 idle ones, and the latencies of a pod's life with the CPU
// time of everything that took part. Of pulls: time, CPU and memory of an image
// of about 300 MB from a local registry, beside what decompression, hashing
// and writing take by themselves. Of lists: time and CPU of an exec, of asking
// for the statistics of 10, 100 and 500 containers, and for all of 1,000. Of
// logs: MB/s, and CPU for each, of one container and of ten. Of networks: a
// pod's life on the embedded one and on one of CNI's plugins. The last four
// beside another CRI endpoint if one is given. It asserts nothing; figures are
// for people.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// rounds is how many lives the latencies are taken from.
const rounds = 40

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer cancel()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "bench needs root. Run: sudo make bench")
		os.Exit(1)
	}
	if len(os.Args) > 3 && os.Args[1] == floorVerb {
		if err := runFloor(os.Args[2], decoders(os.Args[3]), os.Args[4:]); err != nil {
			fmt.Fprintln(os.Stderr, "floor:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	what := flag.String("what", "all", "pods, networks, pull, lists, logs or all")
	peer := flag.String("peer", "", "CRI socket to pull, list and log beside, such as unix:///run/containerd/containerd.sock")
	port := flag.Int("registry-port", 0, "port of the loopback where the peer expects the registry; 0: any")
	dir := flag.String("dir", "", "directory for what is pulled and for the floor, on the file system to measure, which should be the peer's; empty: in the clone")
	pullRounds := flag.Int("pull-rounds", 5, "pulls of each image")
	flag.Parse()
	if !slices.Contains([]string{"pods", "networks", "pull", "lists", "logs", "all"}, *what) || *pullRounds < 1 {
		return fmt.Errorf("cannot bench %q in %d rounds: see -help", *what, *pullRounds)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Printf("%d CPUs, Linux %s\n", runtime.NumCPU(), unix.ByteSliceToString(uts.Release[:]))
	if *what == "lists" || *what == "logs" || *what == "all" {
		if err := calls(ctx, *what, *peer); err != nil {
			return err
		}
	}
	if *what == "pull" || *what == "all" {
		if err := pulls(ctx, trial{*peer, *port, *dir, *pullRounds}); err != nil {
			return err
		}
	}
	if *what == "networks" || *what == "all" {
		if err := networks(ctx, *peer, *port); err != nil {
			return err
		}
	}
	if *what != "pods" && *what != "all" {
		return nil
	}
	for _, group := range []string{"node", "pod"} {
		if err := bench(ctx, group); err != nil {
			return fmt.Errorf("shim per %s: %w", group, err)
		}
	}
	return nil
}

func bench(ctx context.Context, group string) (err error) {
	l, err := lab.New(lab.Options{ShimGroup: group})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
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
	fmt.Printf("\nshim per %s\n  %-28s %12s %12s %14s\n", group, "idle pods", "berthd PSS", "shims PSS", "CPU in 2 s")
	if err := idle(ctx, l, image); err != nil {
		return err
	}
	fmt.Printf("  %-28s %12s %12s %14s\n", "", "p50", "p95", "CPU each")
	return lives(ctx, l, image)
}

func prepare(ctx context.Context, l *lab.Lab) (string, error) {
	if err := l.StartRegistry(ctx); err != nil {
		return "", err
	}
	return prepareWith(ctx, l)
}

// prepareWith is prepare with a registry that runs.
func prepareWith(ctx context.Context, l *lab.Lab) (string, error) {
	shell, err := testimage.Shell()
	if err != nil {
		return "", err
	}
	image := l.Registry + "/shell:1"
	if _, err := testimage.Push(ctx, image, shell); err != nil {
		return "", err
	}
	if err := l.Start(ctx); err != nil {
		return "", err
	}
	_, err = l.Pull(ctx, image)
	return image, err
}

// idle prints PSS at rest with more and more idle pods, and removes them.
func idle(ctx context.Context, l *lab.Lab, image string) error {
	var pods []string
	for _, want := range []int{0, 10, 50} {
		for len(pods) < want {
			id, _, err := l.RunPod(ctx, l.PodConfig(fmt.Sprintf("idle%d", len(pods))), lab.ContainerConfig("c", image, "sleep", "100000"))
			if err != nil {
				return err
			}
			pods = append(pods, id)
		}
		info, err := l.Admin().Info(ctx)
		if err != nil {
			return err
		}
		time.Sleep(time.Second) // the garbage of the last create
		daemon, err := pss(info.Pids.Daemon)
		if err != nil {
			return err
		}
		shims, err := pss(info.Pids.Shims...)
		if err != nil {
			return err
		}
		all := append(slices.Clone(info.Pids.Shims), info.Pids.Daemon)
		before := cpuOf(all)
		time.Sleep(2 * time.Second)
		fmt.Printf("  %-28d %12s %12s %14s\n", want, mebi(daemon), mebi(shims), cpuOf(all)-before)
	}
	for _, id := range pods {
		if err := l.RemovePod(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// lives prints the latencies of pods made and removed one after the other.
func lives(ctx context.Context, l *lab.Lab, image string) error {
	rt := criv1.NewRuntimeServiceClient(l.Conn())
	var ready, execs, gone samples
	for n := range rounds {
		var pod, container string
		err := ready.take(func() (err error) {
			pod, container, err = l.RunPod(ctx, l.PodConfig(fmt.Sprintf("life%d", n)), lab.ContainerConfig("c", image, "sleep", "100000"))
			return err
		})
		if err != nil {
			return err
		}
		err = execs.take(func() error {
			_, err := rt.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: container, Cmd: []string{"/bin/true"}, Timeout: 10})
			return err
		})
		if err != nil {
			return err
		}
		err = gone.take(func() error {
			if _, err := rt.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: container}); err != nil {
				return err
			}
			if _, err := rt.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: container}); err != nil {
				return err
			}
			return l.RemovePod(ctx, pod)
		})
		if err != nil {
			return err
		}
	}
	ready.print("pod ready (run+create+start)")
	execs.print("ExecSync /bin/true")
	gone.print("stop + remove")
	return nil
}
