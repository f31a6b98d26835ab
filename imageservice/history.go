package imageservice

import (
	"context"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// HistoryEntry is one command of the build of an image.
type HistoryEntry struct {
	Created   time.Time // zero if not recorded
	CreatedBy string
	Comment   string
	DiffID    digest.Digest // of the layer that it made; "" if it made none
	Size      uint64        // of that layer on disk
}

// History gives the commands that made the image that ref names, oldest
// first. Layers that the image's history does not account for come last,
// without a command: the history is the builder's word, the layers are facts.
func (s *Service) History(ctx context.Context, ref string) ([]HistoryEntry, error) {
	image, err := s.Status(ctx, ref)
	if err != nil {
		return nil, err
	}
	if image.Artifact != nil {
		return artifactHistory(image), nil
	}
	b, err := s.RawConfig(ctx, image.ID)
	if err != nil {
		return nil, err
	}
	var config struct {
		History []v1.History `json:"history"`
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return nil, errkind.New(errkind.DataLoss, "cannot read the history of image %s: %v", image.ID, err)
	}
	return history(config.History, image.Layers), nil
}

// RawConfig gives the config of an image, or the manifest of an artifact, as
// the registry had it. id is the image's.
func (s *Service) RawConfig(_ context.Context, id string) ([]byte, error) {
	return s.blobs.ReadFile(digest.Digest(id), manifest.MaxBytes)
}

// artifactHistory has a line for each part: an artifact does not tell how it
// was made.
func artifactHistory(image Image) []HistoryEntry {
	all := make([]HistoryEntry, len(image.Layers))
	for i, l := range image.Layers {
		all[i] = HistoryEntry{CreatedBy: image.Artifact.Parts[i].File, DiffID: l.DiffID, Size: l.Size}
	}
	return all
}

func history(recorded []v1.History, layers []Layer) []HistoryEntry {
	var all []HistoryEntry
	for _, h := range recorded {
		e := HistoryEntry{CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			e.Created = *h.Created
		}
		if !h.EmptyLayer && len(layers) > 0 {
			e.DiffID, e.Size = layers[0].DiffID, layers[0].Size
			layers = layers[1:]
		}
		all = append(all, e)
	}
	for _, l := range layers {
		all = append(all, HistoryEntry{DiffID: l.DiffID, Size: l.Size})
	}
	return all
}
