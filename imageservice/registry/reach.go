package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/berth-runtime/berth/imageservice/refs"
)

// Reach asks every place where ref would be looked for whether a registry
// answers there, in any way: one that wants credentials is reached. It brings
// none. The error tells of each that is not reached.
func (c *Client) Reach(ctx context.Context, ref refs.Ref) error {
	r, err := c.Repository(ctx, ref, nil)
	if err != nil {
		return err
	}
	var all []error
	for _, e := range r.endpoints {
		if err := e.reach(ctx); err != nil {
			all = append(all, fmt.Errorf("cannot reach %s: %s", e.base, e.harmless(err.Error())))
		}
	}
	return errors.Join(all...)
}

func (e *endpoint) reach(ctx context.Context) error {
	// The API's own root: a registry answers it with 200 or 401.
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base.JoinPath("/").String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", e.userAgent)
	resp, err := e.send(e.client, req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}
