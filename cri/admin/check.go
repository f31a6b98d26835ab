package admin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
)

// Check compares the records of every domain with the machine, layers with
// what was unpacked and blobs with their digests.
func (s *Server) Check(ctx context.Context, r *api.CheckRequest) (*api.CheckResult, error) {
	out := &api.CheckResult{Problems: []api.Problem{}}
	pods, err := s.cfg.Pods.Check(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot check pods: %w", err)
	}
	for _, p := range pods {
		out.Problems = append(out.Problems, api.Problem{Kind: p.Kind, Object: p.Object, Detail: p.Detail})
	}
	images, err := s.cfg.Images.Check(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot check images: %w", err)
	}
	for _, detail := range images {
		out.Problems = append(out.Problems, api.Problem{Kind: "image", Object: "store", Detail: detail})
	}
	kept, err := s.cfg.Named.Check()
	if err != nil {
		return nil, fmt.Errorf("cannot check volumes: %w", err)
	}
	for _, detail := range kept {
		out.Problems = append(out.Problems, api.Problem{Kind: "volume", Object: "volumes", Detail: detail})
	}
	layers, err := s.checkLayers(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("cannot check layers: %w", err)
	}
	out.Problems = append(out.Problems, layers...)
	if s.cfg.Checked != nil {
		s.cfg.Checked(out.Problems)
	}
	return out, nil
}

// checkLayers verifies all layers and blobs and repairs them if r asks for it.
func (s *Server) checkLayers(ctx context.Context, r *api.CheckRequest) ([]api.Problem, error) {
	found, err := s.cfg.Images.Verify(ctx, r.Quick)
	if err != nil {
		return nil, err
	}
	left, why := found, error(nil)
	if r.Repair && len(found) > 0 {
		// What could not be repaired is found once more.
		auths := map[string]*imageservice.Auth{}
		for host, c := range r.Credentials {
			auths[host] = authOf(c)
		}
		why = s.cfg.Images.Repair(ctx, found, auths)
		if left, err = s.cfg.Images.Verify(ctx, r.Quick); err != nil {
			return nil, err
		}
	}
	var out []api.Problem
	for _, d := range found {
		p := api.Problem{Kind: "layer", Object: string(d.DiffID), Detail: detail(d), Repaired: true, Registries: d.Registries}
		if d.Blob != "" {
			p.Kind, p.Object = "blob", string(d.Blob)
		}
		for _, l := range left {
			if l.Layer == d.Layer && l.Blob == d.Blob && l.File == d.File {
				p.Detail, p.Repaired = detail(l), false
			}
		}
		if !p.Repaired && why != nil {
			p.Detail += "; " + strings.ReplaceAll(why.Error(), "\n", "; ")
		}
		out = append(out, p)
	}
	return out, nil
}

// detail says what is wrong and whom it concerns.
func detail(d imageservice.Damage) string {
	text := d.What
	if d.File != "" {
		text = fmt.Sprintf("file %q: %s", d.File, d.What)
	}
	for _, users := range []struct {
		what string
		ids  []string
	}{{"image", d.Images}, {"container", d.Containers}} {
		for _, id := range slices.Sorted(slices.Values(users.ids)) {
			text += fmt.Sprintf("; %s %.19s has it", users.what, id)
		}
	}
	return text
}
