package main

import (
	"archive/tar"
	"bufio"
	stdgzip "compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// room is an empty frame of zstd with a window of 10 MiB: it gives the decoder
// the room beside the window of 8 MiB, which the layers have, that berth gives
// it too (see imageservice/inflate), and spares a fifth of its work.
const room = "\x28\xb5\x2f\xfd\x00\x6a\x01\x00\x00"

// floorVerb makes this program the child that a floor is measured in.
const floorVerb = "floor"

// decoders are what a floor decompresses with.
type decoders string

// The decoders.
const (
	berths decoders = "berth's" // the libraries that berth has, set as there
	usual  decoders = "usual"   // Go's own gzip, and zstd without settings
)

// floor measures what no pull of these layers can do without: reading them,
// decompression, SHA-256 of blob and tar, and plain file writes, layers side
// by side. No network, no metadata beside name and content, nothing made
// durable.
func floor(ctx context.Context, dir string, s subject, by decoders) (figures, error) {
	self, err := os.Executable()
	if err != nil {
		return figures{}, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return figures{}, err
	}
	args := []string{floorVerb, dir, string(by)}
	for _, b := range s.blobs {
		args = append(args, b.path+"="+b.Digest.Hex+"="+b.DiffID.Hex)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Stderr = os.Stderr
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return figures{}, fmt.Errorf("cannot measure the floor: %w", err)
	}
	// No peak: a child's starts with what its parent has.
	f := figures{wall: time.Since(begin), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	return f, os.RemoveAll(dir)
}

// runFloor is the child: it writes the layers below dir.
func runFloor(dir string, by decoders, layers []string) error {
	var wait sync.WaitGroup
	errs := make([]error, len(layers))
	for n, l := range layers {
		wait.Go(func() {
			fields := strings.Split(l, "=")
			if len(fields) != 3 {
				errs[n] = errors.New("each layer is PATH=DIGEST=DIFFID")
				return
			}
			errs[n] = floorLayer(filepath.Join(dir, fmt.Sprint(n)), by, fields[0], fields[1], fields[2])
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func floorLayer(dir string, by decoders, path, digest, diffID string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum, diff := sha256.New(), sha256.New()
	packed := bufio.NewReaderSize(io.TeeReader(f, sum), 256<<10)
	plain, err := by.open(packed)
	if err != nil {
		return err
	}
	plain = io.TeeReader(plain, diff)
	if err := floorFiles(dir, plain); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != digest || hex.EncodeToString(diff.Sum(nil)) != diffID {
		return fmt.Errorf("%s is not what it was: remove its directory", path)
	}
	return nil
}

// open reads what is compressed with gzip or zstd.
func (d decoders) open(packed *bufio.Reader) (io.Reader, error) {
	magic, err := packed.Peek(2)
	if err != nil {
		return nil, err
	}
	zipped := magic[0] == 0x1f
	switch {
	case zipped && d == berths:
		return gzip.NewReader(packed)
	case zipped:
		return stdgzip.NewReader(packed)
	case d == berths:
		return zstd.NewReader(io.MultiReader(strings.NewReader(room), packed), zstd.WithDecoderConcurrency(1))
	}
	return zstd.NewReader(packed)
}

func floorFiles(dir string, plain io.Reader) error {
	tr := tar.NewReader(plain)
	buf := make([]byte, 256<<10)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(name, 0o755); err != nil {
				return err
			}
			continue
		}
		f, err := os.Create(name)
		if errors.Is(err, os.ErrNotExist) {
			if err = os.MkdirAll(filepath.Dir(name), 0o755); err == nil {
				f, err = os.Create(name)
			}
		}
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{f}, tr, buf)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
