package api

import (
	"context"
	"time"
)

// WorkResult is what is under way on the node, and what could not be ended.
type WorkResult struct {
	Works []Work        `json:"works"`
	Pulls []RunningPull `json:"pulls"`
}

// Work is what is under way on a pod or a container, or went wrong with it and
// is still to be done. Those that are being made, which no list shows, are here.
type Work struct {
	PodID       string   `json:"pod_id"`
	ContainerID string   `json:"container_id,omitempty"` // empty: the pod itself
	Namespace   string   `json:"namespace"`
	Pod         string   `json:"pod"`
	Container   string   `json:"container,omitempty"`
	Doing       []Doing  `json:"doing,omitempty"`
	Trouble     *Trouble `json:"trouble,omitempty"`
}

// Doing is a verb under way.
type Doing struct {
	Verb    string    `json:"verb"` // such as "container.start"
	Step    string    `json:"step"`
	Undoing bool      `json:"undoing,omitempty"`
	Began   time.Time `json:"began"`             // the verb
	Since   time.Time `json:"since"`             // the step
	Failure string    `json:"failure,omitempty"` // why it is undone
}

// Trouble is why something could not be ended.
type Trouble struct {
	At   time.Time `json:"at"`
	Verb string    `json:"verb"`
	Why  string    `json:"why"`
}

// RunningPull is a pull under way.
type RunningPull struct {
	Ref    string     `json:"ref"`
	Began  time.Time  `json:"began"`
	Step   string     `json:"step"`             // resolve, verify, config or layers
	Asking string     `json:"asking,omitempty"` // the image verifier, at verify
	Moved  time.Time  `json:"moved"`            // when the step began, or a layer last told something
	Layers []Progress `json:"layers,omitempty"`
}

// Work tells what is under way.
func (c *Client) Work(ctx context.Context) (*WorkResult, error) {
	return call[WorkResult](ctx, c, "Work", &Empty{})
}
