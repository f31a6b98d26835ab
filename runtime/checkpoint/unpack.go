package checkpoint

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxEntries bounds the files of one archive: CRIU writes some for each process
// and for each of its mappings and descriptors.
const maxEntries = 1 << 20

// imageName is how CRIU names its files.
var imageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$`)

// Unpack unpacks the archive of c, which lies beside the description at dir,
// into the directory to, which it makes. Only files of a checkpoint are
// unpacked, together not larger than the archive, and an archive that is not
// the one that c tells is errkind.InvalidArgument: what it left in to is good
// for nothing. The bytes of the archive are read once, so that nobody changes
// them between the check and the use.
func (c PodContainer) Unpack(ctx context.Context, dir, to string) error {
	f, size, err := openRegular(filepath.Join(dir, c.Archive))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if size != c.Size {
		return errkind.New(errkind.InvalidArgument, "archive %s has %d bytes, not the %d that were written", c.Archive, size, c.Size)
	}
	for _, d := range []string{to, filepath.Join(to, ImagesDir)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	sum := sha256.New()
	in := io.TeeReader(untilDone{ctx, io.LimitReader(f, c.Size)}, sum)
	err = unpack(in, to, c.Size)
	if err == nil {
		_, err = io.Copy(io.Discard, in) // what follows the end of a tar is part of it
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("archive %s: %w", c.Archive, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != c.SHA256 {
		return errkind.New(errkind.InvalidArgument, "archive %s has digest %s, not the %s that was written", c.Archive, got, c.SHA256)
	}
	return nil
}

// untilDone reads r until ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// unpack unpacks a tar whose files are not larger than room together.
func unpack(in io.Reader, to string, room int64) error {
	r := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errkind.New(errkind.InvalidArgument, "it is no tar: %w", err)
		}
		if n == maxEntries {
			return errkind.New(errkind.ResourceExhausted, "it has more than %d files", maxEntries)
		}
		if h.Typeflag == tar.TypeDir && strings.TrimSuffix(h.Name, "/") == ImagesDir {
			continue
		}
		if h.Typeflag != tar.TypeReg || !ofCheckpoint(h.Name) {
			return errkind.New(errkind.InvalidArgument, "%.200q (a tar's type %q) is no file of a checkpoint", h.Name, h.Typeflag)
		}
		if room -= h.Size; room < 0 { // holes, which a tar can tell in a few bytes
			return errkind.New(errkind.InvalidArgument, "its files are larger than itself")
		}
		if err := unpackFile(r, filepath.Join(to, h.Name)); err != nil {
			return err
		}
	}
}

// ofCheckpoint tells whether a file of a checkpoint may have that name.
func ofCheckpoint(name string) bool {
	if image, ok := strings.CutPrefix(name, ImagesDir+"/"); ok {
		return imageName.MatchString(image)
	}
	return slices.Contains([]string{SpecFile, ConfigFile, StatusFile, BindMountsFile, RootfsDiffFile, LogFile, statsFile}, name)
}

func unpackFile(r io.Reader, path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, os.ErrExist) {
		return errkind.New(errkind.InvalidArgument, "%s is there twice", filepath.Base(path))
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = io.Copy(f, r)
	return err
}
