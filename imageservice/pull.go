package imageservice

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/imageservice/verifier"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxIndexes is how deep indexes may nest.
const maxIndexes = 3

// pull is one pull under way, with all who wait for it.
type pull struct {
	ref    string
	began  time.Time
	cancel context.CancelFunc
	done   chan struct{} // closed when image and err are set
	image  Image
	err    error

	happened func(layer string) // tells that a layer is there

	waiters int // guarded by Service.mu

	mu       sync.Mutex
	progress []func(Progress)    // guarded by mu
	layers   map[string]Progress // the last of each layer, by digest; guarded by mu
	step     PullStep            // guarded by mu
	asking   string              // the verifier, in its step; guarded by mu
	moved    time.Time           // when something was last heard of the pull; guarded by mu
}

// Pull brings an image from its registry. The registry is asked each time,
// also for an image that is here, since a tag may have moved and the caller's
// credentials may not allow it; layers that are here are not fetched again.
// Equal pulls at a time are one; it ends when the last of its callers is gone.
//
// An unreachable registry is Unavailable, refused credentials are
// PermissionDenied, bytes that are not what their digest says are DataLoss.
func (s *Service) Pull(ctx context.Context, r PullRequest) (Image, error) {
	ref, err := refs.Parse(r.Ref, s.cfg.DefaultRegistry)
	if err != nil {
		return Image{}, kinded(err, "cannot pull %s", r.Ref)
	}
	// Callers with other credentials must prove those for themselves.
	auth, err := json.Marshal(r.Auth)
	if err != nil {
		return Image{}, kinded(err, "cannot pull %s", ref)
	}
	sum := sha256.Sum256(auth)
	key := ref.Name() + ":" + ref.Tag + "@" + ref.Digest.String() + " " + string(sum[:])

	p := s.joinPull(ctx, key, ref.String(), func(run context.Context, p *pull) (Image, error) {
		return s.pull(run, ref, r.Auth, p)
	})
	defer s.leavePull(key, p)
	p.listen(r.Progress)
	select {
	case <-p.done:
		err = p.err
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return Image{}, kinded(err, "cannot pull %s", ref)
	}
	return p.image, nil
}

// joinPull gives the pull of that key, which it starts if there is none. The
// caller leaves it.
func (s *Service) joinPull(ctx context.Context, key, ref string, do func(context.Context, *pull) (Image, error)) *pull {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.pulls[key]; p != nil {
		p.waiters++
		return p
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &pull{ref: ref, began: time.Now(), cancel: cancel, done: make(chan struct{}), waiters: 1, layers: map[string]Progress{}}
	s.pulls[key] = p
	p.happened = func(layer string) { s.happened(Event{Kind: EventLayer, Ref: ref, Layer: layer}) }
	go func() {
		defer cancel()
		defer close(p.done)
		s.happened(Event{Kind: EventPulling, Ref: ref})
		p.image, p.err = do(run, p)
		if p.err != nil {
			s.happened(Event{Kind: EventFailed, Ref: ref, Err: p.err})
		} else {
			s.happened(Event{Kind: EventPulled, Ref: ref, ID: p.image.ID})
		}
		s.cfg.Observer.Pulled(time.Since(p.began), p.err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.endPull(key, p)
	}()
	return p
}

// leavePull ends the pull if nobody waits for it any more.
func (s *Service) leavePull(key string, p *pull) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.waiters--; p.waiters == 0 {
		p.cancel()
		s.endPull(key, p)
	}
}

// endPull makes the pull one that nobody can join. mu is held.
func (s *Service) endPull(key string, p *pull) {
	if s.pulls[key] == p {
		delete(s.pulls, key)
	}
}

func (p *pull) listen(f func(Progress)) {
	if f == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress = append(p.progress, f)
}

func (p *pull) at(step PullStep, verifier string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.asking, p.moved = step, verifier, time.Now()
}

func (p *pull) report(pr Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.layers[pr.Layer], p.moved = pr, time.Now()
	if pr.Status == StatusDone || pr.Status == StatusExists {
		p.happened(pr.Layer)
	}
	for _, f := range p.progress {
		f(pr)
	}
}

// pull does the work of one pull.
func (s *Service) pull(ctx context.Context, ref refs.Ref, auth *registry.Auth, p *pull) (Image, error) {
	p.at(PullResolve, "")
	repo, err := s.client.Repository(ctx, ref, auth)
	if err != nil {
		return Image{}, err
	}
	var b bundle
	var m *v1.Manifest
	var top digest.Digest
	err = s.step(ctx, verbPull, "resolve", func() (err error) {
		m, top, err = findManifest(ctx, ref, &b, repo.Manifest)
		return err
	})
	if err != nil {
		return Image{}, err
	}
	asked := v1.Descriptor{MediaType: b.media, Digest: top, Size: int64(len(b.blobs[0]))}
	watched := verifier.Watched(ctx, func(program string) { p.at(PullVerify, program) })
	if err := s.cfg.Verifiers.Verify(watched, ref.String(), asked); err != nil {
		return Image{}, err
	}
	p.at(PullConfig, "")
	config, err := fetchSmall(ctx, repo, m.Config)
	if err != nil {
		return Image{}, err
	}
	b.setConfig(m, config)
	b.digests = []string{ref.Name() + "@" + top.String()}
	if ref.Digest == "" {
		b.tags = []string{ref.String()}
	}
	b.layers = s.sources(repo, ref, m, p.report)
	p.at(PullLayers, "")
	return s.install(ctx, b)
}

// sources are the layers of m, to be fetched from repo.
func (s *Service) sources(repo *registry.Repository, ref refs.Ref, m *v1.Manifest, report func(Progress)) (layers []source) {
	for _, l := range m.Layers {
		layers = append(layers, source{
			blob:   l.Digest,
			size:   l.Size,
			remote: true,
			open: func(ctx context.Context, offset int64) (io.ReadCloser, error) {
				return s.observed(repo.Blob(ctx, l.Digest, l.Size, offset))
			},
			openRange: func(ctx context.Context, begin, end int64) (io.ReadCloser, int64, error) {
				body, end, err := repo.BlobRange(ctx, l.Digest, l.Size, begin, end)
				body, err = s.observed(body, err)
				return body, end, err
			},
			report: func(done int64, status string) {
				report(Progress{Ref: ref.String(), Layer: l.Digest.String(), Done: done, Total: l.Size, Status: status})
			},
		})
	}
	return layers
}

// findManifest gives the manifest that ref leads to on this platform, and the
// digest of what ref itself names. get gives manifests by tag or digest; what
// it gave on the way is added to b, the manifest last.
func findManifest(ctx context.Context, ref refs.Ref, b *bundle, get func(context.Context, string) (registry.Manifest, error)) (m *v1.Manifest, top digest.Digest, err error) {
	name, want := ref.Tag, ref.Digest
	if want != "" {
		name = want.String()
	}
	for range maxIndexes + 1 {
		got, err := get(ctx, name)
		if err != nil {
			return nil, "", err
		}
		sum := digest.FromBytes(got.Bytes)
		if want != "" && sum != want {
			return nil, "", errkind.New(errkind.DataLoss, "cannot use manifest %s: the bytes received have digest %s", want, sum)
		}
		if top == "" {
			top, b.media = sum, got.MediaType
		}
		b.blobs = append(b.blobs, got.Bytes)
		doc, err := manifest.Parse(got.MediaType, got.Bytes)
		if err != nil {
			return nil, "", err
		}
		if doc.Manifest != nil {
			return doc.Manifest, top, nil
		}
		next, err := manifest.Choose(doc.Index)
		if err != nil {
			return nil, "", err
		}
		want = next.Digest
		name = want.String()
	}
	return nil, "", errkind.New(errkind.InvalidArgument, "cannot choose from index %s: indexes nest more than %d deep", top, maxIndexes)
}

// fetchSmall fetches a blob into memory and verifies it. One that its
// descriptor brings along, or that is empty as artifacts' configs are, need not
// be in the registry.
func fetchSmall(ctx context.Context, repo *registry.Repository, d v1.Descriptor) ([]byte, error) {
	for _, b := range [][]byte{d.Data, v1.DescriptorEmptyJSON.Data} {
		if digest.FromBytes(b) == d.Digest {
			return b, nil
		}
	}
	if d.Size > manifest.MaxBytes {
		return nil, errkind.New(errkind.ResourceExhausted, "cannot fetch config %s: it has %d bytes, more than %d", d.Digest, d.Size, manifest.MaxBytes)
	}
	r, err := repo.Blob(ctx, d.Digest, d.Size, 0)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, manifest.MaxBytes+1))
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return nil, errkind.New(errkind.DataLoss, "cannot use config %s: the bytes received have digest %s", d.Digest, got)
	}
	return b, nil
}
