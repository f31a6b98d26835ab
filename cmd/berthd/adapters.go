package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/local"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/volumes"
	"github.com/berth-runtime/berth/volumes/etcfiles"
	"github.com/berth-runtime/berth/volumes/named"
	"github.com/berth-runtime/berth/volumes/shm"
)

// The domains do not know each other. Here, and only here, one's words become
// the other's.

// podImages shows the image store to the pods.
type podImages struct {
	*imageservice.Service
	root string
}

func (a podImages) Mountpoint() string { return a.root }

func (a podImages) Snapshots(ctx context.Context) ([]string, error) {
	return a.Service.Snapshots(ctx), nil
}

func (a podImages) Resolve(ctx context.Context, ref string) (*spec.ImageConfig, error) {
	if user, ok := a.Served(ref); ok { // to a command of a build, which says the rest itself
		return &spec.ImageConfig{ID: ref, Ref: ref, Name: ref, User: user}, nil
	}
	img, err := a.Status(ctx, ref)
	if err != nil {
		return nil, err
	}
	out := &spec.ImageConfig{ID: img.ID, Ref: img.ID, Entrypoint: img.Config.Entrypoint, Cmd: img.Config.Cmd, Env: img.Config.Env,
		User: img.Config.User, WorkingDir: img.Config.WorkingDir, StopSignal: img.Config.StopSignal, Labels: img.Config.Labels}
	if img.Artifact != nil {
		out.Artifact = img.Artifact.Type
	}
	if len(img.Digests) > 0 {
		out.Ref = img.Digests[0]
	}
	out.Name = out.Ref
	if len(img.Tags) > 0 {
		out.Name = img.Tags[0]
	}
	for v := range img.Config.Volumes {
		out.Volumes = append(out.Volumes, v)
	}
	sort.Strings(out.Volumes)
	return out, nil
}

// podVolumes shows the volumes domain to the pods.
type podVolumes struct {
	volumes.Resolver
	named *named.Store
}

func (a podVolumes) Prepare(ctx context.Context, hostPath, rootfs, path string, copyUp bool, shared func() bool) error {
	fill := func(dst string) error { return volumes.CopyUp(ctx, rootfs, path, dst) }
	if !copyUp {
		fill = nil
	}
	return a.named.Prepare(hostPath, shared, fill)
}

func (a podVolumes) IsNamed(hostPath string) bool { return a.named.Has(hostPath) }

func (a podVolumes) Resolve(ctx context.Context, mounts []spec.Mount) ([]specs.Mount, error) {
	reqs := make([]volumes.Request, len(mounts))
	for i, m := range mounts {
		reqs[i] = volumes.Request{ContainerPath: m.ContainerPath, HostPath: m.HostPath, ReadOnly: m.ReadOnly,
			RecursiveReadOnly: m.RecursiveReadOnly, Propagation: string(m.Propagation), IDs: m.IDs, Options: m.Options}
	}
	return a.Resolver.Resolve(ctx, reqs)
}

func (podVolumes) CopyUp(ctx context.Context, rootfs, path, dst string) error {
	return volumes.CopyUp(ctx, rootfs, path, dst)
}

func (podVolumes) WriteFiles(dir string, f pod.EtcFiles) error {
	resolv, err := resolvConf(f)
	if err != nil {
		return err
	}
	hosts, err := hostsFile(f)
	if err != nil {
		return err
	}
	return etcfiles.Write(dir, etcfiles.Files{Hostname: f.Hostname, ResolvConf: resolv, Hosts: hosts})
}

func (podVolumes) RewriteHosts(dir string, f pod.EtcFiles) error {
	hosts, err := hostsFile(f)
	if err != nil {
		return err
	}
	return etcfiles.RewriteHosts(dir, hosts)
}

// resolvConf is a pod's: as asked for, else as the host's.
func resolvConf(f pod.EtcFiles) ([]byte, error) {
	switch {
	case f.DNS != nil:
		return etcfiles.ResolvConf(etcfiles.DNS{Servers: f.DNS.Servers, Searches: f.DNS.Searches, Options: f.DNS.Options})
	case !f.OwnNetwork:
		b, err := os.ReadFile("/etc/resolv.conf")
		if errors.Is(err, fs.ErrNotExist) {
			err = nil // a node without one gives its pods an empty one
		}
		return b, err
	}
	d, trouble := etcfiles.HostDNS()
	b, err := etcfiles.ResolvConf(d)
	if trouble != "" {
		// Pods that resolve nothing are no worse off.
		klog.Background().Info("A pod gets no name server", "why", trouble)
		b = append([]byte("# "+trouble+"\n"), b...)
	}
	return b, err
}

func hostsFile(f pod.EtcFiles) ([]byte, error) {
	var more []etcfiles.Host
	for _, h := range f.Hosts {
		more = append(more, etcfiles.Host{Address: h.Address, Names: h.Names})
	}
	return etcfiles.Hosts(f.Hostname, f.Addresses, more)
}

// localEvent is what the journal says of something that happened to a local
// container.
func localEvent(e local.Event) api.Event {
	out := api.Event{Type: api.EventContainer, Action: e.Action, ID: e.Container.ID, PodID: e.Container.PodID,
		Container: e.Container.Config.Metadata.Name, Image: e.Container.Config.Image}
	if e.Pod != nil {
		out.Namespace, out.Pod = e.Pod.Config.Metadata.Namespace, e.Pod.Config.Metadata.Name
	}
	if e.Err != nil {
		out.Error = e.Err.Error()
	}
	return out
}

// shmSize is what docker and the peers give a pod's /dev/shm.
const shmSize = 64 << 20

func (podVolumes) MountShm(dir string, size int64) error {
	return shm.Mount(dir, cmp.Or(size, shmSize))
}
func (podVolumes) UnmountShm(dir string) error { return shm.Unmount(dir) }
