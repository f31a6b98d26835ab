package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// logRounds is how many times each load is written; the median counts.
const logRounds = 5

// logLoads are what containers write at once: so many of them, each so many
// times a file of linesSize in lines of that length, the newline included.
var logLoads = []struct{ containers, length, times int }{
	{1, 80, 16}, {1, 16 << 10, 16}, {10, 80, 2}, {10, 16 << 10, 2},
}

// linesSize is the size of the file that containers print, a multiple of all
// lengths: it is in the page cache, so that cat is much faster than any log.
const linesSize = 8 << 20 / (16 << 10) * (16 << 10)

// logs prints how fast the endpoints write logs.
func logs(ctx context.Context, l *lab.Lab, all []*endpoint, image string) error {
	fmt.Printf("\n  %-44s %12s %16s\n", "logs", "MB/s", "CPU ms per MB")
	for _, load := range logLoads {
		lines := filepath.Join(l.Dir, "lines")
		line := append(bytes.Repeat([]byte("x"), load.length-1), '\n')
		count := linesSize / load.length
		if err := os.WriteFile(lines, bytes.Repeat(line, count), 0o644); err != nil {
			return err
		}
		figures := map[*endpoint]*logFigures{}
		for range logRounds {
			for _, e := range all { // by turns
				if figures[e] == nil {
					figures[e] = &logFigures{}
				}
				if err := e.writeLogs(ctx, l, image, lines, load.containers, load.times, count, figures[e]); err != nil {
					return fmt.Errorf("%s: %w", e.name, err)
				}
			}
		}
		for _, e := range all {
			f := figures[e]
			slices.Sort(f.speed)
			slices.Sort(f.cpu)
			what := fmt.Sprintf("%d container, lines of %d bytes", load.containers, load.length)
			if load.containers > 1 {
				what = strings.Replace(what, "container", "containers", 1)
			}
			fmt.Printf("  %-6s %-37s %12.0f %16.2f\n", e.name, what, f.speed[logRounds/2], f.cpu[logRounds/2])
		}
	}
	return nil
}

// logFigures are those of the rounds of one load.
type logFigures struct {
	speed []float64 // MB of what containers wrote, a second
	cpu   []float64 // of the endpoint's processes, milliseconds per MB
}

// writeLogs has containers print the file so many times, from the start to the
// end of the last one, and looks whether all of it is in their logs.
func (e *endpoint) writeLogs(ctx context.Context, l *lab.Lab, image, lines string, containers, times, count int, f *logFigures) (err error) {
	var pods, ids, paths []string
	defer func() {
		for _, id := range pods {
			_, stop := e.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id})
			_, remove := e.runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id})
			err = errors.Join(err, stop, remove)
		}
	}()
	argv := []string{"cat"}
	for range times {
		argv = append(argv, "/lines")
	}
	for n := range containers {
		config := l.PodConfig(fmt.Sprintf("%slog%d", e.name, n))
		pod, err := e.runtime.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
		if err != nil {
			return fmt.Errorf("RunPodSandbox: %w", err)
		}
		pods = append(pods, pod.PodSandboxId)
		c := lab.ContainerConfig("c", image, argv...)
		c.Mounts = []*criv1.Mount{{HostPath: lines, ContainerPath: "/lines", Readonly: true}}
		made, err := e.runtime.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, SandboxConfig: config, Config: c})
		if err != nil {
			return fmt.Errorf("CreateContainer: %w", err)
		}
		ids, paths = append(ids, made.ContainerId), append(paths, filepath.Join(config.LogDirectory, c.LogPath))
	}
	defer func() {
		for _, path := range paths {
			err = errors.Join(err, os.RemoveAll(filepath.Dir(path)))
		}
	}()
	begin, cpu := time.Now(), cpuOf(e.processes())
	g, gctx := errgroup.WithContext(ctx)
	for _, id := range ids {
		g.Go(func() error {
			_, err := e.runtime.StartContainer(gctx, &criv1.StartContainerRequest{ContainerId: id})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	for _, id := range ids {
		for {
			r, err := e.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id})
			if err != nil {
				return fmt.Errorf("ContainerStatus: %w", err)
			}
			if r.Status.State == criv1.ContainerState_CONTAINER_EXITED {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	took, spent := time.Since(begin), cpuOf(e.processes())-cpu
	for _, path := range paths {
		if got, err := newlines(path); err != nil || got != count*times {
			return fmt.Errorf("%s has %d lines, want %d: %w", path, got, count*times, err)
		}
	}
	mb := float64(containers*times*linesSize) / 1e6
	f.speed, f.cpu = append(f.speed, mb/took.Seconds()), append(f.cpu, float64(spent.Milliseconds())/mb)
	return nil
}

// newlines counts the lines of a file.
func newlines(path string) (n int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for {
		k, err := f.Read(buf)
		n += bytes.Count(buf[:k], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// processes are who serves the socket and whoever was started with that path or
// its directory as an argument: shims have one of the two.
func (e *endpoint) processes() []int {
	pids := []int{e.pid}
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range dirs {
		b, _ := os.ReadFile(file) // one that ended
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if pid != e.pid && (bytes.Contains(b, []byte("shim")) && bytes.Contains(b, []byte(filepath.Dir(e.socket)+"/")) || bytes.Contains(b, []byte("\x00"+e.socket+"\x00"))) {
			pids = append(pids, pid)
		}
	}
	return pids
}
