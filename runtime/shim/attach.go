package shim

import (
	"os"

	"github.com/berth-runtime/berth/runtime/crilog"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// attach copies the container's output to files until it ends or conn breaks.
func (s *server) attach(conn *shimrpc.Conn, id string, a *shimrpc.Attach, files []*os.File) (*shimrpc.Exited, error) {
	c, err := s.find(id)
	if err != nil {
		return nil, err
	}
	var want []crilog.Stream
	if a != nil && a.Stdout {
		want = append(want, crilog.Stdout)
	}
	if a != nil && a.Stderr {
		want = append(want, crilog.Stderr)
	}
	if len(files) != len(want) {
		return nil, errkind.New(errkind.InvalidArgument, "%d descriptors came for %d streams", len(files), len(want))
	}
	if c.isEnded() {
		return nil, errkind.New(errkind.FailedPrecondition, "it has ended")
	}
	var gone []<-chan struct{}
	for i, name := range want {
		st := c.stream(name)
		if st == nil {
			continue
		}
		f, err := duplicate(files[i])
		if err != nil {
			return nil, err
		}
		t := st.tap(f)
		defer st.drop(t)
		gone = append(gone, t.gone)
	}
	shimrpc.CloseAll(files)
	if err := conn.Send(shimrpc.Response{}); err != nil {
		return nil, err
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		more, _ := conn.Recv(&shimrpc.Request{})
		shimrpc.CloseAll(more)
	}()
	for _, g := range gone {
		select {
		case <-g:
		case <-left:
			return nil, nil
		}
	}
	if len(gone) > 0 && !c.isDead() {
		return nil, errkind.New(errkind.ResourceExhausted, "cannot keep container %s attached: the reader is gone or took nothing for %s", id, stallFor)
	}
	select {
	case <-c.ended:
	case <-left:
		return nil, nil
	}
	return &c.exit, nil
}

func (c *container) stream(name crilog.Stream) *stream {
	for _, st := range c.streams {
		if st.name == name {
			return st
		}
	}
	return nil
}
