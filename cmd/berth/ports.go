package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parsePorts reads the values of --publish, each
// [HOSTIP:]HOST:CONTAINER[/PROTO], where HOST and CONTAINER may be ranges of
// the same length and an IPv6 HOSTIP is in brackets.
func parsePorts(specs []string) ([]*criv1.PortMapping, error) {
	var all []*criv1.PortMapping
	taken := map[string]string{}
	for _, s := range specs {
		mappings, err := parsePort(s)
		if err != nil {
			return nil, err
		}
		for _, m := range mappings {
			key := fmt.Sprintf("%s %d/%s", m.HostIp, m.HostPort, m.Protocol)
			if first, ok := taken[key]; ok {
				return nil, portProblem(s, fmt.Sprintf("host port %d is already published by %q", m.HostPort, first),
					"give each published port a host port of its own")
			}
			taken[key] = s
		}
		all = append(all, mappings...)
	}
	return all, nil
}

func parsePort(s string) ([]*criv1.PortMapping, error) {
	const form = "write [HOSTIP:]HOST:CONTAINER[/tcp|udp|sctp], for example -p 8080:80 or -p 127.0.0.1:5353:53/udp"

	rest, protoName, named := strings.Cut(s, "/")
	if !named {
		protoName = "tcp"
	}
	proto, ok := criv1.Protocol_value[strings.ToUpper(protoName)]
	if !ok {
		return nil, portProblem(s, fmt.Sprintf("there is no protocol %q", protoName), form)
	}
	rest, container, ok := cutLast(rest, ":")
	if !ok {
		return nil, portProblem(s, "it does not say which port of the host",
			fmt.Sprintf("name the host's port first: -p 8080:%s", s))
	}
	host, hostPorts, ok := cutLast(rest, ":")
	if !ok {
		host, hostPorts = "", rest
	}
	ip, err := hostIP(host)
	if err != nil {
		return nil, portProblem(s, err.Error(), form)
	}
	hostFirst, hostLast, err := portRange(hostPorts)
	if err != nil {
		return nil, portProblem(s, err.Error(), form)
	}
	first, last, err := portRange(container)
	if err != nil {
		return nil, portProblem(s, err.Error(), form)
	}
	if hostLast-hostFirst != last-first {
		return nil, portProblem(s, fmt.Sprintf("the ranges differ in length: %d host ports for %d container ports",
			hostLast-hostFirst+1, last-first+1), "make both ranges equally long, for example -p 8000-8010:8000-8010")
	}
	var out []*criv1.PortMapping
	for i := int32(0); i <= last-first; i++ {
		out = append(out, &criv1.PortMapping{
			Protocol: criv1.Protocol(proto), HostIp: ip, HostPort: hostFirst + i, ContainerPort: first + i,
		})
	}
	return out, nil
}

// hostIP checks the address part of a published port; empty means every
// address of the host.
func hostIP(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	} else if strings.Contains(s, ":") {
		return "", fmt.Errorf("the IPv6 address %q must be in brackets", s)
	}
	ip, err := netip.ParseAddr(bare)
	if err != nil || ip.Zone() != "" {
		return "", fmt.Errorf("%q is not an IP address", bare)
	}
	return ip.String(), nil
}

// portRange reads "80" or "8000-8010".
func portRange(s string) (first, last int32, err error) {
	low, high, isRange := strings.Cut(s, "-")
	if first, err = portNumber(low); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = portNumber(high); err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("the range %q runs backwards", s)
	}
	return first, last, nil
}

func portNumber(s string) (int32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port number from 1 to 65535", s)
	}
	return int32(n), nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func portProblem(s, why, do string) error {
	return &problem{what: fmt.Sprintf("cannot publish %q", s), why: why, do: do}
}

// portText shows one published port as ps does. An asterisk stands for every
// address of both families.
func portText(m *criv1.PortMapping) string {
	ip := m.HostIp
	switch {
	case ip == "":
		ip = "*"
	case strings.Contains(ip, ":"):
		ip = "[" + ip + "]"
	}
	return fmt.Sprintf("%s:%d->%d/%s", ip, m.HostPort, m.ContainerPort, strings.ToLower(m.Protocol.String()))
}
