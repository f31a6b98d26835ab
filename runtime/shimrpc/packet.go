package shimrpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxSpill bounds a message that did not fit a packet and travels in a memfd:
// the arguments of an exec may be as long as the kernel's ARG_MAX allows.
const maxSpill = 4 << 20

// maxFiles bounds the descriptors of one message: three of stdio, a pidfd, and
// the spilled message itself.
const maxFiles = 8

// spilled is the packet whose message lies in the last descriptor sent with it.
// No JSON value starts with this byte.
var spilled = []byte{'@'}

// Conn is one call's connection, the same on both ends. It is not safe for
// concurrent sends, nor for concurrent receives.
type Conn struct {
	c *net.UnixConn
}

// NewConn wraps an accepted or dialled SOCK_SEQPACKET connection and owns it.
func NewConn(c *net.UnixConn) *Conn { return &Conn{c: c} }

// Close ends the connection. A blocked Send or Recv returns net.ErrClosed.
func (c *Conn) Close() error { return c.c.Close() }

// Send writes v as one packet, with copies of files attached. The files stay
// the caller's.
func (c *Conn) Send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > MaxPacket {
		f, err := spill(b)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		b, files = spilled, append(files[:len(files):len(files)], f)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			// Fd would make the file blocking for good.
			if fds[i], err = rawFd(f); err != nil {
				return err
			}
		}
		oob = unix.UnixRights(fds...)
	}
	_, _, err = c.c.WriteMsgUnix(b, oob, nil)
	return err
}

// Recv reads one packet into v and returns the files that came with it, which
// the caller closes. The other end's closing is io.EOF.
func (c *Conn) Recv(v any) (files []*os.File, err error) {
	n, err := c.next()
	if err != nil {
		return nil, err
	}
	if n > MaxPacket {
		return nil, errkind.New(errkind.InvalidArgument, "cannot receive a packet of %d bytes: %d is the limit", n, MaxPacket)
	}
	b, oob := make([]byte, n), make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := c.c.ReadMsgUnix(b, oob)
	if err != nil {
		return nil, err
	}
	files, err = filesOf(oob[:oobn])
	defer func() {
		if err != nil {
			CloseAll(files)
			files = nil
		}
	}()
	if err != nil {
		return files, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return files, errors.New("cannot receive a packet: it was cut off")
	}
	if b = b[:n]; string(b) == string(spilled) {
		if len(files) == 0 {
			return files, errors.New("cannot receive a packet: its message is missing")
		}
		last := files[len(files)-1]
		files = files[:len(files)-1]
		b, err = unspill(last)
		if err != nil {
			return files, err
		}
	}
	if err = json.Unmarshal(b, v); err != nil {
		return files, fmt.Errorf("cannot parse a packet of %d bytes: %w", len(b), err)
	}
	return files, nil
}

// next waits for a packet and tells its length, so that a connection that
// waits (an exec, a watch) holds no buffer.
func (c *Conn) next() (n int, err error) {
	rc, err := c.c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var rerr error
	err = rc.Read(func(fd uintptr) bool {
		for {
			n, _, _, _, rerr = unix.Recvmsg(int(fd), nil, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
			if !errors.Is(rerr, unix.EINTR) {
				return !errors.Is(rerr, unix.EAGAIN)
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case rerr != nil:
		return 0, rerr
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// CloseAll closes files, nil ones included.
func CloseAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// filesOf returns the descriptors of a control message, those before a failure
// included.
func filesOf(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func rawFd(f *os.File) (int, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	n := -1
	err = rc.Control(func(fd uintptr) { n = int(fd) })
	return n, err
}

func spill(b []byte) (*os.File, error) {
	if len(b) > maxSpill {
		return nil, errkind.New(errkind.InvalidArgument, "cannot send a message of %d bytes: %d is the limit", len(b), maxSpill)
	}
	fd, err := unix.MemfdCreate("berth-message", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memfd for a message: %w", err)
	}
	f := os.NewFile(uintptr(fd), "message")
	if _, err := f.Write(b); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("cannot write a message: %w", err)
	}
	return f, nil
}

func unspill(f *os.File) ([]byte, error) {
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxSpill+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read a message: %w", err)
	}
	if len(b) > maxSpill {
		return nil, errkind.New(errkind.InvalidArgument, "cannot receive a message: more than %d bytes", maxSpill)
	}
	return b, nil
}
