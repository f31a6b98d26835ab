package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// kubeletConfig is where kubeadm and most others put it.
const kubeletConfig = "/var/lib/kubelet/config.yaml"

// kubeletSettings are those of KubeletConfiguration that have to fit ours.
type kubeletSettings struct {
	ContainerRuntimeEndpoint string `yaml:"containerRuntimeEndpoint"`
	ImageServiceEndpoint     string `yaml:"imageServiceEndpoint"`
	CgroupDriver             string `yaml:"cgroupDriver"`
	ResolverConfig           string `yaml:"resolvConf"`
	SeccompDefault           bool   `yaml:"seccompDefault"`
	FailCgroupV1             *bool  `yaml:"failCgroupV1"`

	from string // the file, or "its command line"
}

// kubelet compares the kubelet's configuration, from its files and the command
// line of the process that runs, with ours.
func kubelet(_ context.Context, c *Config) []Finding {
	const name = "kubelet"
	args, runs := c.Host.kubeletArgs()
	file := kubeletConfig
	if v := flagValue(args, "config"); v != "" {
		file = v
	}
	s := kubeletSettings{from: file}
	var files []string
	switch {
	case c.Host.exists(file):
		files = []string{file}
	case !runs:
		return one(good(name, "there is no kubelet here"))
	}
	if dir := flagValue(args, "config-dir"); dir != "" {
		more, err := c.Host.dropIns(dir)
		if err != nil {
			return one(Finding{name, Warn, fmt.Sprintf("cannot read the kubelet's configuration: %v", err), "ls -l " + dir})
		}
		if len(more) > 0 {
			s.from = file + " and " + dir
		}
		files = append(files, more...)
	}
	for _, file := range files {
		text, err := os.ReadFile(c.Host.path(file))
		if err != nil {
			return one(Finding{name, Warn, fmt.Sprintf("cannot read the kubelet's configuration: %v", err), "ls -l " + file})
		}
		if err := yaml.Unmarshal(text, &s); err != nil {
			return one(Finding{name, Warn, fmt.Sprintf("cannot read the kubelet's configuration: %s: %v", file, err), "repair the file; the kubelet does not start with it either"})
		}
	}
	for flag, field := range map[string]*string{
		"container-runtime-endpoint": &s.ContainerRuntimeEndpoint, "image-service-endpoint": &s.ImageServiceEndpoint,
		"cgroup-driver": &s.CgroupDriver, "resolv-conf": &s.ResolverConfig,
	} {
		if v := flagValue(args, flag); v != "" {
			*field = v
		}
	}
	var bad []Finding
	for _, judge := range []func(*Config, *kubeletSettings) []Finding{endpoint, driver, resolver, versionOfCgroups} {
		bad = append(bad, judge(c, &s)...)
	}
	if len(bad) > 0 {
		return bad
	}
	if !s.SeccompDefault {
		return one(good(name, "the kubelet's configuration fits; seccompDefault is off, so pods that name no seccomp profile run without one"))
	}
	return one(good(name, "the kubelet's configuration fits"))
}

// dropIns are the files of the kubelet's --config-dir in the order in which it
// reads them, each over what was before.
func (h Host) dropIns(dir string) ([]string, error) {
	var files []string
	root := h.path(dir)
	err := filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && path.Ext(file) == ".conf" {
			files = append(files, path.Join(dir, strings.TrimPrefix(file, root)))
		}
		return err
	})
	return files, err
}

// kubeletArgs is the command line of the kubelet that runs.
func (h Host) kubeletArgs() (args []string, runs bool) {
	entries, err := os.ReadDir(h.path("/proc"))
	if err != nil {
		return nil, false
	}
	for _, e := range entries {
		if e.Name()[0] < '1' || e.Name()[0] > '9' {
			continue
		}
		text, err := os.ReadFile(h.path(path.Join("/proc", e.Name(), "cmdline")))
		if err != nil {
			continue // it has ended meanwhile
		}
		args := strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
		// Some distributions have one program for all: "hyperkube kubelet".
		if path.Base(args[0]) == "kubelet" || len(args) > 1 && path.Base(args[0]) == "hyperkube" && args[1] == "kubelet" {
			return args, true
		}
	}
	return nil, false
}

// flagValue reads --name=value and --name value.
func flagValue(args []string, name string) string {
	value := ""
	for i, a := range args {
		a = strings.TrimPrefix(strings.TrimPrefix(a, "-"), "-")
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			value = v
		} else if a == name && i+1 < len(args) {
			value = args[i+1]
		}
	}
	return value
}

func (c *Config) kubeletFix() string {
	return fmt.Sprintf("set containerRuntimeEndpoint: unix://%s in %s (or --container-runtime-endpoint), then: systemctl restart kubelet", c.KubeletSocket, kubeletConfig)
}

// sameFile compares by name and, where both are there, by what they are.
func (c *Config) sameFile(a, b string) bool {
	if path.Clean(a) == path.Clean(b) {
		return true
	}
	x, err1 := os.Stat(c.Host.path(a))
	y, err2 := os.Stat(c.Host.path(b))
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func endpoint(c *Config, s *kubeletSettings) []Finding {
	const name = "kubelet.endpoint"
	var out []Finding
	for _, e := range []struct{ key, value string }{
		{"containerRuntimeEndpoint", s.ContainerRuntimeEndpoint}, {"imageServiceEndpoint", s.ImageServiceEndpoint},
	} {
		at := strings.TrimPrefix(e.value, "unix://")
		switch {
		case e.value == "" && e.key == "imageServiceEndpoint":
			// It follows the other one.
		case c.sameFile(at, c.KubeletSocket):
			out = append(out, good(name, "the kubelet uses %s", c.KubeletSocket))
		case c.sameFile(at, c.EveryPod):
			out = append(out, Finding{name, Warn, fmt.Sprintf(
				"%s of %s is %s, the socket that shows everything: the kubelet kills pods that it does not know (berth run, crictl) and removes their images", e.key, s.from, e.value), c.kubeletFix()})
		case e.value == "":
			out = append(out, Finding{name, Warn, fmt.Sprintf("%s of %s is not set: the kubelet takes containerd's socket", e.key, s.from), c.kubeletFix()})
		default:
			out = append(out, Finding{name, Warn, fmt.Sprintf("the kubelet uses another runtime: %s of %s is %s", e.key, s.from, e.value), c.kubeletFix()})
		}
	}
	return onlyBad(out)
}

func onlyBad(all []Finding) []Finding {
	var bad []Finding
	for _, f := range all {
		if f.Verdict != OK {
			bad = append(bad, f)
		}
	}
	return bad
}

// driver: since Kubernetes 1.34 the kubelet asks us, and older ones obey
// their configuration alone.
func driver(c *Config, s *kubeletSettings) []Finding {
	theirs := s.CgroupDriver
	if theirs == "" || theirs == c.CgroupDriver {
		return nil
	}
	return one(Finding{"kubelet.cgroup_driver", Warn, fmt.Sprintf("cgroupDriver of %s is %s and berth's is %s; a kubelet older than 1.34 does not ask for it, and its pods fail", s.from, theirs, c.CgroupDriver),
		fmt.Sprintf("set cgroupDriver: %s in %s, then: systemctl restart kubelet", c.CgroupDriver, kubeletConfig)})
}

// resolver: a file that names the loopback only is of no use in a pod.
func resolver(c *Config, s *kubeletSettings) []Finding {
	const name = "kubelet.resolver"
	file := s.ResolverConfig
	if file == "" {
		file = "/etc/resolv.conf"
	}
	text, err := c.Host.read(file)
	if err != nil {
		return one(Finding{name, Warn, fmt.Sprintf("resolvConf of %s is %s, which cannot be read: pods do not start", s.from, file), "ls -l " + file})
	}
	servers := 0
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if strings.HasPrefix(f[1], "127.") || f[1] == "::1" {
			continue
		}
		servers++
	}
	if servers > 0 {
		return nil
	}
	fix := "name a server in " + file + " that pods can reach, or another file by resolvConf"
	if c.Host.exists("/run/systemd/resolve/resolv.conf") {
		fix = fmt.Sprintf("set resolvConf: /run/systemd/resolve/resolv.conf in %s, then: systemctl restart kubelet", kubeletConfig)
	}
	return one(Finding{name, Warn, fmt.Sprintf("%s names no server but the loopback: pods with dnsPolicy Default resolve no names, and the cluster's DNS asks itself for ever", file), fix})
}

func versionOfCgroups(c *Config, s *kubeletSettings) []Finding {
	if c.Host.unified() || s.FailCgroupV1 != nil && !*s.FailCgroupV1 {
		return nil
	}
	return one(Finding{"kubelet.cgroup_v1", Warn, "the host has cgroup v1, with which a kubelet of 1.35 or newer does not start unless failCgroupV1 is false",
		fmt.Sprintf("boot with cgroup v2; until then: set failCgroupV1: false in %s", kubeletConfig)})
}
