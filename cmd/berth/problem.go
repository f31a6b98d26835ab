package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// exitOwn is the exit code of a failure that is ours and not the
// container's, the one that docker's scripts expect.
const exitOwn = 125

// A problem is a failure as a person wants to read it.
type problem struct {
	what string // "cannot stop container web"
	why  string // one sentence
	do   string // the next thing to try
}

func (p *problem) Error() string { return p.what + ": " + p.why }

// exitCode ends the command with a container's own code. It is no failure to
// tell about: the container has said what there was to say.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// cannot says that what was tried did not work, because of err. A problem
// that already has its advice passes through as it is.
func cannot(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var p *problem
	var code exitCode
	if errors.As(err, &p) || errors.As(err, &code) {
		return err
	}
	what := "cannot " + fmt.Sprintf(format, args...)
	return &problem{what: what, why: why(what, err), do: advice(err)}
}

// why strips what a person cannot use from err: the wrapping of gRPC, and the
// head of the sentence if the daemon says what we said already.
func why(what string, err error) string {
	if errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
		return "it was interrupted"
	}
	if gone(err) {
		return "the daemon went away meanwhile"
	}
	msg := err.Error()
	if st, ok := status.FromError(err); ok {
		msg = st.Message()
	}
	msg = strings.TrimPrefix(msg, what+": ")
	msg = strings.ReplaceAll(strings.TrimSpace(msg), "\n", "; ")
	if msg == "" {
		return "the daemon gave no reason"
	}
	return msg
}

// gone tells whether the connection broke, rather than the daemon saying that
// something else cannot be reached. gRPC has one code for both.
func gone(err error) bool {
	msg := status.Convert(err).Message()
	return status.Code(err) == codes.Unavailable &&
		(strings.Contains(msg, "connection error") || strings.Contains(msg, "error reading from server") || strings.Contains(msg, "closing transport"))
}

// advice is what helps against a class of failure when the verb knows nothing
// better.
func advice(err error) string {
	if errors.Is(err, context.Canceled) {
		return "run the command again when you are ready"
	}
	switch status.Code(err) {
	case codes.NotFound:
		return "see what there is with: berth ps -a, berth pods, berth images"
	case codes.AlreadyExists:
		return "remove the other one first (berth rm), or choose another name"
	case codes.InvalidArgument:
		return "change the arguments; every command explains itself with --help"
	case codes.FailedPrecondition:
		return "look at its state with: berth ps -a, berth inspect"
	case codes.Unavailable:
		return "try again; if it stays so, look at the daemon's log: journalctl -u berthd"
	case codes.ResourceExhausted:
		return "free something first: berth rm and berth rmi; see also df -h"
	case codes.Unimplemented:
		return "this daemon does not have it; compare: berth version"
	case codes.DeadlineExceeded:
		return "try again, with more time if the command takes a timeout"
	case codes.Canceled:
		return "run the command again when you are ready"
	case codes.DataLoss:
		return "pull the image again; if it stays so, its registry serves damaged data"
	case codes.PermissionDenied, codes.Unauthenticated:
		return "check the registry's credentials and that the image is yours to read"
	}
	return "look at the daemon's log: journalctl -u berthd"
}

// report prints err in its three lines and returns the process's exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var code exitCode
	if errors.As(err, &code) {
		return int(code)
	}
	var p *problem
	if !errors.As(err, &p) {
		// What is left comes from cobra: a flag or a verb that does not exist.
		p = &problem{what: "cannot read the command line", why: err.Error(), do: "see: berth --help"}
	}
	fmt.Fprintf(w, "berth: %s\n  why: %s\n  try: %s\n", p.what, p.why, p.do)
	return exitOwn
}
