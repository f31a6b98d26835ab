package manifest

import (
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var (
	podName       = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`) // a DNS subdomain
	label         = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	envName       = regexp.MustCompile(`^[-._a-zA-Z][-._a-zA-Z0-9]*$`)
	keyedField    = regexp.MustCompile(`^metadata\.(labels|annotations)\['([^']+)'\]$`)
	noEntry       = "it is empty"
	hostPathTypes = []string{"", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice"}
)

// one refuses a value that is none of those that are honoured. The empty one
// is the default.
func (r *reader) one(path, value string, honoured ...string) {
	if value != "" && !slices.Contains(honoured, value) {
		r.at(path, "%q is not honoured here; %s", value, alternatives(honoured))
	}
}

func alternatives(values []string) string {
	values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return v == "" })
	if len(values) == 1 {
		return values[0] + " is"
	}
	return strings.Join(values, ", ") + " are"
}

// check refuses what cannot work, and what only a cluster could honour.
func (r *reader) check(p *Pod) {
	if p.APIVersion != "v1" || p.Kind != "Pod" {
		r.at("kind", "it is %s %s, and only Pods of v1 are run here", p.APIVersion, p.Kind)
		return
	}
	if !podName.MatchString(p.Metadata.Name) {
		r.at("metadata.name", "%q is no name of a pod: it has a-z, 0-9, - and .", p.Metadata.Name)
	}
	if ns := p.Metadata.Namespace; ns != "" && !label.MatchString(ns) {
		r.at("metadata.namespace", "%q is no name of a namespace", ns)
	}
	for key := range p.Metadata.Annotations {
		if strings.HasPrefix(key, ownPrefix) {
			r.at("metadata.annotations."+key, "annotations that begin with %s are berth's own", ownPrefix)
		}
	}
	for key := range p.Metadata.Labels {
		if strings.HasPrefix(key, ownPrefix) {
			r.at("metadata.labels."+key, "labels that begin with %s are berth's own", ownPrefix)
		}
	}
	s := &p.Spec
	r.one("spec.restartPolicy", s.RestartPolicy, "Always", "OnFailure", "Never")
	r.one("spec.dnsPolicy", s.DNSPolicy, "Default", "None")
	if s.DNSPolicy == "None" && (s.DNSConfig == nil || len(s.DNSConfig.Nameservers) == 0) {
		r.at("spec.dnsPolicy", "None needs dnsConfig.nameservers")
	}
	if s.Hostname != "" && !label.MatchString(s.Hostname) {
		r.at("spec.hostname", "%q is no host name", s.Hostname)
	}
	if s.HostPID && s.ShareProcessNamespace {
		r.at("spec.shareProcessNamespace", "it cannot be together with hostPID")
	}
	if g := s.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		r.at("spec.terminationGracePeriodSeconds", "%d is negative", *g)
	}
	for name, v := range map[string]*bool{"enableServiceLinks": s.EnableServiceLinks, "automountServiceAccountToken": s.AutomountServiceAccountToken} {
		if v != nil && *v {
			r.at("spec."+name, "it is not honoured here: it needs a cluster")
		}
	}
	if sc := s.SecurityContext; sc != nil {
		r.one("spec.securityContext.supplementalGroupsPolicy", sc.SupplementalGroupsPolicy, "Merge", "Strict")
		r.profile("spec.securityContext.seccompProfile", sc.SeccompProfile)
		r.profile("spec.securityContext.appArmorProfile", sc.AppArmorProfile)
		r.identity("spec.securityContext", sc.RunAsUser, sc.RunAsGroup)
	}
	r.volumes(s)
	if len(s.Containers) == 0 {
		r.at("spec.containers", "a pod needs a container")
	}
	taken := map[string]bool{}
	for i := range s.InitContainers {
		at := fmt.Sprintf("spec.initContainers[%d]", i)
		r.one(at+".restartPolicy", s.InitContainers[i].RestartPolicy, "Always")
		r.container(at, p, &s.InitContainers[i], taken)
	}
	for i := range s.Containers {
		at := fmt.Sprintf("spec.containers[%d]", i)
		r.one(at+".restartPolicy", s.Containers[i].RestartPolicy)
		r.container(at, p, &s.Containers[i], taken)
	}
	r.ports(s)
}

func (r *reader) volumes(s *Spec) {
	taken := map[string]bool{}
	for i, v := range s.Volumes {
		at := fmt.Sprintf("spec.volumes[%d]", i)
		if !label.MatchString(v.Name) || taken[v.Name] {
			r.at(at+".name", "%q is no name of a volume, or there are two of it", v.Name)
		}
		taken[v.Name] = true
		sources := 0
		if h := v.HostPath; h != nil {
			sources++
			if !filepath.IsAbs(h.Path) || strings.Contains(h.Path+"/", "/../") {
				r.at(at+".hostPath.path", "%q is not an absolute path without ..", h.Path)
			}
			r.one(at+".hostPath.type", h.Type, hostPathTypes...)
		}
		if e := v.EmptyDir; e != nil {
			sources++
			r.one(at+".emptyDir.medium", e.Medium, "Memory")
			if n, err := e.size(); err != nil {
				r.at(at+".emptyDir.sizeLimit", "%v", err)
			} else if n > 0 && e.Medium != "Memory" {
				r.at(at+".emptyDir.sizeLimit", "it is honoured with medium Memory only")
			}
		}
		if m := v.Image; m != nil {
			sources++
			if m.Reference == "" {
				r.at(at+".image.reference", "%s", noEntry)
			}
			r.one(at+".image.pullPolicy", m.PullPolicy, "Always", "IfNotPresent", "Never")
		}
		if sources != 1 {
			r.at(at, "a volume is one of hostPath, emptyDir (emptyDir: {}) and image")
		}
	}
}

// size in bytes; 0 is not limited.
func (e *EmptyDir) size() (int64, error) {
	if e.SizeLimit == "" {
		return 0, nil
	}
	return e.SizeLimit.times(1)
}

func (r *reader) container(at string, p *Pod, c *Container, taken map[string]bool) {
	if !label.MatchString(c.Name) || taken[c.Name] {
		r.at(at+".name", "%q is no name of a container, or there are two of it", c.Name)
	}
	taken[c.Name] = true
	if strings.TrimSpace(c.Image) == "" {
		r.at(at+".image", "%s", noEntry)
	}
	r.one(at+".imagePullPolicy", c.ImagePullPolicy, "Always", "IfNotPresent", "Never")
	if c.WorkingDir != "" && !path.IsAbs(c.WorkingDir) {
		r.at(at+".workingDir", "%q is not an absolute path", c.WorkingDir)
	}
	for i, e := range c.Env {
		where := fmt.Sprintf("%s.env[%d]", at, i)
		if !envName.MatchString(e.Name) {
			r.at(where+".name", "%q is no name of a variable", e.Name)
		}
		if e.ValueFrom == nil {
			continue
		}
		if e.Value != "" {
			r.at(where, "it has both value and valueFrom")
		}
		if e.ValueFrom.FieldRef == nil {
			r.at(where+".valueFrom", "only fieldRef is honoured here")
		} else if _, err := p.field(e.ValueFrom.FieldRef.FieldPath); err != nil {
			r.at(where+".valueFrom.fieldRef.fieldPath", "%v", err)
		}
	}
	r.resources(at+".resources", c.Resources)
	r.mounts(at, p, c)
	r.security(at+".securityContext", p, c)
}

func (r *reader) resources(at string, res *Resources) {
	if res == nil {
		return
	}
	for kind, all := range map[string]map[string]Quantity{"limits": res.Limits, "requests": res.Requests} {
		for name, q := range all {
			where := at + "." + kind + "." + name
			if name != "cpu" && name != "memory" {
				r.at(where, "it is not honoured here; cpu and memory are")
			} else if n, err := q.times(1000); err != nil {
				r.at(where, "%v", err)
			} else if kind == "limits" && name == "memory" && n/1000 < minMemory {
				r.at(where, "%s is less than %d bytes, in which no container starts", q, minMemory)
			}
		}
	}
}

func (r *reader) mounts(at string, p *Pod, c *Container) {
	taken := map[string]bool{}
	for i, m := range c.VolumeMounts {
		where := fmt.Sprintf("%s.volumeMounts[%d]", at, i)
		volume := p.volume(m.Name)
		if volume == nil {
			r.at(where+".name", "the pod has no volume %q", m.Name)
			continue
		}
		clean := path.Clean(m.MountPath)
		if !path.IsAbs(m.MountPath) || clean == "/" || strings.Contains(m.MountPath, ":") {
			r.at(where+".mountPath", "%q is not an absolute path below /", m.MountPath)
		}
		if taken[clean] {
			r.at(where+".mountPath", "two volumes are mounted at %s", clean)
		}
		taken[clean] = true
		if m.SubPath != "" && !filepath.IsLocal(m.SubPath) {
			r.at(where+".subPath", "%q does not lie in the volume", m.SubPath)
		}
		if m.SubPath != "" && volume.Image == nil {
			// What lies there is the containers' own, who could lead it elsewhere.
			r.at(where+".subPath", "it is honoured of images only: mount the whole volume, or a hostPath of its own")
		}
		if volume.Image != nil && !m.ReadOnly && m.MountPropagation != "" {
			r.at(where+".mountPropagation", "an image has none")
		}
		r.one(where+".recursiveReadOnly", m.RecursiveReadOnly, "Disabled", "Enabled")
		if m.RecursiveReadOnly == "Enabled" && !m.ReadOnly {
			r.at(where+".recursiveReadOnly", "it needs readOnly: true")
		}
		r.one(where+".mountPropagation", m.MountPropagation, "None", "HostToContainer", "Bidirectional")
		if m.MountPropagation == "Bidirectional" && (c.SecurityContext == nil || !c.SecurityContext.Privileged) {
			r.at(where+".mountPropagation", "Bidirectional needs a privileged container")
		}
	}
}

func (p *Pod) volume(name string) *Volume {
	for i := range p.Spec.Volumes {
		if p.Spec.Volumes[i].Name == name {
			return &p.Spec.Volumes[i]
		}
	}
	return nil
}

func (r *reader) security(at string, p *Pod, c *Container) {
	user, nonRoot := p.user(c)
	if nonRoot != nil && *nonRoot && user == nil {
		r.at(at+".runAsNonRoot", "it needs runAsUser here: the user of an image is not looked at")
	}
	if nonRoot != nil && *nonRoot && user != nil && *user == 0 {
		r.at(at+".runAsNonRoot", "runAsUser is 0, which is root")
	}
	sc := c.SecurityContext
	if sc == nil {
		return
	}
	r.identity(at, user, sc.RunAsGroup)
	r.profile(at+".seccompProfile", sc.SeccompProfile)
	r.profile(at+".appArmorProfile", sc.AppArmorProfile)
	if sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation && sc.Privileged {
		r.at(at+".allowPrivilegeEscalation", "a privileged container has all there is")
	}
}

// user is who a container runs as, and whether that must not be root.
func (p *Pod) user(c *Container) (user *int64, nonRoot *bool) {
	if sc := p.Spec.SecurityContext; sc != nil {
		user, nonRoot = sc.RunAsUser, sc.RunAsNonRoot
	}
	if sc := c.SecurityContext; sc != nil {
		if sc.RunAsUser != nil {
			user = sc.RunAsUser
		}
		if sc.RunAsNonRoot != nil {
			nonRoot = sc.RunAsNonRoot
		}
	}
	return user, nonRoot
}

func (r *reader) identity(at string, user, group *int64) {
	for name, id := range map[string]*int64{"runAsUser": user, "runAsGroup": group} {
		if id != nil && (*id < 0 || *id > 1<<32-2) {
			r.at(at+"."+name, "%d is no id", *id)
		}
	}
	if group != nil && user == nil {
		r.at(at+".runAsGroup", "it needs runAsUser here")
	}
}

func (r *reader) profile(at string, p *SecurityProfile) {
	if p == nil {
		return
	}
	r.one(at+".type", p.Type, "RuntimeDefault", "Unconfined", "Localhost")
	switch {
	case p.Type == "":
		r.at(at+".type", "%s", noEntry)
	case (p.Type == "Localhost") != (p.LocalhostProfile != ""):
		r.at(at+".localhostProfile", "it belongs to the type Localhost, and that needs it")
	case p.LocalhostProfile != "" && strings.HasSuffix(at, "seccompProfile") && !filepath.IsAbs(p.LocalhostProfile):
		r.at(at+".localhostProfile", "%q is not an absolute path; there is no directory of a kubelet here", p.LocalhostProfile)
	}
}

func (r *reader) ports(s *Spec) {
	taken := map[string]bool{}
	for kind, all := range map[string][]Container{"containers": s.Containers, "initContainers": s.InitContainers} {
		for i, c := range all {
			for j, port := range c.Ports {
				at := fmt.Sprintf("spec.%s[%d].ports[%d]", kind, i, j)
				r.one(at+".protocol", port.Protocol, "TCP", "UDP", "SCTP")
				if port.ContainerPort == 0 {
					r.at(at+".containerPort", "it is not a port from 1 to 65535")
				}
				if _, err := netip.ParseAddr(port.HostIP); port.HostIP != "" && err != nil {
					r.at(at+".hostIP", "%q is no address", port.HostIP)
				}
				if port.HostPort == 0 {
					continue
				}
				if s.HostNetwork && port.HostPort != port.ContainerPort {
					r.at(at+".hostPort", "with hostNetwork it is the containerPort")
				}
				key := fmt.Sprintf("%s/%d/%s", port.HostIP, port.HostPort, port.protocol())
				if taken[key] {
					r.at(at+".hostPort", "%d is published twice", port.HostPort)
				}
				taken[key] = true
			}
		}
	}
}

func (p *Port) protocol() string {
	if p.Protocol == "" {
		return "tcp"
	}
	return strings.ToLower(p.Protocol)
}

// field is the value of a field of the pod's own, for a variable.
func (p *Pod) field(name string) (string, error) {
	switch name {
	case "metadata.name":
		return p.Metadata.Name, nil
	case "metadata.namespace":
		return p.NamespaceOrDefault(), nil
	}
	if m := keyedField.FindStringSubmatch(name); m != nil {
		all := p.Metadata.Labels
		if m[1] == "annotations" {
			all = p.Metadata.Annotations
		}
		return all[m[2]], nil
	}
	return "", fmt.Errorf("%q is not honoured here; metadata.name, metadata.namespace, metadata.labels['KEY'] and metadata.annotations['KEY'] are", name)
}

// NamespaceOrDefault is the namespace that the pod is in.
func (p *Pod) NamespaceOrDefault() string {
	if p.Metadata.Namespace == "" {
		return "default"
	}
	return p.Metadata.Namespace
}
