package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/imageservice/build"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Build makes an image of a Dockerfile.
func (s *Server) Build(stream wire) error {
	var r api.BuildRequest
	if err := firstFrame(stream, &r); err != nil {
		return err
	}
	platform, err := platformOf(r.Platform)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	c := &buildClient{stream: stream, logins: make(chan api.Credentials)}
	c.context, c.upload = io.Pipe()
	go c.receive(ctx, cancel)
	req := imageservice.BuildRequest{Auth: c.login, Request: build.Request{
		Dockerfile: r.Dockerfile, File: r.File, Tags: r.Tags, Target: r.Target, Args: r.Args, Labels: r.Labels, Secrets: r.Secrets,
		NoCache: r.NoCache, Pull: r.Pull, Platform: platform, Network: build.Network(r.Network), Progress: c.progress,
	}}
	if r.HasContext {
		req.Context = c.open
	}
	if r.Epoch != nil {
		at := time.Unix(*r.Epoch, 0).UTC()
		req.Epoch = &at
	}
	out, err := s.cfg.Images.Build(ctx, req, s.cfg.Runner)
	_ = c.context.CloseWithError(errNotNeeded)
	if err != nil {
		return err
	}
	return c.send(api.FrameBuilt, api.BuildResult{ImageID: out.ID, Commands: out.Commands, Layers: out.Layers, Cached: out.Cached})
}

var errNotNeeded = errors.New("the build has ended")

// platformOf reads OS/ARCH[/VARIANT]; "" is this machine's.
func platformOf(text string) (build.Platform, error) {
	if text == "" {
		return build.Platform{}, nil
	}
	parts := strings.Split(text, "/")
	if len(parts) < 2 || len(parts) > 3 {
		return build.Platform{}, errkind.New(errkind.InvalidArgument, "cannot build for %.100q: a platform is OS/ARCH[/VARIANT], such as linux/amd64", text)
	}
	return build.Platform{OS: parts[0], Architecture: parts[1], Variant: strings.Join(parts[2:], "")}, nil
}

// buildClient is the client of one build.
type buildClient struct {
	stream  wire
	context *io.PipeReader
	upload  *io.PipeWriter
	logins  chan api.Credentials
	asking  sync.Mutex // over one question with its answer

	sending sync.Mutex // a stream takes one message at a time
}

// receive passes on what the client sends, until it ends.
func (c *buildClient) receive(ctx context.Context, cancel context.CancelFunc) {
	for {
		f, err := c.stream.Recv()
		if err != nil {
			_ = c.upload.CloseWithError(errkind.New(errkind.Canceled, "the client is gone"))
			cancel()
			return
		}
		switch f.Kind {
		case api.FrameContext:
			// What nobody needs any more is dropped.
			_, _ = c.upload.Write(f.Data)
		case api.FrameContextEnd:
			if len(f.Data) > 0 {
				_ = c.upload.CloseWithError(errkind.New(errkind.InvalidArgument, "%s", f.Data))
			} else {
				_ = c.upload.Close()
			}
		case api.FrameLogin:
			var creds api.Credentials
			if json.Unmarshal(f.Data, &creds) != nil {
				creds = api.Credentials{}
			}
			select {
			case c.logins <- creds:
			case <-ctx.Done():
			case <-time.After(time.Second): // nobody has asked
			}
		}
	}
}

// open asks for the context.
func (c *buildClient) open(context.Context) (io.Reader, error) {
	return c.context, c.sendFrame(&api.Frame{Kind: api.FrameWanted})
}

// login asks for credentials.
func (c *buildClient) login(ctx context.Context, ref string) (*imageservice.Auth, error) {
	c.asking.Lock()
	defer c.asking.Unlock()
	if err := c.send(api.FrameAsk, api.BuildAsk{Ref: ref}); err != nil {
		return nil, err
	}
	select {
	case creds := <-c.logins:
		return authOf(creds), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// progress tells the client. A stream that is broken ends the build by its
// context.
func (c *buildClient) progress(e imageservice.BuildEvent) {
	if e.Kind == build.EventOutput {
		_ = c.sendFrame(api.Output{Step: e.Step, Stderr: e.Stderr, Data: e.Output}.Frame())
		return
	}
	_ = c.send(api.FrameEvent, api.BuildEvent{Kind: string(e.Kind), Step: e.Step, Name: e.Name, Text: e.Text})
}

func (c *buildClient) send(kind api.FrameKind, v any) error {
	f, err := api.Message(kind, v)
	if err != nil {
		return err
	}
	return c.sendFrame(f)
}

func (c *buildClient) sendFrame(f *api.Frame) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.stream.Send(f)
}
