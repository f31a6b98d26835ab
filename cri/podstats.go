package cri

import (
	"context"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/translate"
)

// PodSandboxStats samples one pod. A kubelet asks once with an empty id, to
// learn whether the call exists.
func (s *Server) PodSandboxStats(ctx context.Context, r *criv1.PodSandboxStatsRequest) (*criv1.PodSandboxStatsResponse, error) {
	st, err := s.cfg.Pods.PodStats(ctx, s.cfg.View, r.PodSandboxId)
	if err != nil {
		return nil, err
	}
	return &criv1.PodSandboxStatsResponse{Stats: translate.PodStats(st)}, nil
}

// ListPodSandboxStats samples the ready pods that match the filter.
func (s *Server) ListPodSandboxStats(ctx context.Context, r *criv1.ListPodSandboxStatsRequest) (*criv1.ListPodSandboxStatsResponse, error) {
	return &criv1.ListPodSandboxStatsResponse{Stats: s.podStatsItems(ctx, r.Filter)}, nil
}

// StreamPodSandboxStats is ListPodSandboxStats for any number of pods.
func (s *Server) StreamPodSandboxStats(r *criv1.StreamPodSandboxStatsRequest, out criv1.RuntimeService_StreamPodSandboxStatsServer) error {
	return inBatches(s.podStatsItems(out.Context(), r.Filter), func(b []*criv1.PodSandboxStats) error {
		return out.Send(&criv1.StreamPodSandboxStatsResponse{PodSandboxStats: b})
	})
}

func (s *Server) podStatsItems(ctx context.Context, f *criv1.PodSandboxStatsFilter) []*criv1.PodSandboxStats {
	list := s.cfg.Pods.PodStatsList(ctx, s.cfg.View, translate.PodStatsFilter(f))
	items := make([]*criv1.PodSandboxStats, 0, len(list))
	for _, st := range list {
		items = append(items, translate.PodStats(st))
	}
	return items
}

// ListMetricDescriptors tells of the metrics; a kubelet asks once.
func (s *Server) ListMetricDescriptors(context.Context, *criv1.ListMetricDescriptorsRequest) (*criv1.ListMetricDescriptorsResponse, error) {
	return &criv1.ListMetricDescriptorsResponse{Descriptors: translate.MetricDescriptors()}, nil
}

// ListPodSandboxMetrics reads the metrics of all ready pods and their containers.
func (s *Server) ListPodSandboxMetrics(ctx context.Context, _ *criv1.ListPodSandboxMetricsRequest) (*criv1.ListPodSandboxMetricsResponse, error) {
	return &criv1.ListPodSandboxMetricsResponse{PodMetrics: s.metricItems(ctx)}, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics for any number of pods.
func (s *Server) StreamPodSandboxMetrics(_ *criv1.StreamPodSandboxMetricsRequest, out criv1.RuntimeService_StreamPodSandboxMetricsServer) error {
	return inBatchesOf(metricsBatchSize, s.metricItems(out.Context()), func(b []*criv1.PodSandboxMetrics) error {
		return out.Send(&criv1.StreamPodSandboxMetricsResponse{PodSandboxMetrics: b})
	})
}

func (s *Server) metricItems(ctx context.Context) []*criv1.PodSandboxMetrics {
	list := s.cfg.Pods.Metrics(ctx, s.cfg.View)
	items := make([]*criv1.PodSandboxMetrics, 0, len(list))
	for _, m := range list {
		items = append(items, translate.PodMetrics(m))
	}
	return items
}
