package imageservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/build"
	"github.com/berth-runtime/berth/imageservice/content"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/keylock"
)

const defaultParallelLayers = 4

// Service is the open store. All its methods may be called concurrently.
type Service struct {
	cfg       Config
	db        *meta.DB
	blobs     *content.Store
	client    *registry.Client
	windows   *windows
	unpacking atomic.Int32  // layers that have a slot and memory
	slots     chan struct{} // one for each layer that may be downloaded at a time
	pinned    map[string]bool

	ratioPad  int64         // bytes; defaultRatioPad but in tests
	youngPart time.Duration // defaultYoungPart but in tests

	view atomic.Pointer[view] // what readers see; replaced by publish

	snapshotLocks keylock.Locks // per container id, over all that its directories see
	layerLocks    keylock.Locks // per layer, over its verification, and per image, over its repair
	usages        usages

	endWatch context.CancelFunc // ends what runs in the background; nil if Open failed
	watch    sync.WaitGroup
	verified chan struct{} // closed when verifySuspects, which is of watch, has ended

	syncing sync.Mutex // over what makes layers durable, and what the kernel says of it

	// mu is held over a transaction and the unlinking of small blobs, never
	// over a download, an unpack, the removal of a layer, or a reader.
	mu        sync.Mutex
	state     meta.State                 // equals the database
	configs   map[string]manifest.Config // by image id
	heldBlobs map[digest.Digest]int      // blobs that a running install needs, with or without a row
	blobSizes map[digest.Digest]uint64   // bytes on disk, of the blobs that a row names
	held      map[uint64]int             // committed layers that a running install needs
	flights   map[string]*flight         // layers under way or not committed yet
	dying     map[uint64]bool            // layers without a row whose directories are being removed
	pulls     map[string]*pull
	nextSeq   uint64
	building  map[string]bool       // builds under way, by the names of their directories
	served    map[string]servedRoot // what containers of builds are made of, by name
	caches    caches
}

// Open opens the store under cfg.Root, makes it if it is absent, and removes
// what a crash has left: directories and blobs that no row names, and images
// that cannot be told any more, as their config is gone. Images that lack a
// layer stay: it is fetched again, like any that is damaged.
func Open(ctx context.Context, cfg Config) (*Service, error) {
	if !filepath.IsAbs(cfg.Root) || strings.ContainsAny(cfg.Root, `:,\`) {
		return nil, errkind.New(errkind.InvalidArgument, "cannot open image store %q: its path must be absolute and have no colon, comma or backslash, which overlay options cannot carry", cfg.Root)
	}
	if cfg.MaxParallelLayers <= 0 {
		cfg.MaxParallelLayers = defaultParallelLayers
	}
	cfg.Ranges = cfg.Ranges.orDefault()
	if cfg.Observer == nil {
		cfg.Observer = unobserved{}
	}
	proxies, err := registry.ParseProxies(cfg.Proxies)
	if err != nil {
		return nil, fmt.Errorf("cannot open image store %s: %w", cfg.Root, err)
	}
	s := &Service{
		cfg:       cfg,
		client:    registry.New(registry.Config{CertsDirs: cfg.CertsDirs, Proxies: proxies}),
		slots:     make(chan struct{}, cfg.MaxParallelLayers),
		windows:   newWindows(cfg.SetGCPercent),
		usages:    newUsages(),
		pinned:    map[string]bool{},
		configs:   map[string]manifest.Config{},
		heldBlobs: map[digest.Digest]int{},
		blobSizes: map[digest.Digest]uint64{},
		held:      map[uint64]int{},
		flights:   map[string]*flight{},
		dying:     map[uint64]bool{},
		pulls:     map[string]*pull{},
		building:  map[string]bool{},
		served:    map[string]servedRoot{},
		ratioPad:  defaultRatioPad,
		youngPart: defaultYoungPart,
		verified:  make(chan struct{}),
	}
	for _, p := range cfg.Pinned {
		ref, err := refs.Parse(p, cfg.DefaultRegistry)
		if err != nil {
			return nil, errkind.New(errkind.InvalidArgument, "cannot pin image: %w", err)
		}
		s.pinned[ref.String()] = true
	}
	if err := s.open(ctx); err != nil {
		_ = s.Close()
		return nil, fmt.Errorf("cannot open image store %s: %w", cfg.Root, err)
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.endWatch = cancel
	s.watch.Go(func() {
		defer close(s.verified)
		s.verifySuspects(background)
	})
	s.watch.Go(func() { s.walkLayers(background) })
	return s, nil
}

func (s *Service) open(ctx context.Context) (err error) {
	// What is spooled belongs to a Load that ended with its process.
	if err := removeTree(s.spoolDir()); err != nil {
		return err
	}
	// So does what builds had mounted.
	if err := build.RemoveWorkspace(s.buildsDir()); err != nil {
		return err
	}
	for _, dir := range []string{s.layersDir(), s.snapshotsDir(), s.spoolDir(), s.buildsDir(), s.cachesDir(), s.emptyDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := normalise(s.emptyDir()); err != nil {
		return err
	}
	if s.blobs, err = content.Open(s.cfg.Root); err != nil {
		return err
	}
	if s.db, err = meta.Open(filepath.Join(s.cfg.Root, "meta.db")); err != nil {
		return err
	}
	if s.state, err = s.db.Load(); err != nil {
		return err
	}
	return s.reconcile(ctx)
}

// normalise gives the directory that stands for no layers the attributes that
// every store gives it: it is the root of what is built from scratch.
func normalise(dir string) error {
	at := time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	return errors.Join(os.Chmod(dir, 0o755), os.Chtimes(dir, at, at))
}

// Close ends running pulls and closes the database, in which it writes that
// it came to this. Containers stay mounted.
func (s *Service) Close() error {
	if s.endWatch != nil {
		s.endWatch()
		s.watch.Wait()
	}
	s.mu.Lock()
	for _, p := range s.pulls {
		p.cancel()
	}
	for _, f := range s.flights {
		f.cancel()
	}
	var running []chan struct{}
	for _, p := range s.pulls {
		running = append(running, p.done)
	}
	s.mu.Unlock()
	for _, done := range running {
		<-done
	}
	if s.db == nil {
		return nil
	}
	var err error
	if s.endWatch != nil {
		err = s.db.Update(func(tx *meta.Tx) error {
			tx.SetClosed(time.Now())
			tx.ClearOpen()
			return nil
		})
	}
	return errors.Join(err, s.db.Close())
}

// The places under Root.

func (s *Service) layersDir() string    { return filepath.Join(s.cfg.Root, "l") }
func (s *Service) snapshotsDir() string { return filepath.Join(s.cfg.Root, "s") }
func (s *Service) spoolDir() string     { return filepath.Join(s.cfg.Root, "spool") }
func (s *Service) buildsDir() string    { return filepath.Join(s.cfg.Root, "b") }
func (s *Service) cachesDir() string    { return filepath.Join(s.cfg.Root, "c") }
func (s *Service) emptyDir() string     { return filepath.Join(s.cfg.Root, "empty") }

func (s *Service) layerDir(seq uint64) string {
	return filepath.Join(s.layersDir(), strconv.FormatUint(seq, 10))
}

// layerFS is the directory that overlayfs takes.
func (s *Service) layerFS(seq uint64) string { return filepath.Join(s.layerDir(seq), "fs") }

func (s *Service) snapshotDir(container string) string {
	return filepath.Join(s.snapshotsDir(), container)
}
