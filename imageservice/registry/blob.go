package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// worthwhile is how much a connection must bring to be held a success; one
// that breaks earlier counts against the retries.
const worthwhile = 1 << 20

// Blob opens the blob d of size bytes (negative if unknown) from offset on.
// A connection that breaks or stalls is replaced, at whichever endpoint
// answers, by one that goes on from there. The reader ends after size bytes;
// the caller verifies the digest, and closes the reader, whose life ctx bounds.
func (r *Repository) Blob(ctx context.Context, d digest.Digest, size, offset int64) (io.ReadCloser, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	if offset < 0 || size >= 0 && offset > size {
		return nil, errkind.New(errkind.InvalidArgument, "cannot fetch blob %s: offset %d is not within its %d bytes", d, offset, size)
	}
	if offset == size {
		return http.NoBody, nil
	}
	b := &blobReader{ctx: ctx, repo: r, digest: d, size: size, offset: offset}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// blobReader reads one blob over as many connections as it takes.
type blobReader struct {
	ctx    context.Context // of the pull; the reader is part of it
	repo   *Repository
	digest digest.Digest
	size   int64 // negative if unknown
	offset int64 // of the next byte

	from   *endpoint // the one that body comes from
	body   io.ReadCloser
	fresh  int64 // bytes that body has brought
	broken int   // connections in a row that broke early
	err    error // sticky
}

func (b *blobReader) what() string {
	return fmt.Sprintf("blob %s of %s", b.digest, b.repo.ref.Name())
}

func (b *blobReader) open() error {
	return b.repo.try(b.ctx, verbFetch, b.what(), canPull, func(e *endpoint) error {
		body, err := e.blob(b.ctx, b.repo.ref.Path, b.digest, b.size, b.offset)
		if err == nil {
			b.from, b.body, b.fresh = e, body, 0
		}
		return err
	})
}

func (b *blobReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.err == nil {
		if b.offset == b.size {
			b.err = io.EOF
			break
		}
		if b.size >= 0 {
			p = p[:min(int64(len(p)), b.size-b.offset)]
		}
		n, err := b.body.Read(p)
		b.offset += int64(n)
		b.fresh += int64(n)
		switch {
		case err == io.EOF && b.size < 0:
			b.err = io.EOF
		case err == io.EOF && b.offset < b.size:
			b.err = b.resume(io.ErrUnexpectedEOF)
		case err != nil && err != io.EOF:
			b.err = b.resume(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// resume replaces a body that ended by cause. It gives up when connections
// keep breaking without bringing anything worthwhile.
func (b *blobReader) resume(cause error) error {
	_ = b.body.Close()
	if b.ctx.Err() != nil {
		return fmt.Errorf("cannot fetch %s: %w", b.what(), context.Cause(b.ctx))
	}
	if b.fresh >= worthwhile {
		b.broken = 0
	}
	if b.broken >= b.repo.retries {
		why := b.from.harmless(transportFailure("", cause).text)
		return errkind.New(errkind.Unavailable, "cannot fetch %s: %s: connection broke at byte %d: %s",
			b.what(), b.from.base, b.offset, why)
	}
	if err := sleep(b.ctx, backoff(b.broken)); err != nil {
		return fmt.Errorf("cannot fetch %s: %w", b.what(), err)
	}
	b.broken++
	return b.open()
}

func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = errors.New("cannot read blob: the reader is closed")
	}
	return b.body.Close()
}

// blob opens d at one endpoint from offset on. Not every host can send ranges:
// one that finds a range unsatisfiable is asked for everything.
func (e *endpoint) blob(ctx context.Context, path string, d digest.Digest, size, offset int64) (io.ReadCloser, error) {
	header := http.Header{"Accept": {"*/*"}}
	if offset > 0 {
		header.Set("Range", byteRange(offset, size))
	}
	resp, err := e.get(ctx, path, "blobs/"+d.String(), header)
	if err == nil && resp.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0 {
		_ = resp.Body.Close()
		header.Del("Range")
		resp, err = e.get(ctx, path, "blobs/"+d.String(), header)
	}
	if err != nil {
		return nil, err
	}
	if err := e.position(resp, size, offset); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// byteRange names the last byte too if it is known, as some hosts insist.
func byteRange(offset, size int64) string {
	if size < 0 {
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return fmt.Sprintf("bytes=%d-%d", offset, size-1)
}

// position checks that the body of resp is the rest of the blob from offset,
// or brings it there: a host may ignore a Range and send everything.
func (e *endpoint) position(resp *http.Response, size, offset int64) error {
	var start int64
	switch {
	case resp.StatusCode == http.StatusOK:
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return refuse(errkind.Unavailable, "the host sent another range than asked for")
		}
		start = offset
	default:
		return statusFailure("", resp)
	}
	if n := resp.ContentLength; n >= 0 && size >= 0 && n != size-start {
		return refuse(errkind.DataLoss, "the host has %d bytes for it, not %d", start+n, size)
	}
	_, err := io.CopyN(io.Discard, resp.Body, offset-start)
	return err
}
