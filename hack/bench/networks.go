package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// networkRounds is how many pods each way of networking is measured by.
const networkRounds = 30

// network is one way by which a pod gets its network, and what its lives took.
type network struct {
	name    string
	l       *lab.Lab
	runtime criv1.RuntimeServiceClient
	image   string
	port    bool // each pod publishes a port

	run, ready, stop samples
}

// networks prints what pods' networks cost, by turns: the embedded one, the
// reference plugins bridge, host-local and portmap under berth (portmap is not
// run for a pod that publishes nothing) and alone, and those of a peer, which has
// the configuration that it has.
func networks(ctx context.Context, peer string, registryPort int) (err error) {
	var all []*network
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		for _, n := range all {
			if n.l == nil {
				continue
			}
			if n.l.Running() {
				err = errors.Join(err, n.l.RemoveAll(end))
			}
			err = errors.Join(err, n.l.Close(end))
		}
	}()
	add := func(name, mode string, port bool) (*network, error) {
		l, err := lab.New(lab.Options{LogLevel: 1, Network: mode, OwnNet: true})
		if err != nil {
			return nil, err
		}
		n := &network{name: name, l: l, port: port}
		all = append(all, n)
		if mode == "cni" {
			if err := l.SetNetwork("10.conflist", l.BridgeList("1.0.0", lab.Portmap())); err != nil {
				return nil, err
			}
		}
		if registryPort != 0 && len(all) == 1 {
			err = l.StartRegistryAt(ctx, registryPort)
		} else {
			err = l.StartRegistry(ctx)
		}
		if err != nil {
			return nil, err
		}
		n.image, err = prepareWith(ctx, l)
		n.runtime = criv1.NewRuntimeServiceClient(l.Conn())
		return n, err
	}
	embedded, err := add("embedded", "bridge", false)
	if err != nil {
		return err
	}
	plugins, err := add("CNI", "cni", false)
	if err != nil {
		return err
	}
	turns := []*network{embedded, plugins,
		{name: "embedded, with a port", runtime: embedded.runtime, image: embedded.image, port: true},
		{name: "CNI, with a port", runtime: plugins.runtime, image: plugins.image, port: true}}
	if peer != "" {
		conn, err := embedded.l.Dial(strings.TrimPrefix(peer, "unix://"))
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := pushPause(ctx, embedded.l); err != nil {
			return err
		}
		pull := &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: embedded.image}}
		if _, err := criv1.NewImageServiceClient(conn).PullImage(ctx, pull); err != nil {
			return fmt.Errorf("cannot pull with %s: %w", peer, err)
		}
		rt := criv1.NewRuntimeServiceClient(conn)
		turns = append(turns, &network{name: "peer", runtime: rt, image: embedded.image}, &network{name: "peer, with a port", runtime: rt, image: embedded.image, port: true})
	}
	alone := &bare{l: plugins.l}
	for round := range networkRounds {
		for i, n := range turns {
			if err := n.life(ctx, embedded.l, fmt.Sprintf("net%d-%d", i, round), 21000+i); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
		}
		if err := alone.life(ctx, fmt.Sprintf("bare%d", round)); err != nil {
			return fmt.Errorf("plugins alone: %w", err)
		}
	}
	fmt.Printf("\n  %-28s %12s %12s %14s\n", "networks", "p50", "p95", "CPU each")
	for _, n := range turns {
		n.run.print("RunPodSandbox, " + n.name)
		n.ready.print("pod ready, " + n.name)
		n.stop.print("StopPodSandbox, " + n.name)
	}
	alone.add.print("ADD by the plugins alone")
	alone.del.print("DEL by the plugins alone")
	return nil
}

// pushPause gives the peer an image for its pause containers, pause:1 of the
// registry, if it has none of its own.
func pushPause(ctx context.Context, l *lab.Lab) error {
	pause, err := os.ReadFile(filepath.Join(l.Clone, "bin/berth-init"))
	if err != nil {
		return err
	}
	img, err := testimage.Image{
		Layers: []testimage.Layer{{Files: []testimage.File{{Path: "/pause", Mode: 0o755, Data: string(pause)}}}},
		Config: v1.Config{Cmd: []string{"/pause"}},
	}.Build()
	if err == nil {
		_, err = testimage.Push(ctx, l.Registry+"/pause:1", img)
	}
	return err
}

// life makes a pod with a container, and takes it away.
func (n *network) life(ctx context.Context, logs *lab.Lab, name string, port int) error {
	config := logs.PodConfig(name)
	if n.port {
		config.PortMappings = []*criv1.PortMapping{{ContainerPort: 80, HostPort: int32(port)}}
	}
	container := lab.ContainerConfig("c", n.image, "sleep", "100000")
	var pod, id string
	err := n.ready.take(func() error {
		err := n.run.take(func() error {
			r, err := n.runtime.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
			pod = r.GetPodSandboxId()
			return err
		})
		if err != nil {
			return err
		}
		created, err := n.runtime.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: pod, Config: container, SandboxConfig: config})
		if err != nil {
			return err
		}
		id = created.ContainerId
		_, err = n.runtime.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
		return err
	})
	if err != nil {
		return err
	}
	// The kubelet has ended the containers before it stops the pod.
	if _, err := n.runtime.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	err = n.stop.take(func() error {
		_, err := n.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod})
		return err
	})
	if err != nil {
		return err
	}
	_, err = n.runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: pod})
	return err
}

// bare runs the plugins bridge and host-local by libcni, and nothing else.
type bare struct {
	l        *lab.Lab
	add, del samples
}

func (b *bare) life(ctx context.Context, name string) (err error) {
	netns := filepath.Join(b.l.Dir, name)
	if err := lab.MakeNetns(netns); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.RemoveNetns(netns)) }()
	list, err := libcni.NetworkConfFromBytes([]byte(b.l.BridgeList("1.0.0")))
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{b.l.Plugins()}, filepath.Join(b.l.Dir, "bare"), nil)
	rt := &libcni.RuntimeConf{ContainerID: name, NetNS: netns, IfName: "eth0"}
	return b.l.Inside(func() error {
		err := b.add.take(func() error {
			_, err := cni.AddNetworkList(ctx, list, rt)
			return err
		})
		return errors.Join(err, b.del.take(func() error { return cni.DelNetworkList(ctx, list, rt) }), os.RemoveAll(filepath.Join(b.l.Dir, "bare")))
	})
}
