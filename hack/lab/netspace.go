package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/mount"
	"github.com/berth-runtime/berth/runtime/sys/thread"
)

// netspace is a network namespace of the lab's own, where everything that it
// starts runs, so that what plugins do to the host's network is done there. It
// forwards packets; but for the loopback it leads nowhere.
type netspace struct {
	path   string      // where it is pinned
	relays []io.Closer // from the machine's loopback to its own
}

func newNetspace(dir string) (*netspace, error) {
	n := &netspace{path: filepath.Join(dir, "net")}
	return n, makeNetns(n.path, func() error {
		return errors.Join(loopbackUp(),
			os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
	})
}

// MakeNetns pins a new network namespace at path.
func MakeNetns(path string) error { return makeNetns(path, loopbackUp) }

// RemoveNetns undoes MakeNetns.
func RemoveNetns(path string) error { return errors.Join(mount.Unmount(path), os.Remove(path)) }

func makeNetns(path string, setUp func() error) error {
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return err
	}
	return thread.Throwaway(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot make a network namespace: %w", err)
		}
		return errors.Join(mount.Bind("/proc/thread-self/ns/net", path, 0), setUp())
	})
}

// Inside runs f on a thread that is in the lab's network namespace, or just so
// if it has none of its own. What f starts or opens is in there for good.
func (l *Lab) Inside(f func() error) error {
	if l.net == nil {
		return f()
	}
	return thread.Throwaway(func() error {
		fd, err := unix.Open(l.net.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter the lab's network namespace: %w", err)
		}
		return f()
	})
}

// DialInside connects from within the lab's network namespace. The address is
// numeric.
func (l *Lab) DialInside(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = l.Inside(func() error {
		// One address is dialled by the goroutine, and so the thread, that asks.
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// relay leads a port of the machine's loopback to the same one of the lab's.
func (l *Lab) relay(port int) error {
	if l.net == nil {
		return nil
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	l.net.relays = append(l.net.relays, listener)
	go func() {
		for {
			outer, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer outer.Close()
				inner, err := l.DialInside(context.Background(), "tcp", address)
				if err != nil {
					return
				}
				defer inner.Close()
				go func() {
					_, _ = io.Copy(inner, outer)
					_ = inner.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(outer, inner)
			}()
		}
	}()
	return nil
}

func (n *netspace) close() error {
	for _, r := range n.relays {
		_ = r.Close()
	}
	return mount.Unmount(n.path)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
