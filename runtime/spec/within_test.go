package spec

import "testing"

func TestNamespacesWithinAPod(t *testing.T) {
	t.Parallel()
	all := func(m NamespaceMode) Namespaces { return Namespaces{Network: m, PID: m, IPC: m} }
	for name, c := range map[string]struct{ own, pod, want Namespaces }{
		"nothing said, the host's pod": {all(ModePod), all(ModeNode), all(ModeNode)},
		"nothing said, an own pod":     {all(ModePod), all(ModePod), all(ModePod)},
		"its own PIDs on the host": {
			Namespaces{Network: ModePod, PID: ModeContainer, IPC: ModePod}, all(ModeNode),
			Namespaces{Network: ModeNode, PID: ModeContainer, IPC: ModeNode},
		},
		"a target's PIDs": {
			Namespaces{Network: ModePod, PID: ModeTarget, IPC: ModePod, TargetID: "c"}, all(ModeNode),
			Namespaces{Network: ModeNode, PID: ModeTarget, IPC: ModeNode, TargetID: "c"},
		},
		"the host's in an own pod": {all(ModeNode), all(ModePod), all(ModeNode)},
	} {
		if got := c.own.Within(c.pod); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
}
