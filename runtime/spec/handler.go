package spec

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Handler is what the node's administrator decides for the pods of one
// runtime handler, which Kubernetes names in a RuntimeClass. The zero value is
// the built-in one. Every handler runs containers in the shim with
// libcontainer; one that is an OCI executable would say so here.
type Handler struct {
	// Seccomp is the absolute path of the profile that SeccompDefault means;
	// empty: the built-in one.
	Seccomp string
	// NoHostDevices withholds the host's devices from privileged containers;
	// OpenDevices lets them use every device all the same, once they have made
	// its node.
	NoHostDevices, OpenDevices bool
	// DeviceOwnership gives the nodes of devices that are asked for to the user
	// and the group of the security context, instead of the host's.
	DeviceOwnership bool
	// CgroupWritable lets containers make cgroups below their own. It needs
	// cgroup v2: on v1 there is no cgroup namespace to confine them.
	CgroupWritable bool
	// Rlimits are those of every process.
	Rlimits []specs.POSIXRlimit
	// PodAnnotations and ContainerAnnotations are patterns (path.Match) of the
	// keys that reach the OCI specification, for hooks and agents on the node.
	PodAnnotations, ContainerAnnotations []string
}

// reservedAnnotations are prefixes that no pattern lets pass: ours, and those
// by which libcontainer changes what happens on the host (properties of a
// systemd unit, CVE-2024-3154; the configuration file of CRIU).
func reservedAnnotations() []string {
	return []string{"io.kubernetes.cri.", "org.systemd.property.", "org.criu."}
}

// CheckPattern refuses a pattern of PodAnnotations or ContainerAnnotations
// that is malformed.
func CheckPattern(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil {
		return errkind.New(errkind.InvalidArgument, "%q is not a pattern of annotations: %w", pattern, err)
	}
	return nil
}

// passed are the annotations whose keys match a pattern.
func passed(all map[string]string, patterns []string) map[string]string {
	out := map[string]string{}
	for key, value := range all {
		reserved := slices.ContainsFunc(reservedAnnotations(), func(p string) bool { return strings.HasPrefix(key, p) })
		matches := slices.ContainsFunc(patterns, func(p string) bool { ok, _ := path.Match(p, key); return ok })
		if matches && !reserved {
			out[key] = value
		}
	}
	return out
}

// annotations are those of the peers that agents on a node look for, and what
// the handler passes on of the client's. None has a value of the image's.
func annotations(in Input) map[string]string {
	out := passed(in.Pod.Annotations, in.Handler.PodAnnotations)
	maps.Copy(out, passed(in.Container.Annotations, in.Handler.ContainerAnnotations))
	image := in.Container.UserImage
	if image == "" {
		image = in.Container.Image
	}
	maps.Copy(out, map[string]string{
		"io.kubernetes.cri.container-type":    "container",
		"io.kubernetes.cri.container-name":    in.Container.Metadata.Name,
		"io.kubernetes.cri.image-name":        image,
		"io.kubernetes.cri.sandbox-id":        in.PodID,
		"io.kubernetes.cri.sandbox-name":      in.Pod.Metadata.Name,
		"io.kubernetes.cri.sandbox-namespace": in.Pod.Metadata.Namespace,
		"io.kubernetes.cri.sandbox-uid":       in.Pod.Metadata.UID,
	})
	return out
}
