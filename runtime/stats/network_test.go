package stats

import (
	"slices"
	"testing"
)

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    9000      90    0    0    0     0          0         0     9000      90    0    0    0     0       0          0
  eth0: 1000 10 1 2 0 0 0 3 2000 20 4 5 0 0 0 0
  net1:18446744073709551615 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
`

func TestInterfaces(t *testing.T) {
	t.Parallel()
	got, err := parseInterfaces(netDev)
	want := []Interface{
		{Name: "eth0", RxBytes: 1000, RxPackets: 10, RxErrors: 1, RxDropped: 2, TxBytes: 2000, TxPackets: 20, TxErrors: 4, TxDropped: 5},
		{Name: "net1", RxBytes: 1<<64 - 1, RxPackets: 1, TxBytes: 7, TxPackets: 1},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"eth0: 1 2 3", "eth0: x 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16"} {
		if got, err := parseInterfaces(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
	if _, err := ReadInterfaces(); err != nil {
		t.Error(err)
	}
}
