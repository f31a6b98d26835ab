package portmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// loopback carries TCP from ::1 to pods, which nftables cannot: a listener for
// each port that is published there, and two goroutines for each connection.
// Without such ports it holds nothing. It lives in the daemon, so while that
// restarts ::1 does not answer; 127.0.0.1 and all other addresses do.
type loopback struct {
	mu    sync.Mutex
	ports map[uint16]*forwarder // guarded by mu
}

const (
	// mostForwarded is how many connections one port carries at a time. More
	// wait in the kernel's queue, as with any server that is busy.
	mostForwarded = 512
	// dialPatience is how long a pod may take to accept.
	dialPatience = 10 * time.Second
)

// forwarder is the listener of one port. Exactly one of listener and err is set.
type forwarder struct {
	to       netip.AddrPort
	listener net.Listener
	err      error // why there is none
	end      context.CancelFunc
	slots    chan struct{}
	wg       sync.WaitGroup
}

// forwards is what entries want of ::1: from the port to the pod. A port that is
// published at every address is answered there, too; IPv6 goes first.
func forwards(entries []Entry) map[uint16]netip.AddrPort {
	out := make(map[uint16]netip.AddrPort)
	for _, e := range entries {
		if e.Protocol != "tcp" {
			continue
		}
		if e.HostIP == netip.IPv6Loopback() || !e.HostIP.IsValid() && e.PodIP.Is6() {
			out[e.HostPort] = netip.AddrPortFrom(e.PodIP, e.PodPort)
		}
	}
	return out
}

// set makes the listeners those of entries. A port that cannot be listened on is
// left out, since the others have nothing to do with it: check names it, and
// the next set tries again.
func (l *loopback) set(entries []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := forwards(entries)
	for port, f := range l.ports {
		if to, ok := wanted[port]; !ok || to != f.to || f.err != nil {
			f.close()
			delete(l.ports, port)
		}
	}
	for port, to := range wanted {
		if l.ports[port] != nil {
			continue
		}
		if l.ports == nil {
			l.ports = make(map[uint16]*forwarder)
		}
		l.ports[port] = listen(port, to)
	}
}

// check names the ports of entries that do not answer on ::1.
func (l *loopback) check(entries []Entry) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	wanted := forwards(entries)
	var out []string
	for _, port := range slices.Sorted(maps.Keys(wanted)) {
		switch f := l.ports[port]; {
		case f == nil || f.to != wanted[port]:
			out = append(out, fmt.Sprintf("host port tcp [::1]:%d is not forwarded to %s", port, wanted[port]))
		case f.err != nil && !isNoAddress(f.err):
			out = append(out, fmt.Sprintf("host port tcp [::1]:%d is not forwarded to %s: %v", port, wanted[port], f.err))
		}
	}
	for port := range l.ports {
		if _, ok := wanted[port]; !ok {
			out = append(out, fmt.Sprintf("host port tcp [::1]:%d is forwarded for no pod", port))
		}
	}
	return out
}

// isNoAddress tells of a host without ::1, which has nobody to answer there.
func isNoAddress(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)
}

func (l *loopback) close() { l.set(nil) }

func listen(port uint16, to netip.AddrPort) *forwarder {
	f := &forwarder{to: to, slots: make(chan struct{}, mostForwarded)}
	ctx, end := context.WithCancel(context.Background())
	f.end = end
	var c net.ListenConfig
	f.listener, f.err = c.Listen(ctx, "tcp6", netip.AddrPortFrom(netip.IPv6Loopback(), port).String())
	if f.err != nil {
		return f
	}
	f.wg.Go(func() { f.serve(ctx) })
	return f
}

// close ends the listener and its connections: the pod is gone.
func (f *forwarder) close() {
	f.end()
	if f.listener != nil {
		_ = f.listener.Close()
	}
	f.wg.Wait()
}

func (f *forwarder) serve(ctx context.Context) {
	dialer := net.Dialer{Timeout: dialPatience}
	for {
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := f.listener.Accept()
		if err != nil {
			<-f.slots
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// No descriptors, for one: others end meanwhile.
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		f.wg.Go(func() {
			defer func() { <-f.slots }()
			defer func() { _ = conn.Close() }()
			pod, err := dialer.DialContext(ctx, "tcp", f.to.String())
			if err != nil {
				refuse(conn)
				return
			}
			defer func() { _ = pod.Close() }()
			join(ctx, conn, pod)
		})
	}
}

// refuse ends a connection as one that nobody took.
func refuse(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// join carries bytes both ways until both have ended. The end of one way is
// passed on and leaves the other open, as a request's end leaves the answer; a
// failure ends both.
func join(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = a.Close(); _ = b.Close() })
	defer stop()
	var wg sync.WaitGroup
	carry := func(to, from net.Conn) {
		_, err := io.Copy(to, from) // splice(2) between two TCP connections
		if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
			return
		}
		_ = errors.Join(a.Close(), b.Close())
	}
	wg.Go(func() { carry(a, b) })
	wg.Go(func() { carry(b, a) })
	wg.Wait()
}
