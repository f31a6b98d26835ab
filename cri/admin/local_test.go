package admin_test

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/local"
	"github.com/berth-runtime/berth/runtime/local/manifest"
)

// oneLocal makes attempts by name only.
type oneLocal struct{}

func (oneLocal) Again(_ context.Context, id string, how local.Again) (string, error) {
	return fmt.Sprint(id, " ", how.Keep, how.Restart, how.Grace, how.NoStart), nil
}

func (oneLocal) States() map[string]local.State {
	at := time.Unix(7, 0).UTC()
	return map[string]local.State{"c": {Restarting: true, Next: at, Restarts: 3, Why: "busy", Health: &local.Health{
		Status: local.Unhealthy, Streak: 4, Log: []local.HealthProbe{{Start: at, End: at, ExitCode: 1, Output: "no"}},
	}}}
}

func (oneLocal) Apply(_ context.Context, text []byte, dry bool) ([]local.Applied, error) {
	return []local.Applied{{Namespace: "a", Name: string(text), Change: local.Replaced, Differs: []string{fmt.Sprint(dry)}, Pod: "id",
		Images: []manifest.Image{{Ref: "box", Policy: "Never"}}}}, nil
}

func (oneLocal) Delete(_ context.Context, text []byte) ([]local.Applied, error) {
	return []local.Applied{{Namespace: "a", Name: string(text), Pod: "id"}}, nil
}

func (oneLocal) Manifest(id string) (string, []string, error) {
	return "kind: " + id, []string{"x"}, nil
}

func TestManifestsRoundTrip(t *testing.T) {
	c, _, _ := start(t)
	want := []api.ManifestPod{{Namespace: "a", Name: "text", ID: "id", Change: "replaced", Differs: []string{"true"}, Images: []api.ManifestImage{{Ref: "box", PullPolicy: "Never"}}}}
	if got, err := c.Apply(t.Context(), &api.ManifestRequest{Text: "text", DryRun: true}); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.Delete(t.Context(), &api.ManifestRequest{Text: "text"}); err != nil || !reflect.DeepEqual(got, []api.ManifestPod{{Namespace: "a", Name: "text", ID: "id"}}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.Manifest(t.Context(), "p"); err != nil || got.Text != "kind: p" || len(got.Lost) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestAttemptsAndHealthRoundTrip(t *testing.T) {
	c, _, _ := start(t)
	id, err := c.Again(t.Context(), &api.AgainRequest{Container: "c", Keep: true, Restart: true, Grace: time.Second, NoStart: true})
	if err != nil || id != "c true true 1s true" {
		t.Errorf("%q, %v", id, err)
	}
	at := time.Unix(7, 0).UTC()
	want := map[string]api.Local{"c": {Restarting: true, Next: at, Restarts: 3, Why: "busy", Health: &api.Health{
		Status: "unhealthy", FailingStreak: 4, Log: []api.HealthProbe{{Start: at, End: at, ExitCode: 1, Output: "no"}},
	}}}
	if got, err := c.Local(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestVolumesRoundTrip(t *testing.T) {
	c, _, _ := start(t)
	for _, name := range []string{"used", "free"} {
		v, err := c.CreateVolume(t.Context(), &api.CreateVolumeRequest{Name: name, Labels: map[string]string{"a": "b"}})
		if err != nil || v.Name != name || v.Path == "" || v.Labels["a"] != "b" {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	list, err := c.Volumes(t.Context(), true)
	if err != nil || len(list) != 2 || list[0].Name != "free" || list[0].Bytes == nil || len(list[0].Users) != 0 || len(list[1].Users) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.RemoveVolume(t.Context(), "used"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("one in use: %v", err)
	}
	if err := c.RemoveVolume(t.Context(), "free"); err != nil {
		t.Error(err)
	}
	if err := c.RemoveVolume(t.Context(), "free"); status.Code(err) != codes.NotFound {
		t.Errorf("one that is gone: %v", err)
	}
}
