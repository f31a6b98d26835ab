package admin_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/steps"
)

func TestWork(t *testing.T) {
	c, pods, _ := start(t)
	at := time.Unix(7, 0).UTC()
	pods.works = []pod.Work{{
		PodID: "p", ContainerID: "c", Pod: spec.PodMetadata{Name: "web", Namespace: "default"}, Container: spec.ContainerMetadata{Name: "app"},
		Doing:   []steps.Doing{{Object: "c", Verb: "container.remove", Step: "rootfs", Began: at, Since: at, Undoing: true, Failure: "no"}},
		Trouble: &pod.Trouble{At: at, Verb: "remove", Why: "busy"},
	}}
	want := &api.WorkResult{
		Works: []api.Work{{
			PodID: "p", ContainerID: "c", Namespace: "default", Pod: "web", Container: "app",
			Doing:   []api.Doing{{Verb: "container.remove", Step: "rootfs", Began: at, Since: at, Undoing: true, Failure: "no"}},
			Trouble: &api.Trouble{At: at, Verb: "remove", Why: "busy"},
		}},
		Pulls: []api.RunningPull{{Ref: "docker.io/library/a:1", Step: "layers", Layers: []api.Progress{{Layer: "sha256:l", Done: 3, Total: 7}}}},
	}
	if got, err := c.Work(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}
