// Package content keeps blobs on disk by their digest.
//
// A blob is in the store if and only if its file is under blobs/: the bytes
// are verified and synced before the rename that puts it there, so presence is
// proof. Files under ingest/ are downloads under way; they may be cut anywhere
// and count for nothing until committed. The store knows no references:
// whoever deletes a blob must know that none needs it.
//
//	root/blobs/sha256/<hex>
//	root/ingest/<hex>.part
package content

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Store is a directory of blobs. Its methods may be called concurrently.
type Store struct {
	blobs  string
	ingest string
}

// Open opens the store under root and makes its directories if need be. It is
// called once, before any other use: it clears away what a Put that was killed
// left behind.
func Open(root string) (*Store, error) {
	s := &Store{
		blobs:  filepath.Join(root, "blobs", digest.SHA256.String()),
		ingest: filepath.Join(root, "ingest"),
	}
	for _, dir := range []string{s.blobs, s.ingest} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, errkind.New(errkind.Unknown, "cannot open content store %s: %w", root, err)
		}
	}
	if err := s.sweep(); err != nil {
		return nil, errkind.New(errkind.Unknown, "cannot open content store %s: %w", root, err)
	}
	return s, nil
}

// sweep removes the temporary files of package atomicfile.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.blobs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".tmp-") {
			if err := os.Remove(filepath.Join(s.blobs, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Path is where the blob d is, or would be. A digest that is not valid has
// no path: it must not become part of a file name.
func (s *Store) Path(d digest.Digest) string {
	if check(d) != nil {
		return ""
	}
	return filepath.Join(s.blobs, d.Encoded())
}

// Has reports whether the blob d is in the store.
func (s *Store) Has(d digest.Digest) bool {
	if check(d) != nil {
		return false
	}
	fi, err := os.Lstat(s.Path(d))
	return err == nil && fi.Mode().IsRegular()
}

// ReadFile reads the whole blob d. An absent one is NotFound, one of more
// than limit bytes ResourceExhausted, one whose bytes are not d's DataLoss.
func (s *Store) ReadFile(d digest.Digest, limit int64) ([]byte, error) {
	if err := check(d); err != nil {
		return nil, err
	}
	f, err := os.Open(s.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errkind.New(errkind.NotFound, "cannot read blob %s: it is not in the store", d)
	}
	if err != nil {
		return nil, errkind.New(errkind.Unknown, "cannot read blob %s: %w", d, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, errkind.New(errkind.Unknown, "cannot read blob %s: %w", d, err)
	case int64(len(b)) > limit:
		return nil, errkind.New(errkind.ResourceExhausted, "cannot read blob %s: it is larger than the limit of %d bytes", d, limit)
	case digest.FromBytes(b) != d:
		return nil, errkind.New(errkind.DataLoss, "cannot read blob %s: the stored bytes do not match the digest", d)
	}
	return b, nil
}

// Put stores b as the blob d, durably, after verifying that it is d. To put a
// blob that is there already does nothing.
func (s *Store) Put(d digest.Digest, b []byte) error {
	if err := check(d); err != nil {
		return err
	}
	if got := digest.FromBytes(b); got != d {
		return errkind.New(errkind.DataLoss, "cannot store blob %s: the bytes have digest %s", d, got)
	}
	if s.Has(d) {
		return nil
	}
	if err := atomicfile.Write(s.Path(d), b, 0o600); err != nil {
		return errkind.New(errkind.Unknown, "cannot store blob %s: %w", d, err)
	}
	return nil
}

// Delete removes the blob d. To delete an absent one does nothing.
func (s *Store) Delete(d digest.Digest) error {
	if err := check(d); err != nil {
		return err
	}
	if err := os.Remove(s.Path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.Unknown, "cannot delete blob %s: %w", d, err)
	}
	return nil
}

// List gives the digests of all blobs in the store, in order.
func (s *Store) List() ([]digest.Digest, error) {
	entries, err := os.ReadDir(s.blobs)
	if err != nil {
		return nil, errkind.New(errkind.Unknown, "cannot list blobs: %w", err)
	}
	var all []digest.Digest
	for _, e := range entries {
		// A name that is no digest is the temporary file of a Put under way.
		d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if check(d) == nil && e.Type().IsRegular() {
			all = append(all, d)
		}
	}
	return all, nil
}

// check refuses whatever must not become a file name.
func check(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return errkind.New(errkind.InvalidArgument, "cannot use digest %q: %v", string(d), err)
	}
	if d.Algorithm() != digest.SHA256 {
		return errkind.New(errkind.InvalidArgument, "cannot use digest %s: only sha256 is supported", d)
	}
	return nil
}
