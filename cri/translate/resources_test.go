package translate

import (
	"maps"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPidsLimitTravelsAsUnifiedKey(t *testing.T) {
	t.Parallel()
	for value, limit := range map[string]int64{"64": 64, "max": -1} {
		asked := map[string]string{"pids.max": value, "memory.high": "max"}
		in := &criv1.LinuxContainerResources{Unified: maps.Clone(asked)}
		got := Resources(in)
		if got.PidsLimit != limit || len(got.Unified) != 1 || got.Unified["memory.high"] != "max" {
			t.Errorf("translated to %+v", got)
		}
		if !maps.Equal(in.Unified, asked) {
			t.Error("the message was changed")
		}
		if back := criResources(got); !maps.Equal(back.Unified, asked) {
			t.Errorf("echoed as %v, want %v", back.Unified, asked)
		}
	}
}
