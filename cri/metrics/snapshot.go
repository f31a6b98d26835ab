package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
)

// Pods is what is read of the pods at a scrape; *pod.Table has it.
type Pods interface {
	Pods(v pod.View, f pod.PodFilter) []*pod.PodStatus
	Containers(v pod.View, f pod.ContainerFilter) []*pod.ContainerStatus
}

// Images is what is read of the image store at a scrape; *imageservice.Service
// has it.
type Images interface {
	Usage(ctx context.Context) (imageservice.Usage, error)
	Pulls() []imageservice.RunningPull
}

// Watch adds what pods and images have at a scrape. It is called once.
func (m *Metrics) Watch(pods Pods, images Images) {
	m.registry.MustRegister(&snapshots{pods, images})
}

// snapshots reads the domains at a scrape.
type snapshots struct {
	pods   Pods
	images Images
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

// The families of snapshots.
var (
	podsDesc       = desc("berth_pods", "Pods, of all clients.", "state")
	containersDesc = desc("berth_containers", "Containers, of all clients.", "state")

	imagesDesc = desc("berth_images", "Images in the store.")
	layersDesc = desc("berth_image_layers", "Layers in the store.")
	brokenDesc = desc("berth_image_broken_layers", "Layers in the store that are damaged; no container starts on one.")
	bytesDesc  = desc("berth_image_store_bytes", "Bytes on disk of the store's layers and blobs, without what containers write.")
	inodesDesc = desc("berth_image_store_inodes", "Inodes of the store's layers and blobs, without what containers write.")

	pullingDesc = desc("berth_image_pulls_in_progress", "Pulls of images under way.")
	doneDesc    = desc("berth_image_pull_layer_received_bytes", "Bytes of a layer that is being fetched that have been unpacked; it is gone when the layer is there.", "image", "layer")
	totalDesc   = desc("berth_image_pull_layer_size_bytes", "Bytes that a layer that is being fetched has; it is gone when the layer is there.", "image", "layer")
)

func (s *snapshots) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{podsDesc, containersDesc, imagesDesc, layersDesc, brokenDesc, bytesDesc, inodesDesc, pullingDesc, doneDesc, totalDesc} {
		out <- d
	}
}

func (s *snapshots) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, n, labels...)
	}
	s.collectPods(gauge)
	// It is read from memory, and cannot fail.
	if u, err := s.images.Usage(context.Background()); err == nil {
		gauge(imagesDesc, float64(u.Images))
		gauge(layersDesc, float64(u.Layers))
		gauge(brokenDesc, float64(u.Broken))
		gauge(bytesDesc, float64(u.Bytes))
		gauge(inodesDesc, float64(u.Inodes))
	}
	s.collectPulls(gauge)
}

func (s *snapshots) collectPods(gauge func(*prometheus.Desc, float64, ...string)) {
	pods := map[string]int{"ready": 0, "notready": 0}
	for _, p := range s.pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		if p.Ready {
			pods["ready"]++
		} else {
			pods["notready"]++
		}
	}
	for state, n := range pods {
		gauge(podsDesc, float64(n), state)
	}
	containers := map[pod.State]int{pod.StateCreated: 0, pod.StateRunning: 0, pod.StateExited: 0, pod.StateUnknown: 0}
	for _, c := range s.pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		containers[c.State]++
	}
	for state, n := range containers {
		gauge(containersDesc, float64(n), string(state))
	}
}

// collectPulls shows the layers that come at this moment, each once, although
// two pulls of one reference with different credentials may both tell of it.
func (s *snapshots) collectPulls(gauge func(*prometheus.Desc, float64, ...string)) {
	running := s.images.Pulls()
	gauge(pullingDesc, float64(len(running)))
	type series struct{ image, layer string }
	told := map[series]bool{}
	for _, p := range running {
		for _, l := range p.Layers {
			one := series{p.Ref, l.Layer}
			if l.Status != imageservice.StatusDownloading || told[one] {
				continue
			}
			told[one] = true
			gauge(doneDesc, float64(l.Done), p.Ref, l.Layer)
			gauge(totalDesc, float64(l.Total), p.Ref, l.Layer)
		}
	}
}
