package build

import (
	"slices"
	"strconv"
	"strings"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// parsePort reads PORT[-LAST][/PROTO] into the keys of a configuration.
func parsePort(text string) (ports []string, err error) {
	bad := errkind.New(errkind.InvalidArgument, "%.100q is not a port: write 80, 80/udp or 8000-8010", text)
	numbers, proto, ok := strings.Cut(text, "/")
	if !ok {
		proto = "tcp"
	}
	if proto = strings.ToLower(proto); !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return nil, bad
	}
	first, last, isRange := strings.Cut(numbers, "-")
	if !isRange {
		last = first
	}
	from, err1 := strconv.ParseUint(first, 10, 16)
	to, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || from == 0 || to < from || to-from > maxPorts {
		return nil, bad
	}
	for p := from; p <= to; p++ {
		ports = append(ports, strconv.FormatUint(p, 10)+"/"+proto)
	}
	return ports, nil
}

// maxPorts is how many ports one range may have; each is a key in the configuration.
const maxPorts = 1000
