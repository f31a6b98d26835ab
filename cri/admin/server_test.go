package admin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri"
	"github.com/berth-runtime/berth/cri/admin"
	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/volumes/named"
)

// anyPods has another name than its method.
type anyPods interface{ admin.Pods }

// onePod is a pods domain with one container.
type onePod struct {
	anyPods  // nil: it answers what has a method below
	mu       sync.Mutex
	c        *pod.ContainerStatus // nil: removed
	subs     []chan pod.Event
	signals  []string
	problems []pod.Problem
	works    []pod.Work
	pods     []*pod.PodStatus
}

func (o *onePod) Container(_ pod.View, id string) (*pod.ContainerStatus, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.c == nil || o.c.ID != id {
		return nil, errkind.New(errkind.NotFound, "container %s does not exist", id)
	}
	return o.c, nil
}

func (o *onePod) Pods(pod.View, pod.PodFilter) []*pod.PodStatus { return o.pods }

func (o *onePod) Containers(pod.View, pod.ContainerFilter) []*pod.ContainerStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.c == nil {
		return nil
	}
	return []*pod.ContainerStatus{o.c}
}

func (o *onePod) Signal(_ context.Context, _ pod.View, id, signal string) error {
	o.signals = append(o.signals, id+" "+signal)
	return nil
}

func (o *onePod) Subscribe(ctx context.Context) <-chan pod.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	ch := make(chan pod.Event, 4)
	o.subs = append(o.subs, ch)
	context.AfterFunc(ctx, func() { close(ch) })
	return ch
}

func (o *onePod) Usages(context.Context, pod.View, []string) ([]pod.Usage, error) {
	return nil, errDisk
}

func (o *onePod) Processes(_ pod.View, id string) ([]pod.Process, error) {
	return []pod.Process{{Pid: 1, Parent: 2, UID: 3, CPU: 4, Command: id}}, nil
}

func (o *onePod) MountersOf(path string) []string {
	if strings.HasSuffix(path, "/used") {
		return []string{"app (c)"}
	}
	return nil
}

func (o *onePod) Works() []pod.Work { return o.works }

func (o *onePod) ExecCommand(_ context.Context, _ pod.View, _ string, cmd pod.Command, want pod.Stdio) (pod.Session, error) {
	return startProcess(cmd, want)
}

func (o *onePod) AttachStream(_ context.Context, _ pod.View, _ string, want pod.Stdio) (pod.Session, error) {
	return startProcess(pod.Command{Args: []string{"cat"}}, want)
}

func (o *onePod) Check(context.Context) ([]pod.Problem, error) { return o.problems, nil }

// become replaces the container, nil removing it, and tells of what it was.
func (o *onePod) become(c *pod.ContainerStatus, tell ...*pod.ContainerStatus) {
	for o.waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.c = c
	for _, ch := range o.subs {
		ch <- pod.Event{Containers: tell}
	}
}

func (o *onePod) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.subs)
}

// oneImage is an image store with one image.
type oneImage struct {
	admin.Images       // nil: it answers what has a method below
	tagged, loaded     string
	registry, repaired bool
	auths              map[string]*imageservice.Auth // of the last repair
}

var img = imageservice.Image{
	ID: "sha256:i", Tags: []string{"docker.io/library/a:1"}, Size: 7, Created: time.Unix(1, 0).UTC(),
	Layers: []imageservice.Layer{{DiffID: "sha256:l", Size: 7}},
}

func (*oneImage) RawConfig(context.Context, string) ([]byte, error) {
	return []byte(`{"config":{"Healthcheck":{"Test":["NONE"]}}}`), nil
}

func (*oneImage) Pull(_ context.Context, r imageservice.PullRequest) (imageservice.Image, error) {
	if r.Auth == nil || r.Auth.Password != "secret" {
		return imageservice.Image{}, errkind.New(errkind.PermissionDenied, "cannot pull %s: credentials were refused", r.Ref)
	}
	for i := range int64(manyReports) {
		for _, layer := range []string{"sha256:l", "sha256:m"} {
			r.Progress(imageservice.Progress{Layer: layer, Done: i, Total: manyReports, Status: imageservice.StatusDownloading})
		}
	}
	for _, layer := range []string{"sha256:l", "sha256:m"} {
		r.Progress(imageservice.Progress{Layer: layer, Done: manyReports, Total: manyReports, Status: imageservice.StatusDone})
	}
	return img, nil
}

// manyReports are more than a connection holds.
const manyReports = 20_000

func (*oneImage) Status(_ context.Context, ref string) (imageservice.Image, error) {
	if ref != "a" {
		return imageservice.Image{}, errkind.New(errkind.NotFound, "image %s does not exist", ref)
	}
	return img, nil
}

func (*oneImage) List(context.Context) ([]imageservice.Image, error) {
	return []imageservice.Image{img}, nil
}

func (o *oneImage) Tag(_ context.Context, src, dst string) error {
	o.tagged = src + " " + dst
	return nil
}

func (o *oneImage) Untag(_ context.Context, ref string) error {
	o.tagged = "not " + ref
	return nil
}

func (*oneImage) History(context.Context, string) ([]imageservice.HistoryEntry, error) {
	return []imageservice.HistoryEntry{{CreatedBy: "COPY", DiffID: "sha256:l", Size: 7}, {CreatedBy: "CMD"}}, nil
}

func (*oneImage) Prune(_ context.Context, scope imageservice.PruneScope) (imageservice.Pruned, error) {
	if scope == imageservice.PruneUntagged {
		return imageservice.Pruned{}, nil
	}
	return imageservice.Pruned{Images: []imageservice.Image{img}, Bytes: 7}, nil
}

func (*oneImage) Explain(_ context.Context, ref string, _ *imageservice.Auth) (string, []imageservice.Endpoint, error) {
	return "docker.io/library/" + ref, []imageservice.Endpoint{{URL: "https://h/v2/a", Server: true, Capabilities: []string{"pull"}, Auth: "none"}}, nil
}

func (*oneImage) Pulls() []imageservice.RunningPull {
	return []imageservice.RunningPull{{Ref: "docker.io/library/a:1", Step: imageservice.PullLayers, Layers: []imageservice.Progress{{Layer: "sha256:l", Done: 3, Total: 7}}}}
}
func (*oneImage) Usage(context.Context) (imageservice.Usage, error) {
	return imageservice.Usage{Mountpoint: "/m", Bytes: 7, Inodes: 2}, nil
}

func (o *oneImage) Load(_ context.Context, r io.Reader, _ func(imageservice.Progress)) ([]imageservice.Image, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return nil, err
	}
	o.loaded = fmt.Sprintf("%x", h.Sum(nil))
	return []imageservice.Image{img}, nil
}

func (*oneImage) Save(_ context.Context, names []string, format imageservice.ArchiveFormat, w io.Writer) error {
	if names[0] != "a" {
		return errkind.New(errkind.NotFound, "image %s does not exist", names[0])
	}
	_, err := w.Write(bytes.Repeat([]byte{byte(format)}, 2*api.MaxChunk+1))
	return err
}

func (*oneImage) Push(_ context.Context, r imageservice.PushRequest) (digest.Digest, error) {
	if r.Auth == nil || r.Auth.IdentityToken != "token" || r.Auth.ServerAddress != "h" {
		return "", errkind.New(errkind.PermissionDenied, "cannot push %s: credentials were refused", r.Image)
	}
	r.Progress(imageservice.Progress{Layer: "sha256:l", Status: imageservice.StatusExists})
	return "sha256:m", nil
}

func (*oneImage) Build(ctx context.Context, r imageservice.BuildRequest, _ imageservice.BuildRunner) (imageservice.BuildResult, error) {
	return imageservice.BuildResult{}, errkind.New(errkind.Unimplemented, "it does not build")
}
func (*oneImage) SnapshotUsage(context.Context, string) (uint64, uint64, error) { return 5, 1, nil }
func (*oneImage) Check(context.Context) ([]string, error)                       { return []string{"layer x is torn"}, nil }

func (o *oneImage) Verify(_ context.Context, quick bool) ([]imageservice.Damage, error) {
	if quick || o.repaired {
		return nil, nil
	}
	return []imageservice.Damage{{Layer: 1, DiffID: "sha256:aa", Images: []string{img.ID}, File: "etc/passwd", What: "its content differs"}}, nil
}

func (o *oneImage) Repair(_ context.Context, damages []imageservice.Damage, auths map[string]*imageservice.Auth) error {
	o.auths = auths
	if o.repaired = o.registry; !o.registry {
		return errors.New("the registry is away\nand stays so")
	}
	return nil
}

func start(t *testing.T) (*api.Client, *onePod, *oneImage) {
	t.Helper()
	pods, images := &onePod{c: container(pod.StateRunning)}, &oneImage{}
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(cri.ServerOptions(nil, nil)...)
	volumes, err := named.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	admin.New(admin.Config{
		Pods: pods, Images: images, Named: volumes, Local: oneLocal{}, Steps: []string{"pod.run/lease/before"},
		Events: func(_ context.Context, since time.Time, follow bool, emit func(*api.Event) error) error {
			return emit(&api.Event{At: since, Type: api.EventPod, Action: fmt.Sprint(follow)})
		},
		Info: func(context.Context) api.Info {
			return api.Info{Version: "1.2.3", Pids: api.Pids{Daemon: 4, Shims: []int{5}}}
		},
	}).Register(g)
	go func() { _ = g.Serve(ln) }()
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return api.NewClient(conn), pods, images
}

func container(s pod.State) *pod.ContainerStatus {
	return &pod.ContainerStatus{
		ID: "c", State: s, Config: &spec.Container{Metadata: spec.ContainerMetadata{Name: "app"}}, Image: &spec.ImageConfig{ID: img.ID},
	}
}

func TestSimpleCallsRoundTrip(t *testing.T) {
	c, pods, images := start(t)
	ctx := t.Context()
	info, err := c.Info(ctx)
	if err != nil || info.Version != "1.2.3" || !reflect.DeepEqual(info.Pids, api.Pids{Daemon: 4, Shims: []int{5}}) {
		t.Errorf("info: %+v, %v", info, err)
	}
	if names, err := c.Steps(ctx); err != nil || len(names) != 1 {
		t.Errorf("steps: %q, %v", names, err)
	}
	if err := c.Tag(ctx, "a", "b"); err != nil || images.tagged != "a b" {
		t.Errorf("tag: %q, %v", images.tagged, err)
	}
	if err := c.Untag(ctx, "b"); err != nil || images.tagged != "not b" {
		t.Errorf("untag: %q, %v", images.tagged, err)
	}
	if r, err := c.Prune(ctx, &api.PruneRequest{All: true}); err != nil || r.Bytes != 7 || len(r.Images) != 1 || r.Images[0].Name != img.Tags[0] {
		t.Errorf("prune: %+v, %v", r, err)
	}
	if r, err := c.ExplainRegistry(ctx, &api.ExplainRequest{Ref: "a"}); err != nil || r.Ref != "docker.io/library/a" || len(r.Endpoints) != 1 || !r.Endpoints[0].Server {
		t.Errorf("explain: %+v, %v", r, err)
	}
	if err := c.Signal(ctx, "c", "HUP"); err != nil || !reflect.DeepEqual(pods.signals, []string{"c HUP"}) {
		t.Errorf("signal: %q, %v", pods.signals, err)
	}
	if got, err := c.Top(ctx, "c"); err != nil || !reflect.DeepEqual(got, []api.Process{{Pid: 1, Parent: 2, UID: 3, CPU: 4, Command: "c"}}) {
		t.Errorf("top: %+v, %v", got, err)
	}
	var events []api.Event
	told := []api.Event{{At: time.Unix(3, 0).UTC(), Type: api.EventPod, Action: "true"}}
	if err := c.Events(ctx, &api.EventsRequest{Since: time.Unix(3, 0).UTC(), Follow: true}, func(e *api.Event) error { events = append(events, *e); return nil }); err != nil || !reflect.DeepEqual(events, told) {
		t.Errorf("events: %+v, %v", events, err)
	}
	i, err := c.InspectImage(ctx, "a")
	if err != nil || i.ID != img.ID || len(i.Layers) != 1 || !i.Created.Equal(img.Created) || string(i.Config) != `{"Healthcheck":{"Test":["NONE"]}}` ||
		!reflect.DeepEqual(i.History, []api.History{{CreatedBy: "COPY", DiffID: "sha256:l", Size: 7}, {CreatedBy: "CMD"}}) {
		t.Errorf("inspect: %+v, %v", i, err)
	}
	if _, err := c.InspectImage(ctx, "b"); status.Code(err) != codes.NotFound {
		t.Errorf("inspect of an absent image: %v", err)
	}
	if all, err := c.Images(ctx); err != nil || len(all) != 1 || all[0].ID != img.ID || !all[0].Created.Equal(img.Created) ||
		!reflect.DeepEqual(all[0].Containers, []string{"c"}) || all[0].History != nil {
		t.Errorf("images: %+v, %v", all, err)
	}
	if !reflect.DeepEqual(i.Containers, []string{"c"}) || i.Artifact != nil {
		t.Errorf("inspect: %+v", i)
	}
	pods.c.Image, pods.c.VolumeImages = &spec.ImageConfig{ID: "sha256:another"}, []string{img.ID}
	if i, err = c.InspectImage(ctx, "a"); err != nil || !reflect.DeepEqual(i.Containers, []string{"c"}) {
		t.Errorf("inspect of a mounted image: %+v, %v", i, err)
	}
	pods.problems = []pod.Problem{{Kind: "mount", Object: "/x", Detail: "belongs to nothing"}}
	want := []api.Problem{{Kind: "mount", Object: "/x", Detail: "belongs to nothing"}, {Kind: "image", Object: "store", Detail: "layer x is torn"}}
	if got, err := c.CheckWith(ctx, &api.CheckRequest{Quick: true}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("check: %+v, %v", got, err)
	}
	df, err := c.Df(ctx)
	if err != nil || df.Bytes != 7 || !df.Images[0].InUse || df.Images[0].Name != img.Tags[0] || df.Containers[0].Bytes != 5 {
		t.Errorf("df: %+v, %v", df, err)
	}
}

func TestCheckNamesDamageAndRepairsIt(t *testing.T) {
	c, _, images := start(t)
	layer := func(r api.CheckRequest) api.Problem {
		t.Helper()
		got, err := c.CheckWith(t.Context(), &r)
		if err != nil || len(got) != 2 || got[1].Kind != "layer" || got[1].Object != "sha256:aa" {
			t.Fatalf("check: %+v, %v", got, err)
		}
		return got[1]
	}
	damage := `file "etc/passwd": its content differs; image sha256:i has it`
	if got := layer(api.CheckRequest{}); got.Detail != damage || got.Repaired {
		t.Errorf("check: %+v", got)
	}
	if got := layer(api.CheckRequest{Repair: true}); got.Detail != damage+"; the registry is away; and stays so" || got.Repaired {
		t.Errorf("repair without a registry: %+v", got)
	}
	images.registry = true
	request := api.CheckRequest{Repair: true, Credentials: map[string]api.Credentials{"a.example": {}, "b.example": {Username: "joe", Password: "secret"}}}
	if got := layer(request); got.Detail != damage || !got.Repaired {
		t.Errorf("repair: %+v", got)
	}
	if a, b := images.auths["a.example"], images.auths["b.example"]; a != nil || b == nil || b.Username != "joe" || b.Password != "secret" {
		t.Errorf("the repair had the credentials %+v, %+v", a, b)
	}
}

func TestPullReportsAndGivesTheID(t *testing.T) {
	c, _, _ := start(t)
	// However slow the reader is, it holds up nobody and learns how each layer
	// ended, and what it learns goes forward.
	at := map[string]int64{}
	ended := map[string]string{}
	id, err := c.Pull(t.Context(), &api.PullRequest{Ref: "a", Credentials: api.Credentials{Username: "u", Password: "secret"}}, func(p *api.Progress) {
		if p.Done < at[p.Layer] {
			t.Errorf("after %d of %s came %d", at[p.Layer], p.Layer, p.Done)
		}
		at[p.Layer], ended[p.Layer] = p.Done, p.Status
		time.Sleep(time.Millisecond)
	})
	if err != nil || id != img.ID {
		t.Errorf("got %q, %v", id, err)
	}
	if !maps.Equal(ended, map[string]string{"sha256:l": imageservice.StatusDone, "sha256:m": imageservice.StatusDone}) || at["sha256:m"] != manyReports {
		t.Errorf("the layers ended as %v at %v", ended, at)
	}
	_, err = c.Pull(t.Context(), &api.PullRequest{Ref: "a"}, nil)
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}

func TestPushReportsAndGivesTheDigest(t *testing.T) {
	c, _, _ := start(t)
	var said []string
	r := &api.PushRequest{Image: "a", Ref: "b", Credentials: api.Credentials{IdentityToken: "token", Server: "h"}}
	sum, err := c.Push(t.Context(), r, func(p *api.Progress) { said = append(said, p.Layer+" "+p.Status) })
	if err != nil || sum != "sha256:m" {
		t.Errorf("got %q, %v, %q", sum, err, said)
	}
	if _, err = c.Push(t.Context(), &api.PushRequest{Image: "a", Credentials: api.Credentials{Server: "h"}}, nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}

func TestSaveBringsTheArchiveUnchanged(t *testing.T) {
	c, _, _ := start(t)
	for name, format := range map[string]imageservice.ArchiveFormat{"": imageservice.ArchiveDocker, "oci": imageservice.ArchiveOCI} {
		var got bytes.Buffer
		err := c.Save(t.Context(), &api.SaveRequest{Images: []string{"a"}, Format: name}, &got)
		if want := bytes.Repeat([]byte{byte(format)}, 2*api.MaxChunk+1); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%q: %d bytes, %v", name, got.Len(), err)
		}
	}
	for want, r := range map[codes.Code]*api.SaveRequest{
		codes.NotFound:        {Images: []string{"b"}},
		codes.InvalidArgument: {Images: []string{"a"}, Format: "zip"},
	} {
		if err := c.Save(t.Context(), r, io.Discard); status.Code(err) != want {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func TestLoadSendsTheArchiveUnchanged(t *testing.T) {
	c, _, images := start(t)
	archive := bytes.Repeat([]byte("0123456789"), api.MaxChunk/4) // not a multiple of a chunk
	r, err := c.Load(t.Context(), bytes.NewReader(archive))
	if err != nil || !reflect.DeepEqual(r.IDs, []string{img.ID}) {
		t.Fatalf("got %+v, %v", r, err)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(archive)); images.loaded != want {
		t.Errorf("the archive arrived changed")
	}
	broken := io.MultiReader(bytes.NewReader(archive), &failingReader{})
	if _, err := c.Load(t.Context(), broken); !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
}

var errDisk = errors.New("disk")

type failingReader struct{}

func (*failingReader) Read([]byte) (int, error) { return 0, errDisk }

func TestWait(t *testing.T) {
	exited := container(pod.StateExited)
	exited.ExitCode, exited.Reason, exited.Message = 137, "OOMKilled", "text"
	for name, change := range map[string]func(*onePod){
		"ends":                     func(o *onePod) { o.become(exited, exited) },
		"ends, its event was lost": func(o *onePod) { o.become(exited) },
		"ends and is removed":      func(o *onePod) { o.become(nil, exited) },
		"something else happens first": func(o *onePod) {
			o.become(container(pod.StateRunning), container(pod.StateRunning))
			o.become(exited, exited)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, pods, _ := start(t)
			go change(pods)
			got, err := c.Wait(t.Context(), "c")
			if want := (&api.WaitResult{ExitCode: 137, OOM: true, Error: "text"}); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	t.Run("is removed", func(t *testing.T) {
		c, pods, _ := start(t)
		go pods.become(nil)
		if _, err := c.Wait(t.Context(), "c"); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("got %v", err)
		}
	})
	t.Run("caller goes", func(t *testing.T) {
		c, pods, _ := start(t)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for pods.waiting() == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
		}()
		if _, err := c.Wait(ctx, "c"); status.Code(err) != codes.Canceled {
			t.Errorf("got %v", err)
		}
	})
}

func TestLogsEndWithTheContainer(t *testing.T) {
	c, pods, _ := start(t)
	path := filepath.Join(t.TempDir(), "0.log")
	entry := "2026-01-02T03:04:05.000000006Z stdout F one\n2026-01-02T03:04:06Z stderr P tw\n"
	if err := os.WriteFile(path, []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	running := container(pod.StateRunning)
	running.LogPath = path
	pods.c = running
	var got []string
	err := c.Logs(t.Context(), &api.LogsRequest{Container: "c", Follow: true}, func(l *api.LogLine) error {
		got = append(got, fmt.Sprintf("%s %s %v", l.Stream, l.Text, l.Partial))
		if len(got) == 2 {
			ended := *running
			ended.State = pod.StateExited
			pods.mu.Lock()
			pods.c = &ended
			pods.mu.Unlock()
		}
		return nil
	})
	if want := []string{"stdout one false", "stderr tw true"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	last, one := 0, 1
	for _, tc := range []struct {
		tail *int
		want int
	}{{nil, 2}, {&one, 1}, {&last, 0}} {
		n := 0
		err := c.Logs(t.Context(), &api.LogsRequest{Container: "c", Tail: tc.tail}, func(*api.LogLine) error { n++; return nil })
		if err != nil || n != tc.want {
			t.Errorf("tail %v gave %d lines, %v", tc.tail, n, err)
		}
	}
	// Enough is the caller's to say.
	err = c.Logs(t.Context(), &api.LogsRequest{Container: "c"}, func(*api.LogLine) error { return errDisk })
	if !errors.Is(err, errDisk) {
		t.Errorf("got %v", err)
	}
	pods.c = container(pod.StateExited)
	err = c.Logs(t.Context(), &api.LogsRequest{Container: "c"}, nil)
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("container without a log: %v", err)
	}
}
