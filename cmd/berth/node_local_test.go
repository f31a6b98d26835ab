package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// Again makes attempts as the daemon does, but always in the same pod.
func (n *node) Again(ctx context.Context, r *api.AgainRequest) (*api.AgainResult, error) {
	n.mu.Lock()
	c, err := n.container(r.Container)
	n.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if c.State == criv1.ContainerState_CONTAINER_RUNNING {
		if !r.Restart {
			return &api.AgainResult{Container: c.Id}, nil
		}
		n.mu.Lock()
		n.end(c, 143)
		n.notes = append(n.notes, "grace "+r.Grace.String())
		n.mu.Unlock()
	}
	id := c.Id
	if c.State == criv1.ContainerState_CONTAINER_EXITED {
		config := proto.Clone(c.config).(*criv1.ContainerConfig)
		config.Metadata = &criv1.ContainerMetadata{Name: c.Metadata.Name, Attempt: c.Metadata.Attempt + 1}
		made, err := n.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: c.PodSandboxId, Config: config})
		if err != nil {
			return nil, err
		}
		id = made.ContainerId
		n.mu.Lock()
		delete(n.containers, c.Id)
		n.pods[c.PodSandboxId].State = criv1.PodSandboxState_SANDBOX_READY
		n.mu.Unlock()
	}
	if r.NoStart {
		return &api.AgainResult{Container: id}, nil
	}
	_, err = n.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
	return &api.AgainResult{Container: id}, err
}

func (n *node) Local(context.Context, *api.Empty) (*api.LocalResult, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &api.LocalResult{Containers: n.local}, nil
}

func (n *node) Rename(_ context.Context, r *api.RenameRequest) (*api.Empty, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.container(r.Container)
	if err != nil {
		return nil, err
	}
	c.Labels[nameLabel] = r.Name
	return &api.Empty{}, nil
}

func (n *node) CreateVolume(_ context.Context, r *api.CreateVolumeRequest) (*api.Volume, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.volumes {
		if n.volumes[i].Name == r.Name {
			return &n.volumes[i], nil
		}
	}
	v := api.Volume{Name: r.Name, Path: "/var/lib/berth/named/data/" + r.Name, Created: time.Now().Add(-time.Hour), Labels: r.Labels}
	n.volumes = append(n.volumes, v)
	return &v, nil
}

func (n *node) Volumes(_ context.Context, r *api.VolumesRequest) (*api.VolumeList, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := &api.VolumeList{Volumes: slices.Clone(n.volumes)}
	slices.SortFunc(out.Volumes, func(a, b api.Volume) int { return strings.Compare(a.Name, b.Name) })
	for i := range out.Volumes {
		out.Volumes[i].Users = n.mounters(out.Volumes[i].Path)
		if r.Usage {
			size := uint64(4096)
			out.Volumes[i].Bytes = &size
		}
	}
	return out, nil
}

// mounters is called with mu held.
func (n *node) mounters(path string) []string {
	var out []string
	for _, c := range n.containers {
		for _, m := range c.config.Mounts {
			if m.HostPath == path {
				out = append(out, c.Metadata.Name+" ("+c.Id[:12]+")")
			}
		}
	}
	return out
}

func (n *node) RemoveVolume(_ context.Context, r *api.VolumeRequest) (*api.Empty, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, v := range n.volumes {
		if v.Name != r.Name {
			continue
		}
		if used := n.mounters(v.Path); len(used) > 0 {
			return nil, status.Errorf(codes.FailedPrecondition, "cannot remove volume %s: it is mounted by container %s", v.Name, strings.Join(used, ", "))
		}
		n.volumes = slices.Delete(n.volumes, i, i+1)
		return &api.Empty{}, nil
	}
	return nil, status.Errorf(codes.NotFound, "there is no volume %s", r.Name)
}

func (n *node) CheckLogin(_ context.Context, r *api.LoginRequest) (*api.Empty, error) {
	if r.Username != "joe" || r.Password != "secret" {
		return nil, status.Errorf(codes.PermissionDenied, "%s refuses the credentials", r.Host)
	}
	return &api.Empty{}, nil
}
