package imageservice

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/berth-runtime/berth/imageservice/content"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// defaultYoungPart is how soon after it was begun a part is not on the disk yet:
// the kernel writes back what is dirty for half a minute. What came in less is
// fetched again in less.
const defaultYoungPart = 30 * time.Second

// partAge is how long the part of a download that nobody goes on with is kept.
const partAge = 24 * time.Hour

// download opens the blob of a layer. What is received is kept as a part
// until the layer's install is over, so that after a failure or a kill the
// next one goes on from there: the part is unpacked first, then the rest comes
// by range. A large blob comes by ranges side by side. If another flight has
// the part, this one goes without.
func (s *Service) download(ctx context.Context, src source) (io.ReadCloser, error) {
	if !src.remote {
		return src.open(ctx, 0)
	}
	in, err := s.ingest(src)
	if errkind.Is(err, errkind.FailedPrecondition) {
		return src.open(ctx, 0)
	}
	if err != nil {
		return nil, err
	}
	how := s.cfg.Ranges
	if src.openRange != nil && how.Parallel > 1 && src.size >= how.From {
		return fetchRanges(ctx, src, in, how), nil
	}
	rest, err := src.open(ctx, in.Offset())
	if err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return &download{received: in.Received(), rest: rest, part: in}, nil
}

// ingest opens the part of a layer's blob. One that has more than the whole
// is none.
func (s *Service) ingest(src source) (*content.Ingest, error) {
	in, err := s.blobs.Ingest(src.blob)
	if err != nil || in.End() <= src.size {
		return in, err
	}
	if err := errors.Join(s.blobs.Abandon(src.blob), in.Close()); err != nil {
		return nil, err
	}
	return s.blobs.Ingest(src.blob)
}

// download reads a blob from the beginning: what was received before, then
// what comes now, which it keeps.
type download struct {
	received io.Reader // nil once it is read
	rest     io.ReadCloser
	part     *content.Ingest
	err      error // why the part could not be written on
}

func (d *download) Read(p []byte) (int, error) {
	if d.received != nil {
		n, err := d.received.Read(p)
		if err == io.EOF {
			d.received, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	// As it comes, though larger pieces would cost the page cache a third less:
	// what came before a registry stalled is not to be fetched again.
	n, err := d.rest.Read(p)
	if n > 0 && d.err == nil {
		// The layer does not need the part. It ends at its first gap.
		d.err = verbPull.step("receive", func() error {
			_, err := d.part.Write(p[:n])
			return err
		})
	}
	return n, err
}

func (d *download) Close() error { return errors.Join(d.rest.Close(), d.part.Close()) }

// giveUp drops the part of a layer that failed, unless the bytes that are
// there may be good: then only their source was not.
func (s *Service) giveUp(src source, cause error) error {
	switch errkind.Of(cause) {
	case errkind.DataLoss, errkind.InvalidArgument, errkind.ResourceExhausted:
		return s.dropParts([]source{src}, 0)
	}
	return nil
}

// dropParts drops the parts of layers; unless younger is 0 only those that were
// begun less than that ago.
func (s *Service) dropParts(layers []source, younger time.Duration) error {
	var errs []error
	for _, src := range layers {
		if src.remote && (younger == 0 || s.blobs.Age(src.blob) < younger) {
			errs = append(errs, s.blobs.Abandon(src.blob))
		}
	}
	return errors.Join(errs...)
}

// expireParts drops the parts that nobody asked for in a long time; after a
// crash of the machine all, since none was ever synced.
func (s *Service) expireParts() error {
	before := time.Now().Add(-partAge)
	if s.state.Open && s.state.Boot != s.cfg.BootID {
		before = time.Now().Add(partAge) // whatever the clock did meanwhile
	}
	return s.blobs.AbandonBefore(before)
}
