package metrics_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc/codes"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/cri/metrics"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// node is what pods and images have at a scrape.
type node struct{ pulls []imageservice.RunningPull }

func (*node) Pods(pod.View, pod.PodFilter) []*pod.PodStatus {
	return []*pod.PodStatus{{Ready: true}, {Ready: true}, {}}
}

func (*node) Containers(pod.View, pod.ContainerFilter) []*pod.ContainerStatus {
	return []*pod.ContainerStatus{{State: pod.StateRunning}, {State: pod.StateExited}}
}

func (*node) Usage(context.Context) (imageservice.Usage, error) {
	return imageservice.Usage{Bytes: 7, Inodes: 6, Images: 5, Layers: 4, Broken: 3}, nil
}

func (n *node) Pulls() []imageservice.RunningPull { return n.pulls }

// busy is a Metrics that was told of everything once.
func busy(n *node) *metrics.Metrics {
	m := metrics.New("1.2.3")
	m.Watch(n, n)
	m.Called("/runtime.v1.RuntimeService/Status", codes.OK, 20*time.Millisecond)
	m.Called("/runtime.v1.RuntimeService/Status", codes.Unavailable, time.Millisecond)
	m.Stepped("pod.run", "network", 30*time.Millisecond, nil)
	m.Stepped("pod.run", "network", time.Second, errkind.New(errkind.ResourceExhausted, "no address is left"))
	m.Stepped("pod.run", "files", 0, errors.New("of no kind"))
	m.Pulled(2*time.Second, nil)
	m.Pulled(time.Second, errkind.New(errkind.NotFound, "no such image"))
	m.Received(100)
	m.Received(23)
	m.Collected(2, 50)
	m.Repaired(2, 1)
	m.Righted("file")
	for _, e := range []spec.Exit{{}, {Code: 1}, {Code: 137, OOM: true}, {Code: 128, Reason: "StartError"}, {Code: 255, Reason: "Unknown"}} {
		m.Exited(e)
	}
	m.Checked([]api.Problem{{Kind: "mount"}, {Kind: "mount"}, {Kind: "layer", Repaired: true}})
	return m
}

func scrape(t *testing.T, m *metrics.Metrics) string {
	t.Helper()
	r := httptest.NewRecorder()
	m.Handler().ServeHTTP(r, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if r.Code != http.StatusOK {
		t.Fatalf("status %d: %s", r.Code, r.Body)
	}
	return r.Body.String()
}

// TestFamilies holds names and types to what users' rules and dashboards may
// rely on, and all of them to Prometheus' conventions.
func TestFamilies(t *testing.T) {
	t.Parallel()
	text := scrape(t, busy(&node{pulls: []imageservice.RunningPull{{
		Ref: "r.example/a:1", Layers: []imageservice.Progress{{Layer: "sha256:1", Done: 1, Total: 2, Status: imageservice.StatusDownloading}},
	}}}))
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "berth_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	want := map[string]string{
		"berth_build_info":                      "gauge",
		"berth_check_problems":                  "gauge",
		"berth_checks_total":                    "counter",
		"berth_container_exits_total":           "counter",
		"berth_containers":                      "gauge",
		"berth_image_broken_layers":             "gauge",
		"berth_image_gc_freed_bytes_total":      "counter",
		"berth_image_gc_removed_layers_total":   "counter",
		"berth_image_gc_runs_total":             "counter",
		"berth_image_layers":                    "gauge",
		"berth_image_pull_duration_seconds":     "histogram",
		"berth_image_pull_layer_received_bytes": "gauge",
		"berth_image_pull_layer_size_bytes":     "gauge",
		"berth_image_pull_received_bytes_total": "counter",
		"berth_image_pulls_in_progress":         "gauge",
		"berth_image_pulls_total":               "counter",
		"berth_image_repairs_total":             "counter",
		"berth_image_store_bytes":               "gauge",
		"berth_image_store_inodes":              "gauge",
		"berth_images":                          "gauge",
		"berth_pods":                            "gauge",
		"berth_rpc_duration_seconds":            "histogram",
		"berth_rpcs_total":                      "counter",
		"berth_self_repairs_total":              "counter",
		"berth_step_duration_seconds":           "histogram",
		"berth_step_errors_total":               "counter",
	}
	got, helped := map[string]string{}, map[string]bool{}
	for _, line := range regexp.MustCompile(`(?m)^# (TYPE|HELP) (berth_\S+) (.+)$`).FindAllStringSubmatch(text, -1) {
		if line[1] == "HELP" {
			helped[line[2]] = true
			continue
		}
		if got[line[2]] != "" {
			t.Errorf("%s comes twice", line[2])
		}
		got[line[2]] = line[3]
	}
	if !maps.Equal(got, want) {
		t.Errorf("got the families %v,\nwant %v", got, want)
	}
	for name := range want {
		if !helped[name] {
			t.Errorf("%s has no help", name)
		}
	}
	for _, other := range []string{"go_goroutines", "process_resident_memory_bytes", "process_open_fds"} {
		if !strings.Contains(text, "\n"+other+" ") {
			t.Errorf("%s is missing", other)
		}
	}
}

// TestValues holds every hook to the series that it moves.
func TestValues(t *testing.T) {
	t.Parallel()
	m := busy(&node{})
	text := scrape(t, m)
	for _, line := range []string{
		`berth_rpcs_total{code="OK",method="Status",service="runtime.v1.RuntimeService"} 1`,
		`berth_rpcs_total{code="Unavailable",method="Status",service="runtime.v1.RuntimeService"} 1`,
		`berth_rpc_duration_seconds_count{method="Status",service="runtime.v1.RuntimeService"} 2`,
		`berth_step_duration_seconds_count{step="network",verb="pod.run"} 2`,
		`berth_step_duration_seconds_bucket{step="network",verb="pod.run",le="0.05"} 1`,
		`berth_step_errors_total{kind="ResourceExhausted",step="network",verb="pod.run"} 1`,
		`berth_step_errors_total{kind="Unknown",step="files",verb="pod.run"} 1`,
		`berth_image_pulls_total{code="OK"} 1`,
		`berth_image_pulls_total{code="NotFound"} 1`,
		`berth_image_pull_duration_seconds_count 1`,
		`berth_image_pull_received_bytes_total 123`,
		`berth_image_gc_runs_total 1`,
		`berth_image_gc_removed_layers_total 2`,
		`berth_image_gc_freed_bytes_total 50`,
		`berth_image_repairs_total{what="layer"} 2`,
		`berth_image_repairs_total{what="blob"} 1`,
		`berth_self_repairs_total{kind="file"} 1`,
		`berth_container_exits_total{reason="Completed"} 1`,
		`berth_container_exits_total{reason="Error"} 1`,
		`berth_container_exits_total{reason="OOMKilled"} 1`,
		`berth_container_exits_total{reason="StartError"} 1`,
		`berth_container_exits_total{reason="Unknown"} 1`,
		`berth_checks_total 1`,
		`berth_check_problems{kind="mount"} 2`,
		`berth_check_problems{kind="layer"} 0`,
		`berth_pods{state="ready"} 2`,
		`berth_pods{state="notready"} 1`,
		`berth_containers{state="running"} 1`,
		`berth_containers{state="created"} 0`,
		`berth_images 5`,
		`berth_image_layers 4`,
		`berth_image_broken_layers 3`,
		`berth_image_store_bytes 7`,
		`berth_image_store_inodes 6`,
		`berth_image_pulls_in_progress 0`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("lacks %s", line)
		}
	}
	if !regexp.MustCompile(`berth_build_info\{goversion="go[^"]+",revision="[^"]*",version="1.2.3"\} 1`).MatchString(text) {
		t.Error("does not say what was built")
	}
	m.Checked(nil)
	if text := scrape(t, m); strings.Contains(text, "berth_check_problems{") {
		t.Error("a clean check leaves the problems of the one before")
	}
}

// TestProgress shows layers while they are fetched, and each once.
func TestProgress(t *testing.T) {
	t.Parallel()
	layers := []imageservice.Progress{
		{Layer: "sha256:1", Done: 5, Total: 10, Status: imageservice.StatusDownloading},
		{Layer: "sha256:2", Done: 9, Total: 9, Status: imageservice.StatusDone},
		{Layer: "sha256:3", Done: 8, Total: 8, Status: imageservice.StatusExists},
	}
	n := &node{pulls: []imageservice.RunningPull{{Ref: "r.example/a:1", Layers: layers}, {Ref: "r.example/a:1", Layers: layers}}}
	m := busy(n)
	series := func() (got []string) {
		for line := range strings.Lines(scrape(t, m)) {
			if strings.HasPrefix(line, "berth_image_pull_layer_") || strings.HasPrefix(line, "berth_image_pulls_in_progress") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		return got
	}
	want := []string{
		`berth_image_pull_layer_received_bytes{image="r.example/a:1",layer="sha256:1"} 5`,
		`berth_image_pull_layer_size_bytes{image="r.example/a:1",layer="sha256:1"} 10`,
		`berth_image_pulls_in_progress 2`,
	}
	if got := series(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	n.pulls = nil
	if got, want := series(), []string{`berth_image_pulls_in_progress 0`}; !slices.Equal(got, want) {
		t.Errorf("after the pulls: %q", got)
	}
}
