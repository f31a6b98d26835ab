package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Change is one difference between a container's root file system and its image.
type Change = snapshot.Change

// mountPoints are what the runtime makes in every root file system to mount on.
func mountPoints() map[string]bool {
	return map[string]bool{
		"dev": true, "proc": true, "sys": true, "etc/hostname": true, "etc/hosts": true, "etc/resolv.conf": true, "etc/mtab": true,
	}
}

// Changes tells what a container has changed, by path.
func (s *Service) Changes(ctx context.Context, containerID string) ([]Change, error) {
	defer s.snapshotLocks.Lock(containerID)()
	row, err := s.snapshotRow(containerID)
	if err != nil {
		return nil, err
	}
	out, err := snapshot.At(s.snapshotDir(containerID)).Changes(ctx, s.lowers(row), mountPoints())
	if err != nil {
		return nil, kinded(err, "cannot tell what container %s has changed", containerID)
	}
	return out, nil
}

// CommitRequest asks for an image of what a container is now.
type CommitRequest struct {
	Container string
	Tags      []string
	Author    string
	Comment   string
	CreatedBy string // what the container ran
	// Change alters the configuration of the image that the container was made
	// of; nil alters nothing.
	Change func(*v1.ImageConfig)
}

// CommitContainer makes an image of a container's root file system: the layers
// of its image, and what it has changed as one more. It must not change anything
// meanwhile. The image that it was made of may be gone.
func (s *Service) CommitContainer(ctx context.Context, r CommitRequest) (Image, error) {
	for i, tag := range r.Tags {
		full, err := s.tagOf(tag)
		if err != nil {
			return Image{}, err
		}
		r.Tags[i] = full
	}
	row, err := s.snapshotRow(r.Container)
	if err != nil {
		return Image{}, err
	}
	b := bundle{tags: r.Tags}
	var ids []digest.Digest
	s.mu.Lock()
	var held []hold
	for _, seq := range row.Layers {
		s.held[seq]++
		held = append(held, hold{row: s.state.Layers[seq]})
		ids = append(ids, s.state.Layers[seq].DiffID)
	}
	s.mu.Unlock()
	defer func() { _ = s.release(held...) }()
	for _, id := range ids {
		b.layers = append(b.layers, source{report: func(int64, string) {}, open: func(context.Context, int64) (io.ReadCloser, error) {
			return nil, errkind.New(errkind.DataLoss, "layer %s was damaged meanwhile; pull its image again", id)
		}})
	}
	src, err := sourceOf(ctx, nil, func(ctx context.Context, w io.Writer) error {
		return s.writeDiff(ctx, r.Container, snapshot.DiffOptions{Drop: mountPoints()}, w)
	})
	if err != nil {
		return Image{}, err
	}
	b.layers = append(b.layers, src)
	if b.config, err = s.committedConfig(digest.Digest(row.Image), append(ids, src.diffID), r); err != nil {
		return Image{}, err
	}
	image, err := s.install(ctx, b)
	if err != nil {
		return Image{}, kinded(err, "cannot make an image of container %s", r.Container)
	}
	return image, nil
}

// committedConfig is the configuration of the new image. What its base says and
// nobody here knows stays as it is.
func (s *Service) committedConfig(base digest.Digest, layers []digest.Digest, r CommitRequest) ([]byte, error) {
	whole := map[string]json.RawMessage{}
	raw, err := s.blobs.ReadFile(base, manifest.MaxBytes)
	if err == nil {
		err = json.Unmarshal(raw, &whole)
	} else { // the image is gone
		raw = []byte("{}")
		whole["os"], whole["architecture"], err = json.RawMessage(`"linux"`), json.RawMessage(`"`+runtime.GOARCH+`"`), nil
	}
	var known v1.Image
	if err == nil {
		err = json.Unmarshal(raw, &known)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration of image %s: %w", base, err)
	}
	now := time.Now().UTC()
	if r.Change != nil {
		r.Change(&known.Config)
	}
	config := map[string]json.RawMessage{}
	if text := whole["config"]; len(text) > 0 {
		err = json.Unmarshal(text, &config)
	}
	fields := map[string]json.RawMessage{}
	if text, jerr := json.Marshal(known.Config); jerr == nil {
		err = errors.Join(err, json.Unmarshal(text, &fields))
	}
	for _, name := range []string{"User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal"} {
		delete(config, name) // one that was taken away must not come back
	}
	maps.Copy(config, fields)
	history := slices.Concat(known.History, []v1.History{{Created: &now, CreatedBy: r.CreatedBy, Author: r.Author, Comment: r.Comment}})
	for key, value := range map[string]any{
		"config": config, "created": now, "history": history, "rootfs": v1.RootFS{Type: "layers", DiffIDs: layers},
	} {
		text, jerr := json.Marshal(value)
		err = errors.Join(err, jerr)
		whole[key] = text
	}
	if r.Author != "" {
		text, jerr := json.Marshal(r.Author)
		err = errors.Join(err, jerr)
		whole["author"] = text
	}
	for _, private := range []string{"container", "container_config", "id", "parent"} {
		delete(whole, private) // docker's notes on how the base came about
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write the configuration of an image: %w", err)
	}
	return json.Marshal(whole)
}
