package bridge

import (
	"fmt"
	"os"
	"strings"

	"github.com/berth-runtime/berth/runtime/network/netns"
)

// setting is a file below /proc/sys/net and what it shall hold.
type setting struct{ path, value string }

func (s setting) holds() bool {
	have, err := os.ReadFile("/proc/sys/net/" + s.path)
	return err == nil && strings.TrimSpace(string(have)) == s.value
}

// set writes only what differs: some files do more than they say when they
// are written (ip_forward resets every interface's own settings).
func (s setting) set() error {
	if s.holds() {
		return nil
	}
	if err := os.WriteFile("/proc/sys/net/"+s.path, []byte(s.value), 0); err != nil {
		return fmt.Errorf("cannot set net/%s to %s: %w", s.path, s.value, err)
	}
	return nil
}

// setSysctls sets all in their order, in the namespace of the calling thread.
func setSysctls(all []setting) error {
	for _, s := range all {
		if err := s.set(); err != nil {
			return err
		}
	}
	return nil
}

// bridgeSysctls are those that have to hold before the bridge is up.
func (b *Bridge) bridgeSysctls() []setting {
	var out []setting
	v4, v6 := "ipv4/conf/"+b.cfg.Name+"/", "ipv6/conf/"+b.cfg.Name+"/"
	if b.cfg.SetIPForward {
		out = append(out, setting{"ipv4/ip_forward", "1"})
	}
	out = append(out, setting{v4 + "forwarding", "1"})
	if len(b.pools) == 1 {
		return out
	}
	if b.cfg.SetIPForward {
		out = append(out, setting{"ipv6/conf/all/forwarding", "1"})
	}
	return append(out,
		setting{v6 + "disable_ipv6", "0"},
		// A pod must not become the host's router by saying that it is one
		// (CVE-2020-10749).
		setting{v6 + "accept_ra", "0"},
		setting{v6 + "accept_dad", "0"},
		setting{v6 + "forwarding", "1"},
	)
}

// routeLocalnet lets the host reach pods from 127.0.0.1; the guard chain of
// the table keeps pods from using it the other way.
func (b *Bridge) routeLocalnet() setting {
	return setting{"ipv4/conf/" + b.cfg.Name + "/route_localnet", "1"}
}

// ipv6Enabled tells whether the calling thread's network namespace has IPv6,
// for all its interfaces or by default for new ones.
func ipv6Enabled(which string) bool {
	return setting{"ipv6/conf/" + which + "/disable_ipv6", "0"}.holds()
}

// podFamilies is the number of address families that a pod can use. The
// namespace may not be there yet; then it is thought to be an ordinary one.
func podFamilies(path string) int {
	families := 2
	if path == "" {
		return families
	}
	_ = netns.Do(path, func() error {
		if !ipv6Enabled("default") {
			families = 1
		}
		return nil
	})
	return families
}
