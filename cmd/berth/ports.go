package main

import (
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// published is one port of the container and the ports of the host from which
// its own is taken: one that was named, or the first that is free of several.
type published struct {
	protocol   criv1.Protocol
	ip         string // empty: every address of both families
	host, port int32
	left       []int32 // further ports of the host to try
	tries      int     // how many more may be invented; only where none was named
}

// Random ports are taken from where docker takes them, Linux's usual range for
// ports that nobody names.
const (
	firstRandom, lastRandom = 32768, 60999
	randomTries             = 100
)

// maxPublished bounds the ports of one container, as the daemon does.
const maxPublished = 1024

// parsePorts reads the values of --publish, each [[HOSTIP:][HOST]:]CONTAINER[/PROTO].
// HOST and CONTAINER may be ranges of the same length, HOST a range from which
// one port is taken for a single CONTAINER, and HOST may be left out or 0: then a
// free port is chosen. An IPv6 HOSTIP is in brackets.
func parsePorts(specs []string) ([]*published, error) {
	var all []*published
	taken := map[string]string{}
	for _, s := range specs {
		some, err := parsePort(s)
		if err != nil {
			return nil, err
		}
		for _, m := range some {
			if m.host == 0 || len(m.left) > 0 {
				continue
			}
			key := fmt.Sprintf("%s %d/%s", m.ip, m.host, m.protocol)
			if first, ok := taken[key]; ok {
				return nil, portProblem(s, fmt.Sprintf("host port %d is already published by %q", m.host, first),
					"give each published port a host port of its own")
			}
			taken[key] = s
		}
		if all = append(all, some...); len(all) > maxPublished {
			return nil, portProblem(s, fmt.Sprintf("that makes %d ports, and a container can have %d", len(all), maxPublished),
				"publish fewer, or use the host's network: --network host")
		}
	}
	for _, m := range all {
		if m.host == 0 {
			m.tries = randomTries
			m.next()
		}
	}
	return all, nil
}

func parsePort(s string) ([]*published, error) {
	const form = "write [[HOSTIP:][HOST]:]CONTAINER[/tcp|udp|sctp], for example -p 8080:80, -p 80 or -p 127.0.0.1:5353:53/udp"

	rest, protoName, named := strings.Cut(s, "/")
	if !named {
		protoName = "tcp"
	}
	proto, ok := criv1.Protocol_value[strings.ToUpper(protoName)]
	if !ok {
		return nil, portProblem(s, fmt.Sprintf("there is no protocol %q", protoName), form)
	}
	host, hostPorts := "", ""
	rest, container, ok := cutLast(rest, ":")
	if !ok {
		container = rest
	} else if host, hostPorts, ok = cutLast(rest, ":"); !ok {
		host, hostPorts = "", rest
	}
	ip, err := hostIP(host)
	if err != nil {
		return nil, portProblem(s, err.Error(), form)
	}
	first, last, err := portRange(container)
	if err != nil {
		return nil, portProblem(s, err.Error(), form)
	}
	hostFirst, hostLast := int32(0), int32(0)
	if hostPorts != "" && hostPorts != "0" {
		if hostFirst, hostLast, err = portRange(hostPorts); err != nil {
			return nil, portProblem(s, err.Error(), form)
		}
	}
	if last-first >= maxPublished {
		return nil, portProblem(s, fmt.Sprintf("that makes %d ports, and a container can have %d", last-first+1, maxPublished),
			"publish fewer, or use the host's network: --network host")
	}
	one := func(hostPort, port int32) *published {
		return &published{protocol: criv1.Protocol(proto), ip: ip, host: hostPort, port: port}
	}
	var out []*published
	switch {
	case hostFirst == 0:
		for p := first; p <= last; p++ {
			out = append(out, one(0, p))
		}
	case first == last:
		m := one(hostFirst, first)
		for p := hostFirst + 1; p <= hostLast; p++ {
			m.left = append(m.left, p)
		}
		out = append(out, m)
	case hostLast-hostFirst != last-first:
		return nil, portProblem(s, fmt.Sprintf("the ranges differ in length: %d host ports for %d container ports",
			hostLast-hostFirst+1, last-first+1), "make both ranges equally long, for example -p 8000-8010:8000-8010")
	default:
		for i := int32(0); i <= last-first; i++ {
			out = append(out, one(hostFirst+i, first+i))
		}
	}
	return out, nil
}

// next takes another port of the host; false if there is none left.
func (p *published) next() bool {
	switch {
	case len(p.left) > 0:
		p.host, p.left = p.left[0], p.left[1:]
	case p.tries > 0:
		p.host = firstRandom + mathrand.Int32N(lastRandom-firstRandom+1)
		p.tries--
	default:
		return false
	}
	return true
}

// The daemon's words for a port of the host that somebody has.
var portTaken = regexp.MustCompile(`host port (tcp|udp|sctp) \S*:(\d+) is (held|taken)`)

// another chooses other ports for those that err says are taken. It tells
// whether it is worth another try.
func another(all []*published, err error) bool {
	m := portTaken.FindStringSubmatch(fmt.Sprint(err))
	if m == nil {
		return false
	}
	moved := false
	for _, p := range all {
		if strconv.Itoa(int(p.host)) == m[2] && strings.EqualFold(p.protocol.String(), m[1]) {
			moved = p.next() || moved
		}
	}
	return moved
}

// exposed adds a random port for each port that the image exposes, and for
// those of --expose, unless it is published already.
func exposed(all []*published, config json.RawMessage, more []string) ([]*published, error) {
	var img struct{ ExposedPorts map[string]struct{} }
	_ = json.Unmarshal(config, &img) // an image without a configuration exposes nothing
	var ports []string
	for p := range img.ExposedPorts {
		ports = append(ports, p)
	}
	slices.Sort(ports)
	for _, p := range slices.Concat(ports, more) {
		some, err := parsePorts([]string{p})
		if err != nil || strings.Contains(p, ":") {
			return nil, portProblem(p, "it is not a port of a container", "write for example --expose 80 or --expose 5000-5010/udp")
		}
		for _, m := range some {
			if !slices.ContainsFunc(all, func(o *published) bool { return o.port == m.port && o.protocol == m.protocol }) {
				all = append(all, m)
			}
		}
	}
	if len(all) > maxPublished {
		return nil, portProblem("all ports", fmt.Sprintf("the image exposes more than the %d that a container can have", maxPublished), "publish those that are needed with -p")
	}
	return all, nil
}

// mappings are what CRI is told, and portsText what ps shows of it.
func mappings(all []*published) []*criv1.PortMapping {
	var out []*criv1.PortMapping
	for _, p := range all {
		out = append(out, &criv1.PortMapping{Protocol: p.protocol, HostIp: p.ip, HostPort: p.host, ContainerPort: p.port})
	}
	return out
}

func portsText(all []*criv1.PortMapping) string {
	var shown []string
	for _, m := range all {
		shown = append(shown, portText(m))
	}
	return strings.Join(shown, ", ")
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
