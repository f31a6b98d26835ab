package api

import (
	"context"
	"time"
)

// TopResult lists the processes of a container.
type TopResult struct {
	Processes []Process `json:"processes"`
}

// Process is one process of a container, as the host sees it.
type Process struct {
	Pid     int           `json:"pid"`
	Parent  int           `json:"parent"`
	UID     uint32        `json:"uid"`
	CPU     time.Duration `json:"cpu"` // nanoseconds
	Command string        `json:"command"`
}

// Top lists the processes of a container.
func (c *Client) Top(ctx context.Context, container string) ([]Process, error) {
	r, err := call[TopResult](ctx, c, "Top", &ContainerRequest{Container: container})
	if err != nil {
		return nil, err
	}
	return r.Processes, nil
}
