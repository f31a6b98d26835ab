package main

import (
	"context"
	"time"

	"github.com/berth-runtime/berth/cri/metrics"
	"github.com/berth-runtime/berth/runtime/steps"
)

// observeSteps counts the steps of the pods' verbs.
func observeSteps(counts *metrics.Metrics) steps.Observe {
	return func(ctx context.Context, verb, step string) (context.Context, func(error)) {
		begin := time.Now()
		return ctx, func(err error) { counts.Stepped(verb, step, time.Since(begin), err) }
	}
}
