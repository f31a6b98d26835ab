// Package tracing tells an OpenTelemetry collector what calls spend their time
// on.
//
// Model. A call is a span; it belongs to the trace of its caller if that sent
// its W3C trace context in the metadata, as a kubelet does, and begins a trace
// if not. Each step of a verb is a span below it. A caller's trace is sampled
// if the caller samples it; of the others a configured share is. Spans that
// have ended wait in a queue of fixed length, from which one goroutine sends
// them in batches, by OTLP over gRPC.
//
// Law. Nothing waits for a collector: what does not fit in the queue is
// dropped, and so is a batch that was not taken in time. Whether the collector
// answers is logged when it changes, not for each batch.
//
// The API and the SDK are OpenTelemetry's, the exporter is not: its own, with
// the generated messages that it links, costs a daemon at rest 2 MB, which
// most never use; the SDK alone, and the fields that we send, 0.3 MB.
package tracing

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// queueLength is how many spans wait at most: some hundred pod starts, in
	// some megabytes.
	queueLength = 4096
	batchLength = 512
	batchEvery  = 2 * time.Second
	// exportTime is how long a batch may take, the connection included.
	exportTime = 10 * time.Second
)

// million is what Config.PerMillion is of.
const million = 1_000_000

// Config of a Tracer.
type Config struct {
	Endpoint   string // host:port of the collector
	Insecure   bool   // without TLS
	PerMillion int    // of the traces that begin here, how many are sampled
	Version    string // of berth
}

// Tracer makes spans and sends them. Its methods may be called concurrently.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	conn     *grpc.ClientConn
}

// New makes a Tracer. It does not wait for the collector, which may come later.
// What is logged goes to the logger of ctx.
func New(ctx context.Context, cfg Config) (*Tracer, error) {
	creds := insecure.NewCredentials()
	if !cfg.Insecure {
		creds = credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12})
	}
	conn, err := grpc.NewClient(cfg.Endpoint, grpc.WithTransportCredentials(creds))
	if err != nil {
		return nil, fmt.Errorf("cannot trace to %s: %w", cfg.Endpoint, err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(float64(cfg.PerMillion)/million))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "berthd"), attribute.String("service.version", cfg.Version))),
		sdktrace.WithBatcher(newExporter(ctx, conn),
			sdktrace.WithMaxQueueSize(queueLength), sdktrace.WithMaxExportBatchSize(batchLength),
			sdktrace.WithBatchTimeout(batchEvery), sdktrace.WithExportTimeout(exportTime)),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/berth-runtime/berth"), conn: conn}, nil
}

// Close sends what waits, if that can be done before ctx ends, and nothing
// more.
func (t *Tracer) Close(ctx context.Context) error {
	return errors.Join(t.provider.Shutdown(ctx), t.conn.Close())
}

// carrier is the metadata of a call, in which trace contexts travel.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set is for those who send; nobody does here.
func (carrier) Set(string, string) {}

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

// Call begins the span of a call of method, its full name, on object, which
// may be empty; it is a cri.Trace.
func (t *Tracer) Call(ctx context.Context, method, object string) (context.Context, func(error)) {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = propagation.TraceContext{}.Extract(ctx, carrier(md))
	}
	name := strings.TrimPrefix(method, "/")
	service, verb, _ := strings.Cut(name, "/")
	attributes := []attribute.KeyValue{
		attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", verb)}
	if object != "" {
		attributes = append(attributes, attribute.String("berth.object", object))
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes...))
	return ctx, func(err error) {
		span.SetAttributes(attribute.Int("rpc.grpc.status_code", int(status.Code(err))))
		end(span, err)
	}
}

// Step begins the span of a step of a verb; it is a steps.Observe.
func (t *Tracer) Step(ctx context.Context, verb, step string) (context.Context, func(error)) {
	ctx, span := t.tracer.Start(ctx, verb+"/"+step)
	return ctx, func(err error) { end(span, err) }
}

func end(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
