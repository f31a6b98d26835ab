package api

import (
	"context"
	"time"
)

// StatsRequest asks for what containers use.
type StatsRequest struct {
	Containers []string `json:"containers,omitempty"` // none: all that have a process
}

// StatsResult is a sample of each container.
type StatsResult struct {
	Samples []StatsSample `json:"samples"`
}

// StatsSample is what one container uses. It is not older than a second.
type StatsSample struct {
	Container   string        `json:"container"` // id
	At          time.Time     `json:"at"`
	CPU         time.Duration `json:"cpu"`                // nanoseconds since it was started
	CPURate     *uint64       `json:"cpu_rate,omitempty"` // nanoseconds a second lately; nil: there is no sample before
	Memory      uint64        `json:"memory"`             // working set, bytes
	MemoryLimit uint64        `json:"memory_limit"`       // bytes; the machine's memory if it has no other
	Received    *uint64       `json:"received,omitempty"` // bytes over the interfaces of its pod; nil: the pod has the host's
	Sent        *uint64       `json:"sent,omitempty"`     // likewise
	BlockRead   uint64        `json:"block_read"`         // bytes, from devices
	BlockWrite  uint64        `json:"block_write"`        // bytes, to devices
	Pids        uint64        `json:"pids"`               // processes and threads
	Writable    uint64        `json:"writable_layer"`     // bytes
}

// Stats samples containers. Of those that were not asked for by name one that
// ends meanwhile is left out.
func (c *Client) Stats(ctx context.Context, containers ...string) ([]StatsSample, error) {
	r, err := call[StatsResult](ctx, c, "Stats", &StatsRequest{Containers: containers})
	if err != nil {
		return nil, err
	}
	return r.Samples, nil
}
