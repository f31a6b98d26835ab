//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/hack/lab"
)

// thing is a kind of file that a node makes.
type thing struct {
	path   string      // a regular expression; %s is an id
	mode   fs.FileMode // with the type; 0 if mode and owner are those of an image's directory
	by     uint32      // its user and group
	mapped *owned      // of a pod with a user namespace, where it differs
	own    bool        // what is below it is an image's, a container's or the kernel's
}

type owned struct {
	uid, gid uint32
	mode     fs.FileMode
}

const (
	mappedRoot = 1 << 20 // what inUserns gives to root
	nobody     = 65534   // who a pod's init is
)

// things is all that a node makes under its root and state directories, and
// log directories that clients leave to it. The image store's files have a
// table of their own, in package imageservice.
var things = func() []thing {
	const dir, fifo, sock = fs.ModeDir, fs.ModeNamedPipe, fs.ModeSocket
	passed := &owned{0, mappedRoot, dir | 0o710} // by the root of the namespace on its way to its files
	return []thing{
		{path: `root`, mode: dir | 0o711},
		{path: `root/lock`, mode: 0o600},
		{path: `root/(pods|containers)`, mode: dir | 0o700},
		{path: `root/(pods|containers)/%s\.json`, mode: 0o600},
		{path: `root/images`, mode: dir | 0o700, own: true},
		{path: `root/volumes`, mode: dir | 0o700},
		{path: `root/volumes/%s`, mode: dir | 0o700},
		{path: `root/volumes/%s/[01]`, own: true},
		{path: `root/networks`, mode: dir | 0o700},
		{path: `root/named`, mode: dir | 0o700},
		{path: `root/named/(rows|data)`, mode: dir | 0o700},
		{path: `root/named/rows/[^/]+\.json`, mode: 0o600},
		{path: `root/named/data/[^/]+`, mode: dir | 0o755, own: true},
		{path: `(root/)?logs`, mode: dir | 0o750},
		{path: `(root/)?logs/[^/]+`, mode: dir | 0o750},
		{path: `(root/)?logs/[^/]+/[^/]+\.log`, mode: 0o640},

		{path: `state`, mode: dir | 0o711},
		{path: `state/lock`, mode: 0o600},
		{path: `state/(berth|kubelet)\.sock`, mode: sock | 0o660},
		{path: `state/debug\.sock`, mode: sock | 0o600},
		{path: `state/shim\.log`, mode: 0o640},
		{path: `state/shims`, mode: dir | 0o700},
		{path: `state/shims/[^/]+\.sock`, mode: sock | 0o600},
		{path: `state/shims/[^/]+\.sock\.lock`, mode: 0o600},
		{path: `state/netns`, mode: dir | 0o755},
		{path: `state/netns/berth-%s`, mode: 0o444}, // of the kernel
		{path: `state/pods`, mode: dir | 0o711},
		{path: `state/pods/%s`, mode: dir | 0o700, mapped: passed},
		{path: `state/pods/%s/(hostname|hosts|resolv\.conf)`, mode: 0o644, mapped: &owned{mappedRoot, mappedRoot, 0o644}},
		{path: `state/pods/%s/ns`, mode: dir | 0o700},
		{path: `state/pods/%s/ns/(ipc|uts|user)`, mode: 0o444}, // of the kernel
		{path: `state/pods/%s/shm`, mode: dir | fs.ModeSticky | 0o777, mapped: &owned{mappedRoot, mappedRoot, dir | fs.ModeSticky | 0o777}, own: true},
		{path: `state/pods/%s/init`, mode: dir | 0o711},
		{path: `state/pods/%s/init/config\.json`, mode: 0o600},
		{path: `state/pods/%s/init/std(out|err)`, mode: fifo | 0o600, by: nobody, mapped: &owned{mappedRoot + nobody, mappedRoot + nobody, fifo | 0o600}},
		{path: `state/pods/%s/init/rootfs`, mode: dir | 0o711, mapped: &owned{mappedRoot, mappedRoot, dir | 0o711}, own: true},
		{path: `state/containers`, mode: dir | 0o711},
		{path: `state/containers/%s`, mode: dir | 0o700, mapped: passed},
		{path: `state/containers/%s/config\.json`, mode: 0o600},
		{path: `state/containers/%s/std(in|out|err)`, mode: fifo | 0o600, mapped: &owned{mappedRoot, mappedRoot, fifo | 0o600}},
		{path: `state/containers/%s/rootfs`, own: true},
		{path: `state/containers/%s/images`, mode: dir | 0o711},
		{path: `state/containers/%s/images/0`, own: true},
		{path: `state/libcontainer`, mode: dir | 0o700},
		{path: `state/libcontainer/%s`, mode: dir | 0o711, own: true}, // libcontainer's own
	}
}()

// T-PERM. CVE-2014-3499, CVE-2020-15257, CVE-2021-41103: whoever starts the
// daemon, what it makes has the modes and owners of one table, nothing leads
// a user of the host to a container's files, and no socket is one that the
// modes of files do not guard.
func TestPERM(t *testing.T) {
	for group, umask := range map[string]string{"node": "0", "pod": "077"} {
		t.Run(fmt.Sprintf("shim per %s, umask %s", group, umask), func(t *testing.T) {
			n := newNode(t, lab.Options{ShimGroup: group, Daemon: underUmask(t, umask)})
			mapped := podsOfAllKinds(t, n)
			met := map[string]bool{}
			for name, top := range map[string]string{"root": n.Root, "state": n.State, "logs": filepath.Join(n.Dir, "made/logs")} {
				checkModes(t, name, top, mapped, met)
			}
			for _, k := range things {
				if !met[k.path] {
					t.Errorf("nothing was met of the line %s", k.path)
				}
			}
			noAbstractSocket(t, n)
		})
	}
}

// underUmask is a berthd that is started with that umask.
func underUmask(t *testing.T, umask string) string {
	t.Helper()
	berthd, err := filepath.Abs("../../bin/berthd")
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "berthd")
	text := fmt.Sprintf("#!/bin/sh\numask %s\nexec '%s' \"$@\"\n", umask, berthd)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script
}

// podsOfAllKinds runs pods with all that a pod can have, a container in each
// that runs, with an exec session, and one that is only created. It returns the
// ids of what has a user namespace.
func podsOfAllKinds(t *testing.T, n *node) (mapped []string) {
	t.Helper()
	ref := shellWithVolumes(t, n)
	n.berth("volume", "create", "kept")
	n.crictl("pull", n.shell)
	for _, kind := range []string{"plain", "mapped", "host", "terminal"} {
		here := filepath.Join(n.Dir, kind)
		if err := os.Mkdir(here, 0o777); err != nil {
			t.Fatal(err)
		}
		sandbox, config := n.podConfig(kind), lab.ContainerConfig("c", ref, "sh", "-c", "echo x; exec sleep 1000")
		sandbox.LogDirectory = filepath.Join(n.Dir, "made/logs", kind)
		config.Stdin, config.Tty = true, kind == "terminal"
		config.Mounts = []*criv1.Mount{
			{ContainerPath: "/image", Readonly: true, Image: &criv1.ImageSpec{Image: n.shell}},
			{ContainerPath: "/here", HostPath: here},
		}
		pid := criv1.NamespaceMode_POD // which has an init
		for _, ns := range []*criv1.NamespaceOption{sandbox.Linux.SecurityContext.NamespaceOptions, config.Linux.SecurityContext.NamespaceOptions} {
			if ns.Pid = pid; kind == "host" {
				ns.Network, ns.Ipc, ns.Pid = criv1.NamespaceMode_NODE, criv1.NamespaceMode_NODE, criv1.NamespaceMode_NODE
			}
		}
		if kind == "mapped" {
			config.Mounts = config.Mounts[:1]
			inUserns(sandbox, config)
		}
		pod, id, err := n.RunPod(t.Context(), sandbox, config)
		if err != nil {
			t.Fatal(err)
		}
		config.Metadata.Name, config.LogPath = "created", "created.log"
		created, err := n.runtime().CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod, Config: config, SandboxConfig: sandbox})
		if err != nil {
			t.Fatal(err)
		}
		if kind == "mapped" {
			mapped = append(mapped, pod, id, created.ContainerId)
			continue
		}
		go func() { // until the container ends
			_, _ = n.runtime().ExecSync(context.Background(), &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "touch /here/now; exec sleep 1000"}})
		}()
		n.eventually(func() error { _, err := os.Stat(filepath.Join(here, "now")); return err })
	}
	n.berth("run", "-d", n.shell, "sleep", "1000")
	return mapped
}

var anID = regexp.MustCompile(`[0-9a-f]{64}`)

// checkModes compares all below top, which the table calls name, with it.
func checkModes(t *testing.T, name, top string, mapped []string, met map[string]bool) {
	t.Helper()
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel := name + strings.TrimPrefix(path, top)
		for _, k := range things {
			line := regexp.MustCompile("^" + strings.ReplaceAll(k.path, "%s", anID.String()) + "$")
			if !line.MatchString(rel) {
				continue
			}
			met[k.path] = true
			isMapped := slices.ContainsFunc(mapped, func(id string) bool { return strings.Contains(rel, id) })
			want := owned{k.by, k.by, k.mode}
			if isMapped && k.mapped != nil {
				want = *k.mapped
			}
			st := info.Sys().(*syscall.Stat_t)
			switch got := (owned{st.Uid, st.Gid, info.Mode()}); {
			case k.mode == 0 && isMapped && st.Uid < mappedRoot:
				t.Errorf("%s is of %d:%d, outside of the user namespace", rel, st.Uid, st.Gid)
			case k.mode != 0 && got != want:
				t.Errorf("%s is %v of %d:%d, want %v of %d:%d", rel, got.mode, got.uid, got.gid, want.mode, want.uid, want.gid)
			}
			if !k.own {
				return nil
			}
			shutOff(t, top, path)
			return fs.SkipDir
		}
		t.Errorf("%s (%v) is in no line of the table", rel, info.Mode())
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// shutOff fails the test if a user of the host may pass all directories
// between top and path.
func shutOff(t *testing.T, top, path string) {
	t.Helper()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o007 == 0 {
		return
	}
	for dir := filepath.Dir(path); len(dir) > len(top); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o001 == 0 {
			return
		}
	}
	t.Errorf("every user of the host reaches %s", path)
}

// noAbstractSocket fails the test if one of the node's own processes has a
// socket in the abstract namespace, which pods on the host's network share.
func noAbstractSocket(t *testing.T, n *node) {
	t.Helper()
	info, err := n.Admin().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	names := map[string]string{} // of bound sockets by what /proc/PID/fd says of them
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 7 {
			names["socket:["+fields[6]+"]"] = fields[7]
		}
	}
	bound := 0
	for _, pid := range append(info.Pids.Shims, n.Pid()) {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
			if name := names[to]; strings.HasPrefix(name, "@") {
				t.Errorf("process %d has the abstract socket %s", pid, name)
			} else if name != "" {
				bound++
			}
		}
	}
	if want := 3 + len(info.Pids.Shims); bound < want {
		t.Errorf("only %d sockets with names were found of %d processes, want %d", bound, 1+len(info.Pids.Shims), want)
	}
}
