package manifest

import (
	"path"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/runtime/spec"
)

// ownPrefix begins the keys of what berth itself writes on pods and containers.
const ownPrefix = "io.berth."

// What crictl looks at to tell whose a container is.
const (
	podNameLabel      = "io.kubernetes.pod.name"
	podNamespaceLabel = "io.kubernetes.pod.namespace"
)

const (
	cpuPeriod = 100_000 // microseconds; the kernel's default
	minQuota  = 1_000   // microseconds; the kernel refuses less
	minMemory = 6 << 20 // bytes; below it not even the runtime's init fits
)

// DefaultGrace is Kubernetes' terminationGracePeriodSeconds.
const DefaultGrace = 30

// Place is what the node adds to a manifest.
type Place struct {
	UID          string
	LogDirectory string
	// Dir is where the directory of an emptyDir is.
	Dir func(volume string, memory bool) string
}

// Plan is a manifest in the words of the pods domain.
type Plan struct {
	Pod        spec.Pod
	Init       []spec.Container // in their order; Sidecars tells which go on
	Sidecars   map[string]bool  // by name of the container
	Containers []spec.Container
	EmptyDirs  []Dir
	HostPaths  []HostPath
	Images     []Image
}

// Dir is the directory of an emptyDir.
type Dir struct {
	Path   string
	Memory bool
	Size   int64 // bytes, with Memory; 0: the kernel's default
}

// Image is one that has to be here, and when it is pulled: Always, IfNotPresent
// or Never.
type Image struct {
	Ref, Policy string
}

// Plan makes the plan of a pod that was parsed.
func (p *Pod) Plan(at Place) *Plan {
	s := &p.Spec
	out := &Plan{Sidecars: map[string]bool{}}
	out.Pod = spec.Pod{
		Metadata:       spec.PodMetadata{Name: p.Metadata.Name, Namespace: p.NamespaceOrDefault(), UID: at.UID},
		Hostname:       p.hostname(),
		LogDirectory:   at.LogDirectory,
		DNS:            p.dns(),
		Labels:         p.Metadata.Labels,
		Annotations:    p.Metadata.Annotations,
		RuntimeHandler: s.RuntimeClassName,
		Namespaces:     p.namespaces(),
		Privileged:     p.privileged(),
		Sysctls:        p.sysctls(),
		Seccomp:        &spec.Seccomp{Mode: spec.SeccompDefault},
	}
	for _, v := range s.Volumes {
		switch {
		case v.EmptyDir != nil:
			size, _ := v.EmptyDir.size() // checked
			memory := v.EmptyDir.Medium == "Memory"
			out.EmptyDirs = append(out.EmptyDirs, Dir{Path: at.Dir(v.Name, memory), Memory: memory, Size: size})
		case v.HostPath != nil:
			out.HostPaths = append(out.HostPaths, *v.HostPath)
		case v.Image != nil:
			out.Images = append(out.Images, Image{v.Image.Reference, pullPolicy(v.Image.PullPolicy, v.Image.Reference)})
		}
	}
	for i := range s.InitContainers {
		c := &s.InitContainers[i]
		out.Init = append(out.Init, p.container(c, at, out))
		out.Sidecars[c.Name] = c.Sidecar()
	}
	for i := range s.Containers {
		out.Containers = append(out.Containers, p.container(&s.Containers[i], at, out))
	}
	return out
}

// Grace is how long the pod's containers have to end, in seconds.
func (p *Pod) Grace() int64 {
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return DefaultGrace
}

func (p *Pod) hostname() string {
	switch {
	case p.Spec.HostNetwork:
		return ""
	case p.Spec.Hostname != "":
		return p.Spec.Hostname
	}
	name := p.Metadata.Name
	return strings.TrimRight(name[:min(63, len(name))], "-.")
}

func (p *Pod) dns() *spec.DNS {
	c := p.Spec.DNSConfig
	if c == nil {
		return nil
	}
	out := &spec.DNS{Servers: c.Nameservers, Searches: c.Searches}
	for _, o := range c.Options {
		text := o.Name
		if o.Value != nil {
			text += ":" + *o.Value
		}
		out.Options = append(out.Options, text)
	}
	return out
}

func (p *Pod) namespaces() spec.Namespaces {
	ns := spec.Namespaces{Network: spec.ModePod, PID: spec.ModeContainer, IPC: spec.ModePod}
	if p.Spec.HostNetwork {
		ns.Network = spec.ModeNode
	}
	if p.Spec.HostIPC {
		ns.IPC = spec.ModeNode
	}
	switch {
	case p.Spec.HostPID:
		ns.PID = spec.ModeNode
	case p.Spec.ShareProcessNamespace:
		ns.PID = spec.ModePod
	}
	return ns
}

func (p *Pod) privileged() bool {
	return slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c Container) bool {
		return c.SecurityContext != nil && c.SecurityContext.Privileged
	})
}

func (p *Pod) sysctls() map[string]string {
	if p.Spec.SecurityContext == nil || len(p.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		out[s.Name] = s.Value
	}
	return out
}

// container translates one, and adds to the plan what it needs.
func (p *Pod) container(c *Container, at Place, plan *Plan) spec.Container {
	plan.Images = append(plan.Images, Image{c.Image, pullPolicy(c.ImagePullPolicy, c.Image)})
	env, values := p.environment(c)
	out := spec.Container{
		Metadata:   spec.ContainerMetadata{Name: c.Name},
		Image:      c.Image,
		UserImage:  c.Image,
		Command:    expand(c.Command, values),
		Args:       expand(c.Args, values),
		WorkingDir: c.WorkingDir,
		Env:        env,
		Labels:     map[string]string{podNameLabel: p.Metadata.Name, podNamespaceLabel: p.NamespaceOrDefault()},
		LogPath:    c.Name + ".log",
		Stdin:      c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		Resources: c.Resources.limits(),
		Security:  p.securityOf(c),
	}
	for _, port := range c.Ports {
		m := spec.PortMapping{Protocol: port.protocol(), ContainerPort: port.ContainerPort, HostPort: port.HostPort, HostIP: port.HostIP}
		if !p.Spec.HostNetwork && m.HostPort != 0 {
			plan.Pod.Ports = append(plan.Pod.Ports, m)
		}
	}
	for _, m := range c.VolumeMounts {
		out.Mounts = append(out.Mounts, p.mount(m, at))
	}
	return out
}

// pullPolicy is Kubernetes' default: what is latest may change.
func pullPolicy(policy, ref string) string {
	if policy != "" {
		return policy
	}
	name := ref[strings.LastIndex(ref, "/")+1:]
	if strings.Contains(name, "@") || strings.Contains(name, ":") && !strings.HasSuffix(name, ":latest") {
		return "IfNotPresent"
	}
	return "Always"
}

// environment is the container's variables, in their order, and by name.
func (p *Pod) environment(c *Container) ([]spec.Env, map[string]string) {
	var out []spec.Env
	values := map[string]string{}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			value, _ = p.field(e.ValueFrom.FieldRef.FieldPath) // checked
		} else {
			value = expandOne(value, values) // from those before it
		}
		values[e.Name] = value
		out = append(out, spec.Env{Key: e.Name, Value: value})
	}
	return out, values
}

func expand(texts []string, values map[string]string) []string {
	var out []string
	for _, t := range texts {
		out = append(out, expandOne(t, values))
	}
	return out
}

// expandOne replaces $(NAME) by the value of a variable. One that is not there
// stays as it is, and $$ is a dollar.
func expandOne(text string, values map[string]string) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 || i+1 == len(text) {
			return b.String() + text
		}
		b.WriteString(text[:i])
		rest := text[i+1:]
		name, after, closed := strings.Cut(strings.TrimPrefix(rest, "("), ")")
		value, known := values[name]
		switch {
		case rest[0] == '$':
			b.WriteByte('$')
			text = rest[1:]
		case rest[0] == '(' && closed && known:
			b.WriteString(value)
			text = after
		default:
			b.WriteByte('$')
			text = rest
		}
	}
}

// limits: CPU as a share of it and a quota, memory as a limit. What is asked for
// is what is limited where only that is said, as in Kubernetes.
func (r *Resources) limits() spec.Resources {
	var out spec.Resources
	if r == nil {
		return out
	}
	amount := func(all map[string]Quantity, name string, scale int64) int64 {
		if q, ok := all[name]; ok {
			n, _ := q.times(scale) // checked
			return n
		}
		return 0
	}
	milli := amount(r.Limits, "cpu", 1000)
	if milli > 0 {
		out.CPUPeriod = cpuPeriod
		out.CPUQuota = max(minQuota, milli*cpuPeriod/1000)
	}
	if asked := amount(r.Requests, "cpu", 1000); asked > 0 {
		milli = asked
	}
	if milli > 0 {
		out.CPUShares = min(262144, max(2, milli*1024/1000)) // the bounds are the kernel's
	}
	out.Memory = amount(r.Limits, "memory", 1)
	return out
}

func (p *Pod) mount(m VolumeMount, at Place) spec.Mount {
	v := p.volume(m.Name)
	out := spec.Mount{
		ContainerPath: path.Clean(m.MountPath), ReadOnly: m.ReadOnly, RecursiveReadOnly: m.RecursiveReadOnly == "Enabled",
		Propagation: map[string]spec.Propagation{"HostToContainer": spec.PropagationSlave, "Bidirectional": spec.PropagationShared}[m.MountPropagation],
	}
	if out.Propagation == "" {
		out.Propagation = spec.PropagationPrivate
	}
	switch {
	case v.HostPath != nil:
		out.HostPath = path.Clean(v.HostPath.Path)
	case v.EmptyDir != nil:
		out.HostPath = at.Dir(v.Name, v.EmptyDir.Medium == "Memory")
	default:
		out.Image, out.UserImage, out.ImageSubPath, out.ReadOnly = v.Image.Reference, v.Image.Reference, m.SubPath, true
	}
	return out
}

func (p *Pod) securityOf(c *Container) spec.Security {
	out := spec.Security{
		GroupsPolicy: spec.GroupsMerge,
		Namespaces:   p.namespaces(),
		Seccomp:      &spec.Seccomp{Mode: spec.SeccompDefault},
	}
	if sc := p.Spec.SecurityContext; sc != nil {
		out.RunAsUser, out.RunAsGroup, out.SupplementalGroups = sc.RunAsUser, sc.RunAsGroup, sc.SupplementalGroups
		if sc.SupplementalGroupsPolicy == "Strict" {
			out.GroupsPolicy = spec.GroupsStrict
		}
		profiles(&out, sc.SeccompProfile, sc.AppArmorProfile, sc.SELinuxOptions)
	}
	sc := c.SecurityContext
	if sc == nil {
		sc = &SecurityContext{}
	}
	if sc.RunAsUser != nil {
		out.RunAsUser = sc.RunAsUser
	}
	if sc.RunAsGroup != nil {
		out.RunAsGroup = sc.RunAsGroup
	}
	out.ReadonlyRootfs = sc.ReadOnlyRootFilesystem
	out.NoNewPrivs = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
	if sc.Capabilities != nil {
		out.CapAdd, out.CapDrop = capabilities(sc.Capabilities.Add), capabilities(sc.Capabilities.Drop)
	}
	if out.Privileged = sc.Privileged; out.Privileged {
		out.Seccomp = nil
	} else {
		out.MaskedPaths, out.ReadonlyPaths = spec.DefaultMaskedPaths(), spec.DefaultReadonlyPaths()
	}
	profiles(&out, sc.SeccompProfile, sc.AppArmorProfile, sc.SELinuxOptions)
	return out
}

// profiles sets those that are named.
func profiles(out *spec.Security, seccomp, appArmor *SecurityProfile, label *SELinux) {
	if seccomp != nil {
		out.Seccomp = map[string]*spec.Seccomp{
			"RuntimeDefault": {Mode: spec.SeccompDefault},
			"Localhost":      {Mode: spec.SeccompLocalhost, Path: seccomp.LocalhostProfile},
		}[seccomp.Type]
	}
	if appArmor != nil {
		out.AppArmor = map[string]string{"Unconfined": "unconfined", "Localhost": appArmor.LocalhostProfile}[appArmor.Type]
	}
	if label != nil {
		l := spec.SELinux(*label)
		out.SELinux = &l
	}
}

func capabilities(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, strings.TrimPrefix(strings.ToUpper(n), "CAP_"))
	}
	return out
}
