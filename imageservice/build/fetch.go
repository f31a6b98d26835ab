package build

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// remote is a file from an URL. What a checksum names is fetched only when it
// is opened: a step that is in the cache fetches nothing.
type remote struct {
	name string // of the file, by the URL; may be empty
	sum  digest.Digest
	size int64
	get  func() error // fetches it
	file *os.File
}

func (r *remote) ready() error {
	if r.file != nil {
		return nil
	}
	return r.get()
}

func (r *remote) open() (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(r.file, 0, r.size)), nil
}

func (r *remote) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// stalled is how long a server may send nothing.
const stalled = time.Minute

// fetch prepares the file of an URL. checksum may be empty.
func (b *builder) fetch(ctx context.Context, source, checksum string) (*remote, error) {
	u, err := url.Parse(source)
	if err != nil || u.Host == "" {
		return nil, errkind.New(errkind.InvalidArgument, "%.200q is not an URL", source)
	}
	if u.User != nil {
		// Without the URL: it has the password.
		return nil, errkind.New(errkind.InvalidArgument, "the URL on %s has credentials, which would stay in the history of the image; fetch it in a RUN with a secret", u.Host)
	}
	r := &remote{}
	if base := path.Base(u.Path); base != "/" && base != "." && base != ".." {
		r.name = base
	}
	var want digest.Digest
	if checksum != "" {
		if want, err = digest.Parse(checksum); err != nil || want.Algorithm() != digest.SHA256 {
			return nil, errkind.New(errkind.InvalidArgument, "--checksum=%.100s is not sha256: and 64 hex digits", checksum)
		}
	}
	r.get = func() error { return b.download(ctx, u, want, r) }
	if want != "" {
		r.sum = want
		return r, nil
	}
	return r, r.get()
}

// download fetches the file to a file without a name.
func (b *builder) download(ctx context.Context, u *url.URL, want digest.Digest, r *remote) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := time.AfterFunc(stalled, cancel)
	defer watch.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var plain *url.Error
		if errors.As(err, &plain) {
			err = plain.Err // which does not have the query, in which there may be a token
		}
		return errkind.New(errkind.Unavailable, "cannot fetch it from %s: %w", u.Host, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errkind.New(errkind.Unavailable, "cannot fetch it: %s answers %s", u.Host, resp.Status)
	}
	f, err := nameless(b.dir.path)
	if err != nil {
		return err
	}
	r.file = f
	sum := sha256.New()
	body := &watched{r: io.LimitReader(resp.Body, b.limits.Download+1), seen: func() { watch.Reset(stalled) }}
	if r.size, err = io.Copy(io.MultiWriter(f, sum), body); err != nil {
		return errkind.New(errkind.Unavailable, "cannot fetch it from %s: %w", u.Host, err)
	}
	if r.size > b.limits.Download {
		return errkind.New(errkind.ResourceExhausted, "it has more than %d bytes", b.limits.Download)
	}
	r.sum = digest.NewDigest(digest.SHA256, sum)
	if want != "" && r.sum != want {
		return errkind.New(errkind.DataLoss, "it has the digest %s, and not %s", r.sum, want)
	}
	return nil
}

// watched tells of each read that brought something.
type watched struct {
	r    io.Reader
	seen func()
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.seen()
	}
	return n, err
}
