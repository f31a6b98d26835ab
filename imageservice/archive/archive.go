// Package archive reads and writes image archives: what docker save writes,
// and OCI layouts, as a directory or in a tar.
//
// The law: an archive is hostile. It is spooled into a directory through a
// handle (os.Root), as plain files and links that lead nowhere outside, and
// is read back through one. What it says about digests is for whoever unpacks
// the layers to verify; configs and manifests of an OCI layout are verified
// here.
package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/imageservice/inflate"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Limits on what an archive's author controls.
const (
	maxEntries = 100_000
	maxNesting = 3        // of indexes
	maxRead    = 64 << 20 // bytes of configs, manifests and indexes, each as often as it is named
)

// Archive is an open archive.
type Archive struct {
	Images []Image
	root   *os.Root
	taken  int // bytes of small files
}

// Image is one image of an archive.
type Image struct {
	Tags      []string // as written, not normalised
	Config    []byte   // of an artifact the manifest
	Manifests [][]byte // of an OCI layout: the manifest and the indexes that lead to it, and an artifact's config
	Layers    []Layer  // bottom first
}

// Name is what people know the image by.
func (i Image) Name() string {
	if len(i.Tags) > 0 {
		return i.Tags[0]
	}
	return digest.FromBytes(i.Config).String()
}

// Layer is one layer of an image.
type Layer struct {
	Name   string        // for people
	Digest digest.Digest // of the file; "" in a docker archive, which does not say
	Size   int64
	file   string
}

// Spool writes the files of the tar r, compressed or not, into dir.
func Spool(ctx context.Context, r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	plain, err := inflate.Reader(r)
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	tr := tar.NewReader(plain)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF && n > 0 {
			return nil
		}
		if err != nil {
			return errkind.New(max(errkind.Of(err), errkind.InvalidArgument), "cannot read archive: %w", err)
		}
		if n >= maxEntries {
			return errkind.New(errkind.ResourceExhausted, "cannot read archive: it has more than %d entries", maxEntries)
		}
		if err := spoolEntry(root, h, tr); err != nil {
			return errkind.New(errkind.Of(err), "cannot read archive entry %q: %w", h.Name, err)
		}
	}
}

func spoolEntry(root *os.Root, h *tar.Header, r io.Reader) error {
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	if name == "." {
		return nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return invalid(err)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return invalid(root.MkdirAll(name, 0o700))
	case tar.TypeSymlink:
		// docker save linked layers that several images share.
		return invalid(root.Symlink(h.Linkname, name))
	case tar.TypeLink:
		return invalid(root.Link(path.Clean(strings.TrimLeft(h.Linkname, "/")), name))
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return invalid(err)
		}
		_, err = io.Copy(f, r)
		return errors.Join(err, f.Close())
	}
	return nil // nothing that an archive needs
}

// invalid calls a refused name the archive's fault, but not a full disk.
func invalid(err error) error {
	var pathErr *fs.PathError
	var linkErr *os.LinkError
	if errors.As(err, &pathErr) || errors.As(err, &linkErr) {
		return errkind.New(errkind.InvalidArgument, "%w", err)
	}
	return err
}

// Open reads what is in dir: an unpacked docker archive or an OCI layout. An
// archive that is both is read as docker's, which says the names.
func Open(dir string) (*Archive, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	a := &Archive{root: root}
	if err := a.read(); err != nil {
		_ = root.Close()
		return nil, err
	}
	return a, nil
}

func (a *Archive) read() error {
	if b, err := a.readFile("manifest.json"); err == nil {
		return a.readDocker(b)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := a.readFile(v1.ImageIndexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.InvalidArgument, "cannot read archive: it has neither manifest.json nor index.json, so it is neither docker's nor OCI's")
	}
	if err != nil {
		return err
	}
	return a.readLayout(b)
}

// Close closes the archive. Layers that are open stay readable.
func (a *Archive) Close() error { return a.root.Close() }

// OpenLayer opens the file of a layer. The caller closes it.
func (a *Archive) OpenLayer(l Layer) (io.ReadCloser, error) { return a.root.Open(l.file) }

// readFile reads a small file.
func (a *Archive) readFile(name string) ([]byte, error) {
	f, err := a.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, manifest.MaxBytes+1))
	if err == nil {
		err = manifest.CheckSize(name, b)
	}
	if a.taken += len(b); err == nil && a.taken > maxRead {
		err = errkind.New(errkind.ResourceExhausted, "cannot read archive: its configs and manifests have more than %d bytes", maxRead)
	}
	return b, err
}

// readDocker reads an archive by its manifest.json.
func (a *Archive) readDocker(b []byte) error {
	var images []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(b, &images); err != nil {
		return errkind.New(errkind.InvalidArgument, "cannot read manifest.json: %v", err)
	}
	for _, i := range images {
		config, err := a.readFile(i.Config)
		if err != nil {
			return missing(err)
		}
		image := Image{Tags: i.RepoTags, Config: config}
		for _, name := range i.Layers {
			l, err := a.layer(name, "")
			if err != nil {
				return err
			}
			image.Layers = append(image.Layers, l)
		}
		a.Images = append(a.Images, image)
	}
	return nil
}

// readLayout reads an OCI layout by its index.json. Each entry is an image; an
// entry that is an index is one image too, that for this machine.
func (a *Archive) readLayout(b []byte) error {
	doc, err := manifest.Parse(v1.MediaTypeImageIndex, b)
	if err != nil {
		return err
	}
	for _, d := range doc.Index.Manifests {
		image, err := a.readManifest(d)
		if err != nil {
			return err
		}
		if name := layoutName(d); name != "" {
			image.Tags = []string{name}
		}
		a.Images = append(a.Images, image)
	}
	return nil
}

// layoutName is the name that an entry of index.json gives its image. The
// OCI annotation is often the tag alone, which names nothing by itself.
func layoutName(d v1.Descriptor) string {
	if name := d.Annotations[nameAnnotation]; name != "" {
		return name
	}
	if name := d.Annotations[v1.AnnotationRefName]; strings.ContainsAny(name, "/:") {
		return name
	}
	return ""
}

func (a *Archive) readManifest(d v1.Descriptor) (Image, error) {
	var image Image
	for range maxNesting + 1 {
		b, err := a.readBlob(d.Digest)
		if err != nil {
			return image, err
		}
		image.Manifests = append(image.Manifests, b)
		doc, err := manifest.Parse(d.MediaType, b)
		if err != nil {
			return image, err
		}
		if doc.Index != nil {
			if d, err = manifest.Choose(doc.Index); err != nil {
				return image, err
			}
			continue
		}
		if image.Config, err = a.readBlob(doc.Manifest.Config.Digest); err != nil {
			return image, err
		}
		if manifest.IsArtifact(doc.Manifest) {
			last := len(image.Manifests) - 1
			image.Config, image.Manifests[last] = b, image.Config
		}
		for _, l := range doc.Manifest.Layers {
			layer, err := a.layer(blobPath(l.Digest), l.Digest)
			if err != nil {
				return image, err
			}
			image.Layers = append(image.Layers, layer)
		}
		return image, nil
	}
	return image, errkind.New(errkind.InvalidArgument, "cannot read index %s: indexes nest more than %d deep", d.Digest, maxNesting)
}

func (a *Archive) readBlob(d digest.Digest) ([]byte, error) {
	b, err := a.readFile(blobPath(d))
	if err != nil {
		return nil, missing(err)
	}
	if got := digest.FromBytes(b); got != d {
		return nil, errkind.New(errkind.DataLoss, "cannot use blob %s: the archive's bytes have digest %s", d, got)
	}
	return b, nil
}

func (a *Archive) layer(file string, d digest.Digest) (Layer, error) {
	fi, err := a.root.Stat(file)
	if err != nil {
		return Layer{}, missing(err)
	}
	if !fi.Mode().IsRegular() {
		return Layer{}, errkind.New(errkind.InvalidArgument, "cannot read archive: its layer %q is no file", file)
	}
	name := file
	if d != "" {
		name = d.String()
	}
	return Layer{Name: name, Digest: d, Size: fi.Size(), file: file}, nil
}

func blobPath(d digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errkind.New(errkind.InvalidArgument, "cannot read archive: it lacks a file that it names: %w", err)
	}
	return fmt.Errorf("cannot read archive: %w", err)
}
