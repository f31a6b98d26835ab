package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// figures are what one pull took.
type figures struct {
	wall, cpu time.Duration
	peak      int64 // bytes resident at most
}

// puller is an image service on trial.
type puller struct {
	name   string
	pid    int
	images criv1.ImageServiceClient
}

// trial says what pulls are measured with.
type trial struct {
	peer   string // CRI socket; "" for none
	port   int    // of the registry; 0 for any
	dir    string // for what is written; "" for the lab's own
	rounds int
}

// pulls prints what pulls take: of berth, of the peer if there is one, and of
// the floor, by turns in each round.
func pulls(ctx context.Context, t trial) (err error) {
	l, err := lab.New(lab.Options{})
	if err != nil {
		return err
	}
	at := l.Dir
	if t.dir != "" {
		if at, err = filepath.Abs(filepath.Join(t.dir, l.Name)); err != nil {
			return err
		}
		l.Root = filepath.Join(at, "root")
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		err = errors.Join(err, l.Close(end), os.RemoveAll(at))
	}()
	all, err := subjects(filepath.Join(l.Clone, "hack/.cache/pull-image"))
	if err != nil {
		return err
	}
	if t.port == 0 {
		if t.port, err = lab.FreePort(); err != nil {
			return err
		}
	}
	if err := l.StartRegistryAt(ctx, t.port); err != nil {
		return err
	}
	if err := l.Start(ctx); err != nil {
		return err
	}
	pullers := []puller{{"berth", l.Pid(), criv1.NewImageServiceClient(l.Conn())}}
	if t.peer != "" {
		p, closePeer, err := dialPeer(ctx, t.peer)
		if err != nil {
			return err
		}
		defer closePeer()
		pullers = append(pullers, p)
	}
	for _, s := range all {
		if err := compare(ctx, l.Registry, filepath.Join(at, "floor"), s, pullers, t.rounds); err != nil {
			return fmt.Errorf("cannot bench the pull of %s: %w", s.name, err)
		}
	}
	return nil
}

// dialPeer connects to a CRI socket. Its process is the one that listens there.
func dialPeer(ctx context.Context, endpoint string) (puller, func(), error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	conn, err := net.Dial("unix", path)
	if err != nil {
		return puller{}, nil, fmt.Errorf("cannot reach peer %s: %w", endpoint, err)
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return puller{}, nil, err
	}
	var cred *unix.Ucred
	ctrlErr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, ctrlErr); err != nil {
		return puller{}, nil, fmt.Errorf("cannot tell the process of peer %s: %w", endpoint, err)
	}
	client, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return puller{}, nil, err
	}
	version, err := criv1.NewRuntimeServiceClient(client).Version(ctx, &criv1.VersionRequest{})
	if err != nil {
		client.Close()
		return puller{}, nil, fmt.Errorf("cannot use peer %s: %w", endpoint, err)
	}
	name := version.RuntimeName + " " + version.RuntimeVersion
	return puller{name, int(cred.Pid), criv1.NewImageServiceClient(client)}, func() { client.Close() }, nil
}

// compare pulls one image with everyone and prints the table. The floor is
// written below dir.
func compare(ctx context.Context, host, dir string, s subject, pullers []puller, rounds int) error {
	img, err := s.image()
	if err != nil {
		return err
	}
	ref := host + "/bench:" + s.name
	if _, err := testimage.Push(ctx, ref, img); err != nil {
		return err
	}
	floors := []decoders{berths, usual}
	got := make([][]figures, len(floors)+len(pullers))
	for round := range rounds {
		for n, by := range floors {
			f, err := floor(ctx, dir, s, by)
			if err != nil {
				return err
			}
			got[n] = append(got[n], f)
		}
		for n := range pullers {
			n = (n + round) % len(pullers) // who comes first finds less in caches
			f, err := pullers[n].pull(ctx, ref)
			if err != nil {
				return fmt.Errorf("%s: %w", pullers[n].name, err)
			}
			got[len(floors)+n] = append(got[len(floors)+n], f)
		}
	}
	packed, plain := s.bytes()
	fmt.Printf("\npull, %s: %d layers, %d MB, %d MB of tar, p50 of %d\n", s.name, len(s.blobs), packed/1e6, plain/1e6, rounds)
	fmt.Printf("  %-28s %10s %10s %10s %12s %12s\n", "", "wall", "CPU", "peak RSS", "wall/floor", "CPU/floor")
	base := median(got[0])
	for n, fs := range got {
		f := median(fs)
		var name, resident string
		if n < len(floors) {
			name, resident = "floor, "+string(floors[n])+" decoders", "-"
		} else {
			name, resident = pullers[n-len(floors)].name, mebi(f.peak)
		}
		fmt.Printf("  %-28s %10s %10s %10s %12.2f %12.2f\n", name, f.wall.Round(10*time.Millisecond), f.cpu.Round(10*time.Millisecond),
			resident, f.wall.Seconds()/base.wall.Seconds(), f.cpu.Seconds()/base.cpu.Seconds())
	}
	return nil
}

// pull pulls ref into a store that does not have it and removes it again.
func (p puller) pull(ctx context.Context, ref string) (figures, error) {
	image := &criv1.ImageSpec{Image: ref}
	if _, err := p.images.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: image}); err != nil {
		return figures{}, err
	}
	// What was written before is not this pull's to wait for.
	unix.Sync()
	if err := resetPeak(p.pid); err != nil {
		return figures{}, err
	}
	cpu, begin := cpuOf([]int{p.pid}), time.Now()
	if _, err := p.images.PullImage(ctx, &criv1.PullImageRequest{Image: image}); err != nil {
		return figures{}, err
	}
	f := figures{wall: time.Since(begin), cpu: cpuOf([]int{p.pid}) - cpu}
	var err error
	if f.peak, err = peak(p.pid); err != nil {
		return figures{}, err
	}
	_, err = p.images.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: image})
	return f, err
}

// median takes each figure by itself.
func median(fs []figures) figures {
	walls, cpus, peaks := make([]time.Duration, len(fs)), make([]time.Duration, len(fs)), make([]int64, len(fs))
	for n, f := range fs {
		walls[n], cpus[n], peaks[n] = f.wall, f.cpu, f.peak
	}
	slices.Sort(walls)
	slices.Sort(cpus)
	slices.Sort(peaks)
	return figures{walls[len(fs)/2], cpus[len(fs)/2], peaks[len(fs)/2]}
}
