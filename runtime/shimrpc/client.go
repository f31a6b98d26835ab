package shimrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxMessage bounds the text of an error, which libcontainer may compose from
// what a container's init said.
const maxMessage = 8 << 10

// WireError is err as a Response carries it.
func WireError(err error) *Error {
	text := err.Error()
	if len(text) > maxMessage {
		text = text[:maxMessage] + "..."
	}
	return &Error{Kind: int(errkind.Of(err)), Message: text}
}

// Err is the error that e carries, with its kind; nil for a nil e.
func (e *Error) Err() error {
	if e == nil {
		return nil
	}
	return errkind.New(errkind.Kind(e.Kind), "%s", e.Message)
}

// Client speaks to the shim that listens at a path. It holds nothing: every
// call has a connection of its own, so a Client outlives a shim and serves for
// the next one at that path. It is safe for concurrent use.
//
// An error that the shim returned has the kind that it had there. A shim that
// does not listen, or that ended during the call, is errkind.Unavailable; the
// call may then have had its effect or not.
type Client struct {
	path string
}

// Dial makes a client of the shim at path. It connects to nothing yet.
func Dial(path string) *Client { return &Client{path: path} }

// Info asks who the shim is and what it holds.
func (c *Client) Info(ctx context.Context) (Info, error) {
	r, _, err := c.call(ctx, 0, Request{Verb: VerbInfo})
	if err == nil && r.Info == nil {
		err = c.odd(VerbInfo)
	}
	if err != nil {
		return Info{}, err
	}
	return *r.Info, nil
}

// Create makes the container's init, which waits for Start. A Create that
// failed left nothing behind.
func (c *Client) Create(ctx context.Context, cr Create) (Created, error) {
	want := 0
	if cr.TTY {
		want = 1
	}
	r, files, err := c.call(ctx, want, Request{Verb: VerbCreate, ID: cr.ID, Create: &cr})
	if err == nil && r.Created == nil {
		CloseAll(files)
		err = c.odd(VerbCreate)
	}
	if err != nil {
		return Created{}, err
	}
	if cr.TTY {
		r.Created.Console = files[0]
	}
	return *r.Created, nil
}

// Start lets a created container's init execute its program.
func (c *Client) Start(ctx context.Context, id string) error {
	_, _, err := c.call(ctx, 0, Request{Verb: VerbStart, ID: id})
	return err
}

// Restore starts a created container from a checkpoint and tells its new first
// process. The files stay the caller's.
func (c *Client) Restore(ctx context.Context, id string, r Restore, files []*os.File) (Started, error) {
	resp, got, err := c.call(ctx, 0, Request{Verb: VerbRestore, ID: id, Restore: &r}, files...)
	CloseAll(got)
	if err == nil && resp.Started == nil {
		err = c.odd(VerbRestore)
	}
	if err != nil {
		return Started{}, err
	}
	return *resp.Started, nil
}

// Delete kills what is left of the container and removes what the shim and
// libcontainer hold of it, but not its bundle. It is idempotent.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, _, err := c.call(ctx, 0, Request{Verb: VerbDelete, ID: id})
	return err
}

// ReopenLog makes the shim open the container's log by path again, after a
// rotation. When it returns an error the old file is still written to.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	_, _, err := c.call(ctx, 0, Request{Verb: VerbReopenLog, ID: id})
	return err
}

// Update applies the limits in file, a specs.LinuxResources as JSON.
func (c *Client) Update(ctx context.Context, id, file string) error {
	_, _, err := c.call(ctx, 0, Request{Verb: VerbUpdate, ID: id, ResourcesFile: file})
	return err
}

// Adopt makes the shim take over a container whose shim has died; one that it
// already has is success. The pidfd of the container's init may be nil; if it
// was opened before the init ended, it still tells the exit status. It and
// cr.Console stay the caller's.
func (c *Client) Adopt(ctx context.Context, cr Create, pidfd *os.File) error {
	req := Request{Verb: VerbAdopt, ID: cr.ID, Create: &cr, Pidfd: pidfd != nil, Console: cr.Console != nil}
	var files []*os.File
	for _, f := range []*os.File{pidfd, cr.Console} {
		if f != nil {
			files = append(files, f)
		}
	}
	_, _, err := c.call(ctx, 0, req, files...)
	return err
}

// Attach copies what the container prints from now on to stdout and stderr,
// each of which may be nil, until the container's output has ended or ctx is
// done. The shim writes to copies of the files, which stay the caller's: a
// reader of a pipe sees its end when the caller's copy is closed as well.
// Attached is called, if not nil, once nothing more will be missed.
func (c *Client) Attach(ctx context.Context, id string, stdout, stderr *os.File, attached func()) error {
	conn, stop, err := c.connect(ctx, VerbAttach)
	if err != nil {
		return err
	}
	defer stop()
	defer func() { _ = conn.Close() }()
	req := Request{Verb: VerbAttach, ID: id, Attach: &Attach{Stdout: stdout != nil, Stderr: stderr != nil}}
	var files []*os.File
	for _, f := range []*os.File{stdout, stderr} {
		if f != nil {
			files = append(files, f)
		}
	}
	if err := conn.Send(req, files...); err != nil {
		return c.broken(ctx, VerbAttach, err)
	}
	for _, f := range []func(){attached, nil} { // at once, and at the end
		_, got, err := c.receive(ctx, conn, VerbAttach)
		CloseAll(got)
		if err != nil {
			return err
		}
		if f != nil {
			f()
		}
	}
	return nil
}

// Console returns the pty's master of a running container with a TTY.
func (c *Client) Console(ctx context.Context, id string) (*os.File, error) {
	_, files, err := c.call(ctx, 1, Request{Verb: VerbConsole, ID: id})
	if err != nil {
		return nil, err
	}
	return files[0], nil
}

// EndStdin lets the container read the end of its stdin as soon as nobody else
// has the FIFO open for writing.
func (c *Client) EndStdin(ctx context.Context, id string) error {
	_, _, err := c.call(ctx, 0, Request{Verb: VerbEndStdin, ID: id})
	return err
}

// Shutdown ends the shim, or fails with errkind.FailedPrecondition while
// containers are held.
func (c *Client) Shutdown(ctx context.Context) error {
	_, _, err := c.call(ctx, 0, Request{Verb: VerbShutdown})
	return err
}

// Watch calls f for every container's exit: first for those that have exited
// and were not deleted, then for each as it happens. It returns when ctx is
// done or the shim is gone, always with an error.
func (c *Client) Watch(ctx context.Context, f func(Exited)) error {
	conn, stop, err := c.connect(ctx, VerbWatch)
	if err != nil {
		return err
	}
	defer stop()
	defer func() { _ = conn.Close() }()
	if err := conn.Send(Request{Verb: VerbWatch}); err != nil {
		return c.broken(ctx, VerbWatch, err)
	}
	for {
		r, files, err := c.receive(ctx, conn, VerbWatch)
		CloseAll(files)
		if err != nil {
			return err
		}
		if r.Exited == nil {
			return c.odd(VerbWatch)
		}
		f(*r.Exited)
	}
}

// Process is a process that Exec started. The caller closes it.
type Process struct {
	Pid       int
	StartTime uint64
	Console   *os.File // the pty's master with Exec.TTY, else nil; the caller's to close

	client *Client
	conn   *Conn
}

// Exec starts a further process in a container. The files of stdio are those
// that e names, in the order stdin, stdout, stderr; they stay the caller's.
// Cancelling ctx after Exec has returned changes nothing.
func (c *Client) Exec(ctx context.Context, id string, e Exec, stdio []*os.File) (*Process, error) {
	conn, stop, err := c.connect(ctx, VerbExec)
	if err != nil {
		return nil, err
	}
	defer stop()
	p, err := c.exec(ctx, conn, id, e, stdio)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return p, nil
}

func (c *Client) exec(ctx context.Context, conn *Conn, id string, e Exec, stdio []*os.File) (*Process, error) {
	if err := conn.Send(Request{Verb: VerbExec, ID: id, Exec: &e}, stdio...); err != nil {
		return nil, c.broken(ctx, VerbExec, err)
	}
	r, files, err := c.receive(ctx, conn, VerbExec)
	if err != nil {
		return nil, err
	}
	want := 0
	if e.TTY {
		want = 1
	}
	if r.Started == nil || len(files) != want {
		CloseAll(files)
		return nil, c.odd(VerbExec)
	}
	p := &Process{Pid: r.Started.Pid, StartTime: r.Started.StartTime, client: c, conn: conn}
	if e.TTY {
		p.Console = files[0]
	}
	return p, nil
}

// Wait returns when the process has ended. It may be called once; after ctx
// is done the process can no longer be waited for.
func (p *Process) Wait(ctx context.Context) (Exited, error) {
	stop := context.AfterFunc(ctx, func() { _ = p.conn.Close() })
	defer stop()
	r, files, err := p.client.receive(ctx, p.conn, VerbExec)
	CloseAll(files)
	if err == nil && r.Exited == nil {
		err = p.client.odd(VerbExec)
	}
	if err != nil {
		return Exited{}, err
	}
	return *r.Exited, nil
}

// Close abandons the process: it runs on, and nobody hears of its end.
func (p *Process) Close() error { return p.conn.Close() }

// call sends one request and returns its only answer, with want files.
func (c *Client) call(ctx context.Context, want int, req Request, files ...*os.File) (Response, []*os.File, error) {
	conn, stop, err := c.connect(ctx, req.Verb)
	if err != nil {
		return Response{}, nil, err
	}
	defer stop()
	defer func() { _ = conn.Close() }()
	if err := conn.Send(req, files...); err != nil {
		return Response{}, nil, c.broken(ctx, req.Verb, err)
	}
	r, got, err := c.receive(ctx, conn, req.Verb)
	if err == nil && len(got) != want {
		CloseAll(got)
		return Response{}, nil, c.odd(req.Verb)
	}
	return r, got, err
}

// connect returns a connection that is closed when ctx ends before stop.
func (c *Client) connect(ctx context.Context, v Verb) (conn *Conn, stop func() bool, err error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "unixpacket", c.path)
	if err != nil {
		return nil, nil, c.broken(ctx, v, err)
	}
	conn = NewConn(nc.(*net.UnixConn))
	return conn, context.AfterFunc(ctx, func() { _ = conn.Close() }), nil
}

func (c *Client) receive(ctx context.Context, conn *Conn, v Verb) (Response, []*os.File, error) {
	var r Response
	files, err := conn.Recv(&r)
	if err != nil {
		return Response{}, nil, c.broken(ctx, v, err)
	}
	if err := r.Error.Err(); err != nil {
		CloseAll(files)
		return Response{}, nil, err
	}
	return r, files, nil
}

// broken names what failed below a call: the caller's context, the message, or
// else the shim.
func (c *Client) broken(ctx context.Context, v Verb, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot ask shim %s to %s: %w", c.path, v, ctx.Err())
	}
	if k := errkind.Of(err); k == errkind.InvalidArgument {
		return fmt.Errorf("cannot ask shim %s to %s: %w", c.path, v, err)
	}
	return errkind.New(errkind.Unavailable, "cannot ask shim %s to %s: %w", c.path, v, err)
}

func (c *Client) odd(v Verb) error {
	return errkind.New(errkind.Unavailable, "cannot ask shim %s to %s: it gave an answer of another kind", c.path, v)
}

// await calls Info until it succeeds, ctx ends, or gone is closed.
func (c *Client) await(ctx context.Context, gone <-chan struct{}) (Info, error) {
	pause := time.Millisecond
	for {
		info, err := c.Info(ctx)
		if err == nil {
			return info, nil
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return Info{}, errors.Join(err, ctx.Err())
		case <-gone:
			t.Stop()
			return Info{}, errkind.New(errkind.Unavailable, "it ended at once")
		case <-t.C:
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}
