package cri

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// TestEveryCallIsObserved tells of calls that end well, badly, or in a panic,
// with one answer or a stream, each once and with the code that the client gets.
func TestEveryCallIsObserved(t *testing.T) {
	t.Parallel()
	const method = "/runtime.v1.RuntimeService/Status"
	var got, traced []codes.Code
	a := around{func(m string, code codes.Code, took time.Duration) {
		if m != method || took < 0 {
			t.Errorf("told of %s, %v", m, took)
		}
		got = append(got, code)
	}, func(ctx context.Context, m, _ string) (context.Context, func(error)) {
		if m != method {
			t.Errorf("%s is traced", m)
		}
		return ctx, func(err error) { traced = append(traced, status.Code(err)) }
	}}
	for _, do := range []func() error{
		func() error { return nil },
		func() error { return errkind.New(errkind.NotFound, "no such pod") },
		func() error { panic("boom") },
	} {
		_, _ = a.unary(t.Context(), &criv1.StatusRequest{}, &grpc.UnaryServerInfo{FullMethod: method},
			func(context.Context, any) (any, error) { return nil, do() })
		_ = a.stream(nil, &loggedStream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: method},
			func(any, grpc.ServerStream) error { return do() })
	}
	want := []codes.Code{codes.OK, codes.OK, codes.NotFound, codes.NotFound, codes.Internal, codes.Internal}
	if !slices.Equal(got, want) || !slices.Equal(traced, want) {
		t.Errorf("told of %v, traced %v, want %v", got, traced, want)
	}
}
