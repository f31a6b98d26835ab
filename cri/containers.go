package cri

import (
	"context"
	"math"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berth-runtime/berth/cri/translate"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// CreateContainer makes a container in a ready pod. The pod's configuration
// in the request is not compared with the one it was run with: a kubelet that
// was restarted may send a later one.
func (s *Server) CreateContainer(ctx context.Context, r *criv1.CreateContainerRequest) (*criv1.CreateContainerResponse, error) {
	cfg, err := s.container(r.Config)
	if err != nil {
		return nil, err
	}
	id, err := s.cfg.Pods.Create(ctx, s.cfg.View, r.PodSandboxId, cfg)
	if err != nil {
		return nil, err
	}
	return &criv1.CreateContainerResponse{ContainerId: id}, nil
}

// container translates what a container is to be.
func (s *Server) container(c *criv1.ContainerConfig) (spec.Container, error) {
	cfg, err := translate.Container(c)
	if err != nil {
		return cfg, err
	}
	for _, m := range cfg.Mounts {
		if err := s.checkHandler(m.ImageHandler); err != nil {
			return cfg, errkind.New(errkind.Of(err), "%w: mount at %s: %w", crierrors.ErrImageVolumeMountFailed, m.ContainerPath, err)
		}
	}
	if s.cfg.View == pod.ViewAll {
		err = translate.LocalContainer(&cfg)
	}
	return cfg, err
}

// StartContainer starts a created container.
func (s *Server) StartContainer(ctx context.Context, r *criv1.StartContainerRequest) (*criv1.StartContainerResponse, error) {
	return &criv1.StartContainerResponse{}, s.cfg.Pods.Start(ctx, s.cfg.View, r.ContainerId)
}

// StopContainer stops a container, by force when its time is over.
func (s *Server) StopContainer(ctx context.Context, r *criv1.StopContainerRequest) (*criv1.StopContainerResponse, error) {
	return &criv1.StopContainerResponse{}, s.cfg.Pods.StopContainer(ctx, s.cfg.View, r.ContainerId, seconds(r.Timeout))
}

// RemoveContainer removes a container, by force if it runs.
func (s *Server) RemoveContainer(ctx context.Context, r *criv1.RemoveContainerRequest) (*criv1.RemoveContainerResponse, error) {
	return &criv1.RemoveContainerResponse{}, s.cfg.Pods.RemoveContainer(ctx, s.cfg.View, r.ContainerId)
}

// ContainerStatus tells all of a container.
func (s *Server) ContainerStatus(_ context.Context, r *criv1.ContainerStatusRequest) (*criv1.ContainerStatusResponse, error) {
	c, err := s.cfg.Pods.Container(s.cfg.View, r.ContainerId)
	if err != nil {
		return nil, err
	}
	out := &criv1.ContainerStatusResponse{Status: translate.ContainerStatus(c)}
	if r.Verbose {
		known := map[string]any{"pid": c.Pid, "sandboxID": c.PodID, "origin": c.Origin, "config": c.Config}
		if c.MountLabel != "" {
			known["processLabel"], known["mountLabel"] = c.ProcessLabel, c.MountLabel
		}
		out.Info = info(known)
	}
	return out, nil
}

// ListContainers lists the containers that match the filter.
func (s *Server) ListContainers(_ context.Context, r *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	items, err := s.containerItems(r.Filter)
	if err != nil {
		return nil, err
	}
	return &criv1.ListContainersResponse{Containers: items}, nil
}

// StreamContainers is ListContainers for any number of containers.
func (s *Server) StreamContainers(r *criv1.StreamContainersRequest, out criv1.RuntimeService_StreamContainersServer) error {
	items, err := s.containerItems(r.Filter)
	if err != nil {
		return err
	}
	return inBatches(items, func(b []*criv1.Container) error {
		return out.Send(&criv1.StreamContainersResponse{Containers: b})
	})
}

func (s *Server) containerItems(f *criv1.ContainerFilter) ([]*criv1.Container, error) {
	filter, err := translate.ContainerFilter(f)
	if err != nil {
		return nil, err
	}
	containers := s.cfg.Pods.Containers(s.cfg.View, filter)
	items := make([]*criv1.Container, 0, len(containers))
	for _, c := range containers {
		items = append(items, translate.ContainerItem(c))
	}
	return items, nil
}

// UpdateContainerResources changes limits; what the request leaves zero stays.
func (s *Server) UpdateContainerResources(ctx context.Context, r *criv1.UpdateContainerResourcesRequest) (*criv1.UpdateContainerResourcesResponse, error) {
	return &criv1.UpdateContainerResourcesResponse{}, s.cfg.Pods.Update(ctx, s.cfg.View, r.ContainerId, translate.Resources(r.Linux))
}

// ReopenContainerLog opens the log anew, by its path, after a rotation.
func (s *Server) ReopenContainerLog(ctx context.Context, r *criv1.ReopenContainerLogRequest) (*criv1.ReopenContainerLogResponse, error) {
	return &criv1.ReopenContainerLogResponse{}, s.cfg.Pods.ReopenLog(ctx, s.cfg.View, r.ContainerId)
}

// ExecSync runs a command to its end and captures what it writes. A command
// that takes too long is DeadlineExceeded, which the kubelet counts as a
// failed probe.
func (s *Server) ExecSync(ctx context.Context, r *criv1.ExecSyncRequest) (*criv1.ExecSyncResponse, error) {
	if len(r.Cmd) == 0 {
		return nil, errkind.New(errkind.InvalidArgument, "cannot execute in container %s: no command", r.ContainerId)
	}
	res, err := s.cfg.Pods.ExecSync(ctx, s.cfg.View, r.ContainerId, r.Cmd, seconds(r.Timeout))
	if err != nil {
		return nil, err
	}
	return &criv1.ExecSyncResponse{Stdout: res.Stdout, Stderr: res.Stderr, ExitCode: res.Code}, nil
}

// seconds is a duration that a request gives in seconds. What does not fit,
// three centuries, is for ever.
func seconds(n int64) time.Duration {
	switch {
	case n < 0:
		return 0
	case n > math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return time.Duration(n) * time.Second
}
