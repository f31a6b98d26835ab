package spec

import (
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestResourcesOfUndoesLinuxResources(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Resources{
		"none": {},
		"all": {CPUPeriod: 100000, CPUQuota: -1, CPUShares: 512, Memory: 1 << 20, MemorySwap: 2 << 20, CpusetCPUs: "0-1", CpusetMems: "0",
			PidsLimit: 7, Hugepages: map[string]uint64{"2MB": 4 << 20}, Unified: map[string]string{"memory.high": "1"}},
	} {
		if got := ResourcesOf(LinuxResources(r, true, false)); !reflect.DeepEqual(got, r) {
			t.Errorf("%s: got %+v, want %+v", name, got, r)
		}
	}
	if got := ResourcesOf(nil); !reflect.DeepEqual(got, Resources{}) {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestSettleOrdersMountsAndRaisesTheRoot(t *testing.T) {
	t.Parallel()
	oci := &specs.Spec{Process: &specs.Process{Args: []string{"x"}}, Linux: &specs.Linux{},
		Mounts: []specs.Mount{{Destination: "/a/b/"}, {Destination: "/a", Options: []string{"rslave"}}}}
	if err := Settle(oci); err != nil {
		t.Fatal(err)
	}
	if oci.Mounts[0].Destination != "/a" || oci.Mounts[1].Destination != "/a/b" || oci.Linux.RootfsPropagation != "rslave" {
		t.Errorf("got %+v, root %s", oci.Mounts, oci.Linux.RootfsPropagation)
	}
}
