package main

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// recipe names what the layers are made of. Who changes it gives it another
// name, since blobs are kept between runs.
const recipe = "1"

// blob is one layer in one compression, kept as a file.
type blob struct {
	Digest, DiffID v1.Hash
	Bytes, Tar     int64
	Zstd           bool
	path           string
}

func (b blob) Size() (int64, error)                 { return b.Bytes, nil }
func (b blob) Compressed() (io.ReadCloser, error)   { return os.Open(b.path) }
func (b blob) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }
func (b blob) MediaType() (types.MediaType, error) {
	if b.Zstd {
		return types.OCILayerZStd, nil
	}
	return types.OCILayer, nil
}

// layer makes a blob what package v1 calls one.
type layer struct{ blob }

func (l layer) Digest() (v1.Hash, error) { return l.blob.Digest, nil }
func (l layer) DiffID() (v1.Hash, error) { return l.blob.DiffID, nil }

// content writes one layer's files.
type content func(*tar.Writer) error

// contents are the five layers, bottom first: of Go's own distribution its
// programs and its sources, which are many small files, and of noise assets,
// one large file and some settings. About 484 MB of tar.
func contents() ([]content, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot find Go's distribution: %w", err)
	}
	root := strings.TrimSpace(string(out))
	return []content{
		func(w *tar.Writer) error { return addTrees(w, root, "bin", "pkg", "lib") },
		func(w *tar.Writer) error { return addTrees(w, root, "src", "test", "api") },
		func(w *tar.Writer) error { return addNoise(w, "assets", 900, 160<<10) },
		func(w *tar.Writer) error { return addNoise(w, "model", 1, 100<<20) },
		func(w *tar.Writer) error { return addNoise(w, "settings", 2000, 2<<10) },
	}, nil
}

// date is that of every file, so that the same Go gives the same blobs.
var date = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// addTrees adds directories of root, by name.
func addTrees(w *tar.Writer, root string, dirs ...string) error {
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() && !d.Type().IsRegular() {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			h := &tar.Header{Name: "usr/local/go/" + name, Typeflag: tar.TypeDir, Mode: int64(info.Mode().Perm()), ModTime: date}
			if !d.IsDir() {
				h.Typeflag, h.Size = tar.TypeReg, info.Size()
			}
			if err := w.WriteHeader(h); err != nil || d.IsDir() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(w, f)
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot add %s: %w", dir, err)
		}
	}
	return nil
}

// addNoise adds files of half to one and a half times size bytes, three
// quarters of which compress badly and the rest not at all.
func addNoise(w *tar.Writer, dir string, files, size int) error {
	if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: date}); err != nil {
		return err
	}
	source := rand.NewChaCha8(sha256.Sum256([]byte(dir)))
	random := rand.New(source)
	buf := make([]byte, 64<<10)
	for n := range files {
		left := size/2 + random.IntN(size)
		h := &tar.Header{Name: fmt.Sprintf("%s/%d/%d", dir, n%16, n), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(left), ModTime: date}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		for chunk := 0; left > 0; chunk++ {
			b := buf[:min(left, len(buf))]
			_, _ = source.Read(b)
			if chunk%4 != 0 {
				for i := range b { // five bits and a half of eight
					b[i] = b[i]&0x1f + b[i]>>6<<3
				}
			}
			if _, err := w.Write(b); err != nil {
				return err
			}
			left -= len(b)
		}
	}
	return nil
}

// makeBlobs gives the layers in one compression, from dir if they are there.
func makeBlobs(dir string, useZstd bool) ([]blob, error) {
	all, err := contents()
	if err != nil {
		return nil, err
	}
	kind := "gzip"
	if useZstd {
		kind = "zstd"
	}
	version, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, fmt.Sprintf("%s-%s-%s", recipe, strings.TrimSpace(string(version)), kind))
	index := filepath.Join(dir, "index.json")
	path := func(n int) string { return filepath.Join(dir, fmt.Sprint(n)) }
	var blobs []blob
	if data, err := os.ReadFile(index); err == nil && json.Unmarshal(data, &blobs) == nil && len(blobs) == len(all) {
		for n := range blobs {
			blobs[n].path = path(n)
		}
		return blobs, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	blobs = make([]blob, len(all))
	for n, c := range all {
		if blobs[n], err = makeBlob(path(n), useZstd, c); err != nil {
			return nil, fmt.Errorf("cannot make layer %d: %w", n, err)
		}
	}
	data, err := json.Marshal(blobs)
	if err != nil {
		return nil, err
	}
	return blobs, os.WriteFile(index, data, 0o644)
}

func makeBlob(path string, useZstd bool, c content) (blob, error) {
	f, err := os.Create(path)
	if err != nil {
		return blob{}, err
	}
	defer f.Close()
	sum, diff := sha256.New(), sha256.New()
	packed := &counter{w: io.MultiWriter(f, sum)}
	var z io.WriteCloser
	if useZstd {
		z, err = zstd.NewWriter(packed, zstd.WithEncoderConcurrency(1))
	} else {
		z, err = gzip.NewWriterLevel(packed, gzip.DefaultCompression)
	}
	if err != nil {
		return blob{}, err
	}
	plain := &counter{w: io.MultiWriter(z, diff)}
	w := tar.NewWriter(plain)
	if err := errors.Join(c(w), w.Close(), z.Close(), f.Close()); err != nil {
		return blob{}, err
	}
	hash := func(b []byte) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(b)} }
	return blob{
		Digest: hash(sum.Sum(nil)), DiffID: hash(diff.Sum(nil)),
		Bytes: packed.n, Tar: plain.n, Zstd: useZstd, path: path,
	}, nil
}

// counter counts what is written through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// subject is one image that is pulled.
type subject struct {
	name  string
	blobs []blob
}

func (s subject) bytes() (packed, plain int64) {
	for _, b := range s.blobs {
		packed, plain = packed+b.Bytes, plain+b.Tar
	}
	return packed, plain
}

func (s subject) image() (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(v1.Image(empty.Image), types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, b := range s.blobs {
		var err error
		if img, err = mutate.AppendLayers(img, layer{b}); err != nil {
			return nil, err
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = "amd64", "linux"
	return mutate.ConfigFile(img, file)
}

// subjects are the image in gzip, in zstd, and with both by turns.
func subjects(dir string) ([]subject, error) {
	gz, err := makeBlobs(dir, false)
	if err != nil {
		return nil, err
	}
	zs, err := makeBlobs(dir, true)
	if err != nil {
		return nil, err
	}
	mixed := slices.Clone(gz)
	for n := 1; n < len(mixed); n += 2 {
		mixed[n] = zs[n]
	}
	return []subject{{"gzip", gz}, {"zstd", zs}, {"mixed", mixed}}, nil
}
