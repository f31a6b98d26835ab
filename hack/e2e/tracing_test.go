//go:build e2e

package e2e

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// traced is an OTLP collector.
type traced struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]*otlp.Span // by name; the last of each
}

func (c *traced) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				c.spans[s.Name] = s
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func (c *traced) all() map[string]*otlp.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.spans)
}

// TestTraceOfAPod runs a pod as a kubelet that traces does, and finds the
// calls under the kubelet's own span and every step under its call. Without
// the collector the node works on.
func TestTraceOfAPod(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &traced{spans: map[string]*otlp.Span{}}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() { server.Stop(); serving.Wait() })

	n := newNode(t, lab.Options{Config: fmt.Sprintf("[tracing]\nendpoint = %q\ninsecure = true\n", ln.Addr())})
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-"+trace+"-"+span+"-01")
	ref, err := n.Pull(ctx, n.shell)
	if err != nil {
		t.Fatal(err)
	}
	sandbox := n.podConfig("traced")
	pod, err := n.runtime().RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	made, err := n.runtime().CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: pod.PodSandboxId,
		Config: lab.ContainerConfig("c", ref, "sleep", "600"), SandboxConfig: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime().StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		t.Fatal(err)
	}

	calls := map[string]string{"RunPodSandbox": "pod.run/", "CreateContainer": "container.create/", "StartContainer": "container.start/"}
	want := map[string]string{} // steps, and the call of each
	names, err := n.Admin().Steps(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		for call, verb := range calls {
			if step, ok := strings.CutSuffix(name, "/after"); ok && strings.HasPrefix(name, verb) {
				want[step] = call
			}
		}
	}
	if len(want) < 15 {
		t.Fatalf("the daemon tells of the steps %v only", want)
	}
	// What is not kept as it came has no blobs, nor parts of an earlier pull.
	for _, step := range []string{"resolve", "claim", "directory", "unpack", "rename", "settle", "sync", "commit"} {
		want["image-pull/"+step] = "PullImage"
	}
	calls["PullImage"] = ""
	service := func(call string) string {
		if call == "PullImage" {
			return "runtime.v1.ImageService/" + call
		}
		return "runtime.v1.RuntimeService/" + call
	}
	n.eventually(func() error {
		got := c.all()
		for call := range calls {
			s := got[service(call)]
			if s == nil {
				return fmt.Errorf("%s is not among %v", call, slices.Sorted(maps.Keys(got)))
			}
			if hex.EncodeToString(s.TraceId) != trace || hex.EncodeToString(s.ParentSpanId) != span {
				return fmt.Errorf("%s is not below the caller's span: %v", call, s)
			}
		}
		for step, call := range want {
			above := got[service(call)]
			if s := got[step]; s == nil || !slices.Equal(s.ParentSpanId, above.SpanId) || !slices.Equal(s.TraceId, above.TraceId) {
				return fmt.Errorf("step %s is not below %s: %v", step, call, s)
			}
		}
		return nil
	})

	server.Stop()
	if _, err := n.runtime().StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		t.Errorf("without its collector the node does not work: %v", err)
	}
}
