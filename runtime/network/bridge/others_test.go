package bridge

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/berth-runtime/berth/runtime/network"
)

// What another process does to nftables, by the environment of the test binary.
const otherDoes = "BERTH_BRIDGE_TEST_NFT"

// beTheOther is the main of that process.
func beTheOther(what string) {
	conn, err := nftables.New()
	if err == nil {
		switch what {
		case "flush ruleset":
			conn.FlushRuleset()
		case "reload":
			// As firewalld: everything goes, and its own comes.
			conn.FlushRuleset()
			table := conn.AddTable(&nftables.Table{Name: "firewalld", Family: nftables.TableFamilyINet})
			conn.AddChain(&nftables.Chain{Name: "filter_INPUT", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
		case "a rule of ours":
			table := &nftables.Table{Name: "berth-berth0", Family: nftables.TableFamilyINet}
			conn.FlushChain(&nftables.Chain{Name: "hostports", Table: table})
		case "the senders":
			conn.DelTable(&nftables.Table{Name: "berth-berth0", Family: nftables.TableFamilyBridge})
		case "something else":
			conn.AddTable(&nftables.Table{Name: "else", Family: nftables.TableFamilyINet})
		}
		err = conn.Flush()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (w *world) another(does string) {
	w.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), otherDoes+"="+does)
	if out, err := cmd.CombinedOutput(); err != nil {
		w.Fatalf("%v: %s", err, out)
	}
}

// until waits for what somebody else has to do.
func (w *world) until(what string, done func() bool) {
	w.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.Fatalf("it never came that %s", what)
		}
	}
}

// T-NET: a reload of the host's firewall takes every table away, ours too. They
// come back without anybody's call, and so do the guards in them.
func TestNETRulesComeBackAfterAFirewallReload(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(both(80, 8080, "")...)
	w.serve(p.Netns, "p", ":80")
	for _, does := range []string{"flush ruleset", "reload", "a rule of ours", "the senders", "flush ruleset"} {
		w.another(does)
		w.until("the rules are back after "+does, func() bool {
			diffs, err := w.b.Check(ctx)
			return err == nil && len(diffs) == 0
		})
		w.answers("", "127.0.0.1", 8080, "p", "10.210.0.1")
		w.answers(w.other, hostV6, 8080, "p", otherV6)
	}
}

// What others do beside our tables is none of our business: nothing is written.
func TestTablesOfOthersAreLeftAlone(t *testing.T) {
	w := newWorld(t, nil)
	w.attach(both(80, 8080, "")...)
	w.another("something else")
	w.another("flush ruleset")
	w.until("the rules are back", func() bool {
		diffs, err := w.b.Check(ctx)
		return err == nil && len(diffs) == 0
	})
	conn, err := nftables.New()
	w.ok(err)
	tables, err := conn.ListTables()
	w.ok(err)
	for _, table := range tables {
		if table.Name != "berth-berth0" {
			t.Errorf("there is a table %s", table.Name)
		}
	}
}

func TestLoopbackOfIPv6IsForwarded(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(both(80, 8080, "")[:1]...)
	only := w.attach(both(80, 8081, "::1")[:1]...)
	four := w.attachRequest(w.request(map[string]string{"net.ipv6.conf.default.disable_ipv6": "1"}, both(80, 8082, "")[:1]...))
	for name, one := range map[string]*pod{"p": p, "only": only, "four": four} {
		w.echo(one.Netns, name, ":80")
	}
	dial := func(port int) *net.TCPConn {
		t.Helper()
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(netip.IPv6Loopback(), uint16(port)).String(), patience)
		w.ok(err)
		w.ok(c.SetDeadline(time.Now().Add(patience)))
		return c.(*net.TCPConn)
	}
	// A request that ends before the answer begins, many at once.
	want := strings.Repeat("x", 1<<20)
	answers := make(chan error)
	for n := range 30 {
		port, name := 8080+n%3, []string{"p", "only", "four"}[n%3]
		go func() {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("[::1]:%d", port), patience)
			if err != nil {
				answers <- err
				return
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(patience))
			go func() {
				_, _ = io.WriteString(c, want)
				_ = c.(*net.TCPConn).CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err == nil && string(got) != name+want {
				err = fmt.Errorf("port %d: got %d bytes", port, len(got))
			}
			answers <- err
		}()
	}
	for range 30 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if _, err := ask("", "tcp", "127.0.0.1", 8081, patience); err == nil {
		t.Error("a port of ::1 answers at 127.0.0.1")
	}
	w.clean()

	// With the daemon the listeners end; the next one makes them again.
	w.b = w.newBridge(Config{Masquerade: true, SetIPForward: true})
	if _, err := ask("", "tcp", "::1", 8080, patience); err == nil {
		t.Error("::1 answers without a daemon")
	}
	for _, one := range []*pod{p, only, four} {
		w.ok(w.b.Restore(one.lease))
	}
	w.ok(w.b.Repair(ctx))
	w.clean()
	c := dial(8081)
	_, err := io.WriteString(c, "?")
	w.ok(err)
	got := make([]byte, 5)
	_, err = io.ReadFull(c, got)
	if err != nil || string(got) != "only?" {
		t.Errorf("after a restart: %q, %v", got, err)
	}
	// The end of the pod is the end of its connections.
	w.ok(w.b.Detach(ctx, only.lease, only.Netns))
	w.b.Release(only.PodID)
	if n, err := c.Read(got); err == nil {
		t.Errorf("a connection outlives its pod: %q", got[:n])
	}
	// Nobody at the pod's end is nobody at this end.
	closed := w.attach(both(81, 8083, "::1")[:1]...)
	if _, err := ask("", "tcp", "::1", 8083, patience); err == nil {
		t.Error("a connection that the pod refuses ends like one that was served")
	}
	w.ok(w.b.Detach(ctx, closed.lease, closed.Netns))
	w.b.Release(closed.PodID)
	w.clean()
}

// A port of ::1 that somebody takes in between is theirs; nobody else's port
// suffers, check tells, and it is forwarded once they are gone.
func TestLoopbackPortThatIsTakenIsTold(t *testing.T) {
	w := newWorld(t, nil)
	p := w.attach(both(80, 8080, "")...)
	w.serve(p.Netns, "p", ":80")
	w.b = w.newBridge(Config{Masquerade: true, SetIPForward: true})
	thief, err := net.Listen("tcp", "[::1]:8080")
	w.ok(err)
	defer func() { _ = thief.Close() }()
	w.ok(w.b.Restore(p.lease))
	w.ok(w.b.Repair(ctx))
	w.finds("host port tcp [::1]:8080 is not forwarded", "address already in use")
	w.answers("", "127.0.0.1", 8080, "p", "")
	w.ok(thief.Close())
	w.ok(w.b.Repair(ctx))
	w.clean()
}

// echo sends back what comes, after its name, once the other side has something
// to say.
func (w *world) echo(path, name, at string) {
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
				go func() {
					defer func() { _ = c.Close() }()
					_, _ = io.WriteString(c, name)
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		return nil
	}))
}

func TestExamineLooksAtTheHost(t *testing.T) {
	w := newWorld(t, nil)
	w.attach(both(80, 8080, "")...)
	found := map[string]network.Verdict{}
	for _, f := range w.b.Examine(ctx) {
		found[f.Name] = f.Verdict
		if f.Verdict != network.OK {
			t.Errorf("%+v", f)
		}
	}
	for _, name := range []string{"ipv4-forwarding", "ipv6-forwarding", "br-netfilter", "nftables", "forward-policy", "subnets", "host-ports", "spoofing"} {
		if found[name] == "" {
			t.Errorf("%s was not looked at", name)
		}
	}
	conn, err := nftables.New()
	w.ok(err)
	tables, err := conn.ListTables()
	w.ok(err)
	if len(tables) != 2 {
		t.Errorf("the examination has left tables: %d", len(tables))
	}
	w.clean()
}
