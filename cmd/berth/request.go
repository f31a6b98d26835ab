package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runFlags is a container as docker's words describe it.
type runFlags struct {
	detach, remove     bool
	createOnly         bool // berth create
	stdin, tty         bool
	detachKeys         string
	name, hostname     string
	ports, volumes     []string
	env, envFiles      []string
	labels             []string
	workdir, user      string
	entrypoint         string
	entrypointSet      bool
	network, pull      string
	cpus, memory       string
	pids               int64
	capAdd, capDrop    []string
	privileged         bool
	readOnly           bool
	stopSignal         string
	image              string
	args               []string
	uid                string // of the pod
	logRoot, logFolder string // the folder is the pod's own, below the root

	more   moreFlags
	net    netFlags
	images map[string]string // ids of the images that are mounted, by reference
	paths  map[string]string // host paths of volumes, by name
	within *object           // the pod that it joins (--pod)
}

func (r *runFlags) register(f *pflag.FlagSet) {
	f.SetInterspersed(false) // what follows IMAGE belongs to the container
	f.BoolVarP(&r.detach, "detach", "d", false, "print the id and return; do not follow the log")
	f.BoolVar(&r.remove, "rm", false, "remove the container, its pod and its log when it ends")
	f.Bool("help", false, "explain this verb") // without a short form, which is the host name's
	f.BoolVarP(&r.stdin, "interactive", "i", false, "pass stdin on to it; with -d it waits for berth attach")
	f.BoolVarP(&r.tty, "tty", "t", false, "give it a terminal")
	f.StringVar(&r.detachKeys, "detach-keys", defaultDetachKeys, "keys that leave it to itself, with -it")
	f.StringVar(&r.name, "name", "", "name (generated if none is given)")
	f.StringVarP(&r.hostname, "hostname", "h", "", "host name inside (the name if none is given)")
	f.StringArrayVarP(&r.ports, "publish", "p", nil, "publish a port: [[HOSTIP:][HOST]:]CONTAINER[/PROTO], also ranges; a HOST that is left out is\na free one")
	f.StringArrayVarP(&r.volumes, "volume", "v", nil, "mount a host path or a named volume: HOST|NAME:CONTAINER[:ro,nocopy,rshared,rslave,rprivate];\nCONTAINER alone is a fresh directory that goes with it")
	f.StringArrayVarP(&r.env, "env", "e", nil, "set a variable: NAME=VALUE, or NAME to pass on your own")
	f.StringArrayVar(&r.envFiles, "env-file", nil, "read variables from a file")
	f.StringArrayVarP(&r.labels, "label", "l", nil, "set a label: NAME=VALUE")
	f.StringVarP(&r.workdir, "workdir", "w", "", "working directory inside")
	f.StringVarP(&r.user, "user", "u", "", "user: UID[:GID] or NAME[:GID]")
	f.StringVar(&r.entrypoint, "entrypoint", "", "replace the image's entrypoint; empty removes it")
	f.StringVar(&r.network, "network", usualNetwork, "bridge, host, none, container:NAME (the pod of another container), or one of berth network;\ncontainers of one of those find each other by name")
	f.StringVar(&r.pull, "pull", "missing", "pull the image: missing, always or never")
	f.StringVar(&r.cpus, "cpus", "", "limit of CPU time, in CPUs: 1.5")
	f.StringVarP(&r.memory, "memory", "m", "", "limit of memory: 256m")
	f.Int64Var(&r.pids, "pids-limit", 0, "limit of processes; -1 for none")
	f.StringSliceVar(&r.capAdd, "cap-add", nil, "add a capability: NET_ADMIN, or ALL")
	f.StringSliceVar(&r.capDrop, "cap-drop", nil, "drop a capability: NET_RAW, or ALL")
	f.BoolVar(&r.privileged, "privileged", false, "all capabilities, all devices, no filters")
	f.BoolVar(&r.readOnly, "read-only", false, "mount the root file system read-only")
	f.StringVar(&r.stopSignal, "stop-signal", "", "signal that stops it (the image's if none is given)")
	r.net.register(f)
	r.more.register(f)
}

// A name becomes part of a file name and, by default, the host name.
var goodName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// check refuses what can be refused without asking the daemon.
func (r *runFlags) check() error {
	p := &problem{what: "cannot run " + r.image}
	switch {
	case !slices.Contains([]string{"missing", "always", "never"}, r.pull):
		p.why, p.do = fmt.Sprintf("there is no pull policy %q", r.pull), "choose --pull missing, always or never"
	case r.workdir != "" && !path.IsAbs(r.workdir):
		p.why, p.do = fmt.Sprintf("the working directory %q is not absolute", r.workdir), "write for example -w /app"
	case r.entrypointSet && r.entrypoint == "" && len(r.args) == 0:
		p.why, p.do = "an empty entrypoint leaves nothing to execute", "write a command after the image"
	case r.name != "" && !goodName.MatchString(r.name):
		p.why, p.do = fmt.Sprintf("the name %q is not of letters, digits, _, . and -", r.name), "choose a name like web or web-1"
	default:
		if err := r.checkNetwork(); err != nil {
			return err
		}
		return r.checkMore()
	}
	return p
}

// interactive tells whether our stdio becomes the container's.
func (r *runFlags) interactive() bool { return !r.detach && !r.createOnly && (r.stdin || r.tty) }

// podConfig is the pod of one.
func (r *runFlags) podConfig() (*criv1.PodSandboxConfig, error) {
	labels, err := r.allLabels()
	if err != nil {
		return nil, err
	}
	labels[runLabel] = "true"
	annotations := map[string]string{}
	sysctls, err := r.podNotes(annotations)
	if err != nil {
		return nil, err
	}
	hostname := r.hostname
	switch {
	case r.network == hostNetwork:
		hostname = ""
	case hostname == "":
		hostname = strings.ReplaceAll(r.name, "_", "-")
	}
	pod := &criv1.PodSandboxConfig{
		Metadata:     r.metadata(),
		Hostname:     hostname,
		LogDirectory: path.Join(r.logRoot, r.logFolder),
		Labels:       labels,
		Annotations:  annotations,
		Linux: &criv1.LinuxPodSandboxConfig{Sysctls: sysctls, CgroupParent: r.more.cgroupParent, SecurityContext: &criv1.LinuxSandboxSecurityContext{
			NamespaceOptions: r.namespaces(),
			Privileged:       r.privileged,
			Seccomp:          r.seccomp(),
		}},
	}
	return pod, r.onNetwork(pod)
}

func (r *runFlags) metadata() *criv1.PodSandboxMetadata {
	if r.within != nil {
		return r.within.pod.GetMetadata()
	}
	return &criv1.PodSandboxMetadata{Name: r.name, Namespace: "default", Uid: r.uid}
}

func (r *runFlags) namespaces() *criv1.NamespaceOption {
	ns := &criv1.NamespaceOption{Pid: criv1.NamespaceMode_CONTAINER}
	switch {
	case r.more.pid == "host":
		ns.Pid = criv1.NamespaceMode_NODE
	case r.more.pid == "pod" || r.more.init:
		ns.Pid = criv1.NamespaceMode_POD // the pod's init reaps
	}
	if r.more.ipc == "host" {
		ns.Ipc = criv1.NamespaceMode_NODE
	}
	if r.network == hostNetwork {
		ns.Network = criv1.NamespaceMode_NODE
	}
	return ns
}

func (r *runFlags) seccomp() *criv1.SecurityProfile {
	if r.privileged {
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
	}
	return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
}

// containerConfig is the container of the pod of one. image is what the
// daemon knows the image by, argv what will be executed, as far as is known, and
// health the image's health check.
func (r *runFlags) containerConfig(image string, argv []string, health json.RawMessage) (*criv1.ContainerConfig, error) {
	mounts, err := r.mounts()
	if err != nil {
		return nil, err
	}
	env, err := parseEnv(r.envFiles, r.env, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	labels, err := r.allLabels()
	if err != nil {
		return nil, err
	}
	labels[runLabel] = "true"
	labels[podNameLabel], labels[podNamespaceLabel] = r.metadata().Name, r.metadata().Namespace
	limits, err := parseLimits(r.cpus, r.memory, r.pids)
	if err != nil {
		return nil, err
	}
	if err := r.more.limits(limits); err != nil {
		return nil, err
	}
	security, err := r.security()
	if err != nil {
		return nil, err
	}
	devices, cdi, err := parseDevices(r.more.devices)
	if err != nil {
		return nil, err
	}
	annotations, err := r.containerNotes(health)
	if err != nil {
		return nil, err
	}
	stop, err := parseSignal(r.stopSignal)
	if err != nil {
		return nil, err
	}
	note, err := json.Marshal(argv)
	if err != nil {
		return nil, err
	}
	annotations[commandNote] = string(note)
	command, args := r.command()
	return &criv1.ContainerConfig{
		Metadata:    &criv1.ContainerMetadata{Name: r.name},
		Image:       &criv1.ImageSpec{Image: image, UserSpecifiedImage: r.image},
		Command:     command,
		Args:        args,
		WorkingDir:  r.workdir,
		Envs:        env,
		Mounts:      mounts,
		Labels:      labels,
		Annotations: annotations,
		Devices:     devices,
		CDIDevices:  cdi,
		LogPath:     r.logPath(),
		StopSignal:  stop,
		Stdin:       r.stdin,
		StdinOnce:   r.stdin && !r.detach && !r.createOnly && !r.tty, // with us goes its stdin
		Tty:         r.tty,
		Linux:       &criv1.LinuxContainerConfig{Resources: limits, SecurityContext: security},
	}, nil
}

// logPath is below the pod's log directory, which others share with --pod. All
// attempts of a container write to one.
func (r *runFlags) logPath() string {
	if r.within != nil {
		return r.name + ".log"
	}
	return "0.log"
}

// allLabels are those of files and then those of the command line.
func (r *runFlags) allLabels() (map[string]string, error) {
	var lines []string
	for _, file := range r.more.labelFiles {
		read, err := readEnvFile(file)
		if err != nil {
			return nil, err
		}
		lines = append(lines, read...)
	}
	return parseLabels(append(lines, r.labels...))
}

// mounts are those of CRI; what is not known yet of their sources has a stand-in.
func (r *runFlags) mounts() ([]*criv1.Mount, error) {
	all, err := parseMounts(r.volumes, r.more.mounts, r.more.tmpfs)
	if err != nil {
		return nil, err
	}
	for m, name := range all.volumes {
		if p := r.paths[name]; p != "" {
			m.HostPath = p
		}
	}
	for m, ref := range all.images {
		if id := r.images[ref]; id != "" {
			m.HostPath, m.Image = "", &criv1.ImageSpec{Image: id, UserSpecifiedImage: ref}
		}
	}
	return all.mounts, nil
}

// mountNotes tells the daemon of the other mounts.
func (r *runFlags) mountNotes(into map[string]string) error {
	all, err := parseMounts(r.volumes, r.more.mounts, r.more.tmpfs)
	if err != nil {
		return err
	}
	return all.notes(into)
}

// command divides what to execute the way CRI has it: Command replaces the
// image's entrypoint and its command, Args only the command.
func (r *runFlags) command() (command, args []string) {
	switch {
	case r.entrypoint != "":
		return []string{r.entrypoint}, r.args
	case r.entrypointSet:
		return r.args, nil
	}
	return nil, r.args
}

// argv is what will be executed, given what the image says.
func (r *runFlags) argv(config json.RawMessage) []string {
	var img struct{ Entrypoint, Cmd []string }
	_ = json.Unmarshal(config, &img) // for display only: an image without it shows less
	command, args := r.command()
	if command == nil {
		command = img.Entrypoint
		if args == nil {
			args = img.Cmd
		}
	}
	return slices.Concat(command, args)
}

func (r *runFlags) security() (*criv1.LinuxContainerSecurityContext, error) {
	sc := &criv1.LinuxContainerSecurityContext{
		Privileged:       r.privileged,
		ReadonlyRootfs:   r.readOnly,
		NamespaceOptions: r.namespaces(),
		Seccomp:          r.seccomp(),
	}
	if !r.privileged {
		// CRI takes exactly the lists that it is given, so that whoever makes
		// a container has to bring them. These are the peers' own.
		sc.MaskedPaths = maskedPaths()
		sc.ReadonlyPaths = readonlyPaths()
	}
	if len(r.capAdd)+len(r.capDrop) > 0 {
		add, err := capabilities("add", r.capAdd)
		if err != nil {
			return nil, err
		}
		drop, err := capabilities("drop", r.capDrop)
		if err != nil {
			return nil, err
		}
		sc.Capabilities = &criv1.Capability{AddCapabilities: add, DropCapabilities: drop}
	}
	groups, err := parseGroups(r.more.groups)
	if err != nil {
		return nil, err
	}
	sc.SupplementalGroups = groups
	if err := securityOptions(r.more.securityOpts, sc); err != nil {
		return nil, err
	}
	return sc, r.identity(sc)
}

// identity reads --user. CRI has no group by name.
func (r *runFlags) identity(sc *criv1.LinuxContainerSecurityContext) error {
	if r.user == "" {
		return nil
	}
	user, group, hasGroup := strings.Cut(r.user, ":")
	p := &problem{what: fmt.Sprintf("cannot run as user %q", r.user), do: "write -u UID, -u UID:GID, -u NAME or -u NAME:GID"}
	if user == "" {
		p.why = "the user is missing"
		return p
	}
	if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
		sc.RunAsUser = &criv1.Int64Value{Value: int64(uid)}
	} else {
		sc.RunAsUsername = user
	}
	if hasGroup {
		gid, err := strconv.ParseUint(group, 10, 32)
		if err != nil {
			p.why = fmt.Sprintf("the group %q is not a number", group)
			return p
		}
		sc.RunAsGroup = &criv1.Int64Value{Value: int64(gid)}
	}
	return nil
}

var goodCapability = regexp.MustCompile(`^[A-Z][A-Z_]*$`)

func capabilities(verb string, names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		c := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(name)), "CAP_")
		if !goodCapability.MatchString(c) {
			return nil, &problem{
				what: fmt.Sprintf("cannot %s the capability %q", verb, name),
				why:  "it is not the name of one",
				do:   "write for example NET_ADMIN or ALL; man 7 capabilities lists them",
			}
		}
		out = append(out, c)
	}
	return out, nil
}

func maskedPaths() []string {
	return []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// parseSignal reads "SIGTERM", "TERM" or "15" into CRI's own numbers.
func parseSignal(s string) (criv1.Signal, error) {
	if s == "" {
		return criv1.Signal_SIGNAL_RUNTIME_DEFAULT, nil
	}
	name := strings.ToUpper(s)
	if n, err := strconv.Atoi(s); err == nil {
		name = signalName(n)
	}
	name = strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(strings.TrimPrefix(name, "SIG"))
	if v, ok := criv1.Signal_value["SIGNAL_SIG"+name]; ok {
		return criv1.Signal(v), nil
	}
	return 0, &problem{
		what: fmt.Sprintf("cannot stop it with the signal %q", s),
		why:  "there is no such signal",
		do:   "write a name or a number, for example SIGQUIT or 3; kill -l lists them",
	}
}
