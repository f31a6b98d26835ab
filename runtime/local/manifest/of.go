package manifest

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/berth-runtime/berth/runtime/spec"
)

// Text writes the manifest as YAML.
func (p *Pod) Text() string {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	_ = e.Encode(p) // strings, numbers, lists and maps
	return b.String()
}

// Of makes a manifest of a pod that was made in another way, of its containers
// in the order of their making and of its restart policy (Always, OnFailure or
// Never). lost tells, for people, what a manifest cannot say.
func Of(pod *spec.Pod, containers []spec.Container, restart string) (p *Pod, lost []string) {
	p = &Pod{APIVersion: "v1", Kind: "Pod", Metadata: Metadata{
		Name: strings.ReplaceAll(strings.ToLower(pod.Metadata.Name), "_", "-"), Namespace: pod.Metadata.Namespace,
		Labels: foreign(pod.Labels), Annotations: foreign(pod.Annotations),
	}}
	s := &p.Spec
	s.RestartPolicy = restart
	s.RuntimeClassName = pod.RuntimeHandler
	s.HostNetwork = pod.Namespaces.Network == spec.ModeNode
	s.HostIPC = pod.Namespaces.IPC == spec.ModeNode
	if pod.Hostname != p.hostname() {
		s.Hostname = pod.Hostname
	}
	if d := pod.DNS; d != nil {
		s.DNSPolicy, s.DNSConfig = "None", &DNSConfig{Nameservers: d.Servers, Searches: d.Searches}
		if len(d.Servers) == 0 {
			s.DNSPolicy = ""
		}
		for _, o := range d.Options {
			name, value, has := strings.Cut(o, ":")
			option := DNSOption{Name: name}
			if has {
				option.Value = &value
			}
			s.DNSConfig.Options = append(s.DNSConfig.Options, option)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(pod.Sysctls)) {
		if s.SecurityContext == nil {
			s.SecurityContext = &PodSecurity{}
		}
		s.SecurityContext.Sysctls = append(s.SecurityContext.Sysctls, Sysctl{name, pod.Sysctls[name]})
	}
	if pod.ShmSize != 0 {
		lost = append(lost, "the size of /dev/shm")
	}
	if pod.Namespaces.User == spec.ModePod {
		lost = append(lost, "the user namespace")
	}
	volumes := map[string]string{} // names by host path or image
	for _, c := range containers {
		one, missing := s.containerOf(&c, volumes)
		s.Containers = append(s.Containers, one)
		lost = append(lost, missing...)
	}
	if len(s.Containers) > 0 {
		for _, m := range pod.Ports {
			port := Port{ContainerPort: m.ContainerPort, HostPort: m.HostPort, HostIP: m.HostIP}
			if m.Protocol != "tcp" {
				port.Protocol = strings.ToUpper(m.Protocol)
			}
			s.Containers[0].Ports = append(s.Containers[0].Ports, port)
		}
	}
	return p, lost
}

// foreign are those that are neither berth's nor what it writes for crictl.
func foreign(all map[string]string) map[string]string {
	out := maps.Clone(all)
	maps.DeleteFunc(out, func(k, _ string) bool {
		return strings.HasPrefix(k, ownPrefix) || strings.HasPrefix(k, "io.kubernetes.") || strings.HasPrefix(k, "kubernetes.io/")
	})
	if len(out) == 0 {
		return nil
	}
	return out
}

func (s *Spec) containerOf(c *spec.Container, volumes map[string]string) (Container, []string) {
	image := c.UserImage
	if image == "" {
		image = c.Image
	}
	out := Container{
		Name: strings.ReplaceAll(strings.ToLower(c.Metadata.Name), "_", "-"), Image: image, ImagePullPolicy: "IfNotPresent",
		Command: escape(c.Command), Args: escape(c.Args), WorkingDir: c.WorkingDir,
		Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
	}
	for _, e := range c.Env {
		out.Env = append(out.Env, Env{Name: e.Key, Value: strings.ReplaceAll(e.Value, "$", "$$")})
	}
	var lost []string
	note := func(there bool, what string) {
		if there {
			lost = append(lost, what+" of container "+c.Metadata.Name)
		}
	}
	for _, m := range c.Mounts {
		if m.IDs != nil || len(m.Options) > 0 {
			note(true, "options of the mount at "+m.ContainerPath)
		}
		out.VolumeMounts = append(out.VolumeMounts, s.mountOf(m, volumes))
	}
	out.Resources = resourcesOf(c.Resources)
	out.SecurityContext = securityOf(&c.Security)
	switch c.Security.Namespaces.PID {
	case spec.ModeNode:
		s.HostPID = true
	case spec.ModePod:
		s.ShareProcessNamespace = true
	}
	r := c.Resources
	r.CPUPeriod, r.CPUQuota, r.CPUShares, r.Memory, r.MemorySwap = 0, 0, 0, 0, 0
	note(!reflect.DeepEqual(r, spec.Resources{}), "limits beyond CPU and memory")
	note(len(c.Devices)+len(c.CDIDevices) > 0, "devices")
	note(c.StopSignal != "", "the stop signal")
	note(!reflect.DeepEqual(c.Extra, spec.Extra{}), "ulimits, tmpfs and volumes of its own")
	note(len(c.Security.CapAmbient) > 0, "ambient capabilities")
	note(c.Security.RunAsUsername != "", "the user by name")
	return out, lost
}

// escape keeps dollars from being read as references to variables.
func escape(texts []string) []string {
	var out []string
	for _, t := range texts {
		out = append(out, strings.ReplaceAll(t, "$", "$$"))
	}
	return out
}

func (s *Spec) mountOf(m spec.Mount, volumes map[string]string) VolumeMount {
	source := m.HostPath
	if m.Image != "" {
		source = "image " + m.Image
	}
	name, known := volumes[source]
	if !known {
		name = "v" + strconv.Itoa(len(volumes))
		volumes[source] = name
		v := Volume{Name: name, HostPath: &HostPath{Path: m.HostPath}}
		if m.Image != "" {
			v = Volume{Name: name, Image: &ImageVolume{Reference: m.UserImage, PullPolicy: "IfNotPresent"}}
			if m.UserImage == "" {
				v.Image.Reference = m.Image
			}
		}
		s.Volumes = append(s.Volumes, v)
	}
	out := VolumeMount{Name: name, MountPath: m.ContainerPath, SubPath: m.ImageSubPath, ReadOnly: m.ReadOnly && m.Image == ""}
	if m.RecursiveReadOnly {
		out.RecursiveReadOnly = "Enabled"
	}
	out.MountPropagation = map[spec.Propagation]string{spec.PropagationSlave: "HostToContainer", spec.PropagationShared: "Bidirectional"}[m.Propagation]
	return out
}

func resourcesOf(r spec.Resources) *Resources {
	limits := map[string]Quantity{}
	if r.CPUQuota > 0 && r.CPUPeriod > 0 {
		limits["cpu"] = Quantity(fmt.Sprintf("%dm", r.CPUQuota*1000/r.CPUPeriod))
	}
	if r.Memory > 0 {
		limits["memory"] = Quantity(strconv.FormatInt(r.Memory, 10))
	}
	if len(limits) == 0 {
		return nil
	}
	return &Resources{Limits: limits}
}

func securityOf(in *spec.Security) *SecurityContext {
	out := &SecurityContext{
		RunAsUser: in.RunAsUser, RunAsGroup: in.RunAsGroup, Privileged: in.Privileged, ReadOnlyRootFilesystem: in.ReadonlyRootfs,
	}
	if in.NoNewPrivs {
		no := false
		out.AllowPrivilegeEscalation = &no
	}
	if len(in.CapAdd)+len(in.CapDrop) > 0 {
		out.Capabilities = &Capabilities{Add: in.CapAdd, Drop: in.CapDrop}
	}
	if !in.Privileged {
		switch sc := in.Seccomp; {
		case sc == nil || sc.Mode == spec.SeccompUnconfined:
			out.SeccompProfile = &SecurityProfile{Type: "Unconfined"}
		case sc.Mode == spec.SeccompLocalhost:
			out.SeccompProfile = &SecurityProfile{Type: "Localhost", LocalhostProfile: sc.Path}
		}
	}
	switch in.AppArmor {
	case "":
	case "unconfined":
		out.AppArmorProfile = &SecurityProfile{Type: "Unconfined"}
	default:
		out.AppArmorProfile = &SecurityProfile{Type: "Localhost", LocalhostProfile: in.AppArmor}
	}
	if in.SELinux != nil {
		label := SELinux(*in.SELinux)
		out.SELinuxOptions = &label
	}
	if reflect.DeepEqual(*out, SecurityContext{}) {
		return nil
	}
	return out
}

// Differences tells, for people, in what b differs from a, by the names of
// fields; none if they ask for the same.
func Differences(a, b *Pod) []string {
	var out []string
	differences(reflect.ValueOf(*a), reflect.ValueOf(*b), "", &out)
	return out
}

func differences(a, b reflect.Value, path string, out *[]string) {
	switch {
	case reflect.DeepEqual(a.Interface(), b.Interface()):
	case a.Kind() == reflect.Struct:
		for i := range a.NumField() {
			name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("yaml"), ",")
			differences(a.Field(i), b.Field(i), strings.TrimPrefix(path+"."+name, "."), out)
		}
	case a.Kind() == reflect.Slice && a.Len() == b.Len():
		for i := range a.Len() {
			differences(a.Index(i), b.Index(i), fmt.Sprintf("%s[%d]", path, i), out)
		}
	case a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil():
		differences(a.Elem(), b.Elem(), path, out)
	default:
		*out = append(*out, path)
	}
}
