package main

import (
	"context"
	"net/netip"
	"os"
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/volumes"
	"github.com/berth-runtime/berth/volumes/etcfiles"
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
type podVolumes struct{ volumes.Resolver }

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

func (podVolumes) WriteFiles(dir, hostname string, dns *spec.DNS, addrs []netip.Addr) error {
	var asked *etcfiles.DNS
	var host []byte
	if dns != nil {
		asked = &etcfiles.DNS{Servers: dns.Servers, Searches: dns.Searches, Options: dns.Options}
	} else if b, err := os.ReadFile("/etc/resolv.conf"); err == nil {
		host = b // a node without one gives its pods an empty one
	}
	resolv, err := etcfiles.ResolvConf(asked, host)
	if err != nil {
		return err
	}
	hosts, err := etcfiles.Hosts(hostname, addrs)
	if err != nil {
		return err
	}
	return etcfiles.Write(dir, etcfiles.Files{Hostname: hostname, ResolvConf: resolv, Hosts: hosts})
}

// shmSize is what docker and the peers give a pod's /dev/shm.
const shmSize = 64 << 20

func (podVolumes) MountShm(dir string) error   { return shm.Mount(dir, shmSize) }
func (podVolumes) UnmountShm(dir string) error { return shm.Unmount(dir) }
