package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/spec"
)

// builtinHandler is the name of the handler that needs no configuration. It
// is what the peers call theirs.
const builtinHandler = "runc"

type handlerConfig struct {
	Seccomp              string   `toml:"seccomp_profile,commented" comment:"Seccomp profile, a file, for pods that ask for the runtime's default. Empty:\nthe built-in one."`
	NoHostDevices        bool     `toml:"privileged_without_host_devices,commented" comment:"Withhold the host's devices from privileged containers."`
	OpenDevices          bool     `toml:"privileged_without_host_devices_all_devices_allowed,commented" comment:"Let those containers use any device nevertheless, by a node of their own."`
	DeviceOwnership      bool     `toml:"device_ownership_from_security_context,commented" comment:"Give the nodes of devices to runAsUser and runAsGroup of the container,\ninstead of the owner on the host."`
	CgroupWritable       bool     `toml:"cgroup_writable,commented" comment:"Let containers make cgroups below their own (cgroup v2 only)."`
	Rlimits              []rlimit `toml:"default_ulimits,commented" comment:"Resource limits of every process, as NAME=SOFT:HARD or NAME=BOTH, such as\n\"nofile=1024:524288\"; -1 is unlimited."`
	PodAnnotations       []string `toml:"pod_annotations,commented" comment:"Annotations of pods and of containers that hooks and agents see in the OCI\nspecification. Patterns: * stands for anything but a slash."`
	ContainerAnnotations []string `toml:"container_annotations,commented"`
	CNIConfDir           string   `toml:"cni_conf_dir,commented" comment:"Configuration lists of the networks of pods of this handler. Empty: those of\n[network.cni]."`
}

// handlerNames are those that Kubernetes accepts in a RuntimeClass.
var handlerNames = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// wrongHandler names the key of a handler that cannot work, and why.
func (c *config) wrongHandler() (key, why string) {
	for _, name := range slices.Sorted(maps.Keys(c.Handlers)) {
		if !handlerNames.MatchString(name) {
			return "handlers", fmt.Sprintf("%q is no name of a handler: it has a-z, 0-9 and -, at most 63", name)
		}
		if key, why := c.Handlers[name].wrong(); why != "" {
			return "handlers." + name + "." + key, why
		}
	}
	if _, ok := c.Handlers[c.DefaultHandler]; !ok {
		return "default_handler", fmt.Sprintf("there is no [handlers.%s]", c.DefaultHandler)
	}
	return "", ""
}

func (h handlerConfig) wrong() (key, why string) {
	if h.Seccomp != "" && !filepath.IsAbs(h.Seccomp) {
		return "seccomp_profile", fmt.Sprintf("%q is not an absolute path", h.Seccomp)
	}
	if h.OpenDevices && !h.NoHostDevices {
		return "privileged_without_host_devices_all_devices_allowed", "it needs privileged_without_host_devices"
	}
	if h.CNIConfDir != "" && !filepath.IsAbs(h.CNIConfDir) {
		return "cni_conf_dir", fmt.Sprintf("%q is not an absolute path", h.CNIConfDir)
	}
	for i, r := range h.Rlimits {
		if slices.ContainsFunc(h.Rlimits[:i], func(other rlimit) bool { return other.Type == r.Type }) {
			return "default_ulimits", r.Type + " is limited twice"
		}
	}
	for key, patterns := range map[string][]string{"pod_annotations": h.PodAnnotations, "container_annotations": h.ContainerAnnotations} {
		for _, p := range patterns {
			if err := spec.CheckPattern(p); err != nil {
				return key, err.Error()
			}
		}
	}
	return "", ""
}

// handlers are the configured ones in the domain's words, with the default
// one also under the empty name.
func (c *config) handlers() map[string]spec.Handler {
	out := make(map[string]spec.Handler, len(c.Handlers)+1)
	for name, h := range c.Handlers {
		own := spec.Handler{Seccomp: h.Seccomp, NoHostDevices: h.NoHostDevices, OpenDevices: h.OpenDevices,
			DeviceOwnership: h.DeviceOwnership, CgroupWritable: h.CgroupWritable,
			PodAnnotations: h.PodAnnotations, ContainerAnnotations: h.ContainerAnnotations}
		for _, r := range h.Rlimits {
			own.Rlimits = append(own.Rlimits, specs.POSIXRlimit(r))
		}
		out[name] = own
	}
	out[""] = out[c.DefaultHandler]
	return out
}

// rlimitNames are the kernel's, as `ulimit` options of docker name them.
func rlimitNames() []string {
	return []string{"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"}
}

// rlimit is written NAME=SOFT:HARD, or NAME=BOTH.
type rlimit specs.POSIXRlimit

// UnmarshalText reads the form above.
func (r *rlimit) UnmarshalText(text []byte) error {
	name, values, ok := strings.Cut(string(text), "=")
	if !ok || !slices.Contains(rlimitNames(), name) {
		return fmt.Errorf("%q is not a limit such as nofile=1024:524288; there are %s", text, strings.Join(rlimitNames(), " "))
	}
	softText, hardText, two := strings.Cut(values, ":")
	if !two {
		hardText = softText
	}
	soft, err := parseLimit(softText)
	if err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	hard, err := parseLimit(hardText)
	if err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	if soft > hard {
		return fmt.Errorf("%q: the soft limit is above the hard one", text)
	}
	*r = rlimit{Type: "RLIMIT_" + strings.ToUpper(name), Soft: soft, Hard: hard}
	return nil
}

// parseLimit reads a number; -1 is RLIM_INFINITY.
func parseLimit(s string) (uint64, error) {
	if s == "-1" {
		return 1<<64 - 1, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", s)
	}
	return n, nil
}
