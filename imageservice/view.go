package imageservice

import (
	"cmp"
	"context"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// minPrefix is the shortest part of an id that names an image.
const minPrefix = 3

// view is the store at one moment. It is never changed, so reading it takes
// no lock.
type view struct {
	images    []Image           // by id
	byID      map[string]int    // into images
	byRef     map[string]string // full references with tag or digest, to id
	snapshots []string
	usage     Usage
}

// publish makes the state what readers see. mu is held.
func (s *Service) publish() {
	v := &view{
		byID:      make(map[string]int, len(s.state.Images)),
		byRef:     make(map[string]string, 2*len(s.state.Images)),
		snapshots: slices.Sorted(maps.Keys(s.state.Snapshots)),
	}
	users := map[uint64]int{} // images per layer
	blobUsers := map[digest.Digest]int{}
	for _, row := range s.state.Images {
		for _, seq := range distinct(row.Layers) {
			users[seq]++
		}
		for _, d := range row.Blobs {
			blobUsers[d]++
		}
		for _, d := range row.Digests {
			v.byRef[d] = row.ID
		}
	}
	tags := map[string][]string{}
	for tag, id := range s.state.Tags {
		v.byRef[tag] = id
		tags[id] = append(tags[id], tag)
	}
	for _, row := range s.state.Images {
		slices.Sort(tags[row.ID])
		v.images = append(v.images, s.image(row, tags[row.ID], users, blobUsers))
	}
	slices.SortFunc(v.images, func(a, b Image) int { return cmp.Compare(a.ID, b.ID) })
	for i, image := range v.images {
		v.byID[image.ID] = i
	}
	for _, l := range s.state.Layers {
		v.usage.Bytes += l.Bytes
		v.usage.Inodes += l.Inodes
		if !l.Whole() {
			v.usage.Broken++
		}
	}
	for d := range blobUsers {
		v.usage.Bytes += s.blobSizes[d]
		v.usage.Inodes++
	}
	v.usage.Mountpoint, v.usage.Images, v.usage.Layers = s.cfg.Root, len(v.images), len(s.state.Layers)
	s.view.Store(v)
}

// image makes the value of a row.
func (s *Service) image(row meta.Image, tags []string, users map[uint64]int, blobUsers map[digest.Digest]int) Image {
	c := s.configs[row.ID]
	image := Image{
		ID:       row.ID,
		Tags:     tags,
		Digests:  row.Digests,
		Created:  c.Created,
		Config:   c.Image,
		Artifact: c.Artifact,
	}
	image.UID, image.Username = user(c)
	for _, ref := range slices.Concat(tags, row.Digests) {
		image.Pinned = image.Pinned || s.pinned[ref]
	}
	chains := identity.ChainIDs(slices.Clone(c.DiffIDs))
	for i, seq := range row.Layers {
		image.Layers = append(image.Layers, Layer{DiffID: c.DiffIDs[i], ChainID: chains[i], Size: s.state.Layers[seq].Bytes})
	}
	for _, d := range row.Blobs {
		if blobUsers[d] == 1 {
			image.Size += s.blobSizes[d]
		}
	}
	for _, seq := range distinct(row.Layers) {
		if users[seq] == 1 {
			image.Size += s.state.Layers[seq].Bytes
		}
	}
	return image
}

// user splits the config's user into what CRI asks for: a number or a name,
// without the group.
func user(c manifest.Config) (uid *int64, name string) {
	name, _, _ = strings.Cut(c.Image.User, ":")
	if n, err := strconv.ParseInt(name, 10, 64); err == nil {
		return &n, ""
	}
	return nil, name
}

func distinct(seqs []uint64) []uint64 {
	return slices.Compact(slices.Sorted(slices.Values(seqs)))
}

// Status gives the image that ref names: an id with or without "sha256:", a
// unique beginning of one, or a reference with a tag or a digest. A name wins
// over a beginning of an id. None is NotFound; a beginning that several ids
// have is InvalidArgument.
func (s *Service) Status(_ context.Context, ref string) (Image, error) {
	return s.view.Load().find(ref, s.cfg.DefaultRegistry)
}

// image gives an image that the view has.
func (v *view) image(id string) Image { return v.images[v.byID[id]] }

func (v *view) find(ref, defaultRegistry string) (Image, error) {
	if i, ok := v.byID[ref]; ok {
		return v.images[i], nil
	}
	if i, ok := v.byID["sha256:"+ref]; ok {
		return v.images[i], nil
	}
	parsed, parseErr := refs.Parse(ref, defaultRegistry)
	if parseErr == nil {
		if id, ok := v.byRef[parsed.String()]; ok {
			return v.image(id), nil
		}
	}
	if prefix, ok := idPrefix(ref); ok {
		var found []int
		for i := range v.images {
			if strings.HasPrefix(v.images[i].ID, prefix) {
				found = append(found, i)
			}
		}
		if len(found) == 1 {
			return v.images[found[0]], nil
		}
		if len(found) > 1 {
			return Image{}, ambiguous(v, ref, found)
		}
	} else if parseErr != nil {
		return Image{}, parseErr
	}
	return Image{}, errkind.New(errkind.NotFound, "cannot find image %q: it is not in the store", ref)
}

// idPrefix tells whether ref can be the beginning of an id, and spells it as one.
func idPrefix(ref string) (string, bool) {
	digits := strings.TrimPrefix(ref, "sha256:")
	if len(digits) < minPrefix || len(digits) > hex.EncodedLen(digest.SHA256.Size()) || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", false
	}
	return "sha256:" + digits, true
}

func ambiguous(v *view, ref string, found []int) error {
	var names []string
	for _, i := range found {
		name := v.images[i].ID
		if len(v.images[i].Tags) > 0 {
			name += " (" + v.images[i].Tags[0] + ")"
		}
		names = append(names, name)
	}
	return errkind.New(errkind.InvalidArgument, "cannot tell which image %q is: %s", ref, strings.Join(names, ", "))
}

// List gives all images, by id.
func (s *Service) List(context.Context) ([]Image, error) {
	return slices.Clone(s.view.Load().images), nil
}

// Usage gives what the store takes, as accounted when layers were committed.
func (s *Service) Usage(context.Context) (Usage, error) {
	return s.view.Load().usage, nil
}

// Snapshots gives the ids of the containers that have a writable layer.
func (s *Service) Snapshots(context.Context) []string {
	return slices.Clone(s.view.Load().snapshots)
}
