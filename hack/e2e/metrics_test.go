//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// series are the values of a scrape, by family and labels as they are written.
type series map[string]float64

// scrape asks the debug socket as Prometheus would.
func (n *node) scrape() series {
	n.t.Helper()
	got := series{}
	lines := bufio.NewScanner(strings.NewReader(n.get("unix", filepath.Join(n.State, "debug.sock"), "/metrics")))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "} ")
		if value == "" {
			name, value, _ = strings.Cut(lines.Text(), " ")
		} else {
			name += "}"
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(name, "#") {
			got[name] = v
		}
	}
	return got
}

// get gives what a server of the daemon answers with status 200, "" else.
func (n *node) get(network, address, path string) string {
	n.t.Helper()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	}}
	resp, err := client.Get("http://berthd" + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

// becomes waits until every series has its value.
func (n *node) becomes(want series) {
	n.t.Helper()
	n.eventually(func() error {
		got := n.scrape()
		for name, v := range want {
			if got[name] != v {
				return fmt.Errorf("%s is %v, want %v", name, got[name], v)
			}
		}
		return nil
	})
}

// valve lets a MiB of a body pass for each word that it hears; closed, all.
type valve struct {
	io.ReadCloser
	words <-chan struct{}
	left  int
}

func (v *valve) Read(p []byte) (int, error) {
	if v.left == 0 {
		<-v.words
		v.left = 1 << 20
	}
	n, err := v.ReadCloser.Read(p[:min(len(p), v.left)])
	v.left -= n
	return n, err
}

// slowRegistry stands before the node's registry and lets the blob of that
// digest pass as it is told.
func (n *node) slowRegistry(blob string, words <-chan struct{}) (host string) {
	n.t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: n.Registry})
	proxy.FlushInterval = -1
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && strings.HasSuffix(r.Request.URL.Path, blob) {
			r.Body = &valve{ReadCloser: r.Body, words: words}
		}
		return nil
	}
	s := httptest.NewServer(proxy)
	n.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// slowImage is an image with one large layer, of which each word lets a piece
// come, and open the rest.
func (n *node) slowImage() (ref string, digest v1.Hash, baseSize, size int64, words chan struct{}, open func()) {
	t := n.t
	t.Helper()
	base, err := testimage.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	img, err := testimage.Image{Layers: []testimage.Layer{base, {Files: []testimage.File{{Path: "/noise", Data: string(noise)}}}}}.Build()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := testimage.Push(t.Context(), n.Registry+"/slow:1", img); err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if digest, err = layers[1].Digest(); err != nil {
		t.Fatal(err)
	}
	if size, err = layers[1].Size(); err != nil {
		t.Fatal(err)
	}
	if baseSize, err = layers[0].Size(); err != nil {
		t.Fatal(err)
	}
	words = make(chan struct{})
	open = sync.OnceFunc(func() { close(words) })
	ref = n.slowRegistry(digest.String(), words) + "/slow:1"
	t.Cleanup(open) // before the registry ends
	return ref, digest, baseSize, size, words, open
}

// TestMetricsOfAPull watches a slow pull: the layer under way grows and is
// gone with its end, and what came and what lies on the disk is counted, until
// the image is removed.
func TestMetricsOfAPull(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, digest, base, size, words, open := n.slowImage()
	pulled := make(chan error, 1)
	go func() {
		_, err := n.Pull(t.Context(), ref)
		pulled <- err
	}()
	labels := fmt.Sprintf(`{image="%s",layer="%s"}`, ref, digest)
	done, total := "berth_image_pull_layer_received_bytes"+labels, "berth_image_pull_layer_size_bytes"+labels
	before := 0.0
	for range 2 {
		for range 3 {
			words <- struct{}{}
		}
		n.eventually(func() error {
			s := n.scrape()
			if s[done] <= before || s[done] >= float64(size) || s[total] != float64(size) || s["berth_image_pulls_in_progress"] != 1 {
				return fmt.Errorf("%v after %v of %v of %d bytes, with %v pulls", s[done], before, s[total], size, s["berth_image_pulls_in_progress"])
			}
			before = s[done]
			return nil
		})
	}
	open()
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}

	n.becomes(series{`berth_image_pulls_total{code="OK"}`: 1, "berth_image_pull_duration_seconds_count": 1, "berth_image_pulls_in_progress": 0, "berth_images": 1, "berth_image_layers": 2})
	s := n.scrape()
	for name := range s {
		if strings.HasPrefix(name, "berth_image_pull_layer_") {
			t.Errorf("%s outlived the pull", name)
		}
	}
	all := float64(size + base)
	if got := s["berth_image_pull_received_bytes_total"]; got != all {
		t.Errorf("%v bytes came, want %v", got, all)
	}
	if s["berth_image_store_bytes"] < float64(size) || s["berth_image_store_inodes"] < 2 {
		t.Errorf("the store has %v bytes and %v inodes", s["berth_image_store_bytes"], s["berth_image_store_inodes"])
	}

	if _, err := n.images().RemoveImage(t.Context(), &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: ref}}); err != nil {
		t.Fatal(err)
	}
	n.becomes(series{"berth_image_gc_runs_total": s["berth_image_gc_runs_total"] + 1, "berth_image_gc_removed_layers_total": 2, "berth_image_gc_freed_bytes_total": s["berth_image_store_bytes"],
		"berth_images": 0, "berth_image_layers": 0, "berth_image_store_bytes": 0})
	if _, err := n.Pull(t.Context(), n.Registry+"/no/such:1"); err == nil {
		t.Error("an image that is not there was pulled")
	}
	n.becomes(series{`berth_image_pulls_total{code="NotFound"}`: 1, `berth_rpcs_total{code="NotFound",method="PullImage",service="runtime.v1.ImageService"}`: 1})
}

// TestMetricsOfContainers counts ends by their reasons, and the calls and
// steps that led there.
func TestMetricsOfContainers(t *testing.T) {
	port, err := lab.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	n := newNode(t, lab.Options{Config: fmt.Sprintf("metrics.address = %q\n", address)})
	n.crictl("pull", n.shell)
	n.run("zero", lab.ContainerConfig("c", n.shell, "true"))
	n.run("seven", lab.ContainerConfig("c", n.shell, "sh", "-c", "exit 7"))
	oom := lab.ContainerConfig("c", n.shell, "sh", "-c", "tail /dev/zero")
	oom.Linux.Resources = &criv1.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}
	n.run("oom", oom)
	n.run("sleeps", lab.ContainerConfig("c", n.shell, "sleep", "1000"))
	n.becomes(series{
		`berth_container_exits_total{reason="Completed"}`:                                                1,
		`berth_container_exits_total{reason="Error"}`:                                                    1,
		`berth_container_exits_total{reason="OOMKilled"}`:                                                1,
		`berth_container_exits_total{reason="StartError"}`:                                               0,
		`berth_pods{state="ready"}`:                                                                      4,
		`berth_containers{state="running"}`:                                                              1,
		`berth_containers{state="exited"}`:                                                               3,
		`berth_rpcs_total{code="OK",method="StartContainer",service="runtime.v1.RuntimeService"}`:        4,
		`berth_rpc_duration_seconds_count{method="StartContainer",service="runtime.v1.RuntimeService"}`:  4,
		`berth_step_duration_seconds_count{step="network",verb="pod.run"}`:                               4,
		`berth_rpc_duration_seconds_count{method="RunPodSandbox",service="runtime.v1.RuntimeService"}`:   4,
		`berth_rpc_duration_seconds_count{method="CreateContainer",service="runtime.v1.RuntimeService"}`: 4,
		`berth_rpcs_total{code="OK",method="CreateContainer",service="runtime.v1.RuntimeService"}`:       4,
	})

	bad := lab.ContainerConfig("c", n.shell, "/no/such/program")
	if _, _, err := n.RunPod(t.Context(), n.podConfig("bad"), bad); err == nil {
		t.Error("a program that is not there was started")
	}
	n.becomes(series{`berth_container_exits_total{reason="StartError"}`: 1})

	if err := n.Conn().Invoke(t.Context(), "/runtime.v1.RuntimeService/NoSuchMethod", &criv1.StatusRequest{}, &criv1.StatusResponse{}); err == nil {
		t.Error("a method that is not there was called")
	}
	for name := range n.scrape() {
		if strings.Contains(name, "NoSuchMethod") {
			t.Errorf("callers can make series: %s", name)
		}
	}

	if n.get("tcp", address, "/metrics") == "" {
		t.Error("no metrics at the address")
	}
	if n.get("tcp", address, "/debug/pprof/goroutine") != "" {
		t.Error("profiles at the address, for everybody")
	}
	if n.get("unix", filepath.Join(n.State, "debug.sock"), "/debug/pprof/goroutine?debug=1") == "" {
		t.Error("no profiles on the debug socket")
	}
	if st, err := os.Stat(filepath.Join(n.State, "debug.sock")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the debug socket: %v, %v", st, err)
	}
}

// TestMetricsOfDamage counts what a check finds and a repair repairs, and what
// lies about without a record when the daemon starts.
func TestMetricsOfDamage(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.pushStory())
	n.flipStory()
	if _, err := n.Berth(t.Context(), "check"); err == nil {
		t.Error("the check finds nothing")
	}
	// Two files, which are one.
	n.becomes(series{"berth_checks_total": 1, `berth_check_problems{kind="layer"}`: 2, "berth_image_broken_layers": 1})
	n.berth("check", "--repair")
	// It looks before it asks for the repair.
	n.becomes(series{"berth_checks_total": 3, `berth_check_problems{kind="layer"}`: 0, "berth_image_broken_layers": 0, `berth_image_repairs_total{what="layer"}`: 1})

	n.Stop()
	if err := os.Mkdir(filepath.Join(n.State, "pods", "nobody"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.becomes(series{`berth_self_repairs_total{kind="file"}`: 1})
}
