package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/translate"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// ContainerStats samples one container.
func (s *Server) ContainerStats(ctx context.Context, r *criv1.ContainerStatsRequest) (*criv1.ContainerStatsResponse, error) {
	st, err := s.cfg.Pods.Stats(ctx, s.cfg.View, r.ContainerId)
	if err != nil {
		return nil, err
	}
	return &criv1.ContainerStatsResponse{Stats: translate.ContainerStats(st)}, nil
}

// ListContainerStats samples the running containers that match the filter.
func (s *Server) ListContainerStats(ctx context.Context, r *criv1.ListContainerStatsRequest) (*criv1.ListContainerStatsResponse, error) {
	items, err := s.statsItems(ctx, r.Filter)
	if err != nil {
		return nil, err
	}
	return &criv1.ListContainerStatsResponse{Stats: items}, nil
}

// StreamContainerStats is ListContainerStats for any number of containers.
func (s *Server) StreamContainerStats(r *criv1.StreamContainerStatsRequest, out criv1.RuntimeService_StreamContainerStatsServer) error {
	items, err := s.statsItems(out.Context(), r.Filter)
	if err != nil {
		return err
	}
	return inBatches(items, func(b []*criv1.ContainerStats) error {
		return out.Send(&criv1.StreamContainerStatsResponse{ContainerStats: b})
	})
}

func (s *Server) statsItems(ctx context.Context, f *criv1.ContainerStatsFilter) ([]*criv1.ContainerStats, error) {
	list, err := s.cfg.Pods.StatsList(ctx, s.cfg.View, translate.StatsFilter(f))
	if err != nil {
		return nil, err
	}
	items := make([]*criv1.ContainerStats, 0, len(list))
	for _, st := range list {
		items = append(items, translate.ContainerStats(st))
	}
	return items, nil
}

// GetContainerEvents sends what happens from now on until the client goes. The
// header goes out when nothing is missed any more: a client that has it may
// look at the lists.
func (s *Server) GetContainerEvents(_ *criv1.GetEventsRequest, out criv1.RuntimeService_GetContainerEventsServer) error {
	// The subscription ends with this call, also when Send has failed.
	ctx, cancel := context.WithCancel(out.Context())
	defer cancel()
	events := s.cfg.Pods.Subscribe(ctx)
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	for e := range events {
		if !s.sees(e) {
			continue
		}
		if err := out.Send(translate.Event(e)); err != nil {
			return err
		}
	}
	if err := out.Context().Err(); err != nil {
		return err
	}
	return errkind.New(errkind.ResourceExhausted, "the events came faster than they were read: list pods and containers, then ask for events anew")
}

// sees tells whether an event is for this view.
func (s *Server) sees(e pod.Event) bool {
	return s.cfg.View == pod.ViewAll || e.Pod != nil && e.Pod.Origin == pod.OriginKubelet
}
