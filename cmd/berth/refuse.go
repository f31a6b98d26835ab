package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// refusedFlag is one of docker's that is known and not honoured. It says so when
// it is used, instead of being "unknown".
type refusedFlag struct {
	name, short string
	bool        bool // it takes no value
	why, do     string
}

// refusedUsage begins the usage of those, which no help shows.
const refusedUsage = "not supported: "

func (r refusedFlag) register(f *pflag.FlagSet) {
	if f.Lookup(r.name) != nil {
		return
	}
	if r.bool {
		f.BoolP(r.name, r.short, false, refusedUsage+r.why)
	} else {
		f.StringArrayP(r.name, r.short, nil, refusedUsage+r.why)
	}
	_ = f.MarkHidden(r.name) // it is there
}

// used is the problem with the first of the flags that was given; nil: none was.
func used(f *pflag.FlagSet, what string, flags []refusedFlag) error {
	for _, r := range flags {
		if given := f.Lookup(r.name); given != nil && given.Changed && given.Hidden {
			return &problem{what: what + " with --" + r.name, why: r.why, do: r.do}
		}
	}
	return nil
}

// refusing has a finished verb refuse flags that docker's has.
func refusing(cmd *cobra.Command, flags ...refusedFlag) *cobra.Command {
	for _, r := range flags {
		r.register(cmd.Flags())
	}
	do := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := used(cmd.Flags(), fmt.Sprintf("cannot %s", cmd.Name()), flags); err != nil {
			return err
		}
		return do(cmd, args)
	}
	return cmd
}

func refusedRunFlags() []refusedFlag {
	const (
		cgroups = "cgroup v2, which replaces what it needs, has nothing like it"
		windows = "that is for Windows"
		disks   = "CRI has no limits of disks"
	)
	return []refusedFlag{
		{name: "gpus", why: "devices come through CDI, which the driver's package describes", do: "name the device: --device nvidia.com/gpu=all (nvidia-ctk cdi generate writes its description to /etc/cdi)"},
		{name: "link-local-ip", why: "the kernel makes that address of the hardware address", do: "leave it out, or choose an address of the network: --ip, --ip6"},
		{name: "link", why: "links are docker's old way; names of a network lead to its containers", do: "put both on one network and use the name: --network NAME"},
		{name: "volumes-from", why: "the volumes that an image declares belong to one container", do: "give the volume a name and mount it in both: -v NAME:/path"},
		{name: "volume-driver", why: "volumes are directories of the node", do: "mount the storage on the host and use -v /path:/path"},
		{name: "log-driver", why: "logs have one form, CRI's, which every collector of Kubernetes reads", do: "leave it out; berth logs shows them, the files are below the directory that berth info names"},
		{name: "log-opt", why: "logs have one form, CRI's", do: "leave it out"},
		{name: "attach", short: "a", why: "without -d all of its output is shown", do: "leave it out, or use -d and berth attach"},
		{name: "sig-proxy", bool: true, why: "signals are always passed on to what runs in the foreground", do: "leave it out; use -d for a container that your signals do not reach"},
		{name: "blkio-weight", why: cgroups, do: "leave it out"},
		{name: "blkio-weight-device", why: cgroups, do: "leave it out"},
		{name: "device-read-bps", why: disks, do: "leave it out; set io.max in its cgroup by hand"},
		{name: "device-write-bps", why: disks, do: "leave it out; set io.max in its cgroup by hand"},
		{name: "device-read-iops", why: disks, do: "leave it out; set io.max in its cgroup by hand"},
		{name: "device-write-iops", why: disks, do: "leave it out; set io.max in its cgroup by hand"},
		{name: "device-cgroup-rule", why: "a rule without a device cannot be said in CRI", do: "name the device: --device /dev/NAME"},
		{name: "kernel-memory", why: "the kernel has dropped it", do: "use --memory, which counts the kernel's memory too"},
		{name: "memory-swappiness", why: "cgroup v2 has no swappiness of a container", do: "leave it out; --memory-swap limits its swap"},
		{name: "oom-kill-disable", bool: true, why: "cgroup v2 has no such switch", do: "leave it out; --oom-score-adj makes others go first"},
		{name: "cpu-rt-period", why: "cgroup v2 has no such limit", do: "leave it out"},
		{name: "cpu-rt-runtime", why: "cgroup v2 has no such limit", do: "leave it out"},
		{name: "cgroupns", why: "every container has its own view of the cgroups, but for privileged ones", do: "leave it out"},
		{name: "uts", why: "its pod has a host name of its own", do: "leave it out; --network host gives it the host's"},
		{name: "domainname", why: "a pod has a host name and no NIS domain", do: "leave it out, or write it into --hostname"},
		{name: "isolation", why: windows, do: "leave it out"},
		{name: "cpu-count", why: windows, do: "use --cpus"},
		{name: "cpu-percent", why: windows, do: "use --cpus"},
		{name: "io-maxbandwidth", why: windows, do: "leave it out"},
		{name: "io-maxiops", why: windows, do: "leave it out"},
		{name: "storage-opt", why: "writable layers have no limits of their own", do: "leave it out; keep what grows on a volume with a quota"},
		{name: "use-api-socket", bool: true, why: "there is no API of docker's, and the daemon's socket gives all rights on the node", do: "leave it out; mount the socket by -v if that is meant"},
		{name: "disable-content-trust", bool: true, why: "docker's content trust has ended; images are verified by digest", do: "name the image by digest, or configure image.verifiers_dir"},
	}
}
