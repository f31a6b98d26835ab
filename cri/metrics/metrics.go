// Package metrics tells Prometheus what the daemon does.
//
// Model. The domains know nothing of Prometheus. They call the small hooks
// that a Metrics has (a call ended, a step was done, a pull ended, ...), which
// add to counters and histograms; and at each scrape, never between two, a
// collector reads the snapshots that they serve their lists from.
//
// Law. A family's name, help and labels are in this package, its registry is
// its own, and the test knows every family. No label has a value that a
// stranger can make many of: methods, verbs, steps, kinds, codes and states
// are words of ours. The one exception are the layers being fetched, which are
// labelled with the image and the digest: there are hardly more of them than
// may be fetched at a time, a reference has a longest length, and the series
// end with the layer, or with its pull.
package metrics

import (
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Metrics counts. Its methods are the hooks of the domains; they may be called
// concurrently and do not block.
type Metrics struct {
	registry *prometheus.Registry

	calls       *prometheus.CounterVec
	callTimes   *prometheus.HistogramVec
	stepTimes   *prometheus.HistogramVec
	stepErrors  *prometheus.CounterVec
	exits       *prometheus.CounterVec
	righted     *prometheus.CounterVec
	checks      prometheus.Counter
	problems    *prometheus.GaugeVec
	pulls       *prometheus.CounterVec
	pullTimes   prometheus.Histogram
	pulledBytes prometheus.Counter
	gcRuns      prometheus.Counter
	gcLayers    prometheus.Counter
	gcBytes     prometheus.Counter
	repaired    *prometheus.CounterVec
}

var _ imageservice.Observer = (*Metrics)(nil)

// The buckets, in seconds. Calls and steps of a healthy node end within some
// milliseconds; a pull takes what the network takes.
var (
	callBuckets = []float64{.001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}
	pullBuckets = []float64{.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900}
)

// New makes a Metrics of a daemon of that version.
func New(version string) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	times := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: callBuckets}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),

		calls:     counters("berth_rpcs_total", "Calls that have ended, by service, method and gRPC code.", "service", "method", "code"),
		callTimes: times("berth_rpc_duration_seconds", "Time that calls took; of those that stream, until the stream's end.", "service", "method"),

		stepTimes:  times("berth_step_duration_seconds", "Time that the steps of the verbs of pods, containers and the image store took.", "verb", "step"),
		stepErrors: counters("berth_step_errors_total", "Steps that failed and were undone, by kind of error.", "verb", "step", "kind"),

		exits:   counters("berth_container_exits_total", "Containers that have ended; OOMKilled are those that the kernel's OOM killer ended.", "reason"),
		righted: counters("berth_self_repairs_total", "Differences between records and machine that the daemon put right by itself: things without a record, ends that nobody told.", "kind"),

		checks: counter("berth_checks_total", "Checks of records against the machine, by berth check."),
		problems: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "berth_check_problems", Help: "What the last check found and did not repair: leaks, losses and damage.",
		}, []string{"kind"}),

		pulls: counters("berth_image_pulls_total", "Pulls of images that have ended, by code.", "code"),
		pullTimes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "berth_image_pull_duration_seconds", Help: "Time that successful pulls of images took.", Buckets: pullBuckets,
		}),
		pulledBytes: counter("berth_image_pull_received_bytes_total", "Bytes of layers, and of damaged blobs, that came from registries."),

		gcRuns:   counter("berth_image_gc_runs_total", "Collections of layers and blobs that nobody uses any more."),
		gcLayers: counter("berth_image_gc_removed_layers_total", "Layers that such collections removed."),
		gcBytes:  counter("berth_image_gc_freed_bytes_total", "Bytes that such collections freed, as accounted."),
		repaired: counters("berth_image_repairs_total", "Damaged layers and blobs that were fetched again.", "what"),
	}
	m.registry.MustRegister(
		m.calls, m.callTimes, m.stepTimes, m.stepErrors, m.exits, m.righted, m.checks, m.problems,
		m.pulls, m.pullTimes, m.pulledBytes, m.gcRuns, m.gcLayers, m.gcBytes, m.repaired,
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		buildInfo(version),
	)
	// What is never counted before it happens cannot be asked for its rate.
	for _, reason := range []string{reasonCompleted, reasonError, reasonOOM, reasonUnknown, reasonStart} {
		m.exits.WithLabelValues(reason)
	}
	for _, what := range []string{"layer", "blob"} {
		m.repaired.WithLabelValues(what)
	}
	m.pulls.WithLabelValues(codes.OK.String())
	return m
}

// buildInfo is a gauge that is always 1 and says by its labels what runs.
func buildInfo(version string) prometheus.Collector {
	var revision, goVersion string
	if info, ok := debug.ReadBuildInfo(); ok {
		goVersion = info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "berth_build_info", Help: "1, labelled with what was built of what.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": goVersion},
	})
	g.Set(1)
	return g
}

// Handler answers scrapes. Some at a time are enough, and none is compressed:
// that would cost more memory than all the series together.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		DisableCompression:  true,
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
	})
}

// Called takes a call that has ended; it is a cri.Observe.
func (m *Metrics) Called(method string, code codes.Code, took time.Duration) {
	service, method, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	m.calls.WithLabelValues(service, method, code.String()).Inc()
	m.callTimes.WithLabelValues(service, method).Observe(took.Seconds())
}

// Stepped takes a step of a verb of the pods or of the image store.
func (m *Metrics) Stepped(verb, step string, took time.Duration, err error) {
	m.stepTimes.WithLabelValues(verb, step).Observe(took.Seconds())
	if err != nil {
		m.stepErrors.WithLabelValues(verb, step, errkind.Of(err).String()).Inc()
	}
}

// Why containers end, in Kubernetes' words.
const (
	reasonCompleted = "Completed"
	reasonError     = "Error"
	reasonOOM       = "OOMKilled"
	reasonStart     = "StartError" // it never ran
	reasonUnknown   = "Unknown"    // nobody could read its exit status
)

// Exited takes the exit of a container.
func (m *Metrics) Exited(e spec.Exit) {
	reason := reasonError
	switch {
	case e.OOM:
		reason = reasonOOM
	case e.Reason == reasonUnknown || e.Reason == reasonStart:
		reason = e.Reason
	case e.Code == 0:
		reason = reasonCompleted
	}
	m.exits.WithLabelValues(reason).Inc()
}

// Righted takes a difference between records and machine that is no more.
func (m *Metrics) Righted(kind string) { m.righted.WithLabelValues(kind).Inc() }

// Checked takes what a check found.
func (m *Metrics) Checked(found []api.Problem) {
	m.checks.Inc()
	left := map[string]int{}
	for _, p := range found {
		left[p.Kind] += 0 // a kind that was repaired is shown as none left
		if !p.Repaired {
			left[p.Kind]++
		}
	}
	m.problems.Reset()
	for kind, n := range left {
		m.problems.WithLabelValues(kind).Set(float64(n))
	}
}

// Pulled takes the end of a pull.
func (m *Metrics) Pulled(took time.Duration, err error) {
	if err != nil {
		m.pulls.WithLabelValues(errkind.Of(err).String()).Inc()
		return
	}
	m.pulls.WithLabelValues(codes.OK.String()).Inc()
	m.pullTimes.Observe(took.Seconds())
}

// Received takes bytes that came from a registry.
func (m *Metrics) Received(n int) { m.pulledBytes.Add(float64(n)) }

// Collected takes a collection of garbage.
func (m *Metrics) Collected(layers int, bytes uint64) {
	m.gcRuns.Inc()
	m.gcLayers.Add(float64(layers))
	m.gcBytes.Add(float64(bytes))
}

// Repaired takes layers and blobs that were fetched again.
func (m *Metrics) Repaired(layers, blobs int) {
	m.repaired.WithLabelValues("layer").Add(float64(layers))
	m.repaired.WithLabelValues("blob").Add(float64(blobs))
}
