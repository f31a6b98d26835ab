package api

import (
	"context"
	"io"
	"time"
)

// Operation is one call, or what the daemon did by itself.
type Operation struct {
	Verb   string          `json:"verb"`
	Object string          `json:"object,omitempty"`
	Own    bool            `json:"own,omitempty"` // nobody called for it
	Began  time.Time       `json:"began"`
	Took   time.Duration   `json:"took"`           // nanoseconds
	Code   string          `json:"code,omitempty"` // of gRPC; empty: it is under way
	Error  string          `json:"error,omitempty"`
	Steps  []OperationStep `json:"steps,omitempty"`
}

// OperationStep is one step of an operation that has ended.
type OperationStep struct {
	Verb  string        `json:"verb"` // such as "container.start"
	Step  string        `json:"step"`
	Took  time.Duration `json:"took"` // nanoseconds
	Error string        `json:"error,omitempty"`
}

// Dump writes to w what the daemon knows of itself, as text for people.
func (c *Client) Dump(ctx context.Context, w io.Writer) error {
	return receive(ctx, c, "Dump", &Empty{}, func(b *Chunk) error {
		_, err := w.Write(b.Data)
		return err
	})
}
