package etcfiles

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Where the host says how it resolves names. The second is systemd-resolved's,
// with the servers that it asks itself, which are behind the 127.0.0.53 that it
// puts into the first (systemd-resolved(8)).
var resolvConfs = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// HostDNS is how the host resolves names, made usable for pods with a network of
// their own: name servers on the host's loopback, or on a link that only the host
// has, are left out, since no pod reaches them. trouble says what is wrong if no
// server is left of those that the host has; the rest is usable all the same.
func HostDNS() (d DNS, trouble string) { return hostDNS(os.ReadFile) }

func hostDNS(read func(string) ([]byte, error)) (first DNS, trouble string) {
	var left []string
	for i, path := range resolvConfs {
		b, err := read(path)
		if err != nil {
			continue // a node without one gives its pods an empty one
		}
		d, unreachable := parseResolvConf(b)
		if len(d.Servers) > 0 || i == 0 && len(unreachable) == 0 {
			return d, ""
		}
		if i == 0 {
			first, left = d, unreachable
		}
	}
	if len(left) == 0 {
		return first, ""
	}
	return first, fmt.Sprintf("the host's name servers (%s in %s) answer on the host only, and %s names no other: pods resolve no names",
		strings.Join(left, ", "), resolvConfs[0], resolvConfs[1])
}

// parseResolvConf reads what resolv.conf(5) describes, as far as it is of any use
// in a pod: what is no line of it is left out, and so are servers beyond reach.
func parseResolvConf(b []byte) (d DNS, unreachable []string) {
	if len(b) > maxResolvConf {
		b = b[:maxResolvConf]
	}
	for line := range bytes.Lines(b) {
		words := strings.Fields(string(line))
		if len(words) < 2 || !slices.ContainsFunc(words, isWord) {
			continue
		}
		switch words[0] {
		case "nameserver":
			switch a, err := netip.ParseAddr(words[1]); {
			case err != nil:
			case a.IsLoopback() || a.IsUnspecified() || a.Zone() != "":
				unreachable = append(unreachable, words[1])
			default:
				d.Servers = append(d.Servers, words[1])
			}
		case "domain", "search": // the last one counts
			d.Searches = slices.DeleteFunc(words[1:], func(w string) bool { return !isWord(w) })
		case "options":
			d.Options = append(d.Options, slices.DeleteFunc(words[1:], func(w string) bool { return !isWord(w) })...)
		}
	}
	return d, unreachable
}
