package main

import (
	"context"
	"net"
	"time"

	"github.com/berth-runtime/berth/cri"
	"github.com/berth-runtime/berth/cri/metrics"
	"github.com/berth-runtime/berth/cri/operations"
	"github.com/berth-runtime/berth/cri/tracing"
	"github.com/berth-runtime/berth/runtime/steps"
)

type tracingConfig struct {
	Endpoint   string `toml:"endpoint,commented" comment:"Where a collector takes OTLP over gRPC: a host and a port, such as\n127.0.0.1:4317. Empty: nothing is traced."`
	Insecure   bool   `toml:"insecure,commented" comment:"Speak to it without TLS. With TLS its certificate is verified with those of\nthis machine."`
	PerMillion int    `toml:"sampling_rate_per_million,commented" comment:"Of the calls whose caller sends no trace of its own, how many in a million are\ntraced. A caller's trace is followed if the caller samples it."`
}

// wrong names the key that cannot work, and why.
func (c *tracingConfig) wrong() (key, why string) {
	if host, port, err := net.SplitHostPort(c.Endpoint); c.Endpoint != "" && (err != nil || host == "" || port == "") {
		return "endpoint", "it is not a host and a port, such as 127.0.0.1:4317"
	}
	if c.PerMillion < 0 || c.PerMillion > 1_000_000 {
		return "sampling_rate_per_million", "it is not between 0 and 1000000"
	}
	return "", ""
}

// traces is the tracing of this daemon, which may be off.
type traces struct{ *tracing.Tracer }

// buildTraces makes what the configuration asks for.
func buildTraces(ctx context.Context, cfg tracingConfig) (traces, error) {
	if cfg.Endpoint == "" {
		return traces{}, nil
	}
	t, err := tracing.New(ctx, tracing.Config{Endpoint: cfg.Endpoint, Insecure: cfg.Insecure, PerMillion: cfg.PerMillion, Version: version})
	return traces{t}, err
}

// calls is what a server traces its calls with, and remembers the last of.
func (t traces) calls(last *operations.Recorder) cri.Trace {
	if t.Tracer == nil {
		return last.Call
	}
	return func(ctx context.Context, method, object string) (context.Context, func(error)) {
		ctx, kept := last.Call(ctx, method, object)
		ctx, traced := t.Call(ctx, method, object)
		return ctx, func(err error) { kept(err); traced(err) }
	}
}

// close sends what is left, if the collector takes it in time.
func (t traces) close(ctx context.Context) error {
	if t.Tracer == nil {
		return nil
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	if err := t.Close(patience); patience.Err() == nil {
		return err
	}
	return nil // lost spans are no reason to fail
}

// observeSteps counts the steps of the pods' verbs, remembers and traces them.
func observeSteps(counts *metrics.Metrics, t traces, last *operations.Recorder) steps.Observe {
	seen := rememberSteps(t, last)
	return func(ctx context.Context, verb, step string) (context.Context, func(error)) {
		begin := time.Now()
		ctx, end := seen(ctx, verb, step)
		return ctx, func(err error) {
			counts.Stepped(verb, step, time.Since(begin), err)
			end(err)
		}
	}
}

// rememberSteps remembers and traces steps.
func rememberSteps(t traces, last *operations.Recorder) steps.Observe {
	if t.Tracer == nil {
		return last.Step
	}
	return func(ctx context.Context, verb, step string) (context.Context, func(error)) {
		_, kept := last.Step(ctx, verb, step)
		ctx, traced := t.Step(ctx, verb, step)
		return ctx, func(err error) { kept(err); traced(err) }
	}
}
