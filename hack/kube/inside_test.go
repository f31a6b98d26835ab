//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
)

// inside names the file by which the outer process knows the lab of the inner
// one, which runs the tests in the namespaces.
const inside = "BERTH_KUBE_INSIDE"

// nodeIP is the address of the node, on a bridge of the namespace.
const nodeIP = "192.168.77.1"

// kept are sysctls of the whole machine that a kubelet sets at its start. For
// the kubelet plain files stand in for them.
var kept = []string{"/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops"}

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("kube: needs root. Run: sudo make kubelet")
		os.Exit(1)
	}
	if os.Getenv(inside) == "" {
		os.Exit(enter())
	}
	os.Exit(runInside(m))
}

// enter runs this program again in namespaces of its own, and takes away what a
// run left that did not end by itself.
func enter() int {
	// The child's death signal comes when the thread that made it ends.
	runtime.LockOSThread()
	before := sysctls()
	file, err := os.CreateTemp("", "berth-kube")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	file.Close()
	defer os.Remove(file.Name())
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inside+"="+file.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Println("cannot make namespaces for the node:", err)
		return 1
	}
	go func() {
		for range signals {
			_ = cmd.Process.Signal(unix.SIGTERM)
		}
	}()
	_ = cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	if data, err := os.ReadFile(file.Name()); err == nil && len(data) > 0 {
		// It did not come as far as to take its node down.
		var l lab.Lab
		if err := json.Unmarshal(data, &l); err == nil {
			fmt.Println("kube: taking down what an interrupted run left:", l.Close(context.Background()))
		}
		code = 1
	}
	if after := sysctls(); after != before {
		fmt.Printf("kube: the machine's %q were %s and are %s\n", kept, before, after)
		code = 1
	}
	return code
}

func sysctls() string {
	var all []string
	for _, path := range kept {
		data, _ := os.ReadFile(path)
		all = append(all, strings.TrimSpace(string(data)))
	}
	return strings.Join(all, " ")
}

// runInside makes the node, runs the tests on it, and takes it down.
func runInside(m *testing.M) int {
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer cancel()
	n, err := newNode(ctx)
	if err != nil {
		fmt.Println("kube: cannot make the node:", err)
	} else {
		theNode = n
		ended := make(chan struct{})
		go func() {
			select {
			case <-ctx.Done():
				// Tests that wait for something see it end.
				n.stopAll()
			case <-ended:
			}
		}()
		code := m.Run()
		close(ended)
		if code != 0 {
			err = errors.New("there are failed tests")
		}
	}
	if n != nil {
		if e := n.takeDown(); e != nil {
			fmt.Println("kube: left behind or not as it was:", e)
			err = errors.Join(err, e)
		}
	}
	_ = os.Truncate(os.Getenv(inside), 0)
	printTimes()
	if err != nil {
		return 1
	}
	return 0
}

// furnish makes the namespaces fit to live in: interfaces and names.
func furnish(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("cannot share mounts within the namespace: %w", err)
	}
	if err := interfaces(); err != nil {
		return err
	}
	// Pods reach the node's address through it.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return err
	}
	over := map[string]string{
		"/etc/hosts":       "127.0.0.1 localhost\n" + nodeIP + " " + nodeName + "\n",
		"/etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
	}
	for path, text := range over {
		file := standIn(dir, path)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		target, err := filepath.EvalSymlinks(path)
		if err != nil {
			return err
		}
		if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot bind over %s: %w", path, err)
		}
	}
	return nil
}

// standIn is the file that is bound over path.
func standIn(dir, path string) string {
	return filepath.Join(dir, "over"+strings.ReplaceAll(path, "/", "-"))
}

// apart is the command that executes the kubelet in a mount namespace of its own,
// where files stand in for sysctls. Mounts go back and forth between it and ours,
// but not below /proc: what is mounted there keeps user namespaces from a /proc.
func apart(dir string, command ...string) ([]string, error) {
	script := "mount --make-private /proc"
	for _, path := range kept {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(standIn(dir, path), data, 0o644); err != nil {
			return nil, err
		}
		script += fmt.Sprintf(" && mount --bind '%s' %s", standIn(dir, path), path)
	}
	return append([]string{"--mount", "--propagation", "unchanged", "sh", "-c", script + ` && exec "$@"`, "kubelet"}, command...), nil
}

func interfaces() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "node0"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("cannot make the node's interface: %w", err)
	}
	address, err := netlink.ParseAddr(nodeIP + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(bridge, address); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return err
	}
	// The default route says which address and MTU are the node's.
	return netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Index, Gw: net.ParseIP("192.168.77.254")})
}

// storeSize is that of the file system on which berth keeps its images.
const storeSize = 3 << 30

// mountStore puts a small ext4 under the lab's root.
func mountStore(l *lab.Lab) error {
	image := filepath.Join(l.Dir, "store.ext4")
	if err := os.MkdirAll(l.Root, 0o711); err != nil {
		return err
	}
	for _, command := range [][]string{
		{"truncate", "-s", fmt.Sprint(storeSize), image},
		{"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", image},
		{"mount", "-o", "loop", image, l.Root},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot make a small file system for the store: %s: %w: %s", strings.Join(command, " "), err, out)
		}
	}
	return nil
}

// eventually is lab.Eventually at a pace that leaves the machine to the node.
func eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (waited %s)", err, limit)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
