package translate

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestLocalNetwork(t *testing.T) {
	t.Parallel()
	read := func(text string, network spec.NamespaceMode, ports ...spec.PortMapping) (spec.Pod, error) {
		p := spec.Pod{Annotations: map[string]string{networkAnnotation: text}, Namespaces: spec.Namespaces{Network: network}, Ports: ports}
		return p, LocalPod(&p)
	}
	p, err := read(`{"name":"blue","aliases":["db","db_1.x"],"hosts":[{"address":"192.0.2.7","names":["six"]},{"address":"","names":["host"]}]}`, spec.ModePod)
	n := p.LocalNetwork
	if err != nil || n.Name != "blue" || fmt.Sprint(n.Aliases) != "[db db_1.x]" || len(n.Hosts) != 2 || n.Hosts[0].Address.String() != "192.0.2.7" || n.Hosts[1].Address.IsValid() {
		t.Errorf("%+v, %v", n, err)
	}
	if p, err := read(`{"name":"none"}`, spec.ModePod); err != nil || p.Namespaces.Network != spec.ModeNone || p.LocalNetwork.Name != "" {
		t.Errorf("none: %+v, %v", p.Namespaces, err)
	}
	if p, err := read(`{"hosts":[{"address":"::1","names":["x"]}]}`, spec.ModeNode); err != nil || len(p.LocalNetwork.Hosts) != 1 {
		t.Errorf("hosts on the host's network: %+v, %v", p.LocalNetwork, err)
	}
	many, _ := json.Marshal(spec.LocalNetwork{Aliases: strings.Split(strings.Repeat("a ", maxExtras*10_000)+"a", " ")})
	for _, bad := range []string{"blue", `{"aliases":["a b"]}`, `{"aliases":[""]}`, `{"aliases":["a\n6.6.6.6 bank.example"]}`, string(many),
		`{"aliases":["` + strings.Repeat("a", 254*10_000) + `"]}`, `{"hosts":[{"address":"there","names":["a"]}]}`, `{"hosts":[{"address":"1.2.3.4"}]}`,
		`{"hosts":[{"address":"1.2.3.4","names":["a","b"]}]}`, `{"hosts":[{"address":"fe80::1%x\n6.6.6.6","names":["a"]}]}`, `{"hosts":[{"address":"1.2.3.4","names":["a\tb"]}]}`} {
		if _, err := read(bad, spec.ModePod); !errkind.Is(err, errkind.InvalidArgument) || len(err.Error()) > 1000 {
			t.Errorf("%.60s: %.200v, want InvalidArgument", bad, err)
		}
	}
	if _, err := read(`{"name":"blue"}`, spec.ModeNode); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("on the host's network: %v", err)
	}
	if _, err := read(`{"name":"none"}`, spec.ModePod, spec.PortMapping{Protocol: "tcp", ContainerPort: 1, HostPort: 1}); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("ports of none: %v", err)
	}
}
