package stats

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// Detail is a reading of all that a metric tells of a container. It costs ten
// times a Sample, so only a scrape takes one.
type Detail struct {
	Sample
	UserNanos, SystemNanos                    uint64 // of CPU
	Periods, ThrottledPeriods, ThrottledNanos uint64
	Period, Shares                            uint64  // microseconds; v1's unit on v2 too
	Quota                                     *uint64 // microseconds a period; nil: unlimited
	Cache, MappedFile, Kernel, MaxUsage       uint64  // bytes
	FailCount, OOMKills                       uint64
	Reservation                               *uint64     // bytes; nil: none
	ThreadsMax                                *uint64     // nil: unlimited
	OpenFilesMax                              *uint64     // soft limit of the process with the lowest id; nil: unlimited, or no process
	HugePages                                 []HugePages // by size; none without the controller
	Devices                                   []DeviceIO
	Processes, Descriptors, Sockets           uint64
}

// HugePages is the use of huge pages of one size, in bytes.
type HugePages struct {
	Size     string // as the kernel names it: "2MB"
	Usage    uint64
	MaxUsage *uint64 // nil: the kernel does not tell, on v2
}

// DeviceIO is what was read from and written to a block device.
type DeviceIO struct {
	Major, Minor                         string
	ReadBytes, WriteBytes, Reads, Writes uint64
}

// ReadDetail reads the cgroup at cgroupPath. The error of an absent one is
// os.ErrNotExist.
func ReadDetail(cgroupPath string) (Detail, error) {
	d, err := local().detail(cgroupPath)
	if err != nil {
		return Detail{}, err
	}
	if d.OOMKills, err = cgroup.OOMKills(cgroupPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Detail{}, err
	}
	return d, d.countProcesses(cgroupPath)
}

// ReadDevices reads what the cgroup at cgroupPath read from and wrote to block
// devices; nothing without the controller.
func ReadDevices(cgroupPath string) ([]DeviceIO, error) {
	return local().devices(cgroupPath)
}

func (h hierarchy) devices(path string) (_ []DeviceIO, err error) {
	var d Detail
	path = filepath.Join("/", path)
	if h.v2 {
		err = d.ioStat(filepath.Join(h.root, path, "io.stat"))
	} else {
		err = d.blockIO(filepath.Join(h.root, "blkio", path, bytesMoved), filepath.Join(h.root, "blkio", path, timesMoved))
	}
	return d.Devices, err
}

// v1's files of what was read and written.
const (
	bytesMoved = "blkio.throttle.io_service_bytes"
	timesMoved = "blkio.throttle.io_serviced"
)

func (h hierarchy) detail(path string) (Detail, error) {
	s, err := h.read(path)
	if err != nil {
		return Detail{}, err
	}
	d := Detail{Sample: s}
	path = filepath.Join("/", path)
	if err := d.hugePages(h, path); err != nil {
		return Detail{}, err
	}
	if h.v2 {
		return d, d.readV2(filepath.Join(h.root, path))
	}
	return d, d.readV1(func(controller, file string) string { return filepath.Join(h.root, controller, path, file) })
}

func (d *Detail) readV1(at func(controller, file string) string) error {
	cpu, err := present(table(at("cpu", "cpu.stat")))
	if err != nil {
		return err
	}
	d.Periods, d.ThrottledPeriods, d.ThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_time"]
	memory, err := present(table(at("memory", "memory.stat")))
	if err != nil {
		return err
	}
	d.Cache, d.MappedFile = memory["total_cache"], memory["total_mapped_file"]
	for to, file := range map[*uint64]string{
		&d.UserNanos: at("cpuacct", "cpuacct.usage_user"), &d.SystemNanos: at("cpuacct", "cpuacct.usage_sys"),
		&d.Period: at("cpu", "cpu.cfs_period_us"), &d.Shares: at("cpu", "cpu.shares"),
		&d.Kernel: at("memory", "memory.kmem.usage_in_bytes"), &d.MaxUsage: at("memory", "memory.max_usage_in_bytes"),
		&d.FailCount: at("memory", "memory.failcnt"),
	} {
		if err := optional(to, file); err != nil {
			return err
		}
	}
	quota, err := present(os.ReadFile(at("cpu", "cpu.cfs_quota_us")))
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(strings.TrimSpace(string(quota)), 10, 64); err == nil { // else -1, no quota
		d.Quota = &n
	}
	for to, file := range map[**uint64]string{
		&d.Reservation: at("memory", "memory.soft_limit_in_bytes"), &d.ThreadsMax: at("pids", "pids.max"),
	} {
		if *to, err = present(limit(file)); err != nil {
			return err
		}
	}
	return d.blockIO(at("blkio", bytesMoved), at("blkio", timesMoved))
}

// blockIO reads v1's lines of "MAJOR:MINOR Read N".
func (d *Detail) blockIO(bytesFile, opsFile string) error {
	devices := map[string]*DeviceIO{}
	for _, f := range []struct {
		file string
		to   func(d *DeviceIO, op string) *uint64
	}{
		{bytesFile, func(d *DeviceIO, op string) *uint64 {
			return map[string]*uint64{"Read": &d.ReadBytes, "Write": &d.WriteBytes}[op]
		}},
		{opsFile, func(d *DeviceIO, op string) *uint64 {
			return map[string]*uint64{"Read": &d.Reads, "Write": &d.Writes}[op]
		}},
	} {
		data, err := present(os.ReadFile(f.file))
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) != 3 {
				continue // the sum at the end
			}
			dev := d.device(devices, fields[0])
			if to := f.to(dev, fields[1]); to != nil {
				if *to, err = strconv.ParseUint(fields[2], 10, 64); err != nil {
					return err
				}
			}
		}
	}
	d.takeDevices(devices)
	return nil
}

// hugePages reads hugetlb.SIZE.usage_in_bytes of v1, hugetlb.SIZE.current of v2.
func (d *Detail) hugePages(h hierarchy, path string) error {
	usage, most := ".usage_in_bytes", ".max_usage_in_bytes"
	if h.v2 {
		usage, most = ".current", ""
	}
	files, err := filepath.Glob(h.file(path, "hugetlb.*"+usage))
	if err != nil {
		return err
	}
	for _, file := range files {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "hugetlb."), usage)
		if strings.Contains(size, ".") {
			continue // hugetlb.SIZE.rsvd.current: what is reserved is not in use
		}
		pages := HugePages{Size: size}
		if err := optional(&pages.Usage, file); err != nil {
			return err
		}
		if most != "" {
			n, err := present(number(strings.TrimSuffix(file, usage) + most))
			if err != nil {
				return err
			}
			pages.MaxUsage = &n
		}
		d.HugePages = append(d.HugePages, pages)
	}
	return nil
}

func (d *Detail) device(all map[string]*DeviceIO, number string) *DeviceIO {
	if all[number] == nil {
		major, minor, _ := strings.Cut(number, ":")
		all[number] = &DeviceIO{Major: major, Minor: minor}
	}
	return all[number]
}

func (d *Detail) takeDevices(all map[string]*DeviceIO) {
	for _, number := range slices.Sorted(maps.Keys(all)) {
		d.Devices = append(d.Devices, *all[number])
	}
}

func (d *Detail) readV2(dir string) error {
	at := func(file string) string { return filepath.Join(dir, file) }
	cpu, err := present(table(at("cpu.stat")))
	if err != nil {
		return err
	}
	d.UserNanos, d.SystemNanos = cpu["user_usec"]*1000, cpu["system_usec"]*1000
	d.Periods, d.ThrottledPeriods, d.ThrottledNanos = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]*1000
	memory, err := present(table(at("memory.stat")))
	if err != nil {
		return err
	}
	d.Cache, d.MappedFile, d.Kernel = memory["file"], memory["file_mapped"], memory["kernel"]
	events, err := present(table(at("memory.events")))
	if err != nil {
		return err
	}
	d.FailCount = events["max"]
	if err := optional(&d.MaxUsage, at("memory.peak")); err != nil {
		return err
	}
	var weight uint64
	if err := optional(&weight, at("cpu.weight")); err != nil {
		return err
	}
	if weight > 0 {
		d.Shares = 2 + (weight-1)*262142/9999 // the kubelet's own reverse of shares to weight
	}
	for to, file := range map[**uint64]string{&d.Reservation: at("memory.low"), &d.ThreadsMax: at("pids.max")} {
		if *to, err = present(limit(file)); err != nil {
			return err
		}
	}
	if err := d.cpuMax(at("cpu.max")); err != nil {
		return err
	}
	return d.ioStat(at("io.stat"))
}

// cpuMax reads "QUOTA PERIOD", with "max" for no quota.
func (d *Detail) cpuMax(file string) error {
	data, err := present(os.ReadFile(file))
	fields := strings.Fields(string(data))
	if err != nil || len(fields) != 2 {
		return err
	}
	if fields[0] != "max" {
		quota, err := strconv.ParseUint(fields[0], 10, 64)
		if err != nil {
			return err
		}
		d.Quota = &quota
	}
	d.Period, err = strconv.ParseUint(fields[1], 10, 64)
	return err
}

// ioStat reads lines of "MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ...".
func (d *Detail) ioStat(file string) error {
	data, err := present(os.ReadFile(file))
	if err != nil {
		return err
	}
	devices := map[string]*DeviceIO{}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		dev := d.device(devices, fields[0])
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			to := map[string]*uint64{"rbytes": &dev.ReadBytes, "wbytes": &dev.WriteBytes, "rios": &dev.Reads, "wios": &dev.Writes}[key]
			if to == nil {
				continue
			}
			if *to, err = strconv.ParseUint(value, 10, 64); err != nil {
				return err
			}
		}
	}
	d.takeDevices(devices)
	return nil
}

// maxLinks bounds how many descriptors of a container are looked at for
// sockets: their number is up to it.
const maxLinks = 10000

// countProcesses counts processes and what they have open. One that ends
// meanwhile counts as far as it was seen.
func (d *Detail) countProcesses(path string) error {
	pids, err := cgroup.Procs(path)
	if err != nil {
		return err
	}
	d.Processes = uint64(len(pids))
	if len(pids) > 0 {
		d.OpenFilesMax = openFilesMax(slices.Min(pids))
	}
	left := maxLinks
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		names, _ := f.Readdirnames(left)
		_ = f.Close()
		left -= len(names)
		d.Descriptors += uint64(len(names))
		for _, name := range names {
			if to, err := os.Readlink(filepath.Join(dir, name)); err == nil && strings.HasPrefix(to, "socket:") {
				d.Sockets++
			}
		}
		if left <= 0 {
			break
		}
	}
	return nil
}

// openFilesMax is the soft limit of open files of a process that may have
// ended.
func openFilesMax(pid int) *uint64 {
	var l unix.Rlimit
	if unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &l) != nil || l.Cur == unix.RLIM_INFINITY {
		return nil
	}
	return &l.Cur
}

// present is v, or nothing where a kernel lacks the file.
func present[T any](v T, err error) (T, error) {
	if errors.Is(err, fs.ErrNotExist) {
		var none T
		return none, nil
	}
	return v, err
}
