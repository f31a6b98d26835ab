// Package errkind holds the few kinds of error that a caller can act on.
//
// A domain error names what was being done, to which object, and why; its
// kind says what class of failure it is. The gRPC code is chosen once, by the
// interceptor in package cri, from the kind. An error without a kind is
// Unknown: prose for people, nothing to act on.
package errkind

import (
	"context"
	"errors"
	"fmt"
)

// Kind is the class of a failure. The zero value is Unknown.
type Kind int

// The kinds, each with the moment it may occur.
const (
	Unknown            Kind = iota // no caller can act on it
	NotFound                       // the named object does not exist
	AlreadyExists                  // an object of that name exists and differs
	InvalidArgument                // the request itself is wrong, whatever the state
	FailedPrecondition             // the request is right, the object's state is not
	Unavailable                    // a peer (registry, shim) cannot be reached; retry may help
	ResourceExhausted              // a limit of ours or of the kernel was reached
	Unimplemented                  // the request asks for what this build does not do
	DeadlineExceeded               // the time that the caller gave has passed
	Canceled                       // the caller went away
	DataLoss                       // stored or received bytes do not match their digest
	PermissionDenied               // credentials were refused
)

// names are the kinds in words, as gRPC spells its codes.
var names = [...]string{
	Unknown: "Unknown", NotFound: "NotFound", AlreadyExists: "AlreadyExists", InvalidArgument: "InvalidArgument",
	FailedPrecondition: "FailedPrecondition", Unavailable: "Unavailable", ResourceExhausted: "ResourceExhausted",
	Unimplemented: "Unimplemented", DeadlineExceeded: "DeadlineExceeded", Canceled: "Canceled", DataLoss: "DataLoss",
	PermissionDenied: "PermissionDenied",
}

func (k Kind) String() string { return names[k] }

type kindError struct {
	kind Kind
	err  error
}

func (e *kindError) Error() string { return e.err.Error() }
func (e *kindError) Unwrap() error { return e.err }

// New makes an error of kind k. The format is fmt.Errorf's, %w included.
func New(k Kind, format string, args ...any) error {
	return &kindError{kind: k, err: fmt.Errorf(format, args...)}
}

// Of tells the kind of err: that of the outermost error in its chain that has
// one, else DeadlineExceeded or Canceled for a context's own errors, else Unknown.
func Of(err error) Kind {
	var ke *kindError
	switch {
	case errors.As(err, &ke):
		return ke.kind
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Unknown
}

// Is reports whether err is of kind k.
func Is(err error, k Kind) bool { return err != nil && Of(err) == k }
