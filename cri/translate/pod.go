package translate

import (
	"math"
	"net/netip"
	"path/filepath"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/runtime/spec"
)

// Pod translates the configuration of RunPodSandbox. The handler is the one
// that the request names; whether it exists is not checked here.
func Pod(c *criv1.PodSandboxConfig, handler string) (spec.Pod, error) {
	md := c.GetMetadata()
	switch {
	case c == nil:
		return spec.Pod{}, invalid("a pod needs a config")
	case md == nil:
		return spec.Pod{}, invalid("a pod needs metadata")
	case md.Name == "" || md.Namespace == "" || md.Uid == "":
		return spec.Pod{}, invalid("a pod needs a name, a namespace and a uid in its metadata: got %q, %q and %q", md.Name, md.Namespace, md.Uid)
	}
	if d := c.LogDirectory; d != "" && !filepath.IsAbs(d) {
		return spec.Pod{}, invalid("log_directory %q is not an absolute path", d)
	}
	ports, err := portMappings(c.PortMappings)
	if err != nil {
		return spec.Pod{}, err
	}
	p := spec.Pod{
		Metadata:       spec.PodMetadata{Name: md.Name, UID: md.Uid, Namespace: md.Namespace, Attempt: md.Attempt},
		Hostname:       c.Hostname,
		LogDirectory:   c.LogDirectory,
		DNS:            dns(c.DnsConfig),
		Ports:          ports,
		Labels:         c.Labels,
		Annotations:    c.Annotations,
		RuntimeHandler: handler,
		CgroupParent:   c.Linux.GetCgroupParent(),
		Sysctls:        c.Linux.GetSysctls(),
		Overhead:       Resources(c.Linux.GetOverhead()),
		Resources:      Resources(c.Linux.GetResources()),
	}
	if err := podSecurity(&p, c.Linux.GetSecurityContext()); err != nil {
		return spec.Pod{}, err
	}
	if strings.Contains("/"+p.CgroupParent+"/", "/../") {
		return spec.Pod{}, invalid("cgroup_parent %q leaves its own tree", p.CgroupParent)
	}
	return p, nil
}

// podSecurity fills in what the sandbox's security context decides. Identity
// and profile of the sandbox process itself have no object here, as there is
// no such process, but a wrong combination is refused all the same.
func podSecurity(p *spec.Pod, sc *criv1.LinuxSandboxSecurityContext) error {
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid("run_as_group of the pod needs run_as_user")
	}
	if _, err := groupsPolicy(sc.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	ns, err := podNamespaces(sc.GetNamespaceOptions())
	if err != nil {
		return err
	}
	seccomp, err := seccompProfile(sc.GetSeccomp(), sc.GetSeccompProfilePath()) //nolint:staticcheck // deprecated, and all that some clients set
	if err != nil {
		return err
	}
	p.Namespaces, p.Seccomp, p.Privileged, p.SELinux = ns, seccomp, sc.GetPrivileged(), selinux(sc.GetSelinuxOptions())
	return nil
}

// dns keeps the difference between none, which means the host's, and an empty
// one, which means an empty resolv.conf.
func dns(c *criv1.DNSConfig) *spec.DNS {
	if c == nil {
		return nil
	}
	return &spec.DNS{Servers: c.Servers, Searches: c.Searches, Options: c.Options}
}

func portMappings(in []*criv1.PortMapping) ([]spec.PortMapping, error) {
	var out []spec.PortMapping
	for _, m := range in {
		protocol, ok := map[criv1.Protocol]string{
			criv1.Protocol_TCP: "tcp", criv1.Protocol_UDP: "udp", criv1.Protocol_SCTP: "sctp",
		}[m.GetProtocol()]
		if !ok {
			return nil, invalid("port mapping: unknown protocol %d", m.GetProtocol())
		}
		if m.GetContainerPort() < 0 || m.GetContainerPort() > math.MaxUint16 {
			return nil, invalid("port mapping: container_port %d is no port", m.GetContainerPort())
		}
		if m.GetHostPort() < 0 || m.GetHostPort() > math.MaxUint16 {
			return nil, invalid("port mapping: host_port %d is no port", m.GetHostPort())
		}
		if m.GetHostPort() != 0 && m.GetContainerPort() == 0 {
			return nil, invalid("port mapping: host_port %d leads to no container_port", m.GetHostPort())
		}
		if ip := m.GetHostIp(); ip != "" {
			if _, err := netip.ParseAddr(ip); err != nil {
				return nil, invalid("port mapping: host_ip %q is no address", ip)
			}
		}
		out = append(out, spec.PortMapping{
			Protocol:      protocol,
			ContainerPort: uint16(m.GetContainerPort()),
			HostPort:      uint16(m.GetHostPort()),
			HostIP:        m.GetHostIp(),
		})
	}
	return out, nil
}
