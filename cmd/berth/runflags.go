package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What the daemon reads on local pods and containers, since CRI has no field
// for it (cri/translate, runtime/local).
const (
	restartNote     = ownPrefix + "restart"
	removeNote      = ownPrefix + "remove"
	healthNote      = ownPrefix + "health"
	ulimitsNote     = ownPrefix + "ulimits"
	tmpfsNote       = ownPrefix + "tmpfs"
	volumesNote     = ownPrefix + "volumes"
	noCopyNote      = ownPrefix + "nocopy"
	sharedLabelNote = ownPrefix + "shared-label"
	shmSizeNote     = ownPrefix + "shm-size"
	stopTimeNote    = ownPrefix + "stop-timeout" // seconds; for berth stop
)

// moreFlags are those of docker's words for a container that need more than a
// field of CRI.
type moreFlags struct {
	restart             string
	mounts, tmpfs       []string
	init                bool
	stopTimeout         int64
	devices, ulimits    []string
	shmSize             string
	securityOpts        []string
	groups              []string
	ipc, pid, userns    string
	cidfile             string
	sysctls             []string
	annotations         []string
	labelFiles          []string
	oomScoreAdj         int64
	cpuShares           int64
	cpuPeriod, cpuQuota int64
	cpusetCPUs          string
	cpusetMems          string
	memorySwap          string
	memoryReservation   string
	platform            string
	pod                 string
	cgroupParent        string
	runtime             string
	quiet               bool

	healthCmd                        string
	healthInterval, healthTimeout    time.Duration
	healthStart, healthStartInterval time.Duration
	healthRetries                    int
	noHealth                         bool

	flags *pflag.FlagSet // which of them were given
}

func (m *moreFlags) register(f *pflag.FlagSet) {
	m.flags = f
	f.StringVar(&m.restart, "restart", "no", "when it is started again: no, on-failure[:N], always or unless-stopped;\neach time as a new attempt with a fresh writable layer and the same volumes")
	f.StringArrayVar(&m.mounts, "mount", nil, "mount something: type=bind|volume|tmpfs|image,source=...,target=...[,readonly]")
	f.StringArrayVar(&m.tmpfs, "tmpfs", nil, "mount a file system in memory: PATH[:OPTIONS], as /run:size=64m,mode=755")
	f.BoolVar(&m.init, "init", false, "have an init process in its PID namespace that reaps what it leaves")
	f.Int64Var(&m.stopTimeout, "stop-timeout", 10, "seconds that berth stop waits before it is killed")
	f.StringArrayVar(&m.devices, "device", nil, "give it a device: HOST[:CONTAINER[:rwm]], or one of CDI: VENDOR.COM/CLASS=NAME")
	f.StringArrayVar(&m.ulimits, "ulimit", nil, "limit of its processes: NAME=SOFT[:HARD], as nofile=1024:2048")
	f.StringVar(&m.shmSize, "shm-size", "", "size of its /dev/shm: 256m (64m if none is given)")
	f.StringArrayVar(&m.securityOpts, "security-opt", nil, "seccomp=PROFILE|unconfined, apparmor=PROFILE|unconfined, label=..., no-new-privileges,\nsystempaths=unconfined")
	f.StringArrayVar(&m.groups, "group-add", nil, "add the group with that number")
	f.StringVar(&m.ipc, "ipc", "private", "IPC namespace: private (its pod's) or host")
	f.StringVar(&m.pid, "pid", "private", "PID namespace: private, pod (shared with its pod) or host")
	f.StringVar(&m.userns, "userns", "host", "user namespace: host")
	f.StringVar(&m.cidfile, "cidfile", "", "write its id to a new file")
	f.StringArrayVar(&m.sysctls, "sysctl", nil, "set a sysctl of its pod: NAME=VALUE")
	f.StringArrayVar(&m.annotations, "annotation", nil, "set an annotation: NAME=VALUE")
	f.StringArrayVar(&m.labelFiles, "label-file", nil, "read labels from a file")
	f.Int64Var(&m.oomScoreAdj, "oom-score-adj", 0, "how ready the kernel is to kill it when memory is short: -1000 to 1000")
	f.Int64VarP(&m.cpuShares, "cpu-shares", "c", 0, "weight of its CPU time beside others'; 1024 is usual")
	f.Int64Var(&m.cpuPeriod, "cpu-period", 0, "microseconds for which --cpu-quota counts")
	f.Int64Var(&m.cpuQuota, "cpu-quota", 0, "microseconds of CPU time in each --cpu-period")
	f.StringVar(&m.cpusetCPUs, "cpuset-cpus", "", "CPUs that it may run on: 0-3,7")
	f.StringVar(&m.cpusetMems, "cpuset-mems", "", "memory nodes that it may use: 0,1")
	f.StringVar(&m.memorySwap, "memory-swap", "", "limit of memory and swap together: 512m, or -1 for no limit of swap")
	f.StringVar(&m.memoryReservation, "memory-reservation", "", "memory that is not reclaimed before others': 128m (cgroup v2)")
	f.StringVar(&m.platform, "platform", "", "platform of the image; it must be this machine's")
	f.StringVar(&m.pod, "pod", "", "make it in a pod that is there, beside its containers")
	f.StringVar(&m.cgroupParent, "cgroup-parent", "", "cgroup below which it is put")
	f.StringVar(&m.runtime, "runtime", "", "runtime handler of the daemon's configuration")
	f.BoolVarP(&m.quiet, "quiet", "q", false, "show no progress of a pull")
	f.StringVar(&m.healthCmd, "health-cmd", "", "command that tells whether it is healthy (the image's if none is given)")
	f.DurationVar(&m.healthInterval, "health-interval", 0, "time between two checks (30s)")
	f.DurationVar(&m.healthTimeout, "health-timeout", 0, "how long a check may take (30s)")
	f.DurationVar(&m.healthStart, "health-start-period", 0, "time after the start in which failures do not count")
	f.DurationVar(&m.healthStartInterval, "health-start-interval", 0, "time between two checks in that period (5s)")
	f.IntVar(&m.healthRetries, "health-retries", 0, "failures in a row that make it unhealthy (3)")
	f.BoolVar(&m.noHealth, "no-healthcheck", false, "ignore the image's health check")
	for _, r := range refusedRunFlags() {
		r.register(f)
	}
}

// checkMore refuses what can be refused without asking the daemon.
func (r *runFlags) checkMore() error {
	m := &r.more
	what := "cannot run " + r.image
	if err := used(m.flags, what, refusedRunFlags()); err != nil {
		return err
	}
	p := &problem{what: what}
	kind, _, _ := strings.Cut(m.restart, ":")
	switch {
	case !slices.Contains([]string{"no", "", "on-failure", "always", "unless-stopped"}, kind):
		p.why, p.do = fmt.Sprintf("there is no restart policy %q", m.restart), "choose --restart no, on-failure[:N], always or unless-stopped"
	case kind != "no" && kind != "" && r.remove:
		p.why, p.do = "what is removed when it ends cannot be restarted (--rm with --restart)", "leave out one of the two"
	case m.platform != "" && m.platform != ourPlatform && m.platform != "linux":
		p.why, p.do = fmt.Sprintf("images are pulled for this machine, which is %s", ourPlatform), "leave out --platform, or run it on a machine of that kind"
	case m.userns != "host" && m.userns != "":
		p.why, p.do = "the command line's pods use the host's user namespace", "leave out --userns; with Kubernetes hostUsers: false does it"
	case !slices.Contains([]string{"private", "", "pod", "host", "shareable"}, m.ipc):
		p.why, p.do = fmt.Sprintf("there is no IPC mode %q here: containers of one pod share theirs", m.ipc), "join the other's pod: --pod NAME"
	case !slices.Contains([]string{"private", "", "pod", "host"}, m.pid):
		p.why, p.do = fmt.Sprintf("there is no PID mode %q here", m.pid), "choose --pid private, pod or host; --pod NAME --pid pod shares with others"
	case m.init && m.pid == "host":
		p.why, p.do = "in the host's PID namespace the host's init reaps (--init with --pid host)", "leave out one of the two"
	case m.ipc == "host" && m.shmSize != "":
		p.why, p.do = "with the host's IPC namespace comes the host's /dev/shm (--shm-size with --ipc host)", "leave out one of the two"
	case m.pod != "" && (len(r.ports) > 0 || m.flags.Changed("network") && !r.net.joins || r.hostname != "" || m.shmSize != "" || len(m.sysctls) > 0 || m.cgroupParent != "" || m.runtime != ""):
		p.why, p.do = "ports, network, host name, sysctls, /dev/shm and runtime are the pod's, which is there already", "leave them out, or make the pod's first container with them"
	case r.cpus != "" && (m.cpuQuota != 0 || m.cpuPeriod != 0):
		p.why, p.do = "--cpus says the same as --cpu-quota and --cpu-period", "leave out one of them"
	case m.oomScoreAdj < -1000 || m.oomScoreAdj > 1000:
		p.why, p.do = fmt.Sprintf("%d is not from -1000 to 1000 (--oom-score-adj)", m.oomScoreAdj), "choose a number in that range"
	case m.noHealth && m.healthCmd != "":
		p.why, p.do = "--no-healthcheck and --health-cmd contradict each other", "leave out one of the two"
	default:
		return r.checkCidfile()
	}
	return p
}

func (r *runFlags) checkCidfile() error {
	if r.more.cidfile == "" {
		return nil
	}
	if _, err := os.Lstat(r.more.cidfile); err == nil {
		return &problem{what: "cannot run " + r.image, why: fmt.Sprintf("the file %s for its id is there already", r.more.cidfile), do: "remove it if that container is gone, or name another with --cidfile"}
	}
	return nil
}

// writeCidfile keeps the id for scripts.
func (r *runFlags) writeCidfile(id string) error {
	if r.more.cidfile == "" {
		return nil
	}
	f, err := os.OpenFile(r.more.cidfile, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = f.WriteString(id)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		return &problem{what: "cannot write the container's id to " + r.more.cidfile, why: err.Error(), do: "name a new file in a directory that you may write to with --cidfile"}
	}
	return nil
}

// podNotes are the annotations and sysctls of the pod.
func (r *runFlags) podNotes(annotations map[string]string) (sysctls map[string]string, err error) {
	if r.more.shmSize != "" {
		n, err := units.RAMInBytes(r.more.shmSize)
		if err != nil || n <= 0 {
			return nil, &problem{what: fmt.Sprintf("cannot make a /dev/shm of %q", r.more.shmSize), why: "it is not a size", do: "write a number with b, k, m or g, for example --shm-size 256m"}
		}
		annotations[shmSizeNote] = strconv.FormatInt(n, 10)
	}
	for _, s := range r.more.sysctls {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, &problem{what: fmt.Sprintf("cannot set the sysctl %q", s), why: "it is not NAME=VALUE", do: "write for example --sysctl net.core.somaxconn=1024"}
		}
		if sysctls == nil {
			sysctls = map[string]string{}
		}
		sysctls[name] = value
	}
	return sysctls, nil
}

// containerNotes are the annotations of the container. health is that of its
// image.
func (r *runFlags) containerNotes(health json.RawMessage) (map[string]string, error) {
	m := &r.more
	out := map[string]string{}
	for _, s := range m.annotations {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" || strings.HasPrefix(name, ownPrefix) {
			return nil, &problem{what: fmt.Sprintf("cannot set the annotation %q", s), why: "it is not NAME=VALUE with a name of your own", do: "write for example --annotation com.example.team=blue"}
		}
		out[name] = value
	}
	if m.restart != "no" && m.restart != "" {
		out[restartNote] = m.restart
	}
	if r.detach && r.remove {
		out[removeNote] = "true"
	}
	if m.flags.Changed("stop-timeout") {
		out[stopTimeNote] = strconv.FormatInt(m.stopTimeout, 10)
	}
	if len(m.ulimits) > 0 {
		out[ulimitsNote] = strings.Join(m.ulimits, ",")
	}
	if err := r.mountNotes(out); err != nil {
		return nil, err
	}
	check, err := m.health(health)
	if err == nil && check != "" {
		out[healthNote] = check
	}
	return out, err
}

// healthCheck has docker's names, which images have too; times in nanoseconds.
type healthCheck struct {
	Test          []string
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// health is the check to be made, as JSON: the image's with what the flags say.
func (m *moreFlags) health(image json.RawMessage) (string, error) {
	var check healthCheck
	if len(image) > 0 {
		_ = json.Unmarshal(image, &check) // one that cannot be read is none
	}
	if m.healthCmd != "" {
		check.Test = []string{"CMD-SHELL", m.healthCmd}
	}
	for flag, set := range map[string]func(){
		"health-interval":       func() { check.Interval = m.healthInterval },
		"health-timeout":        func() { check.Timeout = m.healthTimeout },
		"health-start-period":   func() { check.StartPeriod = m.healthStart },
		"health-start-interval": func() { check.StartInterval = m.healthStartInterval },
		"health-retries":        func() { check.Retries = m.healthRetries },
	} {
		if m.flags.Changed(flag) {
			set()
		}
	}
	switch {
	case m.noHealth || len(check.Test) == 0 || check.Test[0] == "NONE":
		return "", nil
	case check.Retries < 0 || min(check.Interval, check.Timeout, check.StartPeriod, check.StartInterval) < 0:
		return "", &problem{what: "cannot check its health", why: "a time or a number is negative", do: "write for example --health-interval 10s --health-retries 3"}
	}
	text, err := json.Marshal(check)
	return string(text), err
}

// limits adds to what --cpus, --memory and --pids-limit say.
func (m *moreFlags) limits(res *criv1.LinuxContainerResources) error {
	res.CpuShares, res.CpusetCpus, res.CpusetMems, res.OomScoreAdj = m.cpuShares, m.cpusetCPUs, m.cpusetMems, m.oomScoreAdj
	if m.cpuQuota != 0 || m.cpuPeriod != 0 {
		res.CpuQuota, res.CpuPeriod = m.cpuQuota, m.cpuPeriod
		if res.CpuPeriod == 0 {
			res.CpuPeriod = cpuPeriod
		}
	}
	if m.memorySwap != "" {
		n := int64(-1)
		if m.memorySwap != "-1" {
			var err error
			if n, err = units.RAMInBytes(m.memorySwap); err != nil || res.MemoryLimitInBytes == 0 || n < res.MemoryLimitInBytes {
				return &problem{what: fmt.Sprintf("cannot limit memory and swap to %q", m.memorySwap), why: "it is not a size of at least --memory, which must be given too", do: "write for example --memory 256m --memory-swap 512m"}
			}
		}
		res.MemorySwapLimitInBytes = n
	}
	if m.memoryReservation != "" {
		n, err := units.RAMInBytes(m.memoryReservation)
		if err != nil || n <= 0 || res.MemoryLimitInBytes > 0 && n > res.MemoryLimitInBytes {
			return &problem{what: fmt.Sprintf("cannot reserve memory of %q", m.memoryReservation), why: "it is not a size, or more than --memory", do: "write for example --memory-reservation 128m"}
		}
		if res.Unified == nil {
			res.Unified = map[string]string{}
		}
		res.Unified["memory.low"] = strconv.FormatInt(n, 10)
	}
	for _, u := range m.ulimits {
		if err := checkUlimit(u); err != nil {
			return err
		}
	}
	return nil
}

func checkUlimit(text string) error {
	_, value, ok := strings.Cut(text, "=")
	soft, hard, both := strings.Cut(value, ":")
	if !both {
		hard = soft
	}
	s, err := ulimit(soft)
	h, err2 := ulimit(hard)
	if !ok || err != nil || err2 != nil || s > h || strings.Contains(text, ",") {
		return &problem{what: fmt.Sprintf("cannot set the limit %q", text), why: "it is not NAME=SOFT[:HARD] with a soft limit below the hard one", do: "write for example --ulimit nofile=1024:2048; -1 is no limit"}
	}
	return nil
}

func ulimit(text string) (uint64, error) {
	if text == "-1" || text == "unlimited" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

// parseDevices reads --device: nodes of the host, and devices of CDI, whose
// names have an equals sign.
func parseDevices(specs []string) (nodes []*criv1.Device, cdi []*criv1.CDIDevice, err error) {
	for _, s := range specs {
		if !strings.HasPrefix(s, "/") && strings.Contains(s, "=") {
			cdi = append(cdi, &criv1.CDIDevice{Name: s})
			continue
		}
		parts := strings.Split(s, ":")
		d := &criv1.Device{HostPath: parts[0], ContainerPath: parts[0], Permissions: "rwm"}
		rest := parts[1:]
		if len(rest) > 0 && strings.HasPrefix(rest[0], "/") {
			d.ContainerPath, rest = rest[0], rest[1:]
		}
		if len(rest) > 0 {
			d.Permissions, rest = rest[0], rest[1:]
		}
		if len(rest) > 0 || !path.IsAbs(d.HostPath) || d.Permissions == "" || strings.Trim(d.Permissions, "rwm") != "" {
			return nil, nil, &problem{what: fmt.Sprintf("cannot give it the device %q", s), why: "it is not HOST[:CONTAINER[:rwm]] with absolute paths, nor the name of a device of CDI", do: "write for example --device /dev/fuse or --device nvidia.com/gpu=0"}
		}
		nodes = append(nodes, d)
	}
	return nodes, cdi, nil
}

// parseGroups reads --group-add. CRI has no groups by name.
func parseGroups(specs []string) ([]int64, error) {
	var out []int64
	for _, s := range specs {
		gid, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return nil, &problem{what: fmt.Sprintf("cannot add the group %q", s), why: "it is not a number, and CRI has no groups by name", do: "write its number; berth exec CONTAINER getent group NAME shows it"}
		}
		out = append(out, int64(gid))
	}
	return out, nil
}

// securityOptions reads --security-opt into sc.
func securityOptions(specs []string, sc *criv1.LinuxContainerSecurityContext) error {
	for _, s := range specs {
		key, value, given := strings.Cut(s, "=")
		if !given {
			key, value, given = strings.Cut(s, ":") // docker's old form
		}
		bad := func(why, do string) error {
			return &problem{what: fmt.Sprintf("cannot apply --security-opt %q", s), why: why, do: do}
		}
		switch key {
		case "seccomp":
			profile, err := localProfile(value, "")
			if err != nil {
				return bad(err.Error(), "write seccomp=unconfined, or the path of a profile in JSON")
			}
			sc.Seccomp = profile
		case "apparmor":
			profile, err := localProfile(value, value)
			if err != nil {
				return bad(err.Error(), "write apparmor=unconfined, or the name of a profile that is loaded")
			}
			sc.Apparmor = profile
		case "label":
			if err := seLabel(value, sc); err != nil {
				return bad(err.Error(), "write label=type:TYPE, label=level:LEVEL, label=user:USER or label=role:ROLE")
			}
		case "no-new-privileges":
			on, err := strconv.ParseBool(value)
			if given && err != nil {
				return bad(value+" is neither true nor false", "write no-new-privileges")
			}
			sc.NoNewPrivs = !given || on
		case "systempaths":
			if value != "unconfined" {
				return bad("there is one value", "write systempaths=unconfined")
			}
			sc.MaskedPaths, sc.ReadonlyPaths = nil, nil
		default:
			return bad("there is no such option", "choose seccomp=, apparmor=, label=, no-new-privileges or systempaths=unconfined")
		}
	}
	return nil
}

// localProfile is a profile of seccomp, by its path, or of AppArmor, by name.
func localProfile(value, name string) (*criv1.SecurityProfile, error) {
	switch {
	case value == "unconfined":
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}, nil
	case value == "" || value == "builtin" || value == "runtime/default":
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}, nil
	case name != "":
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: name}, nil
	}
	file, err := filepath.Abs(value)
	if err == nil {
		_, err = os.Stat(file)
	}
	if err != nil {
		return nil, err
	}
	return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: file}, nil
}

func seLabel(value string, sc *criv1.LinuxContainerSecurityContext) error {
	if sc.SelinuxOptions == nil {
		sc.SelinuxOptions = &criv1.SELinuxOption{}
	}
	key, label, _ := strings.Cut(value, ":")
	if value == "disable" {
		key, label = "type", "spc_t"
	}
	if label == "" {
		return fmt.Errorf("%q names no label", value)
	}
	switch key {
	case "type":
		sc.SelinuxOptions.Type = label
	case "level":
		sc.SelinuxOptions.Level = label
	case "user":
		sc.SelinuxOptions.User = label
	case "role":
		sc.SelinuxOptions.Role = label
	default:
		return fmt.Errorf("a label has no part %q", key)
	}
	return nil
}

// ourPlatform is what images are pulled for: the daemon runs on this machine.
const ourPlatform = "linux/" + runtime.GOARCH

// logFolderLabel keeps, on our own copy of a renamed pod, where its logs are.
const logFolderLabel = ownPrefix + "log-folder"
