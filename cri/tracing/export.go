package tracing

import (
	"context"
	"fmt"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"k8s.io/klog/v2"
)

// exportMethod is that of OTLP's TraceService.
const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

// exporter sends spans over a connection that it does not own.
type exporter struct {
	conn   *grpc.ClientConn
	logger klog.Logger
	broken atomic.Bool // the last batch was lost
}

func newExporter(ctx context.Context, conn *grpc.ClientConn) *exporter {
	return &exporter{conn: conn, logger: klog.LoggerWithValues(klog.FromContext(ctx), "collector", conn.Target())}
}

// ExportSpans sends one batch. It waits for a connection as long as ctx lets
// it, so that a collector that restarts loses nothing. A batch that is lost is
// no error to the SDK, which would log each.
func (e *exporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.conn.Invoke(ctx, exportMethod, encode(spans), nil, grpc.WaitForReady(true), grpc.ForceCodecV2(encoded{}))
	switch was := e.broken.Swap(err != nil); {
	case err != nil && !was:
		e.logger.Error(err, "The collector of traces does not answer; spans are dropped until it does", "spans", len(spans))
	case err == nil && was:
		e.logger.Info("The collector of traces answers again")
	}
	return nil
}

// Shutdown has nothing to end.
func (*exporter) Shutdown(context.Context) error { return nil }

// encoded sends requests that are encoded already, and looks at no answer.
type encoded struct{}

func (encoded) Name() string { return "proto" }

func (encoded) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T: it is not an encoded message", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (encoded) Unmarshal(mem.BufferSlice, any) error { return nil }
