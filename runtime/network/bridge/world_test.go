package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/network/netns"
	"github.com/berth-runtime/berth/runtime/spec"
)

// TestMain runs the tests once more inside network and mount namespaces of
// their own: for them those are the host, and the real host is not touched.
func TestMain(m *testing.M) {
	if what := os.Getenv(otherDoes); what != "" {
		beTheOther(what)
	}
	const inside = "BERTH_BRIDGE_TEST_INSIDE"
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}

// The other host and ours on the wire between them.
const (
	hostV4, otherV4 = "192.0.2.1", "192.0.2.2"
	hostV6, otherV6 = "2001:db8::1", "2001:db8::2"
)

// world is a host with a bridge, and another host that it can reach.
type world struct {
	*testing.T
	b     *Bridge
	other string // network namespace of the other host
	pods  int
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	w := &world{T: t, other: filepath.Join(t.TempDir(), "other")}
	w.ok(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	w.ok(netns.Create(netns.Spec{Net: w.other}))
	t.Cleanup(func() { _ = netns.Remove(w.other) })
	w.wire()
	cfg := Config{Masquerade: true, SetIPForward: true}
	if change != nil {
		change(&cfg)
	}
	w.b = w.newBridge(cfg)
	t.Cleanup(func() { w.ok(w.b.Teardown()) })
	return w
}

// unwatched keeps the bridge from repairing by itself what a test spoils before
// the test has seen it. It is for before the first pod.
func (w *world) unwatched() {
	w.b.linkMu.Lock()
	defer w.b.linkMu.Unlock()
	w.b.watch = func() {}
}

// newBridge is what a daemon that starts would make; the one before has ended.
func (w *world) newBridge(cfg Config) *Bridge {
	w.Helper()
	if w.b != nil {
		w.b.Close()
	}
	b, err := New(cfg)
	w.ok(err)
	w.Cleanup(func() {
		if w.b == b {
			b.Close()
		}
	})
	return b
}

// wire joins the other host to ours.
func (w *world) wire() {
	w.Helper()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	w.ok(err)
	defer h.Close()
	w.ok(h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}}))
	f, err := os.Open(w.other)
	w.ok(err)
	defer func() { _ = f.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Flags = "wire0", net.FlagUp
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: "wire0", PeerTxQLen: -1, PeerNamespace: netlink.NsFd(f.Fd())}
	w.ok(h.LinkAdd(v))
	w.Cleanup(func() { _ = netlink.LinkDel(v) })
	end := func(h *netlink.Handle, v4, v6 string) error {
		l, err := h.LinkByName("wire0")
		if err != nil {
			return err
		}
		return errors.Join(
			h.AddrReplace(l, addrOf(netip.MustParseAddr(v4), 24)),
			h.AddrReplace(l, addrOf(netip.MustParseAddr(v6), 64)),
			h.LinkSetUp(l))
	}
	w.ok(end(h, hostV4, hostV6))
	w.ok(netns.Do(w.other, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return end(h, otherV4, otherV6)
	}))
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// pod is an attached pod and what it was attached with.
type pod struct {
	network.Request
	lease network.Lease
}

func (p *pod) v4() string { return p.lease.Addresses[0].String() }
func (p *pod) v6() string { return p.lease.Addresses[1].String() }

// request makes a namespace and a name for one more pod.
func (w *world) request(sysctls map[string]string, ports ...spec.PortMapping) network.Request {
	w.Helper()
	w.pods++
	id := fmt.Sprintf("%032x%032x", w.pods, 0)
	id = id[21:] + id[:21]
	r := network.Request{PodID: id, Namespace: "tests", Name: fmt.Sprint("pod", w.pods), Netns: filepath.Join(w.TempDir(), "net"), Ports: ports}
	w.ok(netns.Create(netns.Spec{Net: r.Netns, Sysctls: sysctls}))
	w.Cleanup(func() { _ = netns.Remove(r.Netns) })
	return r
}

func (w *world) attach(ports ...spec.PortMapping) *pod {
	w.Helper()
	return w.attachRequest(w.request(nil, ports...))
}

func (w *world) attachRequest(r network.Request) *pod {
	w.Helper()
	l, err := w.b.Reserve(context.Background(), r)
	w.ok(err)
	w.ok(w.b.Attach(context.Background(), r, l))
	return &pod{r, l}
}

// clean fails the test if Check finds anything.
func (w *world) clean() {
	w.Helper()
	diffs, err := w.b.Check(context.Background())
	w.ok(err)
	if len(diffs) > 0 {
		w.Errorf("Check found:\n%s", strings.Join(diffs, "\n"))
	}
}

// finds fails the test unless Check names exactly this.
func (w *world) finds(parts ...string) {
	w.Helper()
	diffs, err := w.b.Check(context.Background())
	w.ok(err)
	all := strings.Join(diffs, "\n")
	for _, p := range parts {
		if !strings.Contains(all, p) {
			w.Errorf("Check does not say %q, it says:\n%s", p, all)
		}
	}
}

// in runs fn in the namespace at path; the empty path is the host.
func in(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	return netns.Do(path, fn)
}

// serve answers on a port of the namespace at path, over TCP and UDP, with
// name and the address of whoever asked.
func (w *world) serve(path, name string, at string) {
	w.Helper()
	w.ok(in(path, func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		w.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintf(c, "%s %s", name, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
				_ = c.Close()
			}
		}()
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return err
		}
		w.Cleanup(func() { _ = u.Close() })
		go func() {
			buf := make([]byte, 64)
			for {
				_, from, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(fmt.Appendf(nil, "%s %s", name, from.(*net.UDPAddr).AddrPort().Addr().Unmap()), from)
			}
		}()
		return nil
	}))
}

const patience = 10 * time.Second // for what shall work

// ask gets the answer of whoever serves at host and port, asked from path.
func ask(path, proto, host string, port int, wait time.Duration) (answer string, err error) {
	err = in(path, func() error {
		c, err := net.DialTimeout(proto, net.JoinHostPort(host, fmt.Sprint(port)), wait)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(wait))
		if proto == "udp" {
			answer, err = exchange(c)
			return err
		}
		b, err := io.ReadAll(c)
		answer = string(b)
		return err
	})
	return answer, err
}

func exchange(c net.Conn) (string, error) {
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// answers fails the test unless name answers, over TCP and UDP, and has seen
// the asker as from (if that is not empty).
func (w *world) answers(path, host string, port int, name, from string) {
	w.Helper()
	for _, proto := range []string{"tcp", "udp"} {
		got, err := ask(path, proto, host, port, patience)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// The kernel forgets masqueraded flows in a work item some time
			// after their address went, and on a busy machine takes one with
			// it that has come since. What holds is that the next one works.
			got, err = ask(path, proto, host, port, patience)
		}
		who, seen, _ := strings.Cut(got, " ")
		if err != nil || who != name || from != "" && seen != from {
			w.Errorf("%s to %s port %d: got %q (%v), want %s to answer to %s", proto, host, port, got, err, name, from)
		}
	}
}

func both(container, host uint16, ip string) []spec.PortMapping {
	return []spec.PortMapping{
		{Protocol: "tcp", ContainerPort: container, HostPort: host, HostIP: ip},
		{Protocol: "udp", ContainerPort: container, HostPort: host, HostIP: ip},
	}
}
