package registry

import (
	"context"
	"net/http"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Login asks the registry of ref, and not its mirrors, whether it takes auth.
// One that wants no credentials takes any. Who is refused gets
// errkind.PermissionDenied.
func (c *Client) Login(ctx context.Context, ref refs.Ref, auth *Auth) error {
	r, err := c.Repository(ctx, ref, auth)
	if err != nil {
		return err
	}
	e := r.endpoints[len(r.endpoints)-1] // the registry itself comes last
	resp, err := e.do(ctx, outgoing{method: http.MethodGet, url: e.base.JoinPath("/")})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return errkind.New(errkind.PermissionDenied, "%s refuses the credentials", ref.Host)
	case resp.StatusCode != http.StatusOK:
		return statusFailure(ref.Host+": ", resp)
	}
	return nil
}
