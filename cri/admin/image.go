package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
)

// Images tells of all images what is at hand.
func (s *Server) Images(ctx context.Context, _ *api.Empty) (*api.ImageList, error) {
	all, err := s.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	out := &api.ImageList{Images: []api.Image{}}
	users := s.users()
	for _, img := range all {
		out.Images = append(out.Images, image(img, users))
	}
	return out, nil
}

// InspectImage tells all of an image.
func (s *Server) InspectImage(ctx context.Context, r *api.ImageRequest) (*api.Image, error) {
	img, err := s.cfg.Images.Status(ctx, r.Ref)
	if err != nil {
		return nil, err
	}
	out := image(img, s.users())
	if out.Config, err = s.configOf(ctx, img); err != nil {
		return nil, fmt.Errorf("cannot show the configuration of image %s: %w", img.ID, err)
	}
	history, err := s.cfg.Images.History(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	for _, h := range history {
		out.History = append(out.History, api.History{
			Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment, DiffID: string(h.DiffID), Size: int64(h.Size),
		})
	}
	return &out, nil
}

// configOf is the part of an image's configuration that is about containers, as
// it is: docker's words for health checks and the like are no part of OCI's.
func (s *Server) configOf(ctx context.Context, img imageservice.Image) (json.RawMessage, error) {
	if img.Artifact != nil {
		return json.Marshal(img.Config)
	}
	raw, err := s.cfg.Images.RawConfig(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	var whole struct {
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(raw, &whole); err != nil || len(whole.Config) == 0 {
		return json.RawMessage("{}"), err
	}
	return whole.Config, nil
}

// image translates an image; users are the containers of each.
func image(img imageservice.Image, users map[string][]string) api.Image {
	out := api.Image{
		ID: img.ID, Tags: img.Tags, Digests: img.Digests, Size: img.Size,
		Pinned: img.Pinned, Created: img.Created, Containers: users[img.ID],
	}
	for _, l := range img.Layers {
		out.Layers = append(out.Layers, api.Layer{DiffID: string(l.DiffID), Size: int64(l.Size)})
	}
	if a := img.Artifact; a != nil {
		out.Artifact = &api.Artifact{Type: a.Type}
		for _, p := range a.Parts {
			out.Artifact.Files = append(out.Artifact.Files, api.ArtifactFile{Path: p.File, Digest: p.Blob.String(), Size: p.Size})
		}
	}
	return out
}

// users lists the containers that were made of each image or mount it.
func (s *Server) users() map[string][]string {
	users := map[string][]string{}
	for _, c := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		for _, id := range imagesOf(c) {
			if !slices.Contains(users[id], c.ID) {
				users[id] = append(users[id], c.ID)
			}
		}
	}
	return users
}

// imagesOf lists the images that a container was made of or mounts.
func imagesOf(c *pod.ContainerStatus) []string {
	if c.Image == nil {
		return c.VolumeImages
	}
	return append([]string{c.Image.ID}, c.VolumeImages...)
}

// Tag gives an image one more name.
func (s *Server) Tag(ctx context.Context, r *api.TagRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Images.Tag(ctx, r.Source, r.Target)
}

// Untag takes one name from an image.
func (s *Server) Untag(ctx context.Context, r *api.ImageRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Images.Untag(ctx, r.Ref)
}

// Prune removes images that no container uses.
func (s *Server) Prune(ctx context.Context, r *api.PruneRequest) (*api.PruneResult, error) {
	scope := imageservice.PruneUntagged
	if r.All {
		scope = imageservice.PruneUnused
	}
	p, err := s.cfg.Images.Prune(ctx, scope)
	if err != nil {
		return nil, err
	}
	out := &api.PruneResult{Images: []api.Usage{}, Bytes: p.Bytes}
	for _, img := range p.Images {
		out.Images = append(out.Images, api.Usage{ID: img.ID, Name: firstOf(img.Tags, img.Digests), Bytes: img.Size})
	}
	return out, nil
}

// ExplainRegistry tells where a pull of a reference would look, in order.
func (s *Server) ExplainRegistry(ctx context.Context, r *api.ExplainRequest) (*api.RegistryExplanation, error) {
	full, endpoints, err := s.cfg.Images.Explain(ctx, r.Ref, authOf(r.Credentials))
	if err != nil {
		return nil, err
	}
	out := &api.RegistryExplanation{Ref: full}
	for _, e := range endpoints {
		out.Endpoints = append(out.Endpoints, api.Endpoint(e))
	}
	return out, nil
}

// CheckLogin asks a registry whether it takes credentials.
func (s *Server) CheckLogin(ctx context.Context, r *api.LoginRequest) (*api.Empty, error) {
	return &api.Empty{}, s.cfg.Images.Login(ctx, r.Host, authOf(r.Credentials))
}
