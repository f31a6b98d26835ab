package imageservice

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
)

// cloneState copies the maps, whose values are never changed in place.
func cloneState(st meta.State) meta.State {
	return meta.State{
		Boot:      st.Boot,
		Open:      st.Open,
		Closed:    st.Closed,
		Images:    maps.Clone(st.Images),
		Tags:      maps.Clone(st.Tags),
		Layers:    maps.Clone(st.Layers),
		Snapshots: maps.Clone(st.Snapshots),
		Builds:    maps.Clone(st.Builds),
	}
}

// reconcile brings rows and disk together after a crash. It runs alone.
func (s *Service) reconcile(ctx context.Context) error {
	log := klog.FromContext(ctx)
	found, err := s.inspect()
	if err != nil {
		return err
	}
	for seq := range s.state.Layers {
		s.nextSeq = max(s.nextSeq, seq)
	}
	for d := range namedBlobs(s.state) {
		s.blobSizes[d] = s.blobSize(d)
	}
	for id := range s.state.Images {
		if found.broken[id] != "" {
			continue
		}
		if s.configs[id], err = s.readConfig(id); err != nil {
			return err
		}
	}
	if err := s.expireParts(); err != nil {
		return err
	}
	err = s.collect(ctx, verbOpen, func(tx *meta.Tx, st *meta.State) {
		for id, why := range found.broken {
			log.Info("Image is incomplete and is dropped; the next pull brings it again", "image", id, "reason", why)
			deleteImage(tx, st, id)
		}
		for _, seq := range found.lostLayers {
			row := st.Layers[seq]
			row.Broken, row.Suspect = "its directory is gone", true // to be fetched again
			tx.PutLayer(row)
			st.Layers[seq] = row
		}
		s.doubt(tx, st)
	})
	if err != nil {
		return err
	}
	for _, id := range found.lostSnapshots {
		// Its making or its removal was cut; whoever wanted that asks again.
		if err := s.makeSnapshot(s.state.Snapshots[id]); err != nil {
			log.Error(err, "Snapshot has no directory and cannot get one", "container", id)
		}
	}
	for _, path := range found.rubbish {
		log.V(2).Info("Removing what a crash has left in the image store", "path", path)
		if err := s.step(ctx, verbOpen, "rubbish", func() error { return removeTree(path) }); err != nil {
			return err
		}
	}
	for _, d := range found.looseBlobs {
		if err := s.blobs.Delete(d); err != nil {
			return err
		}
	}
	s.publish()
	return nil
}

// findings are the differences between rows and disk.
type findings struct {
	broken        map[string]string // image id to what is wrong
	lostLayers    []uint64          // rows without a directory
	lostSnapshots []string          // rows without a directory: a Prepare or Discard that was cut
	rubbish       []string          // paths that no row names
	workspaces    []string          // directories of builds that are not under way
	looseBlobs    []digest.Digest   // blobs that no row names
}

// inspect compares rows and disk. Whatever is under way counts as named. mu
// is held, or nothing else runs.
func (s *Service) inspect() (findings, error) {
	f := findings{broken: map[string]string{}}
	layers, err := names(s.layersDir())
	if err != nil {
		return f, err
	}
	for seq, row := range s.state.Layers {
		if !layers[strconv.FormatUint(seq, 10)] && row.Broken == "" {
			f.lostLayers = append(f.lostLayers, seq)
		}
		delete(layers, strconv.FormatUint(seq, 10))
	}
	for _, fl := range s.flights {
		s.excuse(layers, fl.seq)
	}
	for seq := range s.dying {
		s.excuse(layers, seq)
	}
	for name := range layers {
		f.rubbish = append(f.rubbish, s.layersDir()+"/"+name)
	}
	snapshots, err := names(s.snapshotsDir())
	if err != nil {
		return f, err
	}
	excused := s.takers()
	for id := range s.state.Snapshots {
		if !snapshots[id] && !excused[id] {
			f.lostSnapshots = append(f.lostSnapshots, id)
		}
		delete(snapshots, id)
	}
	for name := range snapshots {
		f.rubbish = append(f.rubbish, s.snapshotsDir()+"/"+name)
	}
	workspaces, err := names(s.buildsDir())
	if err != nil {
		return f, err
	}
	for name := range workspaces {
		if !s.building[name] {
			f.workspaces = append(f.workspaces, s.buildsDir()+"/"+name)
		}
	}
	for id, row := range s.state.Images {
		if why := s.whyBroken(id, row); why != "" {
			f.broken[id] = why
		}
	}
	blobs, err := s.blobs.List()
	if err != nil {
		return f, err
	}
	named := namedBlobs(s.state)
	for _, d := range blobs {
		if !named[d] && s.heldBlobs[d] == 0 {
			f.looseBlobs = append(f.looseBlobs, d)
		}
	}
	return f, nil
}

func (s *Service) excuse(layers map[string]bool, seq uint64) {
	name := strconv.FormatUint(seq, 10)
	delete(layers, name)
	delete(layers, name+".tmp")
}

func (s *Service) whyBroken(id string, row meta.Image) string {
	config, err := s.readConfig(id)
	if err != nil {
		return err.Error()
	}
	if len(config.DiffIDs) != len(row.Layers) {
		return fmt.Sprintf("its row has %d layers and its config %d", len(row.Layers), len(config.DiffIDs))
	}
	for _, seq := range row.Layers {
		if _, ok := s.state.Layers[seq]; !ok {
			return fmt.Sprintf("its layer %d is missing", seq)
		}
	}
	return ""
}

func (s *Service) readConfig(id string) (manifest.Config, error) {
	b, err := s.blobs.ReadFile(digest.Digest(id), manifest.MaxBytes)
	if err != nil {
		return manifest.Config{}, err
	}
	return manifest.ParseConfig(b)
}

// Check compares rows, directories and blobs and gives a line for people for
// each difference. A sound store gives none.
func (s *Service) Check(context.Context) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.inspect()
	if err != nil {
		return nil, fmt.Errorf("cannot check image store: %w", err)
	}
	var lines []string
	for id, why := range f.broken {
		lines = append(lines, fmt.Sprintf("image %s is broken: %s", id, why))
	}
	for _, seq := range f.lostLayers {
		lines = append(lines, fmt.Sprintf("layer %d has a row and no directory", seq))
	}
	for _, id := range f.lostSnapshots {
		lines = append(lines, fmt.Sprintf("snapshot of container %s has a row and no directory", id))
	}
	for _, seq := range unused(s.state, s.held) {
		lines = append(lines, fmt.Sprintf("layer %d has a row and no image or container uses it", seq))
	}
	for _, path := range f.rubbish {
		lines = append(lines, fmt.Sprintf("%s has no row", path))
	}
	for _, path := range f.workspaces {
		lines = append(lines, fmt.Sprintf("%s belongs to no build", path))
	}
	for _, d := range f.looseBlobs {
		lines = append(lines, fmt.Sprintf("blob %s belongs to no image", d))
	}
	slices.Sort(lines)
	return lines, nil
}

func names(dir string) (map[string]bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	all := make(map[string]bool, len(entries))
	for _, e := range entries {
		all[e.Name()] = true
	}
	return all, nil
}
