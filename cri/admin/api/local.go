package api

import (
	"context"
	"time"
)

// AgainRequest asks for a new attempt of a container that has ended, or, with
// Restart, of one that runs.
type AgainRequest struct {
	Container string        `json:"container"`
	Keep      bool          `json:"keep,omitempty"`     // the writable layer comes along
	Restart   bool          `json:"restart,omitempty"`  // stop it first if it runs
	Grace     time.Duration `json:"grace,omitempty"`    // of that stop, nanoseconds
	NoStart   bool          `json:"no_start,omitempty"` // the caller starts it
}

// AgainResult names what runs now: the container itself, if it was never
// started or runs already.
type AgainResult struct {
	Container string `json:"container"`
}

// LocalResult tells what is known of local containers beyond CRI's status; who
// has nothing of it is not in it.
type LocalResult struct {
	Containers map[string]Local `json:"containers"` // by id
}

// Local is what the daemon does for a container that the command line made.
type Local struct {
	Restarting bool      `json:"restarting,omitempty"`
	Next       time.Time `json:"next,omitzero"`      // when, if Restarting
	Restarts   int       `json:"restarts,omitempty"` // by its policy, since somebody last started it
	Why        string    `json:"why,omitempty"`      // the last restart failed
	Health     *Health   `json:"health,omitempty"`
	Paused     bool      `json:"paused,omitempty"` // its processes stand still
}

// Health is what a container's checks have found.
type Health struct {
	Status        string        `json:"status"` // starting, healthy or unhealthy
	FailingStreak int           `json:"failing_streak"`
	Log           []HealthProbe `json:"log,omitempty"` // the last ones, oldest first
}

// HealthProbe is one run of a check.
type HealthProbe struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	ExitCode int32     `json:"exit_code"` // -1: it could not be run, or took too long
	Output   string    `json:"output,omitempty"`
}

// Again makes a new attempt of a container, and returns its id.
func (c *Client) Again(ctx context.Context, r *AgainRequest) (string, error) {
	res, err := call[AgainResult](ctx, c, "Again", r)
	if err != nil {
		return "", err
	}
	return res.Container, nil
}

// Local tells what is known of local containers beyond CRI's status.
func (c *Client) Local(ctx context.Context) (map[string]Local, error) {
	r, err := call[LocalResult](ctx, c, "Local", &Empty{})
	if err != nil {
		return nil, err
	}
	return r.Containers, nil
}
