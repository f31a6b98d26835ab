package imageservice

import (
	"context"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
)

// Endpoint is one place where an image is looked for.
type Endpoint = registry.Endpoint

// Explain gives the full form of ref and where a pull of it would look, in
// order. It does not touch the network. auth may be nil.
func (s *Service) Explain(ctx context.Context, ref string, auth *Auth) (full string, endpoints []Endpoint, err error) {
	r, err := refs.Parse(ref, s.cfg.DefaultRegistry)
	if err != nil {
		return "", nil, err
	}
	endpoints, err = s.client.Explain(ctx, r, auth)
	return r.String(), endpoints, err
}
