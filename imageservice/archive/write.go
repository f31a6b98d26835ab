package archive

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Format says what an archive is written as.
type Format int

// The formats. Docker's is an OCI layout too, so that everyone can read it;
// its layers are plain tars, as old versions of docker expect.
const (
	OCI Format = iota
	Docker
)

// nameAnnotation gives an entry of index.json the full name of its image, as
// containerd and docker write it.
const nameAnnotation = "io.containerd.image.name"

// Writer collects images in a directory, as an OCI layout. Equal images give
// equal bytes, whenever and wherever they are written.
type Writer struct {
	dir    string
	format Format
	index  []v1.Descriptor
	docker []dockerImage
}

// dockerImage is an element of docker's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// NewWriter makes a Writer that uses the empty directory dir, which the caller
// removes.
func NewWriter(dir string, format Format) (*Writer, error) {
	return &Writer{dir: dir, format: format}, os.MkdirAll(filepath.Join(dir, v1.ImageBlobsDir, "sha256"), 0o700)
}

// Layer stores what fill writes, the tar of a layer, packed as the format has
// it. It may be called concurrently.
func (w *Writer) Layer(fill func(io.Writer) error) (v1.Descriptor, error) {
	f, err := os.CreateTemp(w.dir, "layer-")
	if err != nil {
		return v1.Descriptor{}, err
	}
	sum := sha256.New()
	d := v1.Descriptor{MediaType: v1.MediaTypeImageLayer}
	to := io.MultiWriter(f, sum)
	if w.format == OCI {
		d.MediaType = v1.MediaTypeImageLayerGzip
		err = compress(to, fill)
	} else {
		err = fill(to)
	}
	fi, statErr := f.Stat()
	if err = errors.Join(err, statErr, f.Close()); err != nil {
		return v1.Descriptor{}, errors.Join(err, os.Remove(f.Name()))
	}
	d.Digest, d.Size = digest.NewDigest(digest.SHA256, sum), fi.Size()
	return d, os.Rename(f.Name(), w.path(d.Digest))
}

// compress is deterministic: the header has neither name nor time, and the
// level is fixed. A change of it changes the digests of what is pushed anew.
func compress(to io.Writer, fill func(io.Writer) error) error {
	z, err := gzip.NewWriterLevel(to, 6)
	if err != nil {
		return err
	}
	if err := fill(z); err != nil {
		return err
	}
	return z.Close()
}

// Blob stores the file as the blob d, by a link where it is on the same file
// system. A file whose bytes are not d's is DataLoss. It may be called
// concurrently.
func (w *Writer) Blob(d v1.Descriptor, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, sum); got != d.Digest {
		return errkind.New(errkind.DataLoss, "cannot use blob %s: its bytes have digest %s", d.Digest, got)
	}
	if err := os.Link(file, w.path(d.Digest)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Image adds an image of layers that were stored, and gives its manifest.
func (w *Writer) Image(config []byte, layers []v1.Descriptor, names []string) (v1.Descriptor, error) {
	c, err := w.blob(v1.MediaTypeImageConfig, config)
	if err != nil {
		return c, err
	}
	b, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: c, Layers: append([]v1.Descriptor{}, layers...),
	})
	if err != nil {
		return c, err
	}
	m, err := w.Manifest(v1.MediaTypeImageManifest, b, names)
	if err != nil {
		return m, err
	}
	entry := dockerImage{Config: blobPath(c.Digest), RepoTags: names, Layers: []string{}}
	for _, l := range layers {
		entry.Layers = append(entry.Layers, blobPath(l.Digest))
	}
	w.docker = append(w.docker, entry)
	return m, nil
}

// Manifest adds an image by its manifest. All that it names was stored.
func (w *Writer) Manifest(mediaType string, raw []byte, names []string) (v1.Descriptor, error) {
	m, err := w.blob(mediaType, raw)
	if err != nil {
		return m, err
	}
	if len(names) == 0 {
		w.index = append(w.index, m)
	}
	for _, name := range names {
		named := m
		named.Annotations = map[string]string{nameAnnotation: name, v1.AnnotationRefName: name}
		w.index = append(w.index, named)
	}
	return m, nil
}

func (w *Writer) blob(mediaType string, b []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return d, os.WriteFile(w.path(d.Digest), b, 0o600)
}

// Open opens a blob that was stored. The caller closes it.
func (w *Writer) Open(d digest.Digest) (*os.File, error) { return os.Open(w.path(d)) }

func (w *Writer) path(d digest.Digest) string { return filepath.Join(w.dir, blobPath(d)) }

// WriteTar writes the archive of all images that were added.
func (w *Writer) WriteTar(to io.Writer) error {
	files := map[string]any{
		v1.ImageLayoutFile: v1.ImageLayout{Version: v1.ImageLayoutVersion},
		v1.ImageIndexFile: v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: w.index,
		},
	}
	if w.format == Docker {
		files["manifest.json"] = w.docker
	}
	for name, content := range files {
		b, err := json.Marshal(content)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(w.dir, name), b, 0o600); err != nil {
			return err
		}
	}
	blobs, err := os.ReadDir(filepath.Join(w.dir, v1.ImageBlobsDir, "sha256"))
	if err != nil {
		return err
	}
	names := []string{}
	for name := range files {
		names = append(names, name)
	}
	for _, b := range blobs {
		names = append(names, filepath.Join(v1.ImageBlobsDir, "sha256", b.Name()))
	}
	slices.Sort(names)
	tw := tar.NewWriter(to)
	for _, name := range names {
		if err := w.writeFile(tw, name); err != nil {
			return err
		}
	}
	return tw.Close()
}

func (w *Writer) writeFile(tw *tar.Writer, name string) error {
	f, err := os.Open(filepath.Join(w.dir, name))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: fi.Size(), ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.Copy(tw, f)
	return err
}
