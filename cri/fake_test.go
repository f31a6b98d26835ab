package cri

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/stats"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// memPods is a pods domain in memory: it keeps what it is given, moves the
// states as asked, and tells its subscribers. fail, if set, is the answer of
// every verb that can fail.
type memPods struct {
	mu         sync.Mutex
	fail       func() error
	pods       map[string]*pod.PodStatus
	containers map[string]*pod.ContainerStatus
	subs       []chan pod.Event

	checkpoints []string // as they were asked for
}

func newMemPods() *memPods {
	return &memPods{pods: map[string]*pod.PodStatus{}, containers: map[string]*pod.ContainerStatus{}}
}

// begin locks and gives the configured failure.
func (m *memPods) begin() (func(), error) {
	m.mu.Lock()
	if m.fail != nil {
		if err := m.fail(); err != nil {
			m.mu.Unlock()
			return func() {}, err
		}
	}
	return m.mu.Unlock, nil
}

func absent(what, id string) error {
	return errkind.New(errkind.NotFound, "%s %s does not exist", what, id)
}

func visible(v pod.View, o pod.Origin) bool { return v == pod.ViewAll || o == pod.OriginKubelet }

func (m *memPods) emit(kind pod.EventKind, id string, p *pod.PodStatus) {
	for _, ch := range m.subs {
		ch <- pod.Event{Kind: kind, ContainerID: id, At: time.Unix(9, 0), Pod: p}
	}
}

func (m *memPods) Run(_ context.Context, v pod.View, cfg spec.Pod) (string, error) {
	done, err := m.begin()
	defer done()
	if err != nil {
		return "", err
	}
	id := fmt.Sprintf("%064x", len(m.pods)+1)
	m.pods[id] = &pod.PodStatus{ID: id, Origin: v.Origin(), Config: &cfg, Ready: true, CreatedAt: time.Unix(1, 0)}
	m.emit(pod.EventCreated, id, m.pods[id])
	return id, nil
}

func (m *memPods) Stop(_ context.Context, v pod.View, id string) error {
	done, err := m.begin()
	defer done()
	if p := m.pods[id]; err == nil && p != nil && visible(v, p.Origin) {
		next := *p
		next.Ready = false
		m.pods[id] = &next
	}
	return err
}

func (m *memPods) Remove(_ context.Context, v pod.View, id string) error {
	done, err := m.begin()
	defer done()
	if p := m.pods[id]; err == nil && p != nil && visible(v, p.Origin) {
		delete(m.pods, id)
	}
	return err
}

func (m *memPods) UpdatePod(_ context.Context, v pod.View, id string, overhead, resources spec.Resources) error {
	done, err := m.begin()
	defer done()
	if err != nil {
		return err
	}
	p := m.pods[id]
	if p == nil || !visible(v, p.Origin) {
		return absent("pod", id)
	}
	next := *p
	next.Overhead, next.Resources = overhead, resources
	m.pods[id] = &next
	return nil
}

func (m *memPods) Pod(v pod.View, id string) (*pod.PodStatus, error) {
	done, err := m.begin()
	defer done()
	if err != nil {
		return nil, err
	}
	if p := m.pods[id]; p != nil && visible(v, p.Origin) {
		return p, nil
	}
	return nil, absent("pod", id)
}

func (m *memPods) Pods(v pod.View, f pod.PodFilter) []*pod.PodStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*pod.PodStatus
	for _, id := range slices.Sorted(maps.Keys(m.pods)) {
		p := m.pods[id]
		if visible(v, p.Origin) && strings.HasPrefix(id, f.ID) && (f.Ready == nil || *f.Ready == p.Ready) {
			out = append(out, p)
		}
	}
	return out
}

func (m *memPods) Create(_ context.Context, v pod.View, podID string, cfg spec.Container) (string, error) {
	done, err := m.begin()
	defer done()
	if err != nil {
		return "", err
	}
	p := m.pods[podID]
	if p == nil || !visible(v, p.Origin) {
		return "", absent("pod", podID)
	}
	id := fmt.Sprintf("c%063x", len(m.containers)+1)
	m.containers[id] = &pod.ContainerStatus{
		ID: id, PodID: podID, Origin: p.Origin, Config: &cfg, State: pod.StateCreated, CreatedAt: time.Unix(2, 0),
		Image: &spec.ImageConfig{ID: cfg.Image, Ref: cfg.Image, Name: cfg.Image},
	}
	m.emit(pod.EventCreated, id, p)
	return id, nil
}

// change replaces the status of a container that exists.
func (m *memPods) change(v pod.View, id string, f func(*pod.ContainerStatus)) error {
	done, err := m.begin()
	defer done()
	if err != nil {
		return err
	}
	c := m.containers[id]
	if c == nil || !visible(v, c.Origin) {
		return absent("container", id)
	}
	next := *c
	f(&next)
	m.containers[id] = &next
	return nil
}

func (m *memPods) Start(_ context.Context, v pod.View, id string) error {
	return m.change(v, id, func(c *pod.ContainerStatus) { c.State, c.StartedAt = pod.StateRunning, time.Unix(3, 0) })
}

func (m *memPods) StopContainer(_ context.Context, v pod.View, id string, _ time.Duration) error {
	err := m.change(v, id, func(c *pod.ContainerStatus) { c.State, c.FinishedAt = pod.StateExited, time.Unix(4, 0) })
	if errkind.Is(err, errkind.NotFound) {
		return nil
	}
	return err
}

func (m *memPods) RemoveContainer(_ context.Context, v pod.View, id string) error {
	done, err := m.begin()
	defer done()
	if c := m.containers[id]; err == nil && c != nil && visible(v, c.Origin) {
		delete(m.containers, id)
	}
	return err
}

func (m *memPods) Container(v pod.View, id string) (*pod.ContainerStatus, error) {
	var out *pod.ContainerStatus
	err := m.change(v, id, func(c *pod.ContainerStatus) { out = c })
	return out, err
}

func (m *memPods) Containers(v pod.View, f pod.ContainerFilter) []*pod.ContainerStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*pod.ContainerStatus
	for _, id := range slices.Sorted(maps.Keys(m.containers)) {
		c := m.containers[id]
		if visible(v, c.Origin) && strings.HasPrefix(id, f.ID) && (f.State == "" || f.State == c.State) {
			out = append(out, c)
		}
	}
	return out
}

func (m *memPods) ExecSync(_ context.Context, v pod.View, id string, args []string, timeout time.Duration) (pod.ExecResult, error) {
	if args[0] == "sleep" {
		return pod.ExecResult{}, errkind.New(errkind.DeadlineExceeded, "cannot finish %s in %s", args[0], timeout)
	}
	_, err := m.Container(v, id)
	return pod.ExecResult{Stdout: []byte(strings.Join(args, " ")), Code: 3}, err
}

func (m *memPods) ReopenLog(_ context.Context, v pod.View, id string) error {
	return m.change(v, id, func(*pod.ContainerStatus) {})
}

func (m *memPods) Update(_ context.Context, v pod.View, id string, r spec.Resources) error {
	return m.change(v, id, func(c *pod.ContainerStatus) { c.Resources = r })
}

func (m *memPods) Stats(_ context.Context, v pod.View, id string) (*pod.Stats, error) {
	c, err := m.Container(v, id)
	return &pod.Stats{Container: c, At: time.Unix(5, 0)}, err
}

func (m *memPods) StatsList(_ context.Context, v pod.View, f pod.ContainerFilter) ([]*pod.Stats, error) {
	var out []*pod.Stats
	for _, c := range m.Containers(v, f) {
		out = append(out, &pod.Stats{Container: c, At: time.Unix(5, 0)})
	}
	return out, nil
}

func (m *memPods) PodStats(_ context.Context, v pod.View, id string) (*pod.PodStats, error) {
	p, err := m.Pod(v, id)
	return &pod.PodStats{Pod: p, At: time.Unix(6, 0)}, err
}

func (m *memPods) PodStatsList(_ context.Context, v pod.View, f pod.PodFilter) []*pod.PodStats {
	var out []*pod.PodStats
	for _, p := range m.Pods(v, f) {
		out = append(out, &pod.PodStats{Pod: p, At: time.Unix(6, 0)})
	}
	return out
}

func (m *memPods) Metrics(_ context.Context, v pod.View) []pod.PodMetrics {
	var out []pod.PodMetrics
	for _, p := range m.Pods(v, pod.PodFilter{}) {
		out = append(out, pod.PodMetrics{Pod: p, Interfaces: []stats.Interface{{Name: "eth0"}}})
	}
	return out
}

func (m *memPods) Subscribe(ctx context.Context) <-chan pod.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	ch := make(chan pod.Event, 16)
	m.subs = append(m.subs, ch)
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if i := slices.Index(m.subs, ch); i >= 0 {
			m.subs = slices.Delete(m.subs, i, i+1)
			close(ch)
		}
	})
	return ch
}

// cutOff ends all subscriptions, as of clients that fell behind.
func (m *memPods) cutOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ch := range m.subs {
		close(ch)
	}
	m.subs = nil
}

func (m *memPods) subscribers() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.subs)
}

// memImages is an image store in memory. pullErr is what registries say.
type memImages struct {
	mu      sync.Mutex
	pullErr error
	byRef   map[string]imageservice.Image
}

func (m *memImages) Pull(ctx context.Context, r imageservice.PullRequest) (imageservice.Image, error) {
	if r.Ref == "slow" {
		<-ctx.Done()
		return imageservice.Image{}, fmt.Errorf("cannot pull %s: %w", r.Ref, ctx.Err())
	}
	if m.pullErr != nil {
		return imageservice.Image{}, m.pullErr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	img := imageservice.Image{ID: "sha256:" + r.Ref, Tags: []string{r.Ref}, Digests: []string{r.Ref + "@sha256:0"}, Size: 1}
	m.byRef[r.Ref], m.byRef[img.ID] = img, img
	return img, nil
}

func (m *memImages) Status(_ context.Context, ref string) (imageservice.Image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	img, ok := m.byRef[ref]
	if !ok {
		return img, absent("image", ref)
	}
	return img, nil
}

func (m *memImages) List(context.Context) ([]imageservice.Image, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	byID := map[string]imageservice.Image{}
	for _, img := range m.byRef {
		byID[img.ID] = img
	}
	return slices.Collect(maps.Values(byID)), nil
}

func (m *memImages) Remove(_ context.Context, ref string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.byRef[ref].ID
	maps.DeleteFunc(m.byRef, func(_ string, img imageservice.Image) bool { return img.ID == id })
	return nil
}

func (m *memImages) RawConfig(_ context.Context, id string) ([]byte, error) {
	return []byte(`{"architecture":"` + id + `"}`), nil
}

func (m *memImages) Usage(context.Context) (imageservice.Usage, error) {
	return imageservice.Usage{Mountpoint: "/images", Bytes: 10, Inodes: 2}, nil
}
