package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// adminNode has the admin service's methods that CRI has by the same name.
type adminNode struct {
	*node
	unasked
}

// unasked has the methods of the admin service that no test calls, below all
// others.
type unasked struct{ below }

type below struct{ api.Server }

func (adminNode) Build(grpc.BidiStreamingServer[api.Frame, api.Frame]) error {
	return status.Error(codes.Unimplemented, "it does not build")
}

type frames = grpc.BidiStreamingServer[api.Frame, api.Frame]

func send(s frames, kind api.FrameKind, text string) error {
	return s.Send(&api.Frame{Kind: kind, Data: []byte(text)})
}

func sendMessage(s frames, kind api.FrameKind, v any) error {
	f, err := api.Message(kind, v)
	if err != nil {
		return err
	}
	return s.Send(f)
}

// Exec runs one of:
//
//	exit N       a line on stderr, code N
//	cat          what is typed, to its end, code 0
//	tell         each frame as text; "q" ends it with 4
//	missing      is no program
//	TEXT...      itself and what was asked for besides, code 0
func (n adminNode) Exec(s frames) error {
	var r api.ExecRequest
	f, err := s.Recv()
	if err == nil {
		err = f.Decode(api.FrameOpen, &r)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	c, err := n.container(r.Container)
	n.mu.Unlock()
	switch {
	case err != nil:
		return err
	case c.State != criv1.ContainerState_CONTAINER_RUNNING:
		return status.Errorf(codes.FailedPrecondition, "container %s does not run", c.Id[:12])
	case r.Args[0] == "missing":
		return status.Errorf(codes.InvalidArgument, "cannot run it: exec: %q: executable file not found in $PATH", r.Args[0])
	}
	if err := sendMessage(s, api.FrameOpened, api.Opened{TTY: r.TTY, Stdin: r.Stdin}); err != nil {
		return err
	}
	code := 0
	switch r.Args[0] {
	case "exit":
		_ = send(s, api.FrameStderr, "oh\n")
		code, _ = strconv.Atoi(r.Args[1])
	case "cat":
		if code = n.relate(s, false); code < 0 {
			return nil
		}
	case "tell":
		if code = n.relate(s, true); code < 0 {
			return nil
		}
	default:
		said := slices.Concat(r.Args, r.Env, []string{r.Dir, r.User})
		_ = send(s, api.FrameStdout, strings.TrimSpace(strings.Join(said, " "))+"\n")
	}
	return sendMessage(s, api.FrameExit, api.Exit{Code: int32(code)})
}

// Attach is "tell" for a container that runs or is about to, which ends with
// it.
func (n adminNode) Attach(s frames) error {
	var r api.AttachRequest
	f, err := s.Recv()
	if err == nil {
		err = f.Decode(api.FrameOpen, &r)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	c, err := n.container(r.Container)
	n.mu.Unlock()
	if err != nil {
		return err
	}
	if err := sendMessage(s, api.FrameOpened, api.Opened{TTY: c.config.Tty, Stdin: r.Stdin && c.config.Stdin}); err != nil {
		return err
	}
	code := n.relate(s, true)
	if code < 0 {
		return nil
	}
	n.mu.Lock()
	n.end(c, int32(code))
	n.mu.Unlock()
	return sendMessage(s, api.FrameExit, api.Exit{Code: 0})
}

// relate prints what the client sends, to its end; -1 when it has left.
func (n *node) relate(s frames, all bool) int {
	for {
		f, err := s.Recv()
		if err != nil {
			n.note("client gone")
			return -1
		}
		switch f.Kind {
		case api.FrameStdin:
			_ = send(s, api.FrameStdout, string(f.Data))
			if all && string(f.Data) == "q" {
				return 4
			}
		case api.FrameStdinEnd:
			if !all {
				return 0
			}
			_ = send(s, api.FrameStdout, "<end>")
			return 0
		case api.FrameResize:
			var size api.Size
			_ = f.Decode(api.FrameResize, &size)
			_ = send(s, api.FrameStdout, fmt.Sprintf("<%dx%d>", size.Columns, size.Rows))
		case api.FrameDetach:
			n.note("client left")
			return -1
		}
	}
}

// note keeps what a test wants to know of a session's end.
func (n *node) note(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = append(n.notes, text)
	n.changed.Broadcast()
}

// noted waits for a note.
func (n *node) noted(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for !slices.Contains(n.notes, text) {
		n.changed.Wait()
	}
}
