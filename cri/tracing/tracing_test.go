package tracing_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/berth-runtime/berth/cri/tracing"
)

// collect is an OTLP collector; what it is told it decodes by OpenTelemetry's
// own messages.
type collect struct {
	collector.UnimplementedTraceServiceServer
	address string
	hang    chan struct{} // if set, no answer before it is closed

	mu       sync.Mutex
	requests []*collector.ExportTraceServiceRequest
	reached  chan struct{} // closed at the first request
	once     sync.Once
}

func (c *collect) Export(ctx context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.once.Do(func() { close(c.reached) })
	if c.hang != nil {
		<-c.hang
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, r)
	return &collector.ExportTraceServiceResponse{}, ctx.Err()
}

// spans are all that came.
func (c *collect) spans() []*otlp.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*otlp.Span
	for _, r := range c.requests {
		for _, rs := range r.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				out = append(out, ss.Spans...)
			}
		}
	}
	return out
}

func newCollector(t *testing.T, hang chan struct{}) *collect {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collect{address: ln.Addr().String(), hang: hang, reached: make(chan struct{})}
	g := grpc.NewServer()
	collector.RegisterTraceServiceServer(g, c)
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(ln) })
	t.Cleanup(func() { g.Stop(); serving.Wait() })
	return c
}

func newTracer(t *testing.T, endpoint string, perMillion int) *tracing.Tracer {
	t.Helper()
	tr, err := tracing.New(t.Context(), tracing.Config{Endpoint: endpoint, Insecure: true, PerMillion: perMillion, Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// from is the context of a call whose caller sent that trace context.
func from(t *testing.T, traceparent string) context.Context {
	t.Helper()
	return metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", traceparent, "tracestate", "vendor=7"))
}

const (
	theirTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	theirSpan  = "00f067aa0ba902b7"
)

func TestSpansAreInTheCallersTrace(t *testing.T) {
	t.Parallel()
	c := newCollector(t, nil)
	tr := newTracer(t, c.address, 0)
	before := time.Now()
	ctx, ended := tr.Call(from(t, "00-"+theirTrace+"-"+theirSpan+"-01"), "/runtime.v1.RuntimeService/RunPodSandbox", "ns/web")
	_, done := tr.Step(ctx, "pod.run", "network")
	done(errors.New("no address is left"))
	ended(status.Error(codes.ResourceExhausted, "cannot run pod"))
	_, unsampled := tr.Call(from(t, "00-"+theirTrace+"-"+theirSpan+"-00"), "/runtime.v1.RuntimeService/Status", "")
	unsampled(nil)
	_, own := tr.Call(t.Context(), "/runtime.v1.RuntimeService/Version", "") // of no trace: 0 in a million
	own(nil)
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	if len(c.requests) != 1 || len(c.requests[0].ResourceSpans) != 1 || len(c.requests[0].ResourceSpans[0].ScopeSpans) != 1 {
		t.Fatalf("got %v", c.requests)
	}
	if b, err := proto.Marshal(c.requests[0]); err != nil || len(c.requests[0].ProtoReflect().GetUnknown()) != 0 || len(b) == 0 {
		t.Errorf("what came is not all known: %v, %v", c.requests[0], err)
	}
	about := map[string]string{}
	for _, kv := range c.requests[0].ResourceSpans[0].Resource.Attributes {
		about[kv.Key] = kv.Value.GetStringValue()
	}
	if about["service.name"] != "berthd" || about["service.version"] != "1.2.3" {
		t.Errorf("the spans are of %v", about)
	}
	spans := c.spans()
	if len(spans) != 2 {
		t.Fatalf("got %d spans, want the call and its step: %v", len(spans), spans)
	}
	step, call := spans[0], spans[1]
	for what, s := range map[string]*otlp.Span{"call": call, "step": step} {
		if hex(s.TraceId) != theirTrace || s.TraceState != "vendor=7" || len(s.SpanId) != 8 || s.Flags&1 == 0 {
			t.Errorf("%s: trace %x, state %q, span %x, flags %x", what, s.TraceId, s.TraceState, s.SpanId, s.Flags)
		}
		start, end := time.Unix(0, int64(s.StartTimeUnixNano)), time.Unix(0, int64(s.EndTimeUnixNano))
		if start.Before(before.Round(0)) || end.Before(start) {
			t.Errorf("%s: from %v to %v", what, start, end)
		}
		if s.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR {
			t.Errorf("%s: status %v", what, s.Status)
		}
	}
	if hex(call.ParentSpanId) != theirSpan || call.Name != "runtime.v1.RuntimeService/RunPodSandbox" || call.Kind != otlp.Span_SPAN_KIND_SERVER || call.Flags&0x300 != 0x300 {
		t.Errorf("the call: %v", call)
	}
	if !slices.Equal(step.ParentSpanId, call.SpanId) || step.Name != "pod.run/network" || step.Kind != otlp.Span_SPAN_KIND_INTERNAL || step.Status.Message != "no address is left" || step.Flags&0x300 != 0x100 {
		t.Errorf("the step: %v", step)
	}
	got := map[string]any{}
	for _, kv := range call.Attributes {
		if v := kv.Value.GetStringValue(); v != "" {
			got[kv.Key] = v
		} else {
			got[kv.Key] = kv.Value.GetIntValue()
		}
	}
	for key, want := range map[string]any{"rpc.system": "grpc", "rpc.service": "runtime.v1.RuntimeService", "rpc.method": "RunPodSandbox",
		"berth.object": "ns/web", "rpc.grpc.status_code": int64(codes.ResourceExhausted)} {
		if got[key] != want {
			t.Errorf("attribute %s is %v, want %v", key, got[key], want)
		}
	}
}

func hex(b []byte) string {
	const digits = "0123456789abcdef"
	var out []byte
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// A call without a trace, or with one that is none, begins one of its own.
func TestCallsBeginTracesOfTheirOwn(t *testing.T) {
	t.Parallel()
	c := newCollector(t, nil)
	tr := newTracer(t, c.address, 1_000_000)
	for _, parent := range []string{"", "00-0-0-01", "ff", "00-00000000000000000000000000000000-0000000000000000-01"} {
		_, ended := tr.Call(from(t, parent), "/runtime.v1.RuntimeService/Status", "")
		ended(nil)
	}
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, s := range c.spans() {
		if len(s.ParentSpanId) != 0 || s.Status.GetCode() != otlp.Status_STATUS_CODE_UNSET {
			t.Errorf("got %v", s)
		}
		seen[hex(s.TraceId)] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d traces of 4 calls", len(seen))
	}
}

// While the collector takes a batch and says nothing, calls go on, and what
// waits for it has a bound.
func TestACollectorThatHangsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	c := newCollector(t, hang)
	tr := newTracer(t, c.address, 1_000_000)
	call := func() {
		_, ended := tr.Call(t.Context(), "/runtime.v1.RuntimeService/Status", "")
		ended(nil)
	}
	call()
	<-c.reached // from here on nothing is sent
	const calls = 50_000
	for range calls {
		call()
	}
	if got := len(c.spans()); got != 0 {
		t.Fatalf("%d spans were taken by a collector that hangs", got)
	}
	close(hang)
	if err := tr.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(c.spans()); got < 2 || got > 8192 {
		t.Errorf("%d of %d spans have waited", got, calls)
	}
}

func TestAnAbsentCollectorHoldsNothingUp(t *testing.T) {
	t.Parallel()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	tr := newTracer(t, address, 1_000_000)
	for range 10_000 {
		_, ended := tr.Call(t.Context(), "/runtime.v1.RuntimeService/Status", "")
		ended(nil)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tr.Close(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that not all was sent", err)
	}
}
