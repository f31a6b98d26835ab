package device_test

import (
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/device"
)

func TestStat(t *testing.T) {
	t.Parallel()
	n, err := device.Stat("/dev/null")
	if err != nil || n.Type != "c" || n.Major != 1 || n.Minor != 3 || n.Mode != 0o666 {
		t.Errorf("/dev/null is %+v, %v", n, err)
	}
	for _, path := range []string{"/etc/passwd", "/dev", "/dev/no-such-node"} {
		if n, err := device.Stat(path); err == nil {
			t.Errorf("%s is a device node: %+v", path, n)
		}
	}
}

func TestBelowLeavesOutWhatIsAContainersOwn(t *testing.T) {
	t.Parallel()
	nodes, err := device.Below("/dev")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, n := range nodes {
		seen[n.Path] = true
	}
	if !seen["/dev/null"] || seen["/dev/console"] || seen["/dev/pts/ptmx"] {
		t.Errorf("nodes %v", nodes)
	}
}
