//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// TestFilesOfEtc reads, in pods of both networks and with every kind of DNS
// configuration, what the runtime puts into /etc.
func TestFilesOfEtc(t *testing.T) {
	n := newNode(t, lab.Options{})
	n.crictl("pull", n.shell)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	asked := &criv1.DNSConfig{Servers: []string{"10.96.0.10", "fd00::a"}, Searches: []string{"a.svc", "svc"}, Options: []string{"ndots:5"}}
	for name, c := range map[string]struct {
		dns      *criv1.DNSConfig
		onHost   bool
		hostname string // asked for
		want     string // of resolv.conf
	}{
		"plain":        {nil, false, "boat", string(resolv)},
		"no-name":      {nil, false, "", string(resolv)},
		"empty-dns":    {&criv1.DNSConfig{}, false, "boat", ""},
		"dns":          {asked, false, "boat", "search a.svc svc\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"},
		"dns-on-host":  {asked, true, "", "search a.svc svc\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"},
		"host-and-all": {nil, true, "", string(resolv)},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox, config := n.podConfig(name), lab.ContainerConfig("c", n.shell, "sleep", "1000")
			sandbox.Hostname, sandbox.DnsConfig = c.hostname, c.dns
			wantName := c.hostname
			if c.onHost {
				for _, ns := range []*criv1.NamespaceOption{sandbox.Linux.SecurityContext.NamespaceOptions, config.Linux.SecurityContext.NamespaceOptions} {
					ns.Network = criv1.NamespaceMode_NODE
				}
			}
			if wantName == "" {
				wantName = host
			}
			pod, id, err := n.RunPod(t.Context(), sandbox, config)
			if err != nil {
				t.Fatal(err)
			}
			says := func(want, script string) {
				t.Helper()
				if got := n.crictl("exec", "-s", id, "sh", "-c", script); got != strings.TrimSpace(want) {
					t.Errorf("%s: %q, want %q", script, got, want)
				}
			}
			says(wantName+"\n"+wantName, "hostname; cat /etc/hostname")
			says(c.want, "cat /etc/resolv.conf")
			status, err := n.runtime().PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: pod})
			if err != nil {
				t.Fatal(err)
			}
			if ip := status.Status.Network.Ip; !c.onHost && c.hostname != "" {
				says(ip+"\t"+c.hostname, "grep boat /etc/hosts | head -n1")
			}
			says("1", "grep -c '^127.0.0.1.localhost' /etc/hosts")
			says("ok", "echo '192.0.2.1 more' >>/etc/hosts && echo ok")
			if err := n.RemovePod(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestVolumesThatAnImageDeclares: each container has its own copy of what the
// image has there, unless a mount covers it, and it goes with the container.
func TestVolumesThatAnImageDeclares(t *testing.T) {
	n := newNode(t, lab.Options{})
	ref := shellWithVolumes(t, n)
	covering := filepath.Join(n.Dir, "covering")
	if err := os.Mkdir(covering, 0o755); err != nil {
		t.Fatal(err)
	}
	var pods, ids []string
	for _, name := range []string{"one", "two", "covered"} {
		config := lab.ContainerConfig("c", ref, "sleep", "1000")
		if name == "covered" {
			config.Mounts = []*criv1.Mount{{ContainerPath: "/var/lib/data/", HostPath: covering}}
		}
		pod, id := n.run(name, config)
		pods, ids = append(pods, pod), append(ids, id)
	}
	says := func(id, want, script string) {
		t.Helper()
		if got := n.crictl("exec", "-s", id, "sh", "-c", script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	for _, id := range ids[:2] {
		says(id, "seed 33:34", "echo $(cat /var/lib/data/seed; stat -c %u:%g /var/lib/data/seed)")
		says(id, "seed", "echo x >/var/lib/data/x; mv /var/lib/data/x /var/new/; ls /var/lib/data")
	}
	says(ids[0], "mine", "echo mine >/var/lib/data/seed; cat /var/lib/data/seed")
	says(ids[1], "seed", "cat /var/lib/data/seed")
	says(ids[2], "", "ls /var/lib/data; echo x >/var/lib/data/x")
	if _, err := os.Stat(filepath.Join(covering, "x")); err != nil {
		t.Errorf("the mount did not cover the image's volume: %v", err)
	}
	for _, pod := range pods {
		if err := n.RemovePod(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(n.Root, "volumes", "*")); len(left) > 0 {
		t.Errorf("left the volumes %q", left)
	}
}
