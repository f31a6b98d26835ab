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
	b := &blobReader{ctx: ctx, repo: r, digest: d, size: size, offset: offset, end: size}
	if err := b.open(false); err != nil {
		return nil, err
	}
	return b, nil
}

// BlobRange opens the bytes from offset to end of the blob d, which has size,
// as Blob does, and tells where they end: a host that ignores ranges and is
// asked for the first brings all of the blob. For another range such a host is
// of no use, and is FailedPrecondition.
func (r *Repository) BlobRange(ctx context.Context, d digest.Digest, size, offset, end int64) (io.ReadCloser, int64, error) {
	if err := checkDigest(d); err != nil {
		return nil, 0, err
	}
	if offset < 0 || end <= offset || size < end {
		return nil, 0, errkind.New(errkind.InvalidArgument, "cannot fetch blob %s: there are no bytes %d to %d within its %d", d, offset, end, size)
	}
	b := &blobReader{ctx: ctx, repo: r, digest: d, size: size, offset: offset, end: end}
	if err := b.open(true); err != nil {
		return nil, 0, err
	}
	return b, b.end, nil
}

// blobReader reads a blob, or a range of it, over as many connections as it
// takes.
type blobReader struct {
	ctx    context.Context // of the pull; the reader is part of it
	repo   *Repository
	digest digest.Digest
	size   int64 // negative if unknown
	offset int64 // of the next byte
	end    int64 // of the last byte, and one more; negative if unknown

	from   *endpoint // the one that body comes from
	body   io.ReadCloser
	fresh  int64 // bytes that body has brought
	broken int   // connections in a row that broke early
	err    error // sticky
}

func (b *blobReader) what() string {
	return fmt.Sprintf("blob %s of %s", b.digest, b.repo.ref.Name())
}

// open asks for what is left. strict is for ranges that have not begun: it
// wants the range itself and not more, but that it may be the whole blob.
func (b *blobReader) open(strict bool) error {
	return b.repo.try(b.ctx, verbFetch, b.what(), canPull, func(e *endpoint) error {
		body, whole, err := e.blob(b.ctx, b.repo.ref.Path, b.digest, span{b.offset, b.end, b.size}, strict)
		if err != nil {
			return err
		}
		if strict && whole {
			b.end = b.size
		}
		b.from, b.body, b.fresh = e, body, 0
		return nil
	})
}

func (b *blobReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for b.err == nil {
		if b.offset == b.end {
			b.err = io.EOF
			break
		}
		if b.end >= 0 {
			p = p[:min(int64(len(p)), b.end-b.offset)]
		}
		n, err := b.body.Read(p)
		b.offset += int64(n)
		b.fresh += int64(n)
		switch {
		case err == io.EOF && b.size < 0:
			b.err = io.EOF
		case err == io.EOF && b.offset < b.end:
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
	return b.open(false)
}

func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = errors.New("cannot read blob: the reader is closed")
	}
	return b.body.Close()
}

// span is what is wanted of a blob: the bytes from begin to end of size. Both
// are negative if the size is unknown.
type span struct{ begin, end, size int64 }

// header names the last byte too if it is known, as some hosts insist.
func (s span) header() string {
	if s.end < 0 {
		return fmt.Sprintf("bytes=%d-", s.begin)
	}
	return fmt.Sprintf("bytes=%d-%d", s.begin, s.end-1)
}

// errOtherRange is the answer of a host that does not do ranges right.
var errOtherRange = refuse(errkind.FailedPrecondition, "the host sent another range than asked for")

// blob opens d at one endpoint where want begins. Not every host can send
// ranges: one that sends another, or finds it unsatisfiable, is asked for
// everything, unless it is strictly the range that is wanted. whole says that
// the body goes on to the end of the blob.
func (e *endpoint) blob(ctx context.Context, path string, d digest.Digest, want span, strict bool) (body io.ReadCloser, whole bool, err error) {
	header := http.Header{"Accept": {"*/*"}}
	ranged := want.begin > 0 || want.end != want.size
	if ranged {
		header.Set("Range", want.header())
	}
	resp, err := e.get(ctx, path, "blobs/"+d.String(), header)
	if err != nil {
		return nil, false, err
	}
	if ranged && otherRange(resp, want) {
		_ = resp.Body.Close()
		if strict && want.begin > 0 {
			return nil, false, errOtherRange
		}
		header.Del("Range")
		if resp, err = e.get(ctx, path, "blobs/"+d.String(), header); err != nil {
			return nil, false, err
		}
	}
	whole = resp.StatusCode == http.StatusOK
	if strict && whole && want.begin > 0 {
		_ = resp.Body.Close()
		return nil, false, errOtherRange
	}
	if err := position(resp, want, ranged); err != nil {
		_ = resp.Body.Close()
		return nil, false, err
	}
	return resp.Body, whole, nil
}

// otherRange reports whether a host tried to send a range and sends another.
func otherRange(resp *http.Response, want span) bool {
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return true
	case http.StatusPartialContent:
		begin := fmt.Sprintf("bytes %d-", want.begin)
		if want.end >= 0 && want.end != want.size {
			begin += fmt.Sprintf("%d/", want.end-1)
		}
		return !strings.HasPrefix(resp.Header.Get("Content-Range"), begin)
	}
	return false
}

// position checks the length of what resp brings, and brings it to where want
// begins: a host may ignore a Range and send everything.
func position(resp *http.Response, want span, ranged bool) error {
	begin, end := want.begin, want.end
	switch {
	case resp.StatusCode == http.StatusOK:
		begin, end = 0, want.size
	case resp.StatusCode != http.StatusPartialContent || !ranged:
		return statusFailure("", resp)
	case otherRange(resp, want):
		return errOtherRange
	}
	if n := resp.ContentLength; n >= 0 && end >= 0 && n != end-begin {
		return refuse(errkind.DataLoss, "the host has %d bytes for it, not %d", begin+n, end)
	}
	_, err := io.CopyN(io.Discard, resp.Body, want.begin-begin)
	return err
}
