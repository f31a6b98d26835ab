package translate

import (
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/stats"
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
		Cpu:           cpuUsage(at, s.CPU),
		Memory:        memoryUsage(at, s.Memory),
		WritableLayer: FilesystemUsage(at, s.Layer.Mountpoint, s.Layer.Bytes, s.Layer.Inodes),
		Io:            ioUsage(at, s.IO),
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

func cpuUsage(at int64, c pod.CPUStats) *criv1.CpuUsage {
	return &criv1.CpuUsage{
		Timestamp:            at,
		UsageCoreNanoSeconds: value(c.UsageNanos),
		UsageNanoCores:       optional(c.NanoCores),
		Psi:                  pressure(c.Pressure),
	}
}

func memoryUsage(at int64, m pod.MemoryStats) *criv1.MemoryUsage {
	return &criv1.MemoryUsage{
		Timestamp:       at,
		WorkingSetBytes: value(m.WorkingSet),
		AvailableBytes:  optional(m.Available),
		UsageBytes:      value(m.Usage),
		RssBytes:        value(m.RSS),
		PageFaults:      value(m.PageFaults),
		MajorPageFaults: value(m.MajorPageFaults),
		Psi:             pressure(m.Pressure),
	}
}

// ioUsage is nil where the kernel does not tell: there is nothing else in it.
func ioUsage(at int64, s *stats.Stall) *criv1.IoUsage {
	if s == nil {
		return nil
	}
	return &criv1.IoUsage{Timestamp: at, Psi: pressure(s)}
}

func pressure(s *stats.Stall) *criv1.PsiStats {
	if s == nil {
		return nil
	}
	data := func(w stats.Waited) *criv1.PsiData {
		return &criv1.PsiData{Total: uint64(w.Total), Avg10: w.Avg10, Avg60: w.Avg60, Avg300: w.Avg300}
	}
	return &criv1.PsiStats{Full: data(s.Full), Some: data(s.Some)}
}

// PodStats gives the message for one sample of a pod.
func PodStats(s *pod.PodStats) *criv1.PodSandboxStats {
	at := nanos(s.At)
	linux := &criv1.LinuxPodSandboxStats{
		Cpu:     cpuUsage(at, s.CPU),
		Memory:  memoryUsage(at, s.Memory),
		Process: &criv1.ProcessUsage{Timestamp: at, ProcessCount: value(s.Processes)},
		Io:      ioUsage(at, s.IO),
	}
	for _, c := range s.Containers {
		linux.Containers = append(linux.Containers, ContainerStats(c))
	}
	if len(s.Interfaces) > 0 {
		// The default interface is not repeated among the others.
		linux.Network = &criv1.NetworkUsage{Timestamp: at, DefaultInterface: interfaceUsage(s.Interfaces[0])}
		for _, i := range s.Interfaces[1:] {
			linux.Network.Interfaces = append(linux.Network.Interfaces, interfaceUsage(i))
		}
	}
	return &criv1.PodSandboxStats{
		Attributes: &criv1.PodSandboxAttributes{
			Id:          s.Pod.ID,
			Metadata:    podMetadata(s.Pod.Config.Metadata),
			Labels:      s.Pod.Config.Labels,
			Annotations: s.Pod.Config.Annotations,
		},
		Linux: linux,
	}
}

func interfaceUsage(i stats.Interface) *criv1.NetworkInterfaceUsage {
	return &criv1.NetworkInterfaceUsage{
		Name:     i.Name,
		RxBytes:  value(i.RxBytes),
		RxErrors: value(i.RxErrors),
		TxBytes:  value(i.TxBytes),
		TxErrors: value(i.TxErrors),
	}
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
