package translate

import (
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
)

// ContainerStats gives the message for one sample.
func ContainerStats(s *pod.Stats) *criv1.ContainerStats {
	at := nanos(s.At)
	out := &criv1.ContainerStats{
		Attributes: &criv1.ContainerAttributes{
			Id:          s.Container.ID,
			Metadata:    containerMetadata(s.Container),
			Labels:      s.Container.Config.Labels,
			Annotations: s.Container.Config.Annotations,
		},
		Cpu: &criv1.CpuUsage{
			Timestamp:            at,
			UsageCoreNanoSeconds: value(s.CPU.UsageNanos),
			UsageNanoCores:       optional(s.CPU.NanoCores),
		},
		Memory: &criv1.MemoryUsage{
			Timestamp:       at,
			WorkingSetBytes: value(s.Memory.WorkingSet),
			AvailableBytes:  optional(s.Memory.Available),
			UsageBytes:      value(s.Memory.Usage),
			RssBytes:        value(s.Memory.RSS),
			PageFaults:      value(s.Memory.PageFaults),
			MajorPageFaults: value(s.Memory.MajorPageFaults),
		},
		WritableLayer: FilesystemUsage(at, s.Layer.Mountpoint, s.Layer.Bytes, s.Layer.Inodes),
	}
	if s.Memory.SwapUsage != nil || s.Memory.SwapAvailable != nil {
		out.Swap = &criv1.SwapUsage{
			Timestamp:          at,
			SwapAvailableBytes: optional(s.Memory.SwapAvailable),
			SwapUsageBytes:     optional(s.Memory.SwapUsage),
		}
	}
	return out
}

// FilesystemUsage gives the usage of the file system at mountpoint, at a time
// in nanoseconds.
func FilesystemUsage(at int64, mountpoint string, bytes, inodes uint64) *criv1.FilesystemUsage {
	return &criv1.FilesystemUsage{
		Timestamp:  at,
		FsId:       &criv1.FilesystemIdentifier{Mountpoint: mountpoint},
		UsedBytes:  value(bytes),
		InodesUsed: value(inodes),
	}
}

func value(v uint64) *criv1.UInt64Value { return &criv1.UInt64Value{Value: v} }

func optional(v *uint64) *criv1.UInt64Value {
	if v == nil {
		return nil
	}
	return value(*v)
}
