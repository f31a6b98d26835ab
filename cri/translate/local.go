package translate

import (
	"encoding/json"
	"math"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-runtime/berth/runtime/spec"
)

// What the command line asks for in annotations, since CRI has no field for it.
// They are read of local pods only: on the kubelet's socket the author of a pod
// chooses the annotations, and none of them decides anything there.
const (
	ulimitsAnnotation     = "io.berth.ulimits"      // nofile=1024:2048,core=0
	tmpfsAnnotation       = "io.berth.tmpfs"        // JSON of spec.Tmpfs
	volumesAnnotation     = "io.berth.volumes"      // JSON of paths
	noCopyAnnotation      = "io.berth.nocopy"       // JSON of paths
	shmSizeAnnotation     = "io.berth.shm-size"     // bytes
	sharedLabelAnnotation = "io.berth.shared-label" // JSON of paths
	networkAnnotation     = "io.berth.network"      // JSON of spec.LocalNetwork
)

// maxExtras bounds each list.
const maxExtras = 128

// LocalPod reads what the annotations of a local pod ask for.
func LocalPod(p *spec.Pod) error {
	if err := localNetwork(p); err != nil {
		return err
	}
	text := p.Annotations[shmSizeAnnotation]
	if text == "" {
		return nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n <= 0 {
		return invalid("annotation %s: %q is not a number of bytes", shmSizeAnnotation, text)
	}
	p.ShmSize = n
	return nil
}

// noNetwork is the network whose pods have a loopback only.
const noNetwork = "none"

// localNetwork reads which network a pod wants and which names.
func localNetwork(p *spec.Pod) error {
	text := p.Annotations[networkAnnotation]
	if text == "" {
		return nil
	}
	n := &p.LocalNetwork
	if err := json.Unmarshal([]byte(text), n); err != nil {
		return invalid("annotation %s: %v", networkAnnotation, err)
	}
	if len(n.Aliases) > maxExtras || len(n.Hosts) > maxExtras {
		return invalid("annotation %s has %d aliases and %d hosts, at most %d of each are possible", networkAnnotation, len(n.Aliases), len(n.Hosts), maxExtras)
	}
	for _, a := range n.Aliases {
		if !hostName(a) {
			return invalid("annotation %s: %.80q is no host name", networkAnnotation, a)
		}
	}
	for _, h := range n.Hosts {
		if len(h.Names) != 1 || !hostName(h.Names[0]) || h.Address.Zone() != "" {
			return invalid("annotation %s: %.80q at %v is no host", networkAnnotation, h.Names, h.Address)
		}
	}
	if len(n.IPs) > maxExtras {
		return invalid("annotation %s has %d addresses, at most %d are possible", networkAnnotation, len(n.IPs), maxExtras)
	}
	for _, a := range n.IPs {
		if !a.IsValid() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return invalid("annotation %s: %v is no address that a pod can have", networkAnnotation, a)
		}
	}
	if mac, err := net.ParseMAC(n.MAC); n.MAC != "" && (err != nil || len(mac) != 6 || mac[0]&1 != 0) {
		return invalid("annotation %s: %.80q is no address of an interface, such as 0a:58:0a:00:00:02", networkAnnotation, n.MAC)
	}
	switch {
	case n.Name != "" && p.Namespaces.Network != spec.ModePod:
		return invalid("annotation %s: a pod on the host's network is not on %q too", networkAnnotation, n.Name)
	case n.Name == noNetwork:
		for _, m := range p.Ports {
			if m.HostPort != 0 {
				return invalid("host port %d: without a network the pod publishes nothing", m.HostPort)
			}
		}
		n.Name, p.Namespaces.Network = "", spec.ModeNone
	}
	return nil
}

// hostName admits what a line of /etc/hosts can hold.
func hostName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	return s != "" && len(s) <= 253 && strings.Trim(s, letters) == ""
}

// LocalContainer reads what the annotations of a local container ask for.
func LocalContainer(c *spec.Container) error {
	var err error
	if c.Extra.Ulimits, err = ulimits(c.Annotations[ulimitsAnnotation]); err != nil {
		return err
	}
	if err := list(c.Annotations, tmpfsAnnotation, &c.Extra.Tmpfs); err != nil {
		return err
	}
	for i, m := range c.Extra.Tmpfs {
		if c.Extra.Tmpfs[i].Path, err = place(tmpfsAnnotation, m.Path); err != nil {
			return err
		}
		for _, o := range m.Options {
			if !tmpfsOption(o) {
				return invalid("annotation %s: %q is no option of a tmpfs", tmpfsAnnotation, o)
			}
		}
	}
	for key, into := range map[string]*[]string{volumesAnnotation: &c.Extra.Volumes, noCopyAnnotation: &c.Extra.NoCopy, sharedLabelAnnotation: &c.Extra.SharedLabel} {
		if err := list(c.Annotations, key, into); err != nil {
			return err
		}
		for i, p := range *into {
			if (*into)[i], err = place(key, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// list reads a JSON array of bounded length.
func list[T any](annotations map[string]string, key string, into *[]T) error {
	text := annotations[key]
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return invalid("annotation %s: %v", key, err)
	}
	if len(*into) > maxExtras {
		return invalid("annotation %s has %d entries, at most %d are possible", key, len(*into), maxExtras)
	}
	return nil
}

// place is a path in a container at which something may be mounted.
func place(key, p string) (string, error) {
	clean := path.Clean(p)
	if !path.IsAbs(p) || clean == "/" || strings.ContainsRune(p, 0) {
		return "", invalid("annotation %s: %q is no absolute path below /", key, p)
	}
	return clean, nil
}

// tmpfsOption admits what is about the file system's own content.
func tmpfsOption(o string) bool {
	if slices.Contains([]string{"ro", "rw", "exec", "noexec", "suid", "nosuid", "dev", "nodev", "sync", "async", "noatime", "atime", "relatime"}, o) {
		return true
	}
	key, value, ok := strings.Cut(o, "=")
	return ok && value != "" && !strings.ContainsAny(value, ", \x00") && slices.Contains([]string{"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"}, key)
}

// ulimitNames are those of setrlimit(2).
var ulimitNames = []string{"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc",
	"rss", "rtprio", "rttime", "sigpending", "stack"}

func ulimits(text string) ([]spec.Ulimit, error) {
	if text == "" {
		return nil, nil
	}
	var out []spec.Ulimit
	for one := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(one, "=")
		soft, hard, both := strings.Cut(value, ":")
		if !both {
			hard = soft
		}
		s, err := ulimit(soft)
		h, err2 := ulimit(hard)
		switch {
		case !ok || err != nil || err2 != nil || !slices.Contains(ulimitNames, name):
			return nil, invalid("annotation %s: %q is not NAME=SOFT[:HARD] of a limit that there is", ulimitsAnnotation, one)
		case s > h:
			return nil, invalid("annotation %s: %q: the soft limit is above the hard one", ulimitsAnnotation, one)
		}
		out = append(out, spec.Ulimit{Name: name, Soft: s, Hard: h})
	}
	return out, nil
}

// ulimit reads a number; -1 and unlimited are none.
func ulimit(text string) (uint64, error) {
	if text == "-1" || text == "unlimited" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(text, 10, 64)
}
