package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/translate"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
)

// RunPodSandbox makes a pod that containers can be created in.
func (s *Server) RunPodSandbox(ctx context.Context, r *criv1.RunPodSandboxRequest) (*criv1.RunPodSandboxResponse, error) {
	cfg, err := s.pod(r.Config, r.RuntimeHandler)
	if err != nil {
		return nil, err
	}
	id, err := s.cfg.Pods.Run(ctx, s.cfg.View, cfg)
	if err != nil {
		return nil, err
	}
	return &criv1.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// pod translates what a pod is to be.
func (s *Server) pod(c *criv1.PodSandboxConfig, handler string) (spec.Pod, error) {
	if err := s.checkHandler(handler); err != nil {
		return spec.Pod{}, err
	}
	cfg, err := translate.Pod(c, handler)
	if err == nil && s.cfg.View == pod.ViewAll {
		err = translate.LocalPod(&cfg)
	}
	return cfg, err
}

// StopPodSandbox kills the pod's containers and frees its network.
func (s *Server) StopPodSandbox(ctx context.Context, r *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	return &criv1.StopPodSandboxResponse{}, s.cfg.Pods.Stop(ctx, s.cfg.View, r.PodSandboxId)
}

// RemovePodSandbox stops the pod and removes all of it.
func (s *Server) RemovePodSandbox(ctx context.Context, r *criv1.RemovePodSandboxRequest) (*criv1.RemovePodSandboxResponse, error) {
	return &criv1.RemovePodSandboxResponse{}, s.cfg.Pods.Remove(ctx, s.cfg.View, r.PodSandboxId)
}

// UpdatePodSandboxResources notes what the kubelet has set the pod's cgroup to.
func (s *Server) UpdatePodSandboxResources(ctx context.Context, r *criv1.UpdatePodSandboxResourcesRequest) (*criv1.UpdatePodSandboxResourcesResponse, error) {
	return &criv1.UpdatePodSandboxResourcesResponse{},
		s.cfg.Pods.UpdatePod(ctx, s.cfg.View, r.PodSandboxId, translate.Resources(r.Overhead), translate.Resources(r.Resources))
}

// PodSandboxStatus tells the state of a pod. It leaves containers_statuses
// and timestamp empty, together: they are a promise of evented PLEG.
func (s *Server) PodSandboxStatus(_ context.Context, r *criv1.PodSandboxStatusRequest) (*criv1.PodSandboxStatusResponse, error) {
	p, err := s.cfg.Pods.Pod(s.cfg.View, r.PodSandboxId)
	if err != nil {
		return nil, err
	}
	out := &criv1.PodSandboxStatusResponse{Status: translate.PodStatus(p)}
	if r.Verbose {
		out.Info = info(map[string]any{"netns": p.Netns, "cniResult": p.CNIResult, "origin": p.Origin, "config": p.Config, "overhead": p.Overhead, "resources": p.Resources})
	}
	return out, nil
}

// ListPodSandbox lists the pods that match the filter.
func (s *Server) ListPodSandbox(_ context.Context, r *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	items, err := s.podItems(r.Filter)
	if err != nil {
		return nil, err
	}
	return &criv1.ListPodSandboxResponse{Items: items}, nil
}

// StreamPodSandboxes is ListPodSandbox for any number of pods.
func (s *Server) StreamPodSandboxes(r *criv1.StreamPodSandboxesRequest, out criv1.RuntimeService_StreamPodSandboxesServer) error {
	items, err := s.podItems(r.Filter)
	if err != nil {
		return err
	}
	return inBatches(items, func(b []*criv1.PodSandbox) error {
		return out.Send(&criv1.StreamPodSandboxesResponse{PodSandboxes: b})
	})
}

func (s *Server) podItems(f *criv1.PodSandboxFilter) ([]*criv1.PodSandbox, error) {
	filter, err := translate.PodFilter(f)
	if err != nil {
		return nil, err
	}
	pods := s.cfg.Pods.Pods(s.cfg.View, filter)
	items := make([]*criv1.PodSandbox, 0, len(pods))
	for _, p := range pods {
		items = append(items, translate.PodItem(p))
	}
	return items, nil
}
