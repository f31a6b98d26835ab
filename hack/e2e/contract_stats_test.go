//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// kernelStats reads a figure of a container's cgroup: of the file of v1 or v2,
// all of it, or the number after key.
func (n *node) kernelStats(id, one, two, key string) uint64 {
	n.t.Helper()
	path := filepath.Join("/sys/fs/cgroup", filepath.Dir(one), n.Group(id), filepath.Base(one))
	if cgroup.Unified() {
		path = filepath.Join("/sys/fs/cgroup", n.Group(id), two)
	}
	for line := range strings.Lines(readText(n.t, path)) {
		fields := strings.Fields(line)
		if key == "" || fields[0] == key {
			v, err := strconv.ParseUint(fields[len(fields)-1], 10, 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return v
		}
	}
	n.t.Fatalf("%s has no %s", path, key)
	return 0
}

// ofVersion gives the name of a figure in the interface that the machine has.
func ofVersion(one, two string) string {
	if cgroup.Unified() {
		return two
	}
	return one
}

// TestStatsFields compares the statistics of a container that has done its
// work with what the kernel and the disk say, in each way to ask.
func TestStatsFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, _ := contractImage(t, n)
	const limit, written = 256 << 20, 4 << 20
	config := lab.ContainerConfig("c", ref, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/layer bs=1M count=4 2>/dev/null; dd if=/dev/zero of=/dev/shm/x bs=1M count=8 2>/dev/null; sync; echo done; exec sleep 600")
	config.Labels, config.Annotations = map[string]string{"l": "1"}, map[string]string{"a": "2"}
	config.Linux.Resources = &criv1.LinuxContainerResources{MemoryLimitInBytes: limit}
	pod, id := n.run("stats", config)
	n.eventually(func() error {
		if len(logLines(t, n, "stats")) == 0 {
			return errors.New("it still works")
		}
		return nil
	})
	begin := time.Now().UnixNano()
	first, err := n.runtime().ContainerStats(t.Context(), &criv1.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		t.Fatal(err)
	}
	s := first.Stats
	if want := (&criv1.ContainerAttributes{Id: id, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations}); !proto.Equal(s.Attributes, want) {
		t.Errorf("attributes %v, want %v", s.Attributes, want)
	}
	for what, at := range map[string]int64{"cpu": s.Cpu.GetTimestamp(), "memory": s.Memory.GetTimestamp(), "writable_layer": s.WritableLayer.GetTimestamp()} {
		if at < begin || at > time.Now().UnixNano() {
			t.Errorf("%s: timestamp %d", what, at)
		}
	}
	const stat = "memory/memory.stat"
	working := func() uint64 {
		return n.kernelStats(id, "memory/memory.usage_in_bytes", "memory.current", "") - n.kernelStats(id, stat, "memory.stat", ofVersion("total_inactive_file", "inactive_file"))
	}
	for what, c := range map[string]struct{ got, want, slack uint64 }{
		"usage_core_nano_seconds": {s.Cpu.UsageCoreNanoSeconds.GetValue(), n.kernelStats(id, "cpuacct/cpuacct.usage", "cpu.stat", ofVersion("", "usage_usec")) * map[bool]uint64{true: 1000, false: 1}[cgroup.Unified()], 5e6},
		"memory.usage_bytes":      {s.Memory.UsageBytes.GetValue(), n.kernelStats(id, "memory/memory.usage_in_bytes", "memory.current", ""), 1 << 20},
		"working_set_bytes":       {s.Memory.WorkingSetBytes.GetValue(), working(), 1 << 20},
		"available_bytes":         {s.Memory.AvailableBytes.GetValue(), limit - working(), 1 << 20},
		"rss_bytes":               {s.Memory.RssBytes.GetValue(), n.kernelStats(id, stat, "memory.stat", ofVersion("total_rss", "anon")), 1 << 20},
		"page_faults":             {s.Memory.PageFaults.GetValue(), n.kernelStats(id, stat, "memory.stat", ofVersion("total_pgfault", "pgfault")), 100},
		"major_page_faults":       {s.Memory.MajorPageFaults.GetValue(), n.kernelStats(id, stat, "memory.stat", ofVersion("total_pgmajfault", "pgmajfault")), 100},
		"writable_layer.used":     {s.WritableLayer.GetUsedBytes().GetValue(), written, 1 << 20},
	} {
		if max(c.got, c.want)-min(c.got, c.want) > c.slack {
			t.Errorf("%s is %d, the kernel has %d", what, c.got, c.want)
		}
	}
	if s.Cpu.UsageCoreNanoSeconds.GetValue() == 0 || s.Memory.UsageBytes.GetValue() < 8<<20 || s.Memory.PageFaults.GetValue() == 0 {
		t.Errorf("nothing was used: %v", s)
	}
	if inodes := s.WritableLayer.GetInodesUsed().GetValue(); inodes < 2 || inodes > 20 {
		t.Errorf("the layer has %d inodes, of one file", inodes)
	}
	if st, err := os.Stat(s.WritableLayer.GetFsId().GetMountpoint()); err != nil || !st.IsDir() {
		t.Errorf("the layer's file system %v: %v", s.WritableLayer.GetFsId(), err)
	}
	if cgroup.SwapLimit() && (s.Swap.GetTimestamp() < begin || s.Swap.GetSwapUsageBytes() == nil || s.Swap.GetSwapAvailableBytes() == nil) {
		t.Errorf("swap %v", s.Swap)
	}
	n.statsAreListed(pod, id)
	n.eventually(func() error {
		if r, err := n.runtime().ContainerStats(t.Context(), &criv1.ContainerStatsRequest{ContainerId: id}); err != nil || r.Stats.Cpu.UsageNanoCores == nil {
			return fmt.Errorf("no usage_nano_cores: %v, %w", r, err)
		}
		return nil
	})
}

// TestPodStatsFields compares the statistics of a pod with what its kernel
// says, in each way to ask.
func TestPodStatsFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, _ := contractImage(t, n)
	sandbox := n.podConfig("stats")
	sandbox.Labels, sandbox.Annotations = map[string]string{"l": "1"}, map[string]string{"a": "2"}
	pod, id, err := n.RunPod(t.Context(), sandbox, lab.ContainerConfig("c", ref))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now().UnixNano()
	var r *criv1.PodSandboxStatsResponse
	n.eventually(func() error { // the threads that made the container may still be ending
		var err error
		r, err = n.runtime().PodSandboxStats(t.Context(), &criv1.PodSandboxStatsRequest{PodSandboxId: pod})
		if err == nil && r.Stats.Linux.Process.GetProcessCount().GetValue() != 1 {
			err = fmt.Errorf("processes %v", r.Stats.Linux.Process)
		}
		return err
	})
	if want := (&criv1.PodSandboxAttributes{Id: pod, Metadata: sandbox.Metadata, Labels: sandbox.Labels, Annotations: sandbox.Annotations}); !proto.Equal(r.Stats.Attributes, want) {
		t.Errorf("attributes %v, want %v", r.Stats.Attributes, want)
	}
	s := r.Stats.Linux
	for what, at := range map[string]int64{"cpu": s.Cpu.GetTimestamp(), "memory": s.Memory.GetTimestamp(), "network": s.Network.GetTimestamp(), "process": s.Process.GetTimestamp()} {
		if at < begin || at > time.Now().UnixNano() {
			t.Errorf("%s: timestamp %d", what, at)
		}
	}
	if len(s.Containers) != 1 || s.Containers[0].Attributes.Id != id {
		t.Errorf("containers %v", s.Containers)
	}
	if s.Cpu.UsageCoreNanoSeconds.GetValue() == 0 || s.Memory.UsageBytes.GetValue() == 0 || s.Memory.WorkingSetBytes.GetValue() == 0 {
		t.Errorf("usage %v %v", s.Cpu, s.Memory)
	}
	eth := s.Network.GetDefaultInterface()
	if eth.GetName() != "eth0" || len(s.Network.GetInterfaces()) != 0 {
		t.Errorf("interfaces %v", s.Network)
	}
	for file, got := range map[string]*criv1.UInt64Value{"rx_bytes": eth.GetRxBytes(), "tx_bytes": eth.GetTxBytes(), "rx_errors": eth.GetRxErrors(), "tx_errors": eth.GetTxErrors()} {
		out, err := n.runtime().ExecSync(t.Context(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"cat", "/sys/class/net/eth0/statistics/" + file}})
		if err != nil {
			t.Fatal(err)
		}
		// Neighbours are looked for meanwhile.
		if has, err := strconv.ParseUint(strings.TrimSpace(string(out.Stdout)), 10, 64); err != nil || got == nil || got.Value > has || has-got.Value > 1<<16 {
			t.Errorf("%s is %v, the kernel has %d, %v", file, got, has, err)
		}
	}
	for what, c := range map[string]struct {
		filter *criv1.PodSandboxStatsFilter
		found  bool
	}{
		"nil":                  {nil, true},
		"all":                  {&criv1.PodSandboxStatsFilter{Id: pod[:12], LabelSelector: map[string]string{"l": "1"}}, true},
		"another id":           {&criv1.PodSandboxStatsFilter{Id: id}, false},
		"other label_selector": {&criv1.PodSandboxStatsFilter{LabelSelector: map[string]string{"l": "2"}}, false},
	} {
		list, err := n.runtime().ListPodSandboxStats(t.Context(), &criv1.ListPodSandboxStatsRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		stream, err := n.runtime().StreamPodSandboxStats(t.Context(), &criv1.StreamPodSandboxStatsRequest{Filter: c.filter})
		if err != nil {
			t.Fatal(err)
		}
		streamed, err := all(stream.Recv, (*criv1.StreamPodSandboxStatsResponse).GetPodSandboxStats)
		if err != nil {
			t.Fatal(err)
		}
		for how, items := range map[string][]*criv1.PodSandboxStats{"list": list.Stats, "stream": streamed} {
			if (len(items) == 1) != c.found || c.found && items[0].Attributes.Id != pod {
				t.Errorf("%s by %s: %v", how, what, items)
			}
		}
	}
}

// statsAreListed asks for them by each filter, as a list and as a stream.
func (n *node) statsAreListed(pod, id string) {
	n.t.Helper()
	none := strings.Repeat("0", 64)
	for what, c := range map[string]struct {
		filter *criv1.ContainerStatsFilter
		found  bool
	}{
		"nil":                  {nil, true},
		"all":                  {&criv1.ContainerStatsFilter{Id: id[:12], PodSandboxId: pod, LabelSelector: map[string]string{"l": "1"}}, true},
		"another id":           {&criv1.ContainerStatsFilter{Id: none}, false},
		"another pod":          {&criv1.ContainerStatsFilter{PodSandboxId: none}, false},
		"other label_selector": {&criv1.ContainerStatsFilter{LabelSelector: map[string]string{"l": "2"}}, false},
	} {
		list, err := n.runtime().ListContainerStats(n.t.Context(), &criv1.ListContainerStatsRequest{Filter: c.filter})
		if err != nil {
			n.t.Fatal(err)
		}
		stream, err := n.runtime().StreamContainerStats(n.t.Context(), &criv1.StreamContainerStatsRequest{Filter: c.filter})
		if err != nil {
			n.t.Fatal(err)
		}
		streamed, err := all(stream.Recv, (*criv1.StreamContainerStatsResponse).GetContainerStats)
		if err != nil {
			n.t.Fatal(err)
		}
		for how, items := range map[string][]*criv1.ContainerStats{"list": list.Stats, "stream": streamed} {
			if (len(items) == 1) != c.found || c.found && items[0].Attributes.Id != id {
				n.t.Errorf("%s by %s: %v", how, what, items)
			}
		}
	}
}

// all reads a stream of lists to its end.
func all[M, I any](recv func() (M, error), items func(M) []I) ([]I, error) {
	var out []I
	for {
		m, err := recv()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		out = append(out, items(m)...)
	}
}

// TestVerbFields observes the fields of requests that are no configuration.
func TestVerbFields(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref, _ := contractImage(t, n)
	rt, ctx := n.runtime(), t.Context()
	pod, id := n.run("verbs", lab.ContainerConfig("c", ref, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"))

	t.Run("ExecSync", func(t *testing.T) {
		out, err := rt.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id[:12], Cmd: []string{"sh", "-c", `echo "$0"; echo err >&2; exit 5`, "a b"}, Timeout: 60})
		if err != nil || string(out.Stdout) != "a b\n" || string(out.Stderr) != "err\n" || out.ExitCode != 5 {
			t.Errorf("%v, %v", out, err)
		}
		_, err = rt.ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"tail", "-f", "/dev/null"}, Timeout: 1})
		refused(t, "timeout", err, codes.DeadlineExceeded)
		n.eventually(func() error { return n.finds(id, "pidof tail || echo gone", "gone") }) // a killed process may still be ending
	})
	t.Run("verbose", func(t *testing.T) {
		for _, verbose := range []bool{false, true} {
			p, err1 := rt.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: verbose})
			c, err2 := rt.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
			s, err3 := rt.Status(ctx, &criv1.StatusRequest{Verbose: verbose})
			i, err4 := n.images().ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: ref}, Verbose: verbose})
			if err := errors.Join(err1, err2, err3, err4); err != nil {
				t.Fatal(err)
			}
			for what, info := range map[string]map[string]string{"pod": p.Info, "container": c.Info, "runtime": s.Info, "image": i.Info} {
				if (len(info) > 0) != verbose {
					t.Errorf("%s, verbose %t: %v", what, verbose, info)
				}
			}
			if verbose {
				var info struct{ Pid int }
				decode(t, c.Info["info"], &info)
				if line := readText(t, fmt.Sprintf("/proc/%d/cmdline", info.Pid)); !strings.Contains(line, "trap") {
					t.Errorf("process %d is %q", info.Pid, line)
				}
			}
		}
	})
	t.Run("ReopenContainerLog", func(t *testing.T) {
		log := filepath.Join(n.Logs, "verbs", "c.log")
		if err := os.Rename(log, log+".1"); err != nil {
			t.Fatal(err)
		}
		if _, err := rt.ReopenContainerLog(ctx, &criv1.ReopenContainerLogRequest{ContainerId: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(log); err != nil {
			t.Error(err)
		}
	})
	t.Run("UpdateContainerResources annotations", func(t *testing.T) {
		_, err := rt.UpdateContainerResources(ctx, &criv1.UpdateContainerResourcesRequest{ContainerId: id, Annotations: map[string]string{"any": "thing"}, Linux: &criv1.LinuxContainerResources{CpuShares: 512}})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.finds(id, "cat /sys/fs/cgroup/"+ofVersion("cpu/cpu.shares", "cpu.weight"), ofVersion("512", "59")); err != nil {
			t.Error(err)
		}
		if got := n.status(id).Annotations; len(got) != 0 {
			t.Errorf("the container has the annotations %v", got)
		}
	})
	t.Run("StopContainer timeout", func(t *testing.T) {
		begin := time.Now()
		if _, err := rt.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < time.Second {
			t.Errorf("a container that ignores the signal was killed after %v", took)
		}
		if err := exited(n, id, 137); err != nil {
			t.Error(err)
		}
	})
	t.Run("image runtime_handler", func(t *testing.T) {
		_, err := n.images().PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: ref, RuntimeHandler: "kata"}})
		refused(t, "a pull for an unknown handler", err, codes.InvalidArgument)
	})
	t.Run("ImageFsInfo", func(t *testing.T) {
		begin := time.Now().UnixNano()
		info, err := n.images().ImageFsInfo(ctx, &criv1.ImageFsInfoRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for what, fs := range map[string][]*criv1.FilesystemUsage{"image": info.ImageFilesystems, "container": info.ContainerFilesystems} {
			if len(fs) != 1 {
				t.Fatalf("%s: %v", what, fs)
			}
			f := fs[0]
			if st, err := os.Stat(f.GetFsId().GetMountpoint()); err != nil || !st.IsDir() || f.Timestamp < begin || f.UsedBytes.GetValue() < n.image(ref).Size || f.InodesUsed.GetValue() == 0 {
				t.Errorf("%s: %v, %v", what, f, err)
			}
		}
	})
	t.Run("UpdateRuntimeConfig", func(t *testing.T) {
		for _, cidr := range []string{"", "10.1.0.0/16", "10.1.0.0/16,fd00::/64"} {
			if _, err := rt.UpdateRuntimeConfig(ctx, &criv1.UpdateRuntimeConfigRequest{RuntimeConfig: &criv1.RuntimeConfig{NetworkConfig: &criv1.NetworkConfig{PodCidr: cidr}}}); err != nil {
				t.Errorf("%q: %v", cidr, err)
			}
		}
	})
}
