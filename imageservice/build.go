package imageservice

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/berth-runtime/berth/imageservice/build"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// BuildEvent and the others are words of package build that callers need.
type (
	BuildEvent   = build.Event
	BuildResult  = build.Result
	BuildProcess = build.Process
	BuildRunner  = build.Runner
)

// BuildRequest asks for a build.
type BuildRequest struct {
	build.Request
	// Auth tells what the registry of a reference is told about the caller; nil
	// is anonymous.
	Auth func(ctx context.Context, ref string) (*Auth, error)
}

// Build makes an image from a Dockerfile; commands run by runner. The image is
// here before its tags lead to it. What was done of a build that failed stays
// in the cache, and nothing else of it.
func (s *Service) Build(ctx context.Context, r BuildRequest, runner BuildRunner) (BuildResult, error) {
	for i, tag := range r.Tags {
		full, err := s.tagOf(tag)
		if err != nil {
			return BuildResult{}, err
		}
		r.Tags[i] = full
	}
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	b := &building{s: s, name: hex.EncodeToString(raw[:]), auth: r.Auth, used: map[string]bool{}}
	b.dir = filepath.Join(s.buildsDir(), b.name)
	s.mu.Lock()
	s.building[b.name] = true
	s.mu.Unlock()
	err := s.step(ctx, verbBuild, "workspace", func() error { return os.Mkdir(b.dir, 0o700) })
	var result BuildResult
	if err == nil {
		result, err = build.Build(ctx, r.Request, b, runner, b.dir)
	}
	if end := b.end(ctx); err == nil {
		err = end
	}
	if err != nil {
		return BuildResult{}, kinded(err, "cannot build")
	}
	return result, nil
}

// building is one build under way; it is its store.
type building struct {
	s    *Service
	name string
	dir  string
	auth func(ctx context.Context, ref string) (*Auth, error)

	mu    sync.Mutex
	views int             // guarded by mu
	holds []hold          // released when the build ends; guarded by mu
	used  map[string]bool // keys of the cache; guarded by mu
}

var _ build.Store = (*building)(nil)

// end lets go of what the build had.
func (b *building) end(ctx context.Context) error {
	s := b.s
	err := s.step(ctx, verbBuild, "clear", func() error { return build.RemoveWorkspace(b.dir) })
	s.mu.Lock()
	delete(s.building, b.name)
	s.mu.Unlock()
	b.mu.Lock()
	holds, used := b.holds, b.used
	b.mu.Unlock()
	err = errors.Join(err, s.touchBuilds(ctx, used), s.release(holds...))
	return errors.Join(err, s.boundBuilds(ctx))
}

func (b *building) keep(h hold) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holds = append(b.holds, h)
}

// hold keeps committed layers until the build ends. Service.mu is held.
func (b *building) hold(seqs []uint64) {
	for _, seq := range seqs {
		b.s.held[seq]++
		b.keep(hold{row: b.s.state.Layers[seq]})
	}
}

// Base finds an image, or fetches it.
func (b *building) Base(ctx context.Context, ref string, fresh bool) (build.Base, error) {
	image, err := b.s.exactly(ref)
	isID := err == nil && strings.TrimPrefix(image.ID, "sha256:") == strings.TrimPrefix(ref, "sha256:")
	if errkind.Is(err, errkind.NotFound) || err == nil && fresh && !isID {
		var auth *Auth
		if b.auth != nil {
			if auth, err = b.auth(ctx, ref); err != nil {
				return build.Base{}, err
			}
		}
		image, err = b.s.Pull(ctx, PullRequest{Ref: ref, Auth: auth})
	}
	if err != nil {
		return build.Base{}, err
	}
	if image.Artifact != nil {
		return build.Base{}, errkind.New(errkind.InvalidArgument, "%s is an artifact, and no container can be made of it", ref)
	}
	b.s.mu.Lock()
	row, ok := b.s.state.Images[image.ID]
	if ok {
		b.hold(row.Layers)
	}
	b.s.mu.Unlock()
	if !ok {
		return build.Base{}, errkind.New(errkind.NotFound, "%s was removed meanwhile", ref)
	}
	config, err := b.s.blobs.ReadFile(digest.Digest(image.ID), manifest.MaxBytes)
	if err != nil {
		return build.Base{}, err
	}
	out := build.Base{ID: image.ID, Config: config}
	for i, seq := range row.Layers {
		out.Stack = append(out.Stack, build.Layer{DiffID: image.Layers[i].DiffID, Seq: seq})
	}
	return out, nil
}

// exactly finds an image by a reference or a whole id. In a file a beginning of
// an id is a name, which somebody else may own.
func (s *Service) exactly(ref string) (Image, error) {
	v := s.view.Load()
	for _, id := range []string{ref, "sha256:" + ref} {
		if i, ok := v.byID[id]; ok {
			return v.images[i], nil
		}
	}
	parsed, err := refs.Parse(ref, s.cfg.DefaultRegistry)
	if err != nil {
		return Image{}, err
	}
	if id, ok := v.byRef[parsed.String()]; ok {
		return v.image(id), nil
	}
	return Image{}, errkind.New(errkind.NotFound, "cannot find image %q: it is not in the store", ref)
}

// Cached gives what a step came to before.
func (b *building) Cached(key digest.Digest) (build.Layer, bool) {
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	row, ok := s.state.Builds[key.String()]
	if !ok {
		return build.Layer{}, false
	}
	if row.Layer != 0 {
		if l, here := s.state.Layers[row.Layer]; !here || !l.Whole() {
			return build.Layer{}, false
		}
		b.hold([]uint64{row.Layer})
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used[row.Key] = true
	if row.Layer == 0 {
		return build.Layer{}, true
	}
	return build.Layer{DiffID: s.state.Layers[row.Layer].DiffID, Seq: row.Layer}, true
}

// Commit makes a layer. It is durable, and the cache knows of it, when this
// returns.
func (b *building) Commit(ctx context.Context, key digest.Digest, below build.Stack, write func(context.Context, io.Writer) error) (build.Layer, bool, error) {
	if write == nil {
		return build.Layer{}, false, b.s.commitStep(ctx, key, hold{}, "")
	}
	src, err := sourceOf(ctx, below, write)
	if err != nil {
		return build.Layer{}, false, err
	}
	disk, err := os.Open(b.s.cfg.Root)
	if err != nil {
		return build.Layer{}, false, err
	}
	defer func() { _ = disk.Close() }()
	h, err := b.s.acquire(ctx, src)
	if err != nil {
		return build.Layer{}, false, err
	}
	b.keep(h)
	if h.flight != nil {
		if err := b.s.settle(ctx, h.flight, b.s.layerDirs(below)); err != nil {
			return build.Layer{}, false, err
		}
		if err := b.s.sync(disk, []hold{h}); err != nil {
			return build.Layer{}, false, err
		}
	}
	return build.Layer{DiffID: src.diffID, Seq: h.seq()}, h.flight != nil, b.s.commitStep(ctx, key, h, src.diffID)
}

// sourceOf is the layer that write writes; it is written once to know its digest.
func sourceOf(ctx context.Context, below build.Stack, write func(context.Context, io.Writer) error) (source, error) {
	sum := &counted{}
	h := sha256.New()
	if err := write(ctx, io.MultiWriter(h, sum)); err != nil {
		return source{}, err
	}
	src := source{diffID: digest.NewDigest(digest.SHA256, h), size: sum.n, report: func(int64, string) {}}
	var ids []digest.Digest
	for _, l := range below {
		ids = append(ids, l.DiffID)
	}
	src.chain = identity.ChainID(append(ids, src.diffID))
	// A flight outlives whoever began it only while somebody else waits for it,
	// who can write the same.
	src.open = func(ctx context.Context, _ int64) (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(write(ctx, w)) }()
		return r, nil
	}
	return src, nil
}

// counted counts what is written to it.
type counted struct{ n int64 }

func (c *counted) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// layerDirs are the directories of a stack's layers, topmost first.
func (s *Service) layerDirs(stack build.Stack) []string {
	return s.lowers(meta.Snapshot{Layers: seqs(stack)})
}

func seqs(stack build.Stack) (out []uint64) {
	for _, l := range stack {
		out = append(out, l.Seq)
	}
	return out
}

// commitStep writes the row of a step, and of its layer if that is new.
func (s *Service) commitStep(ctx context.Context, key digest.Digest, h hold, diffID digest.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	row := meta.Build{Key: key.String(), Used: time.Now().UTC().Round(time.Second)}
	layers := map[uint64]meta.Layer{}
	if diffID != "" {
		row.Layer = h.seq()
		if f := h.flight; f != nil && !f.committed {
			l, err := s.account(f.row(diffID))
			if err != nil {
				return err
			}
			layers[l.Seq] = l
		}
	}
	images := s.healed(layers)
	err := s.step(ctx, verbBuild, "rows", func() error {
		return s.db.Update(func(tx *meta.Tx) error {
			for _, l := range layers {
				tx.PutLayer(l)
			}
			for _, image := range images {
				tx.PutImage(image)
			}
			tx.PutBuild(row)
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("cannot commit a step: %w", err)
	}
	for seq, l := range layers {
		s.state.Layers[seq] = l
		f := h.flight
		f.committed = true
		s.forget(f)
		s.held[f.seq] += f.refs
	}
	for id, image := range images {
		s.state.Images[id] = image
	}
	s.state.Builds[row.Key] = row
	s.publish()
	return nil
}

// View gives a handle on the merged tree of the layers. What it is mounted on is
// gone at once, so that a crash leaves nothing and no path leads in.
func (b *building) View(stack build.Stack) (*os.File, error) {
	target, err := b.target()
	if err != nil {
		return nil, err
	}
	if err := b.mount(stack, "", target, false); err != nil {
		return nil, err
	}
	f, err := os.Open(target)
	if err = errors.Join(err, snapshot.Unmount(target)); err != nil {
		_ = f.Close() // nil if it was not opened
		return nil, err
	}
	return f, nil
}

// target is a mount point that nothing else uses.
func (b *building) target() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.views++
	target := filepath.Join(b.dir, fmt.Sprintf("v%d", b.views))
	return target, os.Mkdir(target, 0o700)
}

// Mount mounts the merged tree of the layers.
func (b *building) Mount(stack build.Stack, scratch, target string, writable bool) error {
	return b.mount(stack, scratch, target, writable)
}

func (b *building) mount(stack build.Stack, scratch, target string, writable bool) error {
	// A build ends with its caller; what it asks of the store does not wait.
	if err := b.s.trust(context.Background(), seqs(stack)); err != nil {
		return err
	}
	lowers := b.s.layerDirs(stack)
	if !writable {
		if len(lowers) == 1 && lowers[0] != b.s.emptyDir() {
			lowers = append(lowers, b.s.emptyDir()) // see MountReadOnly
		}
		return snapshot.MountReadOnly(lowers, target, nil, "")
	}
	dirs := snapshot.At(scratch)
	if err := dirs.Create(lowers[0], nil); err != nil {
		return err
	}
	return snapshot.Mount(dirs, lowers, target, nil, "")
}

// Serve lets containers be made of the layers.
func (b *building) Serve(stack build.Stack, user string) (name string, release func()) {
	b.mu.Lock()
	b.views++
	name = fmt.Sprintf("%s%s-%d", servedPrefix, b.name, b.views)
	b.mu.Unlock()
	s := b.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served[name] = servedRoot{layers: seqs(stack), user: user}
	return name, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.served, name)
	}
}

// servedPrefix begins the names by which builds serve their layers. No reference
// and no id begins so.
const servedPrefix = "build:"

// servedRoot is what a build serves to one of its containers.
type servedRoot struct {
	layers []uint64 // bottom first
	user   string   // whom its processes run as; "" is root
}

// Served tells whether a build serves layers by that name, and as whom its
// commands run.
func (s *Service) Served(name string) (user string, ok bool) {
	if !strings.HasPrefix(name, servedPrefix) {
		return "", false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	root, ok := s.served[name]
	return root.user, ok
}

// Diff writes what a container has changed.
func (b *building) Diff(ctx context.Context, container string, how snapshot.DiffOptions, w io.Writer) error {
	return b.s.writeDiff(ctx, container, how, w)
}

// Image commits the image.
func (b *building) Image(ctx context.Context, config []byte, stack build.Stack, tags []string) (string, error) {
	out := bundle{config: config, tags: tags}
	for _, l := range stack {
		out.layers = append(out.layers, source{report: func(int64, string) {}, open: func(context.Context, int64) (io.ReadCloser, error) {
			return nil, errkind.New(errkind.DataLoss, "layer %s was damaged meanwhile; build again", l.DiffID)
		}})
	}
	image, err := b.s.install(ctx, out)
	return image.ID, err
}
