package stats

import (
	"errors"
	"maps"
	"os"
	"reflect"
	"testing"
)

func detailV1() map[string]string {
	files := v1()
	maps.Copy(files, map[string]string{
		"cpu/c/cpu.stat":                            "nr_periods 10\nnr_throttled 4\nthrottled_time 5000000000\n",
		"cpu/c/cpu.cfs_period_us":                   "50000\n",
		"cpu/c/cpu.cfs_quota_us":                    "20000\n",
		"cpu/c/cpu.shares":                          "512\n",
		"cpuacct/c/cpuacct.usage_user":              "100000000\n",
		"cpuacct/c/cpuacct.usage_sys":               "23456000\n",
		"memory/c/memory.stat":                      files["memory/c/memory.stat"] + "total_mapped_file 77\n",
		"memory/c/memory.kmem.usage_in_bytes":       "88\n",
		"memory/c/memory.max_usage_in_bytes":        "60000\n",
		"memory/c/memory.failcnt":                   "6\n",
		"memory/c/memory.soft_limit_in_bytes":       "4096\n",
		"pids/c/pids.max":                           "64\n",
		"blkio/c/blkio.throttle.io_service_bytes":   "8:16 Read 1\n8:16 Write 2\n8:16 Sync 0\n8:16 Total 3\n8:0 Read 5\n8:0 Write 6\nTotal 14\n",
		"blkio/c/blkio.throttle.io_serviced":        "8:16 Read 3\n8:16 Write 4\n8:0 Read 7\n8:0 Write 8\nTotal 22\n",
		"hugetlb/c/hugetlb.1GB.usage_in_bytes":      "1073741824\n",
		"hugetlb/c/hugetlb.1GB.max_usage_in_bytes":  "2147483648\n",
		"hugetlb/c/hugetlb.2MB.usage_in_bytes":      "4194304\n",
		"hugetlb/c/hugetlb.2MB.max_usage_in_bytes":  "0\n",
		"hugetlb/c/hugetlb.2MB.rsvd.usage_in_bytes": "9\n",
		"cpu/bare/cpu.cfs_quota_us":                 "-1\n",
		"pids/bare/pids.max":                        "max\n",
	})
	return files
}

func detailV2() map[string]string {
	files := v2()
	maps.Copy(files, map[string]string{
		"c/cpu.stat":                 "usage_usec 123456\nuser_usec 100000\nsystem_usec 23456\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5000000\n",
		"c/cpu.max":                  "20000 50000\n",
		"c/cpu.weight":               "20\n",
		"c/memory.stat":              "anon 30000\nfile 4\nfile_mapped 77\nkernel 88\ninactive_file 10000\npgfault 11\npgmajfault 5\n",
		"c/memory.peak":              "60000\n",
		"c/memory.events":            "low 0\nhigh 0\nmax 6\noom 0\noom_kill 0\n",
		"c/memory.low":               "4096\n",
		"c/pids.max":                 "64\n",
		"c/io.stat":                  "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:0 rbytes=5 wbytes=6 rios=7 wios=8\n",
		"c/hugetlb.1GB.current":      "1073741824\n",
		"c/hugetlb.2MB.current":      "4194304\n",
		"c/hugetlb.2MB.rsvd.current": "9\n",
		"bare/cpu.max":               "max 100000\n",
		"bare/pids.max":              "max\n",
	})
	return files
}

func TestDetail(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]hierarchy{"v1": {root: tree(t, detailV1())}, "v2": {root: tree(t, detailV2()), v2: true}} {
		d, err := h.detail("c")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		shares := uint64(512)
		if h.v2 {
			shares = 500 // the nearest that a weight of 20 tells
		}
		want := Detail{Sample: d.Sample, UserNanos: 100000000, SystemNanos: 23456000, Periods: 10, ThrottledPeriods: 4, ThrottledNanos: 5000000000,
			Period: 50000, Shares: shares, Quota: ptr(20000), Cache: 4, MappedFile: 77, Kernel: 88, MaxUsage: 60000, FailCount: 6,
			Reservation: ptr(4096), ThreadsMax: ptr(64), HugePages: []HugePages{{Size: "1GB", Usage: 1 << 30}, {Size: "2MB", Usage: 4 << 20}},
			Devices: []DeviceIO{{"8", "0", 5, 6, 7, 8}, {"8", "16", 1, 2, 3, 4}}}
		if !h.v2 {
			want.HugePages[0].MaxUsage, want.HugePages[1].MaxUsage = ptr(2<<30), ptr(0)
		}
		if !reflect.DeepEqual(d, want) {
			t.Errorf("%s: got %+v, want %+v", name, d, want)
		}
		if d.Usage != 50000 || d.RSS != 30000 {
			t.Errorf("%s: the sample is %+v", name, d.Sample)
		}
		for path, want := range map[string][]DeviceIO{"c": want.Devices, "absent": nil} {
			if got, err := h.devices(path); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: devices of %s: %+v, %v", name, path, got, err)
			}
		}
		bare, err := h.detail("bare")
		if err != nil || bare.Quota != nil || bare.ThreadsMax != nil || bare.Reservation != nil || bare.Devices != nil || bare.HugePages != nil || bare.Pressure != (Pressure{}) {
			t.Errorf("%s: without limits: %+v, %v", name, bare, err)
		}
		if _, err := h.detail("absent"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: absent: %v", name, err)
		}
	}
}
