package imageservice

import (
	"context"

	"github.com/berth-runtime/berth/imageservice/meta"
)

// PruneScope says which of the images that no container was made of go.
type PruneScope int

// The scopes of Prune.
const (
	PruneUntagged PruneScope = iota // those that no tag leads to
	PruneUnused                     // all of them
)

// Pruned tells what Prune removed.
type Pruned struct {
	Images []Image // by id
	Bytes  uint64  // freed, as accounted
}

// Prune removes images that no container has, never pinned ones, and all that
// the cache of builds has but what a running one holds, and frees what only they
// used before it returns. Whether a container has an image is
// read in the transaction that deletes it, so none loses its image meanwhile.
func (s *Service) Prune(ctx context.Context, scope PruneScope) (Pruned, error) {
	var p Pruned
	if err := s.removeCaches(); err != nil {
		return p, kinded(err, "cannot prune the caches of builds")
	}
	err := s.collect(ctx, verbRemove, func(tx *meta.Tx, st *meta.State) {
		blobs := namedBlobs(*st)
		used := map[string]bool{}
		for _, c := range st.Snapshots {
			used[c.Image] = true
		}
		for _, image := range s.view.Load().images {
			if image.Pinned || used[image.ID] || scope == PruneUntagged && len(image.Tags) > 0 {
				continue
			}
			p.Images = append(p.Images, image)
			deleteImage(tx, st, image.ID)
		}
		for key := range st.Builds {
			tx.DeleteBuild(key)
			delete(st.Builds, key)
		}
		for d := range namedBlobs(*st) {
			delete(blobs, d)
		}
		for d := range blobs {
			p.Bytes += s.blobSizes[d]
		}
		for _, seq := range unused(*st, s.held) {
			p.Bytes += st.Layers[seq].Bytes
		}
	})
	if err != nil {
		return Pruned{}, kinded(err, "cannot prune images")
	}
	return p, nil
}
