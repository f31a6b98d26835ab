package network

import "context"

// Verdict is what an examination thinks of one thing.
type Verdict string

// The verdicts.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn" // it works for some, or could not be looked at
	Fail Verdict = "fail" // pods cannot do what was asked for them
)

// Finding is one thing that was looked at, good or not, in the words of whoever
// has to put it right.
type Finding struct {
	Name    string  `json:"name"` // stable, for programs: ipv4-forwarding
	Verdict Verdict `json:"verdict"`
	Why     string  `json:"why"`          // what was found
	Do      string  `json:"do,omitempty"` // what helps; empty if OK
}

// Examiner is a Network that can tell what of the host is in its pods' way.
// Check compares the kernel with what is recorded; Examine looks at what others
// decide: forwarding, firewalls, routes, listeners.
type Examiner interface {
	// Examine changes nothing and always says something of everything that it
	// looks at. It may take some tens of milliseconds.
	Examine(ctx context.Context) []Finding
}
