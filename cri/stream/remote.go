package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	utilexec "k8s.io/utils/exec"

	"github.com/berth-runtime/berth/runtime/pod"
)

// goodbyeTime is how long a client that was told the end may take to leave.
const goodbyeTime = 2 * time.Second

// sides are the streams that the CRI call asked for.
type sides = pod.Stdio

// remote is the client of an exec or attach, whatever it speaks, once all of
// its streams have come.
type remote struct {
	ctx context.Context // ends when the client is gone
	streams
	fail  io.Writer // the error stream
	tell  func(fail io.Writer, err error) error
	end   func() // says that nothing more will come, and waits a while for the client to leave
	close func() // ends what is left of the connection, as often as it is called
}

// serve gives the client its session, and tells it how that ended.
func (c *remote) serve(run func(context.Context, streams) error) {
	defer c.close()
	// What is being written to a client that is gone would not end by itself.
	stop := context.AfterFunc(c.ctx, c.close)
	defer stop()
	err := run(c.ctx, c.streams)
	if c.tell(c.fail, err) == nil {
		c.end()
	}
}

// connect answers a request for an exec or attach.
func connect(w http.ResponseWriter, r *http.Request, want sides) (*remote, error) {
	if websocket.IsWebSocketUpgrade(r) {
		return overWebSocket(w, r, want)
	}
	return overSPDY(w, r, want)
}

// status is the last message of a session, as a Status of Kubernetes' API.
type status struct {
	Status  string         `json:"status"`
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Details *statusDetails `json:"details,omitempty"`
	Code    int            `json:"code,omitempty"`
}

type statusDetails struct {
	Causes []statusCause `json:"causes"`
}

type statusCause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func statusOf(err error) status {
	if err == nil {
		return status{Status: "Success"}
	}
	st := status{Status: "Failure", Reason: "InternalError", Code: http.StatusInternalServerError,
		Message: fmt.Sprintf("Internal error occurred: %v", err)}
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		st = status{Status: "Failure", Reason: "NonZeroExitCode",
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", exit),
			Details: &statusDetails{Causes: []statusCause{{Reason: "ExitCode", Message: fmt.Sprint(exit.ExitStatus())}}}}
	}
	return st
}

// tellJSON ends a session of the fourth protocol and later.
func tellJSON(fail io.Writer, err error) error {
	b, merr := json.Marshal(statusOf(err))
	if merr != nil {
		return merr
	}
	_, werr := fail.Write(b)
	return werr
}

// tellText ends a session of the first three protocols: silence is success.
func tellText(fail io.Writer, err error) error {
	if err == nil {
		return nil
	}
	_, werr := io.WriteString(fail, statusOf(err).Message)
	return werr
}
