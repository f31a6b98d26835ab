package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"google.golang.org/grpc"
)

// FrameKind says what a Frame carries.
type FrameKind byte

// The kinds of frames. Each comes from one side only.
const (
	FrameOpen     FrameKind = 1 // client, first: an ExecRequest or AttachRequest
	FrameStdin    FrameKind = 2 // client: bytes
	FrameStdinEnd FrameKind = 3 // client: no more of them
	FrameResize   FrameKind = 4 // client: a Size
	FrameDetach   FrameKind = 5 // client: the process goes on without it
	FrameOpened   FrameKind = 6 // server, first: an Opened
	FrameStdout   FrameKind = 7 // server: bytes
	FrameStderr   FrameKind = 8 // server: bytes
	FrameExit     FrameKind = 9 // server, last: an Exit
)

// Frame is a piece of a session with a process. Like Chunk it is not JSON on
// the wire: one byte of kind, then the data as it is.
type Frame struct {
	Kind FrameKind
	Data []byte // JSON of the message, or bytes; at most MaxChunk of them
}

func (f *Frame) marshal() []byte { return append([]byte{byte(f.Kind)}, f.Data...) }

func (f *Frame) unmarshal(data []byte) error {
	if len(data) == 0 {
		return errors.New("cannot read a frame: it is empty")
	}
	f.Kind, f.Data = FrameKind(data[0]), slices.Clone(data[1:])
	return nil
}

// Message is the frame of a message.
func Message(kind FrameKind, v any) (*Frame, error) {
	data, err := json.Marshal(v)
	return &Frame{Kind: kind, Data: data}, err
}

// Decode reads the message of a frame of that kind.
func (f *Frame) Decode(kind FrameKind, v any) error {
	if f.Kind != kind {
		return fmt.Errorf("cannot read the session: a frame of kind %d came where %d was due", f.Kind, kind)
	}
	return json.Unmarshal(f.Data, v)
}

// ExecRequest asks for a further process of a running container. What is not
// set is as for the container's first process.
type ExecRequest struct {
	Container string   `json:"container"`
	Args      []string `json:"args"`
	Env       []string `json:"env,omitempty"`  // NAME=VALUE
	Dir       string   `json:"dir,omitempty"`  // absolute
	User      string   `json:"user,omitempty"` // UID[:GID] or names
	TTY       bool     `json:"tty,omitempty"`
	Stdin     bool     `json:"stdin,omitempty"`
}

// AttachRequest asks for the first process of a container that runs, or is
// about to be started.
type AttachRequest struct {
	Container string `json:"container"`
	Stdin     bool   `json:"stdin,omitempty"`
}

// Opened says that the session has begun, and what the process has.
type Opened struct {
	TTY   bool `json:"tty,omitempty"` // then all output is stdout
	Stdin bool `json:"stdin,omitempty"`
}

// Size of a terminal.
type Size struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// Exit is the end of the process; for a container its code is told by Wait.
type Exit struct {
	Code int32 `json:"code"`
}

// Session is the client's side of a process. Sending may be done from several
// goroutines at a time, receiving from one.
type Session struct {
	Opened
	stream grpc.ClientStream

	mu sync.Mutex // a stream takes one message at a time
}

// Exec starts a process in a container. The session ends with ctx.
func (c *Client) Exec(ctx context.Context, r *ExecRequest) (*Session, error) {
	return c.open(ctx, "Exec", r)
}

// Attach joins a container's first process. The session ends with ctx.
func (c *Client) Attach(ctx context.Context, r *AttachRequest) (*Session, error) {
	return c.open(ctx, "Attach", r)
}

func (c *Client) open(ctx context.Context, method string, request any) (*Session, error) {
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: method, ClientStreams: true, ServerStreams: true},
		fullMethod(method), grpc.ForceCodec(Codec{}))
	if err != nil {
		return nil, err
	}
	s := &Session{stream: stream}
	if err := s.message(FrameOpen, request); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	f, err := s.Recv()
	if err != nil {
		return nil, err
	}
	return s, f.Decode(FrameOpened, &s.Opened)
}

// Write sends bytes to stdin.
func (s *Session) Write(p []byte) (n int, err error) {
	for n < len(p) {
		k := min(len(p)-n, MaxChunk)
		if err := s.send(&Frame{Kind: FrameStdin, Data: p[n : n+k]}); err != nil {
			return n, err
		}
		n += k
	}
	return n, nil
}

// EndStdin says that no more bytes come.
func (s *Session) EndStdin() error { return s.send(&Frame{Kind: FrameStdinEnd}) }

// Resize tells the size of the terminal.
func (s *Session) Resize(size Size) error { return s.message(FrameResize, size) }

// Detach leaves the process to itself. The server then ends the session.
func (s *Session) Detach() error { return s.send(&Frame{Kind: FrameDetach}) }

// Leave detaches and waits until the server has heard it.
func (s *Session) Leave() error {
	if err := s.Detach(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Recv gives the next frame of stdout, stderr or the exit; io.EOF after that,
// or after Detach.
func (s *Session) Recv() (*Frame, error) {
	f := new(Frame)
	if err := s.stream.RecvMsg(f); err != nil {
		return nil, err
	}
	return f, nil
}

func (s *Session) message(kind FrameKind, v any) error {
	f, err := Message(kind, v)
	if err != nil {
		return err
	}
	return s.send(f)
}

// send gives io.EOF when the server has ended the call; Recv tells why.
func (s *Session) send(f *Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.SendMsg(f)
}
