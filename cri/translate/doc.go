// Package translate turns CRI's protobuf messages into the domain's types and
// back, so that no domain package ever sees a CRI type.
//
// Model. One direction is input: a request is validated as far as the request
// alone can tell and becomes a value of package spec. The other is output: an
// immutable status becomes a message. What a status echoes (labels, mounts,
// resources) comes back as it was asked for.
//
// Law. The functions are pure: they read their arguments and nothing else, not
// the file system, not the clock. A message that is wrong whatever the state
// is errkind.InvalidArgument and names the field.
package translate

import "github.com/berth-runtime/berth/runtime/sys/errkind"

// invalid is the error for a wrong field.
func invalid(format string, args ...any) error {
	return errkind.New(errkind.InvalidArgument, format, args...)
}
