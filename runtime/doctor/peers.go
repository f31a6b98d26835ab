package doctor

import (
	"context"
	"fmt"
	"strings"
)

// other runtimes by their sockets.
var runtimes = []struct{ name, socket string }{
	{"containerd", "/run/containerd/containerd.sock"},
	{"CRI-O", "/run/crio/crio.sock"},
	{"docker", "/run/docker.sock"},
	{"cri-dockerd", "/run/cri-dockerd.sock"},
	{"podman", "/run/podman/podman.sock"},
}

func (h Host) otherRuntimes() []string {
	var found []string
	for _, r := range runtimes {
		if h.isSocket(r.socket) {
			found = append(found, r.name)
		}
	}
	return found
}

// peers is for information: stores, sockets and names of berth are its own.
func peers(_ context.Context, c *Config) []Finding {
	const name = "peers"
	found := c.Host.otherRuntimes()
	if len(found) == 0 {
		return one(good(name, "no other container runtime has its socket here"))
	}
	return one(good(name, "%s beside it: images and containers of each are its own; berth import --from brings images over", fmt.Sprint(strings.Join(found, " and "), plural(len(found)))))
}

func plural(n int) string {
	if n == 1 {
		return " runs"
	}
	return " run"
}
