package api

import (
	"context"
	"time"
)

// The types of events.
const (
	EventPod       = "pod"       // created, started, stopped, deleted
	EventContainer = "container" // created, started, oom, stopped, deleted
	EventImage     = "image"     // pulling, layer, pulled, failed, removed
	EventJournal   = "journal"   // missed: the reader was too slow for some events
)

// EventsRequest asks for what happened on the node.
type EventsRequest struct {
	Since  time.Time `json:"since"`            // zero: all that is kept
	Follow bool      `json:"follow,omitempty"` // and what is to come
}

// Event is something that happened.
type Event struct {
	At        time.Time `json:"at"`
	Type      string    `json:"type"`
	Action    string    `json:"action"`
	ID        string    `json:"id,omitempty"` // of the pod, container or image
	PodID     string    `json:"pod_id,omitempty"`
	Namespace string    `json:"namespace,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Container string    `json:"container,omitempty"`
	Image     string    `json:"image,omitempty"`
	Layer     string    `json:"layer,omitempty"`     // digest
	ExitCode  *int32    `json:"exit_code,omitempty"` // of a container that stopped
	Error     string    `json:"error,omitempty"`     // of a pull that failed
	Missed    uint64    `json:"missed,omitempty"`    // so many events; 0 where it is not known
}

// Events calls emit for each event; an error of emit ends the call and is
// returned.
func (c *Client) Events(ctx context.Context, r *EventsRequest, emit func(*Event) error) error {
	return receive(ctx, c, "Events", r, emit)
}
