// Package meta is the image store's durable memory: which images, tags,
// layers and container snapshots there are. It is the only importer of bbolt.
//
// A row is the truth. A directory or blob that no row names is rubbish, which
// the facade finds at Open and Check; a row is written only when what it names
// is on disk, except a snapshot's, which is written before its directories so
// that a crash leaves nothing that no row names. All rows that belong together
// change in one transaction, which is durable when Update returns.
//
//	berth/v1
//	├── store
//	│   ├── boot        boot id under which the store was last open
//	│   ├── open        there while the store is open, and after it was not closed
//	│   └── closed      when it was last closed, or what was not, was dealt with
//	├── images
//	│   └── sha256:<hex>             Image, by its id
//	├── tags
//	│   └── <host/path:tag>          image id
//	├── layers
//	│   └── <seq, 8 bytes>           Layer
//	├── snapshots
//	│   └── <container id>           Snapshot
//	└── builds
//	    └── sha256:<hex>             Build, by the key of the step
//
// Values of images, layers, snapshots and builds are JSON. The rows are few and small
// and are read once, at Open; the facade serves lists from its own memory.
package meta

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Image is the row of an image; its key is its id.
type Image struct {
	ID      string          `json:"-"`
	Digests []string        `json:"digests,omitempty"` // repository@digest, as pulled
	Blobs   []digest.Digest `json:"blobs"`             // what the store keeps for it: config, manifest, index, and layers' if they are kept
	Layers  []uint64        `json:"layers"`            // sequence numbers, bottom first

	Manifest digest.Digest `json:"manifest,omitempty"` // the one of Blobs all of whose blobs are kept, if there is one
}

// Layer is the row of an unpacked layer; its key is its sequence number,
// which is also the name of its directory.
type Layer struct {
	Seq    uint64        `json:"-"`
	DiffID digest.Digest `json:"diff_id"`
	Chain  digest.Digest `json:"chain,omitempty"`  // set if it was unpacked on what is below and is right only there
	Root   bool          `json:"root,omitempty"`   // its tar has an entry for the root directory itself
	Opaque bool          `json:"opaque,omitempty"` // nothing of the layers below it shows
	Bytes  uint64        `json:"bytes"`
	Inodes uint64        `json:"inodes"`

	Committed time.Time `json:"committed,omitzero"`
	Listed    bool      `json:"listed,omitempty"`  // it has an inventory; those of older stores have none
	Suspect   bool      `json:"suspect,omitempty"` // to be verified before it is used
	Broken    string    `json:"broken,omitempty"`  // what is wrong with it; then it is never to be used

	BrokenFile string `json:"broken_file,omitempty"` // the first file that is, if it is one

	Recorded bool   `json:"recorded,omitempty"` // it has what makes its tar again
	Untarred string `json:"untarred,omitempty"` // what is wrong with that; then it can be used, but not saved or pushed
}

// Whole reports whether nothing is known to be wrong with the layer.
func (l Layer) Whole() bool { return l.Broken == "" && l.Untarred == "" }

// Snapshot is the row of a container's writable layer; its key is the
// container id.
type Snapshot struct {
	Container string    `json:"-"`
	Image     string    `json:"image"`
	Layers    []uint64  `json:"layers"` // bottom first; they stay while the row does, even without the image
	Created   time.Time `json:"created"`
	From      string    `json:"from,omitempty"` // the container whose writable layer it took over; empty: its own
}

// Build is the row of a step of a build whose outcome is kept; its key names all
// that it depends on.
type Build struct {
	Key   string    `json:"-"`
	Layer uint64    `json:"layer,omitempty"` // what the step wrote, which stays while the row does; 0: nothing
	Used  time.Time `json:"used"`            // when a build last had it
}

// State is all rows.
type State struct {
	Boot      string
	Open      bool      // it was opened and not closed
	Closed    time.Time // when it was last closed
	Images    map[string]Image
	Tags      map[string]string // reference to image id
	Layers    map[uint64]Layer
	Snapshots map[string]Snapshot
	Builds    map[string]Build
}

var (
	rootBucket      = []byte("berth/v1")
	storeBucket     = []byte("store")
	imagesBucket    = []byte("images")
	tagsBucket      = []byte("tags")
	layersBucket    = []byte("layers")
	snapshotsBucket = []byte("snapshots")
	buildsBucket    = []byte("builds")
	bootKey         = []byte("boot")
	openKey         = []byte("open")
	closedKey       = []byte("closed")
)

// DB is the open database. Its methods may be called concurrently.
type DB struct{ bolt *bolt.DB }

// openTimeout bounds the wait for another process that holds the database,
// such as a daemon that is still ending.
const openTimeout = 10 * time.Second

// Open opens the database at path and makes it if it is absent. Only one
// process at a time can have it open.
func Open(path string) (*DB, error) {
	b, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: openTimeout, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errkind.New(errkind.FailedPrecondition, "cannot open %s: another process has it open", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	err = b.Update(func(tx *bolt.Tx) error {
		root, err := tx.CreateBucketIfNotExists(rootBucket)
		if err != nil {
			return err
		}
		for _, name := range [][]byte{storeBucket, imagesBucket, tagsBucket, layersBucket, snapshotsBucket, buildsBucket} {
			if _, err := root.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("cannot prepare %s: %w", path, err)
	}
	return &DB{b}, nil
}

// Close closes the database.
func (d *DB) Close() error { return d.bolt.Close() }

// Load reads all rows.
func (d *DB) Load() (State, error) {
	s := State{
		Images:    map[string]Image{},
		Tags:      map[string]string{},
		Layers:    map[uint64]Layer{},
		Snapshots: map[string]Snapshot{},
		Builds:    map[string]Build{},
	}
	err := d.bolt.View(func(tx *bolt.Tx) error {
		root := tx.Bucket(rootBucket)
		store := root.Bucket(storeBucket)
		s.Boot, s.Open = string(store.Get(bootKey)), store.Get(openKey) != nil
		if b := store.Get(closedKey); b != nil {
			if err := s.Closed.UnmarshalText(b); err != nil {
				return errkind.New(errkind.DataLoss, "cannot read row %q of %s: %w", closedKey, storeBucket, err)
			}
		}
		return errors.Join(
			each(root, imagesBucket, func(k []byte, v Image) { v.ID = string(k); s.Images[v.ID] = v }),
			each(root, layersBucket, func(k []byte, v Layer) { v.Seq = binary.BigEndian.Uint64(k); s.Layers[v.Seq] = v }),
			each(root, snapshotsBucket, func(k []byte, v Snapshot) { v.Container = string(k); s.Snapshots[v.Container] = v }),
			each(root, buildsBucket, func(k []byte, v Build) { v.Key = string(k); s.Builds[v.Key] = v }),
			root.Bucket(tagsBucket).ForEach(func(k, v []byte) error { s.Tags[string(k)] = string(v); return nil }),
		)
	})
	return s, err
}

// each decodes the rows of one bucket.
func each[T any](root *bolt.Bucket, bucket []byte, add func(key []byte, row T)) error {
	return root.Bucket(bucket).ForEach(func(k, v []byte) error {
		var row T
		if err := json.Unmarshal(v, &row); err != nil {
			return errkind.New(errkind.DataLoss, "cannot read row %q of %s: %w", k, bucket, err)
		}
		add(k, row)
		return nil
	})
}

// Update runs do in one transaction. If do or the commit fails, nothing of it
// has happened.
func (d *DB) Update(do func(*Tx) error) error {
	return d.bolt.Update(func(tx *bolt.Tx) error {
		t := &Tx{root: tx.Bucket(rootBucket)}
		if err := do(t); err != nil {
			return err
		}
		return t.err
	})
}

// Tx writes rows. It remembers the first failure, and Update gives it back,
// so that the calls need no checks of their own.
type Tx struct {
	root *bolt.Bucket
	err  error
}

// SetBoot writes the boot id.
func (t *Tx) SetBoot(id string) { t.put(storeBucket, bootKey, []byte(id)) }

// SetOpen writes that the store is open.
func (t *Tx) SetOpen() { t.put(storeBucket, openKey, []byte("1")) }

// SetClosed writes that nothing older than at needs a look after a crash.
func (t *Tx) SetClosed(at time.Time) {
	text, err := at.UTC().MarshalText()
	t.keep(err)
	t.put(storeBucket, closedKey, text)
}

// ClearOpen writes that the store is not open.
func (t *Tx) ClearOpen() { t.delete(storeBucket, openKey) }

// PutImage writes the row of an image.
func (t *Tx) PutImage(i Image) { t.putJSON(imagesBucket, []byte(i.ID), i) }

// DeleteImage deletes the row of an image; its tags are rows of their own.
func (t *Tx) DeleteImage(id string) { t.delete(imagesBucket, []byte(id)) }

// PutTag makes ref name the image id.
func (t *Tx) PutTag(ref, id string) { t.put(tagsBucket, []byte(ref), []byte(id)) }

// DeleteTag deletes the tag ref.
func (t *Tx) DeleteTag(ref string) { t.delete(tagsBucket, []byte(ref)) }

// PutLayer writes the row of a layer.
func (t *Tx) PutLayer(l Layer) { t.putJSON(layersBucket, seqKey(l.Seq), l) }

// DeleteLayer deletes the row of a layer.
func (t *Tx) DeleteLayer(seq uint64) { t.delete(layersBucket, seqKey(seq)) }

// PutSnapshot writes the row of a snapshot.
func (t *Tx) PutSnapshot(s Snapshot) { t.putJSON(snapshotsBucket, []byte(s.Container), s) }

// DeleteSnapshot deletes the row of a snapshot.
func (t *Tx) DeleteSnapshot(container string) { t.delete(snapshotsBucket, []byte(container)) }

// PutBuild writes the row of a step of a build.
func (t *Tx) PutBuild(b Build) { t.putJSON(buildsBucket, []byte(b.Key), b) }

// DeleteBuild deletes the row of a step of a build.
func (t *Tx) DeleteBuild(key string) { t.delete(buildsBucket, []byte(key)) }

func (t *Tx) putJSON(bucket, key []byte, row any) {
	b, err := json.Marshal(row)
	if err != nil {
		t.keep(err)
		return
	}
	t.put(bucket, key, b)
}

func (t *Tx) put(bucket, key, value []byte) { t.keep(t.root.Bucket(bucket).Put(key, value)) }
func (t *Tx) delete(bucket, key []byte)     { t.keep(t.root.Bucket(bucket).Delete(key)) }

func (t *Tx) keep(err error) {
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("cannot write image store row: %w", err)
	}
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }
