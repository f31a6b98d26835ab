package stats

import "time"

// Kind tells a counter from a gauge.
type Kind int

// The kinds of metrics.
const (
	Counter Kind = iota
	Gauge
)

// Point is one value of a metric, with the values of its own labels.
type Point struct {
	Labels []string
	Value  uint64
}

// Metric is one that a kubelet may scrape. They have cAdvisor's names, so that
// dashboards go on; values are integers, and seconds whole ones.
type Metric[From any] struct {
	Name, Help string
	Kind       Kind
	Labels     []string // its own, after those that every metric has
	Read       func(From) []Point
}

// Reading is what the metrics of one container are made of.
type Reading struct {
	Detail
	Started, Seen         time.Time
	LayerBytes            uint64 // used by the writable layer
	FilesystemBytes       uint64 // the size of the file system it is on
	InodesFree, InodesAll uint64 // of that file system
}

// one is a metric without labels of its own.
func one(name, help string, kind Kind, read func(*Reading) uint64) Metric[*Reading] {
	return Metric[*Reading]{Name: name, Help: help, Kind: kind, Read: func(r *Reading) []Point {
		return []Point{{Value: read(r)}}
	}}
}

// orZero is the value of a limit, with cAdvisor's 0 for none.
func orZero(v *uint64) uint64 {
	if v == nil {
		return 0
	}
	return *v
}

func seconds(nanos uint64) uint64 { return nanos / uint64(time.Second) }

// ContainerMetrics are the metrics of a container.
func ContainerMetrics() []Metric[*Reading] {
	out := append(cpuMetrics(), memoryMetrics()...)
	out = append(out, diskMetrics()...)
	return append(out, processMetrics()...)
}

func cpuMetrics() []Metric[*Reading] {
	perCPU := []string{"cpu"}
	total := func(read func(*Reading) uint64) func(*Reading) []Point {
		return func(r *Reading) []Point { return []Point{{Labels: []string{"total"}, Value: read(r)}} }
	}
	return []Metric[*Reading]{
		{"container_cpu_usage_seconds_total", "CPU time used, in seconds.", Counter, perCPU, total(func(r *Reading) uint64 { return seconds(r.CPUNanos) })},
		one("container_cpu_user_seconds_total", "CPU time used in user mode, in seconds.", Counter, func(r *Reading) uint64 { return seconds(r.UserNanos) }),
		one("container_cpu_system_seconds_total", "CPU time used in the kernel, in seconds.", Counter, func(r *Reading) uint64 { return seconds(r.SystemNanos) }),
		one("container_cpu_cfs_periods_total", "Periods of the CPU quota that have passed.", Counter, func(r *Reading) uint64 { return r.Periods }),
		one("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU quota ran out.", Counter, func(r *Reading) uint64 { return r.ThrottledPeriods }),
		one("container_cpu_cfs_throttled_seconds_total", "Time spent waiting for the next period, in seconds.", Counter, func(r *Reading) uint64 { return seconds(r.ThrottledNanos) }),
		one("container_spec_cpu_period", "Length of a period, in microseconds.", Gauge, func(r *Reading) uint64 { return r.Period }),
		one("container_spec_cpu_shares", "CPU shares.", Gauge, func(r *Reading) uint64 { return r.Shares }),
		{"container_spec_cpu_quota", "CPU quota, in microseconds a period.", Gauge, nil, limited(func(r *Reading) *uint64 { return r.Quota })},
		pressure("container_pressure_cpu_waiting_seconds_total", "Time that some task waited for the CPU, in seconds.", func(p Pressure) *Stall { return p.CPU }, some),
		pressure("container_pressure_cpu_stalled_seconds_total", "Time that no task could go on for lack of the CPU, in seconds.", func(p Pressure) *Stall { return p.CPU }, full),
	}
}

// limited has a value only where there is a limit.
func limited(read func(*Reading) *uint64) func(*Reading) []Point {
	return func(r *Reading) []Point {
		if v := read(r); v != nil {
			return []Point{{Value: *v}}
		}
		return nil
	}
}

// pressure has a value only where the kernel tells of the resource's pressure.
func pressure(name, help string, of func(Pressure) *Stall, which func(*Stall) Waited) Metric[*Reading] {
	return Metric[*Reading]{Name: name, Help: help, Kind: Counter, Read: func(r *Reading) []Point {
		s := of(r.Pressure)
		if s == nil {
			return nil
		}
		return []Point{{Value: seconds(uint64(which(s).Total))}}
	}}
}

func some(s *Stall) Waited { return s.Some }
func full(s *Stall) Waited { return s.Full }

func memoryMetrics() []Metric[*Reading] {
	return []Metric[*Reading]{
		one("container_memory_usage_bytes", "Memory in use, with caches.", Gauge, func(r *Reading) uint64 { return r.Usage }),
		one("container_memory_working_set_bytes", "Memory in use, without caches that were not used for a while.", Gauge, func(r *Reading) uint64 { return r.WorkingSet }),
		one("container_memory_rss", "Anonymous memory, in bytes.", Gauge, func(r *Reading) uint64 { return r.RSS }),
		one("container_memory_cache", "Page cache, in bytes.", Gauge, func(r *Reading) uint64 { return r.Cache }),
		one("container_memory_mapped_file", "Memory of mapped files, in bytes.", Gauge, func(r *Reading) uint64 { return r.MappedFile }),
		one("container_memory_kernel_usage", "Memory that the kernel uses for it, in bytes.", Gauge, func(r *Reading) uint64 { return r.Kernel }),
		one("container_memory_swap", "Swap in use, in bytes.", Gauge, func(r *Reading) uint64 { return orZero(r.SwapUsage) }),
		one("container_memory_max_usage_bytes", "The most memory that was in use.", Gauge, func(r *Reading) uint64 { return r.MaxUsage }),
		one("container_memory_failcnt", "How often the memory limit was hit.", Counter, func(r *Reading) uint64 { return r.FailCount }),
		{"container_memory_failures_total", "Page faults.", Counter, []string{"failure_type", "scope"}, func(r *Reading) []Point {
			// What is below a container's cgroup is the container's own.
			var out []Point
			for _, scope := range []string{"container", "hierarchy"} {
				out = append(out, Point{[]string{"pgfault", scope}, r.PageFaults}, Point{[]string{"pgmajfault", scope}, r.MajorPageFaults})
			}
			return out
		}},
		one("container_oom_events_total", "Processes that the OOM killer ended.", Counter, func(r *Reading) uint64 { return r.OOMKills }),
		one("container_spec_memory_limit_bytes", "Memory limit; 0: none.", Gauge, func(r *Reading) uint64 { return orZero(r.Limit) }),
		one("container_spec_memory_swap_limit_bytes", "Limit of swap alone; 0: none.", Gauge, func(r *Reading) uint64 { return orZero(r.SwapLimit) }),
		{"container_spec_memory_reservation_limit_bytes", "Memory that is kept for it where it can be.", Gauge, nil, limited(func(r *Reading) *uint64 { return r.Reservation })},
		perPageSize("container_hugetlb_usage_bytes", "Huge pages in use, in bytes.", func(h HugePages) *uint64 { return &h.Usage }),
		perPageSize("container_hugetlb_max_usage_bytes", "The most bytes of huge pages that were in use; cgroup v2 does not tell.", func(h HugePages) *uint64 { return h.MaxUsage }),
		pressure("container_pressure_memory_waiting_seconds_total", "Time that some task waited for memory, in seconds.", func(p Pressure) *Stall { return p.Memory }, some),
		pressure("container_pressure_memory_stalled_seconds_total", "Time that no task could go on for lack of memory, in seconds.", func(p Pressure) *Stall { return p.Memory }, full),
	}
}

// perPageSize has a value for each size of huge pages that the cgroup accounts.
func perPageSize(name, help string, read func(HugePages) *uint64) Metric[*Reading] {
	return Metric[*Reading]{Name: name, Help: help, Kind: Gauge, Labels: []string{"pagesize"}, Read: func(r *Reading) []Point {
		var out []Point
		for _, h := range r.HugePages {
			if v := read(h); v != nil {
				out = append(out, Point{[]string{h.Size}, *v})
			}
		}
		return out
	}}
}

// perDevice has a value for each block device that was used.
func perDevice(name, help string, read func(DeviceIO) uint64) Metric[*Reading] {
	return Metric[*Reading]{Name: name, Help: help, Kind: Counter, Labels: []string{"device"}, Read: func(r *Reading) []Point {
		var out []Point
		for _, d := range r.Devices {
			out = append(out, Point{[]string{d.Major + ":" + d.Minor}, read(d)})
		}
		return out
	}}
}

func diskMetrics() []Metric[*Reading] {
	return []Metric[*Reading]{
		{"container_blkio_device_usage_total", "Bytes read from and written to a block device.", Counter, []string{"device", "major", "minor", "operation"}, func(r *Reading) []Point {
			var out []Point
			for _, d := range r.Devices {
				at := func(op string) []string { return []string{d.Major + ":" + d.Minor, d.Major, d.Minor, op} }
				out = append(out, Point{at("Read"), d.ReadBytes}, Point{at("Write"), d.WriteBytes})
			}
			return out
		}},
		perDevice("container_fs_reads_bytes_total", "Bytes read from a block device.", func(d DeviceIO) uint64 { return d.ReadBytes }),
		perDevice("container_fs_reads_total", "Reads from a block device.", func(d DeviceIO) uint64 { return d.Reads }),
		perDevice("container_fs_writes_bytes_total", "Bytes written to a block device.", func(d DeviceIO) uint64 { return d.WriteBytes }),
		perDevice("container_fs_writes_total", "Writes to a block device.", func(d DeviceIO) uint64 { return d.Writes }),
		one("container_fs_usage_bytes", "Bytes of the writable layer.", Gauge, func(r *Reading) uint64 { return r.LayerBytes }),
		one("container_fs_limit_bytes", "Size of the file system that the writable layer is on.", Gauge, func(r *Reading) uint64 { return r.FilesystemBytes }),
		one("container_fs_inodes_free", "Free inodes of that file system.", Gauge, func(r *Reading) uint64 { return r.InodesFree }),
		one("container_fs_inodes_total", "All inodes of that file system.", Gauge, func(r *Reading) uint64 { return r.InodesAll }),
		pressure("container_pressure_io_waiting_seconds_total", "Time that some task waited for a disk, in seconds.", func(p Pressure) *Stall { return p.IO }, some),
		pressure("container_pressure_io_stalled_seconds_total", "Time that no task could go on for lack of a disk, in seconds.", func(p Pressure) *Stall { return p.IO }, full),
	}
}

func processMetrics() []Metric[*Reading] {
	return []Metric[*Reading]{
		one("container_processes", "Processes.", Gauge, func(r *Reading) uint64 { return r.Processes }),
		one("container_threads", "Threads.", Gauge, func(r *Reading) uint64 { return r.Pids }),
		one("container_threads_max", "Limit of threads; 0: none.", Gauge, func(r *Reading) uint64 { return orZero(r.ThreadsMax) }),
		one("container_file_descriptors", "Open file descriptors, of which 10,000 are counted.", Gauge, func(r *Reading) uint64 { return r.Descriptors }),
		{"container_ulimits_soft", "Soft limits of the container's first process; none where it is unlimited.", Gauge, []string{"ulimit"}, func(r *Reading) []Point {
			if r.OpenFilesMax == nil {
				return nil
			}
			return []Point{{[]string{"max_open_files"}, *r.OpenFilesMax}}
		}},
		one("container_sockets", "Open sockets among those file descriptors.", Gauge, func(r *Reading) uint64 { return r.Sockets }),
		one("container_last_seen", "When this was read, in seconds since 1970.", Gauge, func(r *Reading) uint64 { return uint64(r.Seen.Unix()) }),
		one("container_start_time_seconds", "When it was started, in seconds since 1970.", Gauge, func(r *Reading) uint64 {
			if r.Started.IsZero() {
				return 0
			}
			return uint64(r.Started.Unix())
		}),
	}
}

// PodMetrics are the metrics of a pod's network, one point an interface.
func PodMetrics() []Metric[[]Interface] {
	each := func(name, help string, read func(Interface) uint64) Metric[[]Interface] {
		return Metric[[]Interface]{Name: "container_network_" + name, Help: help, Kind: Counter, Labels: []string{"interface"}, Read: func(all []Interface) []Point {
			var out []Point
			for _, i := range all {
				out = append(out, Point{[]string{i.Name}, read(i)})
			}
			return out
		}}
	}
	return []Metric[[]Interface]{
		each("receive_bytes_total", "Bytes received.", func(i Interface) uint64 { return i.RxBytes }),
		each("receive_packets_total", "Packets received.", func(i Interface) uint64 { return i.RxPackets }),
		each("receive_errors_total", "Errors while receiving.", func(i Interface) uint64 { return i.RxErrors }),
		each("receive_packets_dropped_total", "Packets dropped while receiving.", func(i Interface) uint64 { return i.RxDropped }),
		each("transmit_bytes_total", "Bytes sent.", func(i Interface) uint64 { return i.TxBytes }),
		each("transmit_packets_total", "Packets sent.", func(i Interface) uint64 { return i.TxPackets }),
		each("transmit_errors_total", "Errors while sending.", func(i Interface) uint64 { return i.TxErrors }),
		each("transmit_packets_dropped_total", "Packets dropped while sending.", func(i Interface) uint64 { return i.TxDropped }),
	}
}
