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

// Exit codes of failures that are ours and not the container's, those that
// scripts written for docker and for shells expect.
const (
	exitOwn           = 125
	exitNotExecutable = 126 // the program is there and cannot be executed
	exitNoProgram     = 127 // the program is not there
)

// A problem is a failure as a person wants to read it.
type problem struct {
	what string // "cannot stop container web"
	why  string // one sentence
	do   string // the next thing to try
	code int    // exit code; 0 is exitOwn

	cause error // for a verb that can act on it; not shown
}

func (p *problem) Error() string { return p.what + ": " + p.why }

func (p *problem) Unwrap() error { return p.cause }

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

// cannotExecute is cannot for what starts a program that the caller named. The
// kernel's word about that program is all that matters then.
func cannotExecute(err error, format string, args ...any) error {
	msg := status.Convert(err).Message()
	at := strings.LastIndex(msg, `exec: "`)
	if err == nil || at < 0 {
		return cannot(err, format, args...)
	}
	p := &problem{what: "cannot " + fmt.Sprintf(format, args...), why: msg[at+len("exec: "):]}
	if strings.Contains(p.why, "not found") || strings.Contains(p.why, "no such file") {
		p.code, p.do = exitNoProgram, "check its spelling, and that the image has it: berth inspect IMAGE"
	} else {
		p.code, p.do = exitNotExecutable, "name a program that may be executed, and is built for this machine"
	}
	return p
}

// advised replaces the advice of err, where the daemon answered with that
// code, by one that the verb knows to be better.
func advised(err error, code codes.Code, do string) error {
	if status.Code(err) != code || gone(err) {
		return err
	}
	return &better{error: err, do: do}
}

// better is an error that brings its own advice.
type better struct {
	error
	do string
}

func (b *better) Unwrap() error { return b.error }

// GRPCStatus keeps the daemon's code and words as they are.
func (b *better) GRPCStatus() *status.Status { return status.Convert(b.error) }

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
	var b *better
	if errors.As(err, &b) {
		return b.do
	}
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
	if p.code != 0 {
		return p.code
	}
	return exitOwn
}
