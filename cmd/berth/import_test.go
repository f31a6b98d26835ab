package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	contentv1 "github.com/containerd/containerd/api/services/content/v1"
	imagesv1 "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// withEngine puts a program on PATH that lists, and saves what it is asked for;
// one name it does not know.
func withEngine(t *testing.T, name, list string) (calls func() string) {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho \"$*\" >>%[1]s/calls\ncase \"$*\" in\n"+
		"*missing*) printf 'no such\\033[31m image\\n' >&2; exit 1;;\n"+
		"*inspect*) echo application/vnd.oci.image.manifest.v1+json;;\n"+
		"*save*|*export*) echo archive;;\n*) printf '%[2]s';;\nesac\n", dir, list)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() string {
		b, _ := os.ReadFile(filepath.Join(dir, "calls"))
		_ = os.Remove(filepath.Join(dir, "calls"))
		return strings.TrimSpace(string(b))
	}
}

func TestImportFromDocker(t *testing.T) {
	n := newNode(t)
	here := n.addImage("", "box")
	calls := withEngine(t, "docker", here.Id+`\tteam/box:1\nsha256:aa\tnginx:1\nsha256:bb\t<none>:<none>\n`)
	code, out, errs := n.berth("import", "--from", "docker")
	if code != 0 || !strings.Contains(out, "team/box:1: "+short(here.Id, false)+", here already\n") || !strings.Contains(out, "nginx:1: ") || !strings.Contains(errs, "nginx:1: importing") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if got := calls(); got != "images --no-trunc --format {{.ID}}\t{{.Repository}}:{{.Tag}}\nsave nginx:1" {
		t.Errorf("docker was called with %q", got)
	}
	if string(n.loaded) != "archive\n" {
		t.Errorf("loaded %q", n.loaded)
	}
	for _, ref := range []string{"team/box:1", "nginx:1"} {
		if img := n.findImage(ref); img == nil {
			t.Errorf("%s has no name here", ref)
		}
	}
	// What fails is told in the engine's words, and holds up no other.
	code, out, errs = n.berth("import", "--from", "docker", "missing", "nginx:1")
	if code != exitOwn || !strings.Contains(out, "nginx:1: ") || !strings.Contains(errs, "why: no such [31m image\n") || !strings.Contains(errs, "try: try by hand: docker save missing >image.tar") {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

func TestImportFromPodman(t *testing.T) {
	n := newNode(t)
	calls := withEngine(t, "podman", `aa\tlocalhost/box:1\n`)
	n.must(t, "import", "--from", "podman")
	if got := calls(); !strings.HasSuffix(got, "\nimage inspect --format {{.ManifestType}} localhost/box:1\nsave --quiet --format oci-archive localhost/box:1") {
		t.Errorf("podman was called with %q", got)
	}
	t.Setenv("PATH", t.TempDir())
	for args, says := range map[string]string{"--from docker": "docker is not installed here", "--from rkt": "no engine that is known"} {
		if code, _, errs := n.berth(append([]string{"import"}, strings.Fields(args)...)...); code != exitOwn || !strings.Contains(errs, says) {
			t.Errorf("%s: %d %q", args, code, errs)
		}
	}
}

// fakeContainerd has images and blobs of one namespace.
type fakeContainerd struct {
	imagesv1.UnimplementedImagesServer
	images map[string]v1.Descriptor
	blobs  blobs
}

type blobs map[digest.Digest][]byte

// fakeContent is its service of blobs.
type fakeContent struct {
	contentv1.UnimplementedContentServer
	blobs blobs
}

// newContainerd listens where an import looks for containerd.
func newContainerd(t *testing.T) *fakeContainerd {
	t.Helper()
	d := &fakeContainerd{images: map[string]v1.Descriptor{}, blobs: blobs{}}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	imagesv1.RegisterImagesServer(server, d)
	contentv1.RegisterContentServer(server, &fakeContent{blobs: d.blobs})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	t.Setenv("CONTAINERD_ADDRESS", "unix://"+socket)
	return d
}

// add puts a document in, and gives its descriptor.
func (d *fakeContainerd) add(t *testing.T, mediaType string, document any) v1.Descriptor {
	t.Helper()
	b, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return d.blob(mediaType, b)
}

func (d *fakeContainerd) blob(mediaType string, b []byte) v1.Descriptor {
	at := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	d.blobs[at.Digest] = b
	return at
}

func isIn(ctx context.Context, namespace string) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	return slices.Equal(md.Get("containerd-namespace"), []string{namespace})
}

func (d *fakeContainerd) image(name string) *imagesv1.Image {
	at := d.images[name]
	return &imagesv1.Image{Name: name, Target: &types.Descriptor{MediaType: at.MediaType, Digest: at.Digest.String(), Size: at.Size}}
}

func (d *fakeContainerd) List(ctx context.Context, _ *imagesv1.ListImagesRequest) (*imagesv1.ListImagesResponse, error) {
	res := &imagesv1.ListImagesResponse{}
	if isIn(ctx, "k8s.io") {
		for _, name := range slices.Sorted(maps.Keys(d.images)) {
			res.Images = append(res.Images, d.image(name))
		}
	}
	return res, nil
}

func (d *fakeContainerd) Get(_ context.Context, r *imagesv1.GetImageRequest) (*imagesv1.GetImageResponse, error) {
	if _, ok := d.images[r.Name]; !ok {
		return nil, status.Errorf(codes.NotFound, "image %q: not found", r.Name)
	}
	return &imagesv1.GetImageResponse{Image: d.image(r.Name)}, nil
}

func (d *fakeContent) Info(_ context.Context, r *contentv1.InfoRequest) (*contentv1.InfoResponse, error) {
	b, ok := d.blobs[digest.Digest(r.Digest)]
	if !ok {
		return nil, status.Error(codes.NotFound, "not found")
	}
	return &contentv1.InfoResponse{Info: &contentv1.Info{Digest: r.Digest, Size: int64(len(b))}}, nil
}

func (d *fakeContent) Read(r *contentv1.ReadContentRequest, out contentv1.Content_ReadServer) error {
	for piece := range slices.Chunk(d.blobs[digest.Digest(r.Digest)], 1000) {
		if err := out.Send(&contentv1.ReadContentResponse{Data: piece}); err != nil {
			return err
		}
	}
	return nil
}

func TestImportFromContainerd(t *testing.T) {
	n, d := newNode(t), newContainerd(t)
	image := func(layers ...v1.Descriptor) v1.Descriptor {
		config := d.add(t, v1.MediaTypeImageConfig, v1.Image{Author: fmt.Sprint(len(layers))})
		return d.add(t, v1.MediaTypeImageManifest, v1.Manifest{Config: config, Layers: layers})
	}
	layer := d.blob(v1.MediaTypeImageLayer, bytes.Repeat([]byte("layer"), 1000))
	other := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("of another platform"), Size: 5}
	ours := image(layer, layer)
	d.images["quay.io/a/b:1"] = d.add(t, v1.MediaTypeImageIndex, v1.Index{Manifests: []v1.Descriptor{other, ours}})
	d.images["quay.io/a/b@sha256:cc"] = ours
	code, out, errs := n.berth("import", "--from", "containerd")
	if code != 0 || !strings.HasPrefix(out, "quay.io/a/b:1: ") || strings.Count(out, "\n") != 1 || errs != "quay.io/a/b:1: importing\n" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if n.findImage("quay.io/a/b:1") == nil {
		t.Error("it has no name here")
	}
	// What came is a layout of all that is there, each file once.
	files := map[string]string{}
	for r := tar.NewReader(bytes.NewReader(n.loaded)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		b, rerr := io.ReadAll(r)
		if err = errors.Join(err, rerr); err != nil {
			t.Fatal(err)
		}
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s comes twice", h.Name)
		}
		files[h.Name] = string(b)
	}
	for at, b := range d.blobs {
		if files["blobs/sha256/"+at.Encoded()] != string(b) {
			t.Errorf("%s has %d bytes, want %d", at, len(files["blobs/sha256/"+at.Encoded()]), len(b))
		}
	}
	var index v1.Index
	if err := json.Unmarshal([]byte(files["index.json"]), &index); err != nil || len(files) != len(d.blobs)+1 || len(index.Manifests) != 1 ||
		index.Manifests[0].Digest != d.images["quay.io/a/b:1"].Digest || index.Manifests[0].Annotations["io.containerd.image.name"] != "quay.io/a/b:1" {
		t.Errorf("%d files, index %s, %v", len(files), files["index.json"], err)
	}

	// By its id, an image that is here is only named.
	d.images["here:1"] = image()
	var m v1.Manifest
	if err := json.Unmarshal(d.blobs[d.images["here:1"].Digest], &m); err != nil {
		t.Fatal(err)
	}
	n.images[m.Config.Digest.String()] = &criv1.Image{Id: m.Config.Digest.String()}
	if out := n.must(t, "import", "--from", "containerd", "here:1"); !strings.HasSuffix(out, ", here already\n") {
		t.Errorf("of what is here: %q", out)
	}
	if out := n.must(t, "import", "--from", "containerd", "--namespace", "moby"); out != "" {
		t.Errorf("the other namespace has %q", out)
	}
	// What is no image holds up no other.
	d.images["broken:1"] = d.blob("application/octet-stream", []byte("not JSON"))
	code, out, errs = n.berth("import", "--from", "containerd", "missing:1", "broken:1", "quay.io/a/b:1")
	if code != exitOwn || !strings.HasPrefix(out, "quay.io/a/b:1: ") || !strings.Contains(errs, `why: image "missing:1": not found`) || !strings.Contains(errs, "cannot import broken:1 from containerd") {
		t.Errorf("%d %q %q", code, out, errs)
	}
	t.Setenv("CONTAINERD_ADDRESS", "/nonexistent/s")
	if code, _, errs := n.berth("import", "--from", "containerd"); code != exitOwn || !strings.Contains(errs, "cannot reach containerd") || !strings.Contains(errs, "$CONTAINERD_ADDRESS") {
		t.Errorf("without containerd: %d %q", code, errs)
	}
}
