package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/device"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// hostDevices resolves the devices asked for; a directory is all below it.
func hostDevices(asked []spec.Device) ([]spec.HostDevice, error) {
	var out []spec.HostDevice
	for _, d := range asked {
		host, err := filepath.EvalSymlinks(d.HostPath)
		if err != nil {
			return nil, errkind.New(errkind.InvalidArgument, "cannot find device %s on the host: %w", d.HostPath, err)
		}
		st, err := os.Stat(host)
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			n, err := device.Stat(host)
			if err != nil {
				return nil, errkind.New(errkind.InvalidArgument, "cannot use device %s: %w", d.HostPath, err)
			}
			out = append(out, spec.HostDevice{LinuxDevice: ociDevice(n, d.ContainerPath), HostPath: n.Path})
			continue
		}
		nodes, err := device.Below(host)
		if err != nil {
			return nil, err
		}
		for _, n := range nodes {
			inside := filepath.Join(d.ContainerPath, strings.TrimPrefix(n.Path, host))
			out = append(out, spec.HostDevice{LinuxDevice: ociDevice(n, inside), HostPath: n.Path})
		}
	}
	return out, nil
}

// allDevices are the host's, which a privileged container has.
func allDevices() ([]specs.LinuxDevice, error) {
	nodes, err := device.Below("/dev")
	if err != nil {
		return nil, fmt.Errorf("cannot list the host's devices: %w", err)
	}
	out := make([]specs.LinuxDevice, 0, len(nodes))
	for _, n := range nodes {
		out = append(out, ociDevice(n, n.Path))
	}
	return out, nil
}

func ociDevice(n device.Node, path string) specs.LinuxDevice {
	mode, uid, gid := n.Mode, n.UID, n.GID
	return specs.LinuxDevice{Path: path, Type: n.Type, Major: n.Major, Minor: n.Minor, FileMode: &mode, UID: &uid, GID: &gid}
}
