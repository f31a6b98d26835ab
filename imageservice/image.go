package imageservice

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/imageservice/verifier"
)

// Auth is what a registry may be told about the caller.
type Auth = registry.Auth

// Refusal is the failure of a pull that one of Config.Verifiers forbids.
type Refusal = verifier.Refusal

// Artifact is what an image holds that is no container image.
type Artifact = manifest.Artifact

// Config says where the store is and how it pulls.
type Config struct {
	Root              string            // such as /var/lib/berth/images; all of it belongs to the store
	DefaultRegistry   string            // host of a reference that names none; empty means docker.io
	CertsDirs         []string          // directories of <host>/hosts.toml
	Proxies           map[string]string // by host of a registry; see registry.ParseProxies
	BootID            string            // of this boot; the store remembers under which one it was last open
	MaxParallelLayers int               // layers that one store downloads at a time; 0 means 4
	Ranges            Ranges            // how large blobs are fetched
	Pinned            []string          // references that image garbage collection must leave alone
	KeepBlobs         bool              // keep the blobs of layers too, so that save and push send those, by the manifest that came with them
	BuildCache        int64             // bytes of layers that only the cache of builds keeps; 0 means 10 GiB
	NoTarSplit        bool              // do not keep what makes a layer's tar again: saves little, and forbids to save and push

	Verifiers verifier.Programs // asked at each pull
	Observer  Observer          // nil for none
	// Observe, if set, is told of a step before it is done, in the context of
	// whoever asked for it; the function that it returns, of its end. It must not
	// block, nor call the store.
	Observe func(ctx context.Context, verb, step string) (context.Context, func(error))
	// Happened, if set, is told of pulls that begin and end and of images that
	// are removed, each once and in order. It must not block, nor call the store.
	Happened func(Event)

	// SetGCPercent is debug.SetGCPercent for a process that has its memory
	// counted: the store sets it lower while much is used that makes no garbage.
	// nil leaves the collector alone.
	SetGCPercent func(percent int) (before int)
}

// Image is what the store knows of one image. Images are values: what a call
// returned does not change when the store does. The slices are shared, so
// they are not to be written.
type Image struct {
	ID       string   // sha256:<hex> of the config, or of an artifact's manifest
	Tags     []string // full references, sorted
	Digests  []string // repository@sha256:..., sorted
	Size     uint64   // bytes that its removal frees; never 0
	UID      *int64   // of the config's user, if that is a number
	Username string   // of the config's user, if that is a name
	Pinned   bool     // one of its tags or digests is configured to stay
	Created  time.Time
	Layers   []Layer // bottom first
	Config   v1.ImageConfig
	Artifact *Artifact // nil for a container image
}

// Layer is one layer of an image.
type Layer struct {
	DiffID  digest.Digest // of the uncompressed tar; of an artifact the id of the part
	ChainID digest.Digest // of the layer with all below it
	Size    uint64        // bytes on disk, unpacked
}

// Usage is what the unpacked layers take. Containers' writable layers do not count.
type Usage struct {
	Mountpoint string
	Bytes      uint64
	Inodes     uint64
	Images     int
	Layers     int
	Broken     int // of Layers, that are damaged and not fetched again yet
}

// PullRequest asks for an image from a registry.
type PullRequest struct {
	Ref      string
	Auth     *Auth          // nil for anonymous
	Progress func(Progress) // may be nil; called from many goroutines, must not block
}

// The values of Progress.Status.
const (
	StatusDownloading = "downloading"
	StatusExists      = "exists"
	StatusDone        = "done"
)

// Progress tells how far one layer is.
type Progress struct {
	Ref    string
	Layer  string // digest of the blob
	Done   int64
	Total  int64
	Status string
}
