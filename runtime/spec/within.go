package spec

// Within is n as it holds for a container of a pod with the namespaces of pod.
// POD is "that of the pod", also where the pod has the host's: clients that
// say nothing of a container's namespaces, critest among them, say POD.
func (n Namespaces) Within(pod Namespaces) Namespaces {
	for _, kind := range []struct {
		own *NamespaceMode
		pod NamespaceMode
	}{
		{&n.Network, pod.Network},
		{&n.IPC, pod.IPC},
		{&n.PID, pod.PID},
	} {
		if *kind.own == ModePod && kind.pod == ModeNode {
			*kind.own = ModeNode
		}
	}
	return n
}
