package api

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// Client calls the service over a connection to berth.sock. The connection
// stays its maker's, who may use it for CRI too.
type Client struct {
	conn grpc.ClientConnInterface
}

// NewClient makes a client that uses conn.
func NewClient(conn grpc.ClientConnInterface) *Client { return &Client{conn: conn} }

// Info describes the daemon.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	return call[Info](ctx, c, "Info", &Empty{})
}

// Pull fetches an image and returns its id. progress may be nil.
func (c *Client) Pull(ctx context.Context, r *PullRequest, progress func(*Progress)) (string, error) {
	id := ""
	err := receive(ctx, c, "Pull", r, func(p *Progress) error {
		if p.ImageID != "" {
			id = p.ImageID
			return nil
		}
		if progress != nil {
			progress(p)
		}
		return nil
	})
	return id, err
}

// Load sends the archive that r holds, to its end.
func (c *Client) Load(ctx context.Context, r io.Reader) (*LoadResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "Load", ClientStreams: true},
		fullMethod("Load"), grpc.ForceCodec(Codec{}))
	if err != nil {
		return nil, err
	}
	buf := make([]byte, MaxChunk)
	for {
		n, rerr := io.ReadFull(r, buf)
		if n > 0 {
			if err := stream.SendMsg(&Chunk{Data: buf[:n]}); errors.Is(err, io.EOF) {
				break // the server has ended the call; RecvMsg tells why
			} else if err != nil {
				return nil, err
			}
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return nil, rerr
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	out := new(LoadResult)
	if err := stream.RecvMsg(out); err != nil {
		return nil, err
	}
	return out, nil
}

// Tag gives the image source the further name target.
func (c *Client) Tag(ctx context.Context, source, target string) error {
	_, err := call[Empty](ctx, c, "Tag", &TagRequest{Source: source, Target: target})
	return err
}

// Images tells of all images, by id.
func (c *Client) Images(ctx context.Context) ([]Image, error) {
	r, err := call[ImageList](ctx, c, "Images", &Empty{})
	if err != nil {
		return nil, err
	}
	return r.Images, nil
}

// InspectImage tells all of an image.
func (c *Client) InspectImage(ctx context.Context, ref string) (*Image, error) {
	return call[Image](ctx, c, "InspectImage", &ImageRequest{Ref: ref})
}

// Logs calls emit for each line until the log's end; an error of emit ends
// the call and is returned.
func (c *Client) Logs(ctx context.Context, r *LogsRequest, emit func(*LogLine) error) error {
	return receive(ctx, c, "Logs", r, func(l *LogLines) error {
		for i := range l.Lines {
			if err := emit(&l.Lines[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Wait returns when the container has ended.
func (c *Client) Wait(ctx context.Context, container string) (*WaitResult, error) {
	return call[WaitResult](ctx, c, "Wait", &ContainerRequest{Container: container})
}

// Signal sends a signal to the container's first process.
func (c *Client) Signal(ctx context.Context, container, signal string) error {
	_, err := call[Empty](ctx, c, "Signal", &SignalRequest{Container: container, Signal: signal})
	return err
}

// Check returns every difference between records and machine.
func (c *Client) Check(ctx context.Context) ([]Problem, error) {
	return c.CheckWith(ctx, &CheckRequest{})
}

// CheckWith is Check as in says. Problems that it repaired are among the answer.
func (c *Client) CheckWith(ctx context.Context, in *CheckRequest) ([]Problem, error) {
	r, err := call[CheckResult](ctx, c, "Check", in)
	if err != nil {
		return nil, err
	}
	return r.Problems, nil
}

// Df tells what takes up space.
func (c *Client) Df(ctx context.Context) (*DfResult, error) {
	return call[DfResult](ctx, c, "Df", &Empty{})
}

// Steps lists the failpoints of the daemon's build.
func (c *Client) Steps(ctx context.Context) ([]string, error) {
	r, err := call[StepsResult](ctx, c, "Steps", &Empty{})
	if err != nil {
		return nil, err
	}
	return r.Names, nil
}

func call[Resp any](ctx context.Context, c *Client, name string, in any) (*Resp, error) {
	out := new(Resp)
	if err := c.conn.Invoke(ctx, fullMethod(name), in, out, grpc.ForceCodec(Codec{})); err != nil {
		return nil, err
	}
	return out, nil
}

// receive calls emit for each message of the answer to in.
func receive[Resp any](ctx context.Context, c *Client, name string, in any, emit func(*Resp) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when emit has had enough
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: name, ServerStreams: true},
		fullMethod(name), grpc.ForceCodec(Codec{}))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		out := new(Resp)
		if err := stream.RecvMsg(out); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := emit(out); err != nil {
			return err
		}
	}
}
