package main

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	contentv1 "github.com/containerd/containerd/api/services/content/v1"
	imagesv1 "github.com/containerd/containerd/api/services/images/v1"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// containerd gives its images by its socket, each blob by one call. `ctr images
// export` takes a call for every 32 KiB, and six times the CPU time.
type containerd struct {
	socket, namespace string
	images            imagesv1.ImagesClient
	content           contentv1.ContentClient
}

const maxDocument = 4 << 20 // of what is held in memory; berthd takes no larger manifest

// engineContainerd is containerd as ctr would find it.
func engineContainerd(namespace string) *engine {
	d := &containerd{
		socket:    strings.TrimPrefix(cmp.Or(os.Getenv("CONTAINERD_ADDRESS"), "/run/containerd/containerd.sock"), "unix://"),
		namespace: namespace,
	}
	return &engine{name: "containerd", images: d.list, export: d.export}
}

// connect tells at once of a socket where nobody listens.
func (d *containerd) connect(ctx context.Context) error {
	conn, err := dial(ctx, d.socket)
	if err != nil {
		return &problem{what: "cannot reach containerd", why: err.Error(), do: "see that it runs, and that you may use its socket; another one: $CONTAINERD_ADDRESS"}
	}
	_ = conn.Close()
	to, err := grpcAt(d.socket, "localhost", dial)
	if err != nil {
		return cannot(err, "reach containerd")
	}
	d.images, d.content = imagesv1.NewImagesClient(to), contentv1.NewContentClient(to)
	return nil
}

func (d *containerd) in(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", d.namespace)
}

// list tells of all images of the namespace. It is called first, and once.
func (d *containerd) list(ctx context.Context) ([]foreignImage, error) {
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	res, err := d.images.List(d.in(ctx), &imagesv1.ListImagesRequest{})
	if err != nil {
		return nil, inContainerd(err, "list the images of containerd")
	}
	var all []foreignImage
	for _, i := range res.Images {
		one := foreignImage{ref: i.Name}
		if t, err := d.tree(ctx, i); err == nil && len(t.configs) == 1 { // else export tells
			one.id = t.configs[0].String()
		}
		all = append(all, one)
	}
	return all, nil
}

// export packs what is there of the image as an OCI layout.
func (d *containerd) export(ctx context.Context, ref string) (*exported, error) {
	res, err := d.images.Get(d.in(ctx), &imagesv1.GetImageRequest{Name: ref})
	if err != nil {
		return nil, inContainerd(err, "import %s from containerd", ref)
	}
	t, err := d.tree(ctx, res.Image)
	if err != nil {
		return nil, inContainerd(err, "import %s from containerd", ref)
	}
	r, w := io.Pipe()
	go func() {
		err := d.write(ctx, w, t)
		if err != nil {
			err = inContainerd(err, "import %s from containerd", ref)
		}
		_ = w.CloseWithError(err)
	}()
	return &exported{r, r.Close}, nil
}

// A tree is what an image is made of, as far as containerd has it: an index
// names what is for other platforms too. If what is for this one lacks, berthd
// tells.
type tree struct {
	index           v1.Index
	documents       map[digest.Digest][]byte // indexes and manifests
	configs, layers []digest.Digest
}

func (d *containerd) tree(ctx context.Context, i *imagesv1.Image) (*tree, error) {
	target := v1.Descriptor{MediaType: i.Target.GetMediaType(), Digest: digest.Digest(i.Target.GetDigest()), Size: i.Target.GetSize(),
		Annotations: map[string]string{"io.containerd.image.name": i.Name}}
	t := &tree{
		index:     v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{target}},
		documents: map[digest.Digest][]byte{},
	}
	for todo := []digest.Digest{target.Digest}; len(todo) > 0; todo = todo[1:] {
		size, err := d.size(ctx, todo[0])
		if err == nil && size > maxDocument {
			err = fmt.Errorf("%s is no manifest: it has %d bytes", todo[0], size)
		}
		if err != nil {
			return nil, err
		}
		if size == lacking || t.documents[todo[0]] != nil {
			continue
		}
		var raw bytes.Buffer
		if err := d.read(ctx, todo[0], &raw); err != nil {
			return nil, err
		}
		var document struct {
			Manifests, Layers []v1.Descriptor
			Config            v1.Descriptor
		}
		if err := json.Unmarshal(raw.Bytes(), &document); err != nil {
			return nil, fmt.Errorf("cannot read manifest %s: %w", todo[0], err)
		}
		t.documents[todo[0]] = raw.Bytes()
		for _, m := range document.Manifests {
			todo = append(todo, m.Digest)
		}
		if document.Config.Digest != "" {
			t.configs = append(t.configs, document.Config.Digest)
		}
		for _, l := range document.Layers {
			t.layers = append(t.layers, l.Digest)
		}
	}
	return t, nil
}

// write writes the layout as a tar.
func (d *containerd) write(ctx context.Context, to io.Writer, t *tree) error {
	out := tar.NewWriter(to)
	file := func(name string, size int64, fill func() error) error {
		if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
			return err
		}
		return fill()
	}
	index, err := json.Marshal(t.index)
	if err != nil {
		return err
	}
	files := map[string][]byte{v1.ImageIndexFile: index}
	for at, raw := range t.documents {
		files[blobFile(at)] = raw
	}
	for name, content := range files {
		if err := file(name, int64(len(content)), func() error { _, err := out.Write(content); return err }); err != nil {
			return err
		}
	}
	for _, blob := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(t.configs, t.layers)))) {
		size, err := d.size(ctx, blob)
		if err == nil && size != lacking {
			err = file(blobFile(blob), size, func() error { return d.read(ctx, blob, out) })
		}
		if err != nil {
			return err
		}
	}
	return out.Close()
}

func blobFile(d digest.Digest) string {
	return path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// lacking is the size of a blob that containerd does not have.
const lacking = -1

func (d *containerd) size(ctx context.Context, blob digest.Digest) (int64, error) {
	res, err := d.content.Info(d.in(ctx), &contentv1.InfoRequest{Digest: blob.String()})
	if status.Code(err) == codes.NotFound {
		return lacking, nil
	}
	return res.GetInfo().GetSize(), err
}

// read gives the bytes of a blob by one call.
func (d *containerd) read(ctx context.Context, blob digest.Digest, to io.Writer) error {
	stream, err := d.content.Read(d.in(ctx), &contentv1.ReadContentRequest{Digest: blob.String()})
	for err == nil {
		var piece *contentv1.ReadContentResponse
		if piece, err = stream.Recv(); err == nil {
			_, err = to.Write(piece.Data)
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// inContainerd is cannot for what containerd says, whose codes are not berthd's.
func inContainerd(err error, format string, args ...any) error {
	if errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
		return cannot(err, format, args...)
	}
	return &problem{what: "cannot " + fmt.Sprintf(format, args...), why: status.Convert(err).Message(), do: "see what it has: ctr --namespace NAMESPACE images list"}
}
