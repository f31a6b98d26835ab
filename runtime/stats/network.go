package stats

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Interface is what a network interface has carried since it was made.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// ReadInterfaces reads the interfaces of the network namespace that the
// calling thread is in, in the order they were made, without the loopback.
func ReadInterfaces() ([]Interface, error) {
	data, err := os.ReadFile("/proc/thread-self/net/dev")
	if err != nil {
		return nil, err
	}
	return parseInterfaces(string(data))
}

// parseInterfaces reads the text of net/dev: two lines of headings, then a
// name and sixteen counters, of which the first eight are received.
func parseInterfaces(text string) ([]Interface, error) {
	var out []Interface
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "lo" {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < 16 {
			return nil, fmt.Errorf("cannot read the counters of interface %s: %q", name, line)
		}
		i := Interface{Name: name}
		for at, to := range map[int]*uint64{0: &i.RxBytes, 1: &i.RxPackets, 2: &i.RxErrors, 3: &i.RxDropped,
			8: &i.TxBytes, 9: &i.TxPackets, 10: &i.TxErrors, 11: &i.TxDropped} {
			var err error
			if *to, err = strconv.ParseUint(fields[at], 10, 64); err != nil {
				return nil, fmt.Errorf("cannot read the counters of interface %s: %w", name, err)
			}
		}
		out = append(out, i)
	}
	return out, nil
}
