package translate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Addresses that a local pod wants are addresses, or the pod is refused.
func TestAddressesThatALocalPodWants(t *testing.T) {
	t.Parallel()
	read := func(text string) (spec.Pod, error) {
		p := spec.Pod{Annotations: map[string]string{networkAnnotation: text}, Namespaces: spec.Namespaces{Network: spec.ModePod}}
		return p, LocalPod(&p)
	}
	p, err := read(`{"ips":["10.9.0.7","fd09::7"],"mac":"0a:58:0a:09:00:07"}`)
	if err != nil || fmt.Sprintf("%v %s", p.LocalNetwork.IPs, p.LocalNetwork.MAC) != "[10.9.0.7 fd09::7] 0a:58:0a:09:00:07" {
		t.Errorf("%+v, %v", p.LocalNetwork, err)
	}
	for _, bad := range []string{
		`{"ips":["10.9.0"]}`, `{"ips":["0.0.0.0"]}`, `{"ips":["224.0.0.1"]}`, `{"ips":["fe80::1%eth0"]}`, `{"ips":[""]}`,
		`{"mac":"0a:58"}`, `{"mac":"01:00:5e:00:00:01"}`, `{"mac":"0a:58:0a:09:00:07; rm"}`,
		`{"ips":["` + strings.Repeat(`10.9.0.7","`, maxExtras) + `10.9.0.7"]}`,
	} {
		if _, err := read(bad); !errkind.Is(err, errkind.InvalidArgument) || !strings.Contains(err.Error(), networkAnnotation) {
			t.Errorf("%.60s: %v", bad, err)
		}
	}
}
