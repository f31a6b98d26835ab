package cri

import (
	"context"
	"math"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// CheckpointContainer writes an archive of a running container.
func (s *Server) CheckpointContainer(ctx context.Context, r *criv1.CheckpointContainerRequest) (*criv1.CheckpointContainerResponse, error) {
	if r.Timeout < 0 || r.Timeout > math.MaxInt64/int64(time.Second) {
		return nil, errkind.New(errkind.InvalidArgument, "timeout of %d s is negative or too long", r.Timeout)
	}
	return &criv1.CheckpointContainerResponse{},
		s.cfg.Pods.CheckpointContainer(ctx, s.cfg.View, r.ContainerId, r.Location, time.Duration(r.Timeout)*time.Second)
}

// CheckpointPod writes archives of all running containers of a pod, as they
// were at one moment.
func (s *Server) CheckpointPod(ctx context.Context, r *criv1.CheckpointPodRequest) (*criv1.CheckpointPodResponse, error) {
	return &criv1.CheckpointPodResponse{}, s.cfg.Pods.CheckpointPod(ctx, s.cfg.View, r.PodSandboxId, r.OutputPath, r.ContainerIds, r.Options)
}

// RestorePod makes a pod and its containers from a checkpoint, created.
func (s *Server) RestorePod(ctx context.Context, r *criv1.RestorePodRequest) (*criv1.RestorePodResponse, error) {
	cfg, err := s.pod(r.Config, r.RuntimeHandler)
	if err != nil {
		return nil, err
	}
	if len(r.ContainerConfigs) == 0 {
		return nil, errkind.New(errkind.InvalidArgument, "cannot restore pod %s: no containers are asked for", cfg.Metadata.Name)
	}
	configs := make([]spec.Container, 0, len(r.ContainerConfigs))
	for _, c := range r.ContainerConfigs {
		one, err := s.container(c)
		if err != nil {
			return nil, err
		}
		configs = append(configs, one)
	}
	id, made, err := s.cfg.Pods.RestorePod(ctx, s.cfg.View, r.CheckpointPath, cfg, configs, r.Options)
	if err != nil {
		return nil, err
	}
	resp := &criv1.RestorePodResponse{PodSandboxId: id}
	for _, c := range made {
		resp.RestoredContainers = append(resp.RestoredContainers, &criv1.RestoredContainer{Name: c.Name, ContainerId: c.ID})
	}
	return resp, nil
}
