package cri

import (
	"context"
	"math"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

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

// RestorePod is refused: the images of CRIU say with which credentials, files
// and memory a process comes back, so one that takes an archive takes its
// author's word for what may run as root here. Nothing vouches for it yet.
func (s *Server) RestorePod(context.Context, *criv1.RestorePodRequest) (*criv1.RestorePodResponse, error) {
	return nil, errkind.New(errkind.Unimplemented, "cannot restore a pod: this runtime writes checkpoints and does not restore them; run the pod anew, or restore the archives by other tools")
}
