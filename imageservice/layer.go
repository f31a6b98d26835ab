package imageservice

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/ahead"
	"github.com/berth-runtime/berth/imageservice/inventory"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/imageservice/meta"
	"github.com/berth-runtime/berth/imageservice/tarsplit"
	"github.com/berth-runtime/berth/imageservice/unpack"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// source is where one layer of an install comes from.
type source struct {
	diffID digest.Digest
	chain  digest.Digest
	part   *manifest.Part                                                 // of an artifact; nil for an image's layer
	blob   digest.Digest                                                  // "" if only the diff ID is known
	size   int64                                                          // of the blob
	remote bool                                                           // its bytes are worth keeping until they are of no use
	open   func(ctx context.Context, offset int64) (io.ReadCloser, error) // offset is 0 unless it is remote
	report func(done int64, status string)

	// openRange opens the bytes from begin to end, and tells where it ends
	// indeed; see registry.Repository.BlobRange. nil if it cannot.
	openRange func(ctx context.Context, begin, end int64) (io.ReadCloser, int64, error)
}

// flight is one layer on its way from a source to its row. Several installs
// may wait for it and share what it brings; when the last lets go before the
// layer is committed, it ends and leaves nothing.
type flight struct {
	key    string
	seq    uint64
	chain  digest.Digest // the stack on which it is completed, if it needs one
	size   int64         // of the blob that it fetches
	cancel context.CancelFunc
	done   chan struct{} // closed when the fields of the next group are set

	progress progress

	result unpack.Result
	alone  bool
	err    error

	settling  sync.Mutex    // over settle
	settled   bool          // guarded by settling
	settleErr error         // guarded by settling
	final     unpack.Result // result with what settle added; guarded by settling

	lost error // why not all of it is on the disk; guarded by Service.syncing

	refs      int  // guarded by Service.mu
	committed bool // guarded by Service.mu
}

// hold is an install's claim to a layer: a committed one, or a flight.
type hold struct {
	row    meta.Layer
	flight *flight // nil if it was committed before
}

func (h hold) seq() uint64 {
	if h.flight != nil {
		return h.flight.seq
	}
	return h.row.Seq
}

// opaque reports whether nothing below the layer shows.
func (h hold) opaque() bool {
	if h.flight != nil {
		return h.flight.result.Opaque
	}
	return h.row.Opaque
}

// acquire gives a hold of the layer src: the committed one if there is one,
// else what a flight brings. The caller lets it go.
func (s *Service) acquire(ctx context.Context, src source) (hold, error) {
	key := "diff " + src.diffID.String()
	for {
		var h hold
		var own bool
		_ = s.step(ctx, verbPull, "claim", func() error {
			h, own = s.claim(ctx, key, src)
			return nil
		})
		if h.flight == nil {
			src.report(src.size, StatusExists)
			return h, nil
		}
		f := h.flight
		stop := f.progress.listen(src.ofFlight(f.size))
		select {
		case <-f.done:
			stop()
		case <-ctx.Done():
			stop()
			return hold{}, errors.Join(ctx.Err(), s.release(h))
		}
		switch {
		case f.err != nil && own:
			return hold{}, errors.Join(f.err, s.release(h))
		case f.err != nil:
			// Another's failure, perhaps of its registry: try from here.
		case !f.alone && f.chain != src.chain:
			// Right only on another stack: this one needs its own copy.
			key = "chain " + src.chain.String()
		default:
			src.report(src.size, StatusDone)
			return h, nil
		}
		if err := s.release(h); err != nil {
			return hold{}, err
		}
	}
}

// claim finds the committed layer, joins a flight, or starts one, which is
// then the caller's own.
func (s *Service) claim(ctx context.Context, key string, src source) (h hold, own bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range s.state.Layers {
		if row.Whole() && row.DiffID == src.diffID && (row.Chain == "" || row.Chain == src.chain) {
			s.held[row.Seq]++
			return hold{row: row}, false
		}
	}
	if f := s.flights[key]; f != nil {
		f.refs++
		return hold{flight: f}, false
	}
	// The flight outlives the install that started it if others wait for it.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.nextSeq++
	f := &flight{key: key, seq: s.nextSeq, chain: src.chain, size: src.size, cancel: cancel, done: make(chan struct{}), refs: 1}
	s.flights[key] = f
	src.report = f.progress.tell
	go func() {
		defer close(f.done)
		f.result, f.err = s.fly(ctx, f.seq, src)
		f.alone = f.result.Alone()
		if f.err != nil {
			s.mu.Lock()
			s.forget(f)
			s.mu.Unlock()
		}
	}()
	return hold{flight: f}, true
}

// forget makes the flight one that nobody can join. mu is held.
func (s *Service) forget(f *flight) {
	if s.flights[f.key] == f {
		delete(s.flights, f.key)
	}
}

// release lets go of layers. What nobody needs any more is removed.
func (s *Service) release(holds ...hold) error {
	var ended []*flight
	s.mu.Lock()
	for _, h := range holds {
		f := h.flight
		if f != nil && !f.committed {
			if f.refs--; f.refs == 0 {
				s.forget(f)
				s.dying[f.seq] = true
				ended = append(ended, f)
			}
			continue
		}
		if s.held[h.seq()]--; s.held[h.seq()] == 0 {
			delete(s.held, h.seq())
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, f := range ended {
		f.cancel()
		<-f.done
		errs = append(errs, removeTree(s.layerDir(f.seq)))
		s.mu.Lock()
		delete(s.dying, f.seq)
		s.mu.Unlock()
	}
	return errors.Join(append(errs, s.collect(context.Background(), verbRemove, nil))...)
}

// fly brings one layer into its directory: it downloads, verifies,
// decompresses, verifies again and unpacks, all in one stream. On failure
// nothing is left.
func (s *Service) fly(ctx context.Context, seq uint64, src source) (r unpack.Result, err error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return r, ctx.Err()
	}
	tmp := s.layerDir(seq) + ".tmp"
	defer func() {
		if err != nil {
			err = errors.Join(err, removeTree(tmp), s.giveUp(src, err))
		}
	}()
	fsDir := filepath.Join(tmp, "fs")
	if err := s.step(ctx, verbPull, "directory", func() error { return os.MkdirAll(fsDir, 0o755) }); err != nil {
		return r, err
	}
	// Past the umask: the directory may become the root that a container sees.
	if err := os.Chmod(fsDir, 0o755); err != nil {
		return r, err
	}
	src.report(0, StatusDownloading)
	var stream io.ReadCloser
	err = s.step(ctx, verbPull, "part", func() (err error) {
		stream, err = s.download(ctx, src)
		return err
	})
	if err != nil {
		return r, err
	}
	defer func() { _ = stream.Close() }()
	rec, err := s.record(tmp, src)
	if err != nil {
		return r, err
	}
	err = s.step(ctx, verbPull, "unpack", func() (err error) {
		r, err = s.unpackInTurn(ctx, stream, fsDir, src, rec)
		return err
	})
	if err != nil {
		rec.Abort()
		return unpack.Result{}, err
	}
	keep(ctx, rec, src)
	if rec != nil && r.Lost {
		s.recordAgain(ctx, stream, tmp, src)
	}
	if r.Alone() { // else settle changes it
		if err := inventory.Write(filepath.Join(tmp, inventoryName), fsDir, r.Sums); err != nil {
			return unpack.Result{}, err
		}
		r.Sums = nil
	}
	return r, s.step(ctx, verbPull, "rename", func() error { return os.Rename(tmp, s.layerDir(seq)) })
}

// inventoryName is the file beside a layer's directory fs.
const inventoryName = "inventory"

// Decompressed, a layer may be this many times its blob and this much more:
// honest ones stay below 20 times, gzip cannot go beyond 1032.
const (
	maxRatio        = 200
	defaultRatioPad = 1 << 30
)

// unpackVerified unpacks stream into dir and fails with DataLoss if the blob
// or the tar in it is not what src says. Three stages work side by side, so
// that one large layer keeps more than one CPU busy: fetching with the blob's
// sum, decompression with the tar's, and unpacking; while there are layers
// enough, they take turns.
func (s *Service) unpackVerified(ctx context.Context, stream io.Reader, dir string, src source, rec *tarsplit.Recorder) (unpack.Result, error) {
	blob := &meter{ctx: ctx, r: stream, hash: sha256.New(), report: func(n int64) { src.report(n, StatusDownloading) }}
	packed := ahead.NewReader(blob, s.spareCPU)
	defer func() { _ = packed.Close() }()
	r, diffID, err := s.unpackStream(ctx, packed, dir, src, rec)
	if err != nil && !errkind.Is(err, errkind.InvalidArgument) {
		return r, err
	}
	// A tar that makes no sense is most often a blob that is not the one asked for.
	if _, drainErr := io.Copy(io.Discard, packed); drainErr != nil {
		return r, drainErr
	}
	if got := digest.NewDigest(digest.SHA256, blob.hash); src.blob != "" && got != src.blob {
		return r, errkind.New(errkind.DataLoss, "cannot use layer %s: the bytes received have digest %s", src.blob, got)
	}
	if err != nil || src.part != nil {
		return r, err
	}
	if diffID != src.diffID {
		return r, errkind.New(errkind.DataLoss, "cannot use layer %s: its tar has digest %s, but the image config says %s", src.blob, diffID, src.diffID)
	}
	return r, nil
}

func (s *Service) unpackStream(ctx context.Context, blob io.Reader, dir string, src source, rec *tarsplit.Recorder) (unpack.Result, digest.Digest, error) {
	plain, err := src.tar(blob, s.windows.decoders)
	if err != nil {
		return unpack.Result{}, "", err
	}
	defer func() { _ = plain.Close() }()
	limits := unpack.DefaultLimits()
	limits.Bytes = src.tarLimit(s.ratioPad)
	tar := &meter{ctx: ctx, r: plain, limit: limits.Bytes}
	if src.part == nil { // which has no diff ID to be held to
		tar.hash = sha256.New()
	}
	plainAhead := ahead.NewReader(tar, s.spareCPU)
	r, err := unpack.Layer(ctx, plainAhead, dir, limits, rec)
	_ = plainAhead.Close() // before what it reads is closed
	if err != nil {
		return unpack.Result{}, "", err
	}
	if tar.hash == nil {
		return r, "", nil
	}
	return r, digest.NewDigest(digest.SHA256, tar.hash), nil
}

// tarLimit is how many bytes the layer's tar may have.
func (src source) tarLimit(pad int64) int64 {
	most := unpack.DefaultLimits().Bytes
	return min(most, pad+maxRatio*min(src.size, most/maxRatio))
}

// reportEvery is how many bytes pass between two reports of progress.
const reportEvery = 1 << 20

// meter hashes, counts and bounds what is read through it, and ends with its
// context.
type meter struct {
	ctx      context.Context //nolint:containedctx // lives as long as the one stream it is for
	r        io.Reader
	hash     hash.Hash   // nil for none
	limit    int64       // 0 for none
	report   func(int64) // may be nil
	n        int64
	reported int64
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	if m.hash != nil {
		_, _ = m.hash.Write(p[:n])
	}
	if m.n += int64(n); m.limit > 0 && m.n > m.limit {
		return n, errkind.New(errkind.ResourceExhausted, "cannot unpack layer: decompressed it has more than %d bytes, too many for its blob", m.limit)
	}
	if m.report != nil && m.n-m.reported >= reportEvery {
		m.reported = m.n
		m.report(m.n)
	}
	return n, err
}

// settle completes the flight's layer on the layers below it, topmost first.
// Every install calls it before it commits the layer.
func (s *Service) settle(ctx context.Context, f *flight, lowers []string) error {
	f.settling.Lock()
	defer f.settling.Unlock()
	if f.settled {
		return f.settleErr
	}
	f.settled, f.final = true, f.result
	if f.alone {
		return nil
	}
	// What is half completed is of no use to whoever else waits for it, so
	// one install's end does not stop it.
	f.final, f.settleErr = unpack.Settle(context.WithoutCancel(ctx), s.layerFS(f.seq), f.result, lowers)
	if f.settleErr == nil {
		f.settleErr = inventory.Write(s.inventory(f.seq), s.layerFS(f.seq), f.final.Sums)
	}
	if f.settleErr != nil {
		s.mu.Lock()
		s.discard(f)
		s.mu.Unlock()
	}
	return f.settleErr
}

// loseFlights makes all flights ones that no install can commit. syncing is held.
func (s *Service) loseFlights(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.flights { // which has no committed ones
		f.lost = cause
		s.discard(f)
	}
}

// discard makes the flight, whose layer is of no use, one that nobody can join;
// its directory goes with the last hold. mu is held.
func (s *Service) discard(f *flight) {
	s.forget(f)
	s.dying[f.seq] = true
}

// row is what the database keeps of the flight's layer once it is settled.
func (f *flight) row(diffID digest.Digest) meta.Layer {
	f.settling.Lock()
	defer f.settling.Unlock()
	row := meta.Layer{
		Seq: f.seq, DiffID: diffID,
		Root: f.final.Root, Opaque: f.final.Opaque,
		Bytes: f.final.Bytes, Inodes: f.final.Inodes,
		Committed: time.Now().UTC().Round(0), Listed: true,
	}
	if !f.alone {
		row.Chain = f.chain
	}
	return row
}
