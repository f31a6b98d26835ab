package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/imageservice"
)

// startImages serves a real image store that pins the references pinned.
func startImages(t *testing.T, pinned ...string) clients {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	store, err := imageservice.Open(t.Context(), imageservice.Config{Root: t.TempDir(), BootID: "test", Pinned: pinned})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	n := &node{pods: newMemPods(), store: store}
	return n.serve(t, 0)
}

// startRegistry gives the host of a registry in memory.
func startRegistry(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

// madeImage has one file, with that content, and user.
func madeImage(t *testing.T, content, user string) v1.Image {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(b.Bytes(), types.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.Config(img, v1.Config{User: user, Env: []string{"A=b"}}); err != nil {
		t.Fatal(err)
	}
	return img
}

// put writes img under ref and gives its id and its manifest's digest.
func put(t *testing.T, ref string, img v1.Image) (id, digest string) {
	t.Helper()
	to, err := name.ParseReference(ref)
	if err == nil {
		err = remote.Write(to, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	config, err1 := img.ConfigName()
	manifest, err2 := img.Digest()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	return config.String(), manifest.String()
}

func specOf(ref string) *criv1.ImageSpec { return &criv1.ImageSpec{Image: ref} }

func (c clients) pull(t *testing.T, ref string) string {
	t.Helper()
	r, err := c.PullImage(t.Context(), &criv1.PullImageRequest{Image: specOf(ref)})
	if err != nil {
		t.Fatal(err)
	}
	return r.ImageRef
}

func (c clients) imageStatus(t *testing.T, ref string) *criv1.Image {
	t.Helper()
	r, err := c.ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: specOf(ref)})
	if err != nil {
		t.Fatal(err)
	}
	return r.Image
}

func (c clients) list(t *testing.T, ref string) []*criv1.Image {
	t.Helper()
	r, err := c.ListImages(t.Context(), &criv1.ListImagesRequest{Filter: &criv1.ImageFilter{Image: specOf(ref)}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Images
}

func (c clients) usedBytes(t *testing.T) (bytes, inodes uint64) {
	t.Helper()
	r, err := c.ImageFsInfo(t.Context(), &criv1.ImageFsInfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, fs := range [][]*criv1.FilesystemUsage{r.ImageFilesystems, r.ContainerFilesystems} {
		if len(fs) != 1 || fs[0].Timestamp == 0 || fs[0].UsedBytes == nil || fs[0].InodesUsed == nil {
			t.Fatalf("the file systems are %v", r)
		}
		if _, err := os.Stat(fs[0].FsId.GetMountpoint()); err != nil {
			t.Errorf("the kubelet cannot stat it: %v", err)
		}
	}
	return r.ImageFilesystems[0].UsedBytes.Value, r.ImageFilesystems[0].InodesUsed.Value
}

// Whatever names an image leads to the same message in status and list, and
// its removal by any of these takes all of them, at once.
func TestEveryNameOfAnImageIsTheImage(t *testing.T) {
	t.Parallel()
	c, here, there := startImages(t), startRegistry(t), startRegistry(t)
	img := madeImage(t, strings.Repeat("x", 50_000), "")
	id, digest := put(t, here+"/app:1", img)
	put(t, here+"/app:2", img)
	put(t, there+"/other/copy:latest", img)
	names := []string{here + "/app:1", here + "/app:2", there + "/other/copy", there + "/other/copy:latest",
		here + "/app@" + digest, there + "/other/copy@" + digest, here + "/app:gone@" + digest,
		id, strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:12]}
	empty, _ := c.usedBytes(t)
	for _, by := range names {
		for _, ref := range names[:3] {
			if got := c.pull(t, ref); got != id {
				t.Fatalf("pulling %s gives %s, want %s", ref, got, id)
			}
		}
		want := c.imageStatus(t, id)
		tags := []string{here + "/app:1", here + "/app:2", there + "/other/copy:latest"}
		digests := []string{here + "/app@" + digest, there + "/other/copy@" + digest}
		slices.Sort(tags)
		slices.Sort(digests)
		if want.GetId() != id || !slices.Equal(want.RepoTags, tags) || !slices.Equal(want.RepoDigests, digests) || want.Uid != nil || want.Username != "" || want.Pinned {
			t.Fatalf("the image is %v", want)
		}
		if got := c.imageStatus(t, by); !proto.Equal(got, want) {
			t.Errorf("by %s it is %v", by, got)
		}
		if got := c.list(t, by); len(got) != 1 || !proto.Equal(got[0], want) {
			t.Errorf("listed by %s it is %v", by, got)
		}
		if used, _ := c.usedBytes(t); used-empty != want.Size {
			t.Errorf("it takes %d bytes and says %d", used-empty, want.Size)
		}
		for range 2 { // the second time it is not there
			if _, err := c.RemoveImage(t.Context(), &criv1.RemoveImageRequest{Image: specOf(by)}); err != nil {
				t.Fatalf("removing by %s: %v", by, err)
			}
		}
		for _, gone := range names {
			if got := c.imageStatus(t, gone); got != nil {
				t.Errorf("after the removal by %s there is %v", by, got)
			}
		}
		if used, inodes := c.usedBytes(t); used != empty || inodes != 0 {
			t.Errorf("after the removal by %s %d bytes and %d inodes are in use", by, used-empty, inodes)
		}
	}
	if got := c.list(t, ""); len(got) != 0 {
		t.Errorf("there is %v", got)
	}
}

func TestImageNamesThatNameNone(t *testing.T) {
	t.Parallel()
	c := startImages(t)
	for ref, code := range map[string]codes.Code{
		"nginx": codes.OK,
		"quay.io/app@sha256:" + strings.Repeat("0", 64): codes.OK,
		"sha256:" + strings.Repeat("0", 64):             codes.OK,
		strings.Repeat("0", 64):                         codes.OK,
		"abc":                                           codes.OK,
		"":                                              codes.InvalidArgument,
		"Nginx":                                         codes.InvalidArgument,
		"a b":                                           codes.InvalidArgument,
	} {
		r, err := c.ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: specOf(ref)})
		wantCode(t, "the status of "+ref, err, code)
		if r.GetImage() != nil {
			t.Errorf("the status of %q is %v", ref, r)
		}
		_, err = c.RemoveImage(t.Context(), &criv1.RemoveImageRequest{Image: specOf(ref)})
		wantCode(t, "the removal of "+ref, err, code)
		if ref != "" {
			_, err = c.ListImages(t.Context(), &criv1.ListImagesRequest{Filter: &criv1.ImageFilter{Image: specOf(ref)}})
			wantCode(t, "the list of "+ref, err, code)
		}
	}
	for _, id := range []string{"sha256:" + strings.Repeat("0", 64), strings.Repeat("0", 64), ""} {
		_, err := c.PullImage(t.Context(), &criv1.PullImageRequest{Image: specOf(id)})
		wantCode(t, "a pull of an id", err, codes.InvalidArgument)
	}
	other := specOf("nginx")
	other.RuntimeHandler = "kata"
	_, err := c.PullImage(t.Context(), &criv1.PullImageRequest{Image: other})
	wantCode(t, "a pull for a handler that is not there", err, codes.InvalidArgument)
}

func TestUsersOfImages(t *testing.T) {
	t.Parallel()
	c, host := startImages(t), startRegistry(t)
	for user, want := range map[string]*criv1.Image{
		"":             {},
		"0":            {Uid: &criv1.Int64Value{}},
		"1002":         {Uid: &criv1.Int64Value{Value: 1002}},
		"1003:1004":    {Uid: &criv1.Int64Value{Value: 1003}},
		"www-data":     {Username: "www-data"},
		"www-data:100": {Username: "www-data"},
	} {
		put(t, host+"/user:1", madeImage(t, user, user))
		got := c.imageStatus(t, c.pull(t, host+"/user:1"))
		if got.Username != want.Username || !proto.Equal(got.Uid, want.Uid) {
			t.Errorf("user %q is uid %v, name %q", user, got.Uid, got.Username)
		}
	}
}

func TestATagThatMoves(t *testing.T) {
	t.Parallel()
	host := startRegistry(t)
	tag := host + "/app:v1"
	c := startImages(t, tag)
	oldID, oldDigest := put(t, tag, madeImage(t, "old", ""))
	if got := c.imageStatus(t, c.pull(t, tag)); got.Id != oldID || !got.Pinned {
		t.Fatalf("at first it is %v", got)
	}
	newID, newDigest := put(t, tag, madeImage(t, "new", ""))
	if got := c.pull(t, tag); got != newID {
		t.Fatalf("then it is %s, want %s", got, newID)
	}
	if got := c.imageStatus(t, tag); got.Id != newID || !slices.Equal(got.RepoTags, []string{tag}) || !slices.Equal(got.RepoDigests, []string{host + "/app@" + newDigest}) || !got.Pinned {
		t.Errorf("the tag names %v", got)
	}
	if got := c.imageStatus(t, host+"/app@"+oldDigest); got.GetId() != oldID || len(got.GetRepoTags()) != 0 || got.Pinned {
		t.Errorf("the image that it left is %v", got)
	}
	if got := c.list(t, ""); len(got) != 2 {
		t.Errorf("there are %v", got)
	}
}

func TestPulledByDigestAnImageHasNoTag(t *testing.T) {
	t.Parallel()
	c, host := startImages(t), startRegistry(t)
	_, digest := put(t, host+"/app:v1", madeImage(t, "x", ""))
	for _, ref := range []string{host + "/app@" + digest, host + "/app:v1@" + digest} {
		got := c.imageStatus(t, c.pull(t, ref))
		if len(got.RepoTags) != 0 || !slices.Equal(got.RepoDigests, []string{host + "/app@" + digest}) {
			t.Errorf("%s is %v", ref, got)
		}
	}
}

func TestStreamOfImagesIsTheirList(t *testing.T) {
	t.Parallel()
	c, host := startImages(t), startRegistry(t)
	for _, name := range []string{"a", "b", "c"} {
		put(t, host+"/"+name+":1", madeImage(t, name, ""))
		c.pull(t, host+"/"+name+":1")
	}
	for _, filter := range []string{"", host + "/b:1", host + "/none:1"} {
		in, err := c.StreamImages(t.Context(), &criv1.StreamImagesRequest{Filter: &criv1.ImageFilter{Image: specOf(filter)}})
		if err != nil {
			t.Fatal(err)
		}
		var got []*criv1.Image
		for {
			r, err := in.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || len(r.Images) == 0 {
				t.Fatalf("%q: an answer of %d, %v", filter, len(r.GetImages()), err)
			}
			got = append(got, r.Images...)
		}
		if want := c.list(t, filter); !slices.EqualFunc(got, want, func(a, b *criv1.Image) bool { return proto.Equal(a, b) }) {
			t.Errorf("%q streams %v, want %v", filter, got, want)
		}
	}
}

func TestVerboseImageStatus(t *testing.T) {
	t.Parallel()
	c, host := startImages(t), startRegistry(t)
	img := madeImage(t, "x", "me")
	put(t, host+"/app:v1", img)
	c.pull(t, host+"/app:v1")
	r, err := c.ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: specOf(host + "/app:v1"), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		ChainID   string
		ImageSpec v1.ConfigFile
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &got); err != nil {
		t.Fatal(err)
	}
	want, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got.ChainID != want.RootFS.DiffIDs[0].String() || got.ImageSpec.Config.User != "me" || !slices.Equal(got.ImageSpec.RootFS.DiffIDs, want.RootFS.DiffIDs) {
		t.Errorf("the info is %s", r.Info["info"])
	}
}

// document is a manifest to be put as it is.
type document []byte

func (d document) RawManifest() ([]byte, error)        { return d, nil }
func (d document) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

func TestArtifactIsAnImageToCRI(t *testing.T) {
	t.Parallel()
	c, host := startImages(t), startRegistry(t)
	to, err := name.ParseReference(host + "/model:1")
	if err != nil {
		t.Fatal(err)
	}
	blob := static.NewLayer([]byte("weights"), "application/octet-stream")
	sum, err := blob.Digest()
	if err == nil {
		err = remote.WriteLayer(to.Context(), blob)
	}
	manifest := document(fmt.Sprintf(`{"schemaVersion":2,"artifactType":"application/x-model",`+
		`"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},`+
		`"layers":[{"mediaType":"application/octet-stream","digest":%q,"size":7,"annotations":{"org.opencontainers.image.title":"model.bin"}}]}`, sum))
	if err == nil {
		err = remote.Put(to, manifest)
	}
	if err != nil {
		t.Fatal(err)
	}
	id := c.pull(t, host+"/model:1")
	if want, _, _ := v1.SHA256(bytes.NewReader(manifest)); id != want.String() {
		t.Errorf("its id is %s, want %s", id, want)
	}
	r, err := c.ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: specOf(host + "/model:1"), Verbose: true})
	if err != nil || r.Image.Id != id || r.Image.Size == 0 || r.Image.Uid != nil || r.Image.Username != "" {
		t.Fatalf("its status is %v, %v", r, err)
	}
	var info struct {
		Artifact imageservice.Artifact
		Manifest v1.Manifest
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	if a := info.Artifact; a.Type != "application/x-model" || len(a.Parts) != 1 || a.Parts[0].File != "model.bin" || info.Manifest.Layers[0].Digest != sum {
		t.Errorf("its info is %s", r.Info["info"])
	}
	if all := c.list(t, id); len(all) != 1 || !proto.Equal(all[0], r.Image) {
		t.Errorf("listed it is %v", all)
	}
}

// What a pull that fails says is what the kubelet and people act on.
func TestPullFailures(t *testing.T) {
	t.Parallel()
	c, host := startImages(t), startRegistry(t)
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(silent.Close)
	forbidden := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	t.Cleanup(forbidden.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, tt := range []struct {
		url, prefix string
		code        codes.Code
	}{
		{"http://" + host, "cannot pull", codes.NotFound},
		{silent.URL, "", codes.DeadlineExceeded},
		{forbidden.URL, "cannot pull", codes.PermissionDenied},
		{gone.URL, "RegistryUnavailable: cannot pull", codes.Unknown},
	} {
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if tt.code == codes.DeadlineExceeded {
			ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
		}
		ref := strings.TrimPrefix(tt.url, "http://") + "/none:1"
		r, err := c.PullImage(ctx, &criv1.PullImageRequest{Image: specOf(ref)})
		cancel()
		wantCode(t, "a pull from "+tt.url, err, tt.code)
		text := status.Convert(err).Message()
		if r.GetImageRef() != "" || !strings.HasPrefix(text, tt.prefix) || tt.prefix != "" && !strings.Contains(text, ref) {
			t.Errorf("a pull from %s: %v, %q", tt.url, r, text)
		}
		if tt.code == codes.NotFound && strings.Count(text, "404 Not Found") > 1 {
			t.Errorf("one answer is told twice: %s", text)
		}
	}
	if got := c.list(t, ""); len(got) != 0 {
		t.Errorf("failures left %v", got)
	}
}

func TestImageVolumeForAHandlerThatIsNotThere(t *testing.T) {
	t.Parallel()
	c := startNode(t).remote
	pod := runPod(t, c, "p")
	for handler, code := range map[string]codes.Code{"": codes.OK, "runc": codes.OK, "kata": codes.InvalidArgument} {
		volume := specOf("data")
		volume.RuntimeHandler = handler
		_, err := c.CreateContainer(t.Context(), &criv1.CreateContainerRequest{PodSandboxId: pod, Config: &criv1.ContainerConfig{
			Metadata: &criv1.ContainerMetadata{Name: "c" + handler}, Image: specOf("app"),
			Mounts: []*criv1.Mount{{ContainerPath: "/data", Readonly: true, Image: volume}},
		}})
		wantCode(t, "an image volume for "+handler, err, code)
		if text := status.Convert(err).Message(); err != nil && !strings.HasPrefix(text, "ImageVolumeMountFailed: mount at /data: ") {
			t.Errorf("the text is %q", text)
		}
	}
}

// Removals of one image at a time all succeed, and each that has returned is true.
func TestFiveRemovalsAtOnce(t *testing.T) {
	t.Parallel()
	c, host := startImages(t), startRegistry(t)
	id, _ := put(t, host+"/app:1", madeImage(t, "x", ""))
	for range 5 {
		c.pull(t, host+"/app:1")
		var g errgroup.Group
		for range 5 {
			g.Go(func() error {
				if _, err := c.RemoveImage(t.Context(), &criv1.RemoveImageRequest{Image: specOf(id)}); err != nil {
					return err
				}
				r, err := c.ImageStatus(t.Context(), &criv1.ImageStatusRequest{Image: specOf(id)})
				if err == nil && r.Image != nil {
					err = fmt.Errorf("after its removal there is %v", r.Image)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
	if used, inodes := c.usedBytes(t); used != 0 || inodes != 0 {
		t.Errorf("left %d bytes, %d inodes", used, inodes)
	}
}
