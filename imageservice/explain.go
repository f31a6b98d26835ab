package imageservice

import (
	"context"

	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
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

// Login asks the registry that people call host whether it takes the credentials.
func (s *Service) Login(ctx context.Context, host string, auth *Auth) error {
	r, err := refs.Parse(host+"/berth/login:latest", s.cfg.DefaultRegistry)
	if err == nil && r.Host != host {
		err = errkind.New(errkind.InvalidArgument, "%q is no host of a registry", host)
	}
	if err == nil {
		err = s.client.Login(ctx, r, auth)
	}
	if err != nil {
		return kinded(err, "cannot log in to %s", host)
	}
	return nil
}
