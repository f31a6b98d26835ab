package imageservice

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/imageservice/inventory"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/tarsplit"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Damage is one file of a layer that is not what was unpacked, or a blob that
// is not what its digest says.
type Damage struct {
	Layer      uint64        // its number, which is the name of its directory; 0 for a blob
	DiffID     digest.Digest // of the layer
	Blob       digest.Digest // "" for a layer
	Images     []string      // ids of the images that have the layer or blob
	Containers []string      // containers whose snapshots have the layer
	Registries []string      // hosts that it can be fetched from again
	File       string        // "" if it is the layer or blob as a whole
	What       string
}

// Verify compares every layer with the inventory that was made when it was
// unpacked: names, kinds, modes, owners and sizes, and the contents too unless
// quick is set; and every blob with its digest. A damaged layer is
// quarantined: no container starts on it, and no pull takes it for present.
// One that has no damage any more is set free.
func (s *Service) Verify(ctx context.Context, quick bool) ([]Damage, error) {
	depth := inventory.Contents
	if quick {
		depth = inventory.Metadata
	}
	var all []Damage
	for _, seq := range s.layers(func(meta.Layer) bool { return true }) {
		faults, err := s.verifyLayer(ctx, seq, depth)
		if err != nil {
			return all, kinded(err, "cannot verify layer %d", seq)
		}
		all = append(all, s.damages(seq, faults)...)
	}
	blobs, err := s.verifyBlobs(ctx, depth)
	if err != nil {
		return all, kinded(err, "cannot verify blobs")
	}
	return append(all, blobs...), nil
}

// verifyBlobs compares the blobs of images with their digests.
func (s *Service) verifyBlobs(ctx context.Context, depth inventory.Depth) (all []Damage, err error) {
	s.mu.Lock()
	blobs := slices.Sorted(maps.Keys(namedBlobs(s.state)))
	s.mu.Unlock()
	for _, d := range blobs {
		if err := ctx.Err(); err != nil {
			return all, err
		}
		what := ""
		switch err := s.verifyBlob(d, depth); {
		case errors.Is(err, fs.ErrNotExist):
			what = "it is gone"
		case err != nil:
			what = err.Error()
		default:
			continue
		}
		s.mu.Lock()
		images := s.blobUsers(d)
		damage := Damage{Blob: d, Images: images, Registries: s.registriesOf(images), What: what}
		s.mu.Unlock()
		if len(images) > 0 { // else it went meanwhile
			all = append(all, damage)
		}
	}
	return all, nil
}

func (s *Service) verifyBlob(d digest.Digest, depth inventory.Depth) error {
	f, err := os.Open(s.blobs.Path(d))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if depth == inventory.Metadata {
		return nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, h); got != d {
		return errkind.New(errkind.DataLoss, "its bytes have digest %s", got)
	}
	return nil
}

// blobUsers lists the images that have a blob. mu is held.
func (s *Service) blobUsers(d digest.Digest) (images []string) {
	for id, row := range s.state.Images {
		if slices.Contains(row.Blobs, d) {
			images = append(images, id)
		}
	}
	slices.Sort(images)
	return images
}

// registriesOf lists the hosts from which images came. mu is held.
func (s *Service) registriesOf(images []string) (hosts []string) {
	for _, id := range images {
		for _, name := range s.state.Images[id].Digests {
			if ref, err := refs.Parse(name, s.cfg.DefaultRegistry); err == nil {
				hosts = append(hosts, ref.Host)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// layers lists the layers for which want holds, oldest first.
func (s *Service) layers(want func(meta.Layer) bool) (seqs []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seq, row := range s.state.Layers {
		if want(row) {
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}

// damages tells whom the faults of a layer concern.
func (s *Service) damages(seq uint64, faults []inventory.Fault) (all []Damage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := Damage{Layer: seq, DiffID: s.state.Layers[seq].DiffID}
	d.Images, d.Containers = s.users(seq)
	d.Registries = s.registriesOf(d.Images)
	for _, f := range faults {
		d.File, d.What = f.File, f.What
		all = append(all, d)
	}
	return all
}

// users lists the images and the containers' snapshots that have a layer. mu
// is held.
func (s *Service) users(seq uint64) (images, containers []string) {
	for id, row := range s.state.Images {
		if slices.Contains(row.Layers, seq) {
			images = append(images, id)
		}
	}
	for id, row := range s.state.Snapshots {
		if slices.Contains(row.Layers, seq) {
			containers = append(containers, id)
		}
	}
	slices.Sort(images)
	slices.Sort(containers)
	return images, containers
}

// verifyLayer compares one layer with its inventory and writes the outcome
// into its row. A layer that is gone, or that an older store made without an
// inventory, has no faults.
func (s *Service) verifyLayer(ctx context.Context, seq uint64, depth inventory.Depth) ([]inventory.Fault, error) {
	defer s.layerLocks.Lock(strconv.FormatUint(seq, 10))()
	row, ok := s.holdLayer(seq)
	if !ok {
		return nil, nil
	}
	defer func() { _ = s.release(hold{row: row}) }()
	if !row.Listed {
		return nil, nil
	}
	faults, err := inventory.Verify(ctx, s.inventory(seq), s.layerFS(seq), depth)
	if err != nil {
		return nil, err
	}
	next := row
	switch {
	case len(faults) > 0:
		next.Suspect, next.BrokenFile, next.Broken = false, faults[0].File, faults[0].What
	case depth == inventory.Contents:
		next.Suspect, next.BrokenFile, next.Broken = false, "", ""
	case row.Broken != "": // what was seen by a closer look is not to be seen from here
		faults = []inventory.Fault{{File: row.BrokenFile, What: row.Broken}}
	}
	next.Untarred = s.untarred(row, depth)
	s.mu.Lock()
	images, _ := s.users(seq)
	s.mu.Unlock()
	if next.Untarred != "" && len(images) > 0 { // what only containers have is not saved
		faults = append(faults, inventory.Fault{What: next.Untarred + "; containers can use the layer, but it cannot be saved or pushed"})
	}
	if next == row {
		return faults, nil
	}
	return faults, s.change(func(tx *meta.Tx, st *meta.State) error {
		tx.PutLayer(next)
		st.Layers[seq] = next
		return nil
	})
}

// untarred tells what is wrong with the record of a layer's tar; "" if nothing
// is, or if it has none.
func (s *Service) untarred(row meta.Layer, depth inventory.Depth) string {
	if !row.Recorded {
		return ""
	}
	if _, err := os.Lstat(s.splitFile(row.Seq)); err != nil {
		return "the record of its tar is gone"
	}
	if depth == inventory.Metadata {
		return row.Untarred
	}
	if err := tarsplit.Check(s.splitFile(row.Seq)); err != nil {
		return "the record of its tar is damaged"
	}
	return ""
}

// holdLayer keeps a committed layer until its release.
func (s *Service) holdLayer(seq uint64) (meta.Layer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.state.Layers[seq]
	if ok {
		s.held[seq]++
	}
	return row, ok
}

// inventory is the file that says what layer seq holds.
func (s *Service) inventory(seq uint64) string {
	return filepath.Join(s.layerDir(seq), inventoryName)
}

// trust verifies those of layers that are suspect and fails with DataLoss,
// naming layer and file, if one is broken.
func (s *Service) trust(ctx context.Context, layers []uint64) error {
	for _, seq := range distinct(layers) {
		s.mu.Lock()
		row := s.state.Layers[seq]
		s.mu.Unlock()
		if row.Suspect {
			if _, err := s.verifyLayer(ctx, seq, inventory.Contents); err != nil {
				return err
			}
			s.mu.Lock()
			row = s.state.Layers[seq]
			s.mu.Unlock()
		}
		if row.Broken != "" {
			return errkind.New(errkind.DataLoss, "layer %s (%s) is damaged: %s", row.DiffID, s.layerDir(seq), fault(row.BrokenFile, row.Broken))
		}
	}
	return nil
}

func fault(file, what string) string {
	if file == "" {
		return what
	}
	return fmt.Sprintf("file %q: %s", file, what)
}

// trustImage makes sure that a container can start on an image: what is
// suspect is verified, what is broken is fetched again.
func (s *Service) trustImage(ctx context.Context, id string) error {
	s.mu.Lock()
	layers := s.state.Images[id].Layers
	s.mu.Unlock()
	broken := s.trust(ctx, layers)
	if !errkind.Is(broken, errkind.DataLoss) {
		return broken
	}
	klog.FromContext(ctx).Info("Image is damaged and is fetched again", "image", id, "reason", broken)
	if err := s.repairImage(ctx, id, nil); err != nil {
		return errkind.New(errkind.DataLoss, "%w; it cannot be fetched again: %v", broken, err)
	}
	return nil
}

// doubt writes into the rows which layers a crash of the machine may have
// cut: those that came since the store was last closed. A crash of the daemon
// alone cuts nothing, since what it wrote is the kernel's.
func (s *Service) doubt(tx *meta.Tx, st *meta.State) {
	if st.Open && st.Boot != s.cfg.BootID {
		for seq, row := range st.Layers {
			if row.Listed && row.Broken == "" && row.Committed.After(st.Closed) {
				row.Suspect = true
				tx.PutLayer(row)
				st.Layers[seq] = row
			}
		}
		// The rows remember it now.
		st.Closed = time.Now()
		tx.SetClosed(st.Closed)
	}
	st.Open, st.Boot = true, s.cfg.BootID
	tx.SetOpen()
	tx.SetBoot(s.cfg.BootID)
}

// verifySuspects verifies what doubt found, and fetches again what is broken.
// What it cannot fetch the next Prepare tries again.
func (s *Service) verifySuspects(ctx context.Context) {
	log := klog.FromContext(ctx)
	suspects := s.layers(func(l meta.Layer) bool { return l.Suspect })
	if len(suspects) == 0 {
		return
	}
	log.Info("Layers are verified: the machine was not shut down in order after they came, or they are gone", "layers", len(suspects))
	var broken []Damage
	for _, seq := range suspects {
		faults, err := s.verifyLayer(ctx, seq, inventory.Contents)
		if err != nil {
			if ctx.Err() == nil {
				log.Error(err, "Cannot verify layer", "layer", seq)
			}
			return
		}
		broken = append(broken, s.damages(seq, faults)...)
	}
	if len(broken) == 0 {
		return
	}
	if err := s.Repair(ctx, broken, nil); err != nil && ctx.Err() == nil {
		log.Error(err, "Cannot repair the image store yet")
	}
}

// byLayer gives one damage of each blob and each layer, those of blobs first.
func byLayer(damages []Damage) []Damage {
	type key struct {
		layer uint64
		blob  digest.Digest
	}
	first := map[key]Damage{}
	for _, d := range slices.Backward(damages) {
		first[key{d.Layer, d.Blob}] = d
	}
	return slices.SortedFunc(maps.Values(first), func(a, b Damage) int {
		return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Blob, b.Blob))
	})
}
