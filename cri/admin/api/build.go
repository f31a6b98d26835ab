package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
)

// The frames of a build. Its client sends FrameOpen with a BuildRequest first.
// The server answers with BuildEvents, asks for what it needs on the way, and
// ends with a BuildResult.
const (
	FrameContext    FrameKind = 16 // client: bytes of the context's tar, after FrameWanted
	FrameContextEnd FrameKind = 17 // client: no more of them; with an error's text if it could not be read
	FrameLogin      FrameKind = 18 // client: Credentials, after FrameAsk
	FrameEvent      FrameKind = 19 // server: a BuildEvent
	FrameOutput     FrameKind = 20 // server: bytes of a command's output, after the number of its step (see Output)
	FrameWanted     FrameKind = 21 // server: the context is needed
	FrameAsk        FrameKind = 22 // server: a BuildAsk
	FrameBuilt      FrameKind = 23 // server, last: a BuildResult
)

// BuildRequest asks for an image of a Dockerfile.
type BuildRequest struct {
	Dockerfile []byte            `json:"dockerfile,omitempty"` // nil: it is in the context
	File       string            `json:"file,omitempty"`       // its name
	Tags       []string          `json:"tags,omitempty"`
	Target     string            `json:"target,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Secrets    map[string][]byte `json:"secrets,omitempty"` // by id
	NoCache    bool              `json:"no_cache,omitempty"`
	Pull       bool              `json:"pull,omitempty"`     // ask registries even for what is here
	Platform   string            `json:"platform,omitempty"` // os/arch[/variant]
	Network    string            `json:"network,omitempty"`  // default, host or none
	Epoch      *int64            `json:"epoch,omitempty"`    // seconds; SOURCE_DATE_EPOCH
	HasContext bool              `json:"has_context,omitempty"`
}

// BuildEvent tells of the progress of a build. Kind is begin, cached, done,
// failed or note.
type BuildEvent struct {
	Kind string `json:"kind"`
	Step int    `json:"step,omitempty"`
	Name string `json:"name,omitempty"` // of the step, with begin
	Text string `json:"text,omitempty"` // with failed and note
}

// BuildAsk asks for the credentials for the registry of an image.
type BuildAsk struct {
	Ref string `json:"ref"`
}

// BuildResult is the end of a build.
type BuildResult struct {
	ImageID  string `json:"image_id"`
	Commands int    `json:"commands"` // that were executed
	Layers   int    `json:"layers"`   // that were written
	Cached   int    `json:"cached"`   // steps whose outcome was here
}

// Output is a piece of a command's output.
type Output struct {
	Step   int
	Stderr bool
	Data   []byte
}

// Frame puts the output on the wire: four bytes of step, one of stream, then
// the data as it is.
func (o Output) Frame() *Frame {
	head := []byte{byte(o.Step >> 24), byte(o.Step >> 16), byte(o.Step >> 8), byte(o.Step), 0}
	if o.Stderr {
		head[4] = 1
	}
	return &Frame{Kind: FrameOutput, Data: append(head, o.Data...)}
}

func parseOutput(b []byte) (Output, error) {
	if len(b) < 5 {
		return Output{}, errors.New("cannot read the output of a command: it is cut")
	}
	step := int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])
	return Output{Step: step, Stderr: b[4] == 1, Data: b[5:]}, nil
}

// Builder is what a client does for its build.
type Builder struct {
	Context func() (io.ReadCloser, error)                              // the context's tar; called once if it is needed; nil: there is none
	Login   func(ctx context.Context, ref string) (Credentials, error) // credentials for the registry of an image
	Event   func(BuildEvent)
	Output  func(Output)
}

// Build builds an image. The build ends with ctx.
func (c *Client) Build(ctx context.Context, r *BuildRequest, b Builder) (*BuildResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "Build", ClientStreams: true, ServerStreams: true},
		fullMethod("Build"), grpc.ForceCodec(Codec{}))
	if err != nil {
		return nil, err
	}
	s := &Session{stream: stream}
	r.HasContext = b.Context != nil
	if err := s.message(FrameOpen, r); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var sending sync.WaitGroup
	defer sending.Wait()
	defer cancel() // before waiting for who sends
	for {
		f, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the build ended without a word")
		}
		if err != nil {
			return nil, err
		}
		switch f.Kind {
		case FrameEvent:
			var e BuildEvent
			if err := json.Unmarshal(f.Data, &e); err != nil {
				return nil, err
			}
			b.Event(e)
		case FrameOutput:
			o, err := parseOutput(f.Data)
			if err != nil {
				return nil, err
			}
			b.Output(o)
		case FrameWanted:
			sending.Go(func() { s.sendContext(b.Context) })
		case FrameAsk:
			var ask BuildAsk
			if err := json.Unmarshal(f.Data, &ask); err != nil {
				return nil, err
			}
			sending.Go(func() {
				creds, err := b.Login(ctx, ask.Ref)
				if err != nil {
					creds = Credentials{} // the registry says what it lacks
				}
				_ = s.message(FrameLogin, creds)
			})
		case FrameBuilt:
			out := new(BuildResult)
			return out, json.Unmarshal(f.Data, out)
		default:
			return nil, fmt.Errorf("cannot read the build: a frame of kind %d came", f.Kind)
		}
	}
}

// sendContext sends the context; what goes wrong with it is told the server,
// which ends the build. What goes wrong with the stream is told who receives.
func (s *Session) sendContext(open func() (io.ReadCloser, error)) {
	r, err := open()
	if err == nil {
		defer func() { _ = r.Close() }()
		buf := make([]byte, MaxChunk)
		for err == nil {
			var n int
			n, err = io.ReadFull(r, buf)
			if n > 0 && s.send(&Frame{Kind: FrameContext, Data: buf[:n]}) != nil {
				return
			}
		}
	}
	end := &Frame{Kind: FrameContextEnd}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		end.Data = []byte(err.Error())
	}
	_ = s.send(end)
}
