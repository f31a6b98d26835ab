package cri

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/translate"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// PullImage fetches an image and returns its id.
func (s *Server) PullImage(ctx context.Context, r *criv1.PullImageRequest) (*criv1.PullImageResponse, error) {
	ref, err := s.imageName(r.Image)
	if err != nil {
		return nil, err
	}
	img, err := s.cfg.Images.Pull(ctx, imageservice.PullRequest{Ref: ref, Auth: translate.Auth(r.Auth)})
	// The kubelet knows two failures by how their text begins, and strips
	// grpc's own beginning for the code Unknown only.
	if refusal := (*imageservice.Refusal)(nil); errors.As(err, &refusal) {
		return nil, status.Errorf(codes.Unknown, "%s: %v", crierrors.ErrSignatureValidationFailed, err)
	}
	if errkind.Is(err, errkind.Unavailable) && ctx.Err() == nil {
		return nil, status.Errorf(codes.Unknown, "%s: %v", crierrors.ErrRegistryUnavailable, err)
	}
	if err != nil {
		return nil, err
	}
	return &criv1.PullImageResponse{ImageRef: img.ID}, nil
}

// ListImages lists all images, or the one that the filter names.
func (s *Server) ListImages(ctx context.Context, r *criv1.ListImagesRequest) (*criv1.ListImagesResponse, error) {
	items, err := s.imageItems(ctx, r.Filter)
	if err != nil {
		return nil, err
	}
	return &criv1.ListImagesResponse{Images: items}, nil
}

// StreamImages is ListImages for any number of images.
func (s *Server) StreamImages(r *criv1.StreamImagesRequest, out criv1.ImageService_StreamImagesServer) error {
	items, err := s.imageItems(out.Context(), r.Filter)
	if err != nil {
		return err
	}
	return inBatches(items, func(b []*criv1.Image) error {
		return out.Send(&criv1.StreamImagesResponse{Images: b})
	})
}

func (s *Server) imageItems(ctx context.Context, f *criv1.ImageFilter) ([]*criv1.Image, error) {
	list, err := s.selectImages(ctx, f.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	pinned := s.pinned()
	items := make([]*criv1.Image, 0, len(list))
	for _, img := range list {
		items = append(items, translate.Image(img, pinned(img)))
	}
	return items, nil
}

// selectImages gives all images for the empty reference, else one or none.
func (s *Server) selectImages(ctx context.Context, ref string) ([]imageservice.Image, error) {
	if ref == "" {
		return s.cfg.Images.List(ctx)
	}
	img, err := s.cfg.Images.Status(ctx, ref)
	if errkind.Is(err, errkind.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []imageservice.Image{img}, nil
}

// pinned gives the rule by which this view calls an image pinned. The
// kubelet's garbage collector removes each image that none of the containers
// it sees uses, so what others need is pinned for it: images of local
// containers, and images that no registry has, which have no digest.
func (s *Server) pinned() func(imageservice.Image) bool {
	if s.cfg.View == pod.ViewAll {
		return func(img imageservice.Image) bool { return img.Pinned }
	}
	used := make(map[string]bool)
	for _, c := range s.cfg.Pods.Containers(pod.ViewAll, pod.ContainerFilter{}) {
		if c.Origin == pod.OriginLocal && c.Image != nil {
			used[c.Image.ID] = true
			for _, id := range c.VolumeImages {
				used[id] = true
			}
		}
	}
	return func(img imageservice.Image) bool {
		return img.Pinned || used[img.ID] || len(img.Digests) == 0
	}
}

// ImageStatus tells all of an image; one that is not here is no error.
func (s *Server) ImageStatus(ctx context.Context, r *criv1.ImageStatusRequest) (*criv1.ImageStatusResponse, error) {
	ref, err := s.imageName(r.Image)
	if err != nil {
		return nil, err
	}
	img, err := s.cfg.Images.Status(ctx, ref)
	if errkind.Is(err, errkind.NotFound) {
		return &criv1.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	out := &criv1.ImageStatusResponse{Image: translate.Image(img, s.pinned()(img))}
	if r.Verbose {
		out.Info = s.imageInfo(ctx, img)
	}
	return out, nil
}

// imageInfo is what crictl inspecti shows beside the status: what the peers
// show of an image, and an artifact's files.
func (s *Server) imageInfo(ctx context.Context, img imageservice.Image) map[string]string {
	raw, err := s.cfg.Images.RawConfig(ctx, img.ID)
	if err != nil || !json.Valid(raw) {
		return nil // for people only; it may have been removed just now
	}
	if img.Artifact != nil {
		return info(map[string]any{"artifact": img.Artifact, "manifest": json.RawMessage(raw)})
	}
	chain := ""
	if n := len(img.Layers); n > 0 {
		chain = img.Layers[n-1].ChainID.String()
	}
	return info(map[string]any{"chainID": chain, "imageSpec": json.RawMessage(raw)})
}

// RemoveImage removes an image with all its names.
func (s *Server) RemoveImage(ctx context.Context, r *criv1.RemoveImageRequest) (*criv1.RemoveImageResponse, error) {
	ref, err := s.imageName(r.Image)
	if err != nil {
		return nil, err
	}
	err = s.cfg.Images.Remove(ctx, ref)
	if errkind.Is(err, errkind.NotFound) {
		err = nil
	}
	return &criv1.RemoveImageResponse{}, err
}

// ImageFsInfo tells what the image store takes up. Writable layers are on the
// same file system.
func (s *Server) ImageFsInfo(ctx context.Context, _ *criv1.ImageFsInfoRequest) (*criv1.ImageFsInfoResponse, error) {
	u, err := s.cfg.Images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	fs := []*criv1.FilesystemUsage{translate.FilesystemUsage(time.Now().UnixNano(), u.Mountpoint, u.Bytes, u.Inodes)}
	return &criv1.ImageFsInfoResponse{ImageFilesystems: fs, ContainerFilesystems: fs}, nil
}

// imageName gives the reference in an image's specification.
func (s *Server) imageName(i *criv1.ImageSpec) (string, error) {
	if i.GetImage() == "" {
		return "", errkind.New(errkind.InvalidArgument, "the request names no image")
	}
	return i.GetImage(), s.checkHandler(i.GetRuntimeHandler())
}
