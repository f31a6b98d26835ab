package stats

import (
	"strings"
	"testing"
	"time"
)

// wanted are the metrics that critest demands of a runtime (a * after those
// that it lets lack).
const wanted = `blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
	cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free fs_inodes_total fs_limit_bytes
	fs_reads_bytes_total fs_reads_total fs_usage_bytes fs_writes_bytes_total fs_writes_total hugetlb_max_usage_bytes* hugetlb_usage_bytes* last_seen memory_cache memory_failcnt
	memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap memory_usage_bytes
	memory_working_set_bytes network_receive_bytes_total network_receive_errors_total network_receive_packets_dropped_total
	network_receive_packets_total network_transmit_bytes_total network_transmit_errors_total network_transmit_packets_dropped_total
	network_transmit_packets_total oom_events_total pressure_cpu_stalled_seconds_total* pressure_cpu_waiting_seconds_total*
	pressure_io_stalled_seconds_total* pressure_io_waiting_seconds_total* pressure_memory_stalled_seconds_total*
	pressure_memory_waiting_seconds_total* processes sockets spec_cpu_period spec_cpu_quota* spec_cpu_shares spec_memory_limit_bytes
	spec_memory_reservation_limit_bytes* spec_memory_swap_limit_bytes start_time_seconds threads threads_max ulimits_soft*`

// Every metric exists once, has a value (bare: where nothing is limited and
// nothing was read, but those marked), and as many labels as it says.
func TestEveryMetricHasItsValueAndLabels(t *testing.T) {
	t.Parallel()
	full := &Reading{Detail: Detail{Sample: Sample{CPUNanos: 3e9, Usage: 1, Pids: 4,
		Pressure: Pressure{CPU: &Stall{Some: Waited{Total: 5 * time.Second}}, Memory: &Stall{}, IO: &Stall{Full: Waited{Total: 2 * time.Second}}}}, Quota: ptr(1), Reservation: ptr(2),
		OpenFilesMax: ptr(1024), HugePages: []HugePages{{Size: "2MB", Usage: 2 << 20, MaxUsage: ptr(6 << 20)}, {Size: "1GB"}},
		Devices: []DeviceIO{{"8", "0", 1, 2, 3, 4}, {"8", "16", 5, 6, 7, 8}}}, Started: time.Unix(9, 5e8), Seen: time.Unix(10, 0)}
	bare := &Reading{Seen: time.Unix(10, 0)}
	values := map[string][]Point{}
	bareValues := map[string][]Point{}
	labels := map[string][]string{}
	for _, m := range ContainerMetrics() {
		if _, twice := values[m.Name]; twice || m.Help == "" {
			t.Errorf("%s is there twice, or has no help", m.Name)
		}
		values[m.Name], bareValues[m.Name], labels[m.Name] = m.Read(full), m.Read(bare), m.Labels
	}
	for _, m := range PodMetrics() {
		values[m.Name], labels[m.Name] = m.Read([]Interface{{Name: "eth0"}, {Name: "net1"}}), m.Labels
		bareValues[m.Name] = values[m.Name]
	}
	for name, points := range values {
		if len(points) == 0 {
			t.Errorf("%s has no value", name)
		}
		for _, p := range points {
			if len(p.Labels) != len(labels[name]) {
				t.Errorf("%s has the labels %q for %q", name, p.Labels, labels[name])
			}
		}
	}
	count := 0
	for name := range strings.FieldsSeq(wanted) {
		count++
		name, optional := strings.CutSuffix("container_"+name, "*")
		if _, ok := values[name]; !ok {
			t.Errorf("%s lacks", name)
		}
		if disk := strings.Contains(name, "blkio") || len(labels[name]) > 0 && labels[name][0] == "device"; len(bareValues[name]) == 0 && !optional && !disk {
			t.Errorf("%s has no value where nothing is limited", name)
		}
	}
	if count != len(values) {
		t.Errorf("%d metrics, want %d", len(values), count)
	}
	for name, want := range map[string]uint64{"cpu_usage_seconds_total": 3, "threads": 4, "pressure_cpu_waiting_seconds_total": 5, "pressure_cpu_stalled_seconds_total": 0,
		"pressure_io_stalled_seconds_total": 2, "hugetlb_usage_bytes": 2 << 20, "hugetlb_max_usage_bytes": 6 << 20, "ulimits_soft": 1024, "start_time_seconds": 9,
		"last_seen": 10, "fs_reads_total": 3, "spec_cpu_quota": 1} {
		if got := values["container_"+name][0].Value; got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	if got := bareValues["container_start_time_seconds"][0].Value; got != 0 {
		t.Errorf("a container that was not started began at %d", got)
	}
}
