package manifest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// blobOf is the descriptor of an artifact's layer, whose bytes are s.
func blobOf(mediaType, s string, annotations ...string) v1.Descriptor {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(s), Size: int64(len(s)), Annotations: map[string]string{}}
	for i := 0; i < len(annotations); i += 2 {
		d.Annotations[annotations[i]] = annotations[i+1]
	}
	return d
}

func titled(title string) v1.Descriptor {
	return blobOf("application/octet-stream", "about "+title, v1.AnnotationTitle, title)
}

func artifactManifest(t *testing.T, layers ...v1.Descriptor) []byte {
	t.Helper()
	b, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		ArtifactType: "application/x-test", Config: v1.DescriptorEmptyJSON, Layers: layers,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestArtifactPartsAreFilesOrTars(t *testing.T) {
	t.Parallel()
	const tar, octets = v1.MediaTypeImageLayer, "application/octet-stream"
	for _, c := range []struct {
		layer v1.Descriptor
		file  string // "" for a tar, "#" for the digest
	}{
		{titled("model.bin"), "model.bin"},
		{titled("dir/deep/model.bin"), "dir/deep/model.bin"},
		{titled("./model.bin"), "model.bin"},
		{titled("with space ü"), "with space ü"},
		{blobOf(octets, "x", annotationModelFile, "weights/1.safetensors"), "weights/1.safetensors"},
		{blobOf(octets, "x", v1.AnnotationTitle, "a", annotationModelFile, "b"), "a"},
		{blobOf(octets, "x"), "#"},
		{titled("/etc/passwd"), "#"},
		{titled("../passwd"), "#"},
		{titled("a/../../passwd"), "#"},
		{titled("."), "#"},
		{titled("a\x00b"), "#"},
		{titled("a\nb"), "#"},
		{titled("d/.wh.secret"), "#"},
		{titled(strings.Repeat("x", 256)), "#"},
		{titled(strings.Repeat("x/", 10000) + "x"), "#"},
		{titled("sha256-" + strings.Repeat("0", 64)), "#"},
		{blobOf(tar, "x"), ""},
		{blobOf(tar, "x", v1.AnnotationTitle, "from-oras"), "from-oras"},
		{blobOf(tar, "x", v1.AnnotationTitle, "folder", annotationUnpack, "true"), ""},
		{blobOf(v1.MediaTypeImageLayerGzip, "x", v1.AnnotationTitle, "folder"), ""},
		{blobOf("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "x"), ""},
		{blobOf("application/vnd.cncf.model.weight.v1.tar+zstd", "x", annotationModelFile, "w"), ""},
		{blobOf(octets, "x", v1.AnnotationTitle, "packed", annotationUnpack, "true"), ""},
		{blobOf(octets, "x", v1.AnnotationTitle, "archive.tar.gz", annotationUnpack, "false"), "archive.tar.gz"},
	} {
		got, err := ParseConfig(artifactManifest(t, c.layer))
		if err != nil || got.Artifact == nil || len(got.Artifact.Parts) != 1 {
			t.Errorf("%v: %+v, %v", c.layer, got, err)
			continue
		}
		want := c.file
		if want == "#" {
			want = "sha256-" + c.layer.Digest.Encoded()
		}
		p := got.Artifact.Parts[0]
		if p.File != want || p.Blob != c.layer.Digest || p.Size != c.layer.Size || got.DiffIDs[0] != p.ID() {
			t.Errorf("%v became %+v, want the file %q", c.layer, p, want)
		}
	}
}

func TestArtifactPartsDoNotHideEachOther(t *testing.T) {
	t.Parallel()
	named := func(blob, title string) v1.Descriptor {
		return blobOf("x/y", blob, v1.AnnotationTitle, title)
	}
	c, err := ParseConfig(artifactManifest(t,
		named("1", "a"), named("2", "a"), named("1", "a"), named("3", "a/b"), named("4", "d/e/f"), named("5", "d/e"), named("6", "d/e/g")))
	if err != nil {
		t.Fatal(err)
	}
	other := func(s string) string { return digestName(digest.FromString(s).Encoded()) }
	for i, want := range []string{"a", other("2"), "a", other("3"), "d/e/f", other("5"), "d/e/g"} {
		if got := c.Artifact.Parts[i].File; got != want {
			t.Errorf("part %d is at %q, want %q", i, got, want)
		}
	}
	ids := map[digest.Digest]bool{}
	for _, id := range c.DiffIDs {
		ids[id] = true
	}
	if len(ids) != 6 || c.DiffIDs[0] != c.DiffIDs[2] {
		t.Errorf("ids are %v, want the first and third to be one", c.DiffIDs)
	}
}

func TestArtifactTypeAndConfig(t *testing.T) {
	t.Parallel()
	c, err := ParseConfig(artifactManifest(t))
	if err != nil || c.Artifact.Type != "application/x-test" {
		t.Errorf("%+v, %v", c, err)
	}
	const blob = `"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":2}`
	helm := `{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json",` + blob + `}`
	if c, err = ParseConfig([]byte(helm)); err != nil || c.Artifact.Type != "application/vnd.cncf.helm.config.v1+json" {
		t.Errorf("%+v, %v", c, err)
	}
	for date, want := range map[string]time.Time{"2026-01-02T03:04:05Z": time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), "yesterday": {}} {
		dated := strings.TrimSuffix(helm, "}") + `,"annotations":{"org.opencontainers.image.created":"` + date + `"}}`
		if c, err = ParseConfig([]byte(dated)); err != nil || !c.Created.Equal(want) {
			t.Errorf("created %s: %v, %v", date, c.Created, err)
		}
	}
	for what, b := range map[string]string{
		"of an image":      `{"schemaVersion":2,"config":{"mediaType":"` + v1.MediaTypeImageConfig + `",` + blob + `}`,
		"both":             strings.TrimSuffix(helm, "}") + `,"rootfs":{"type":"layers","diff_ids":[]}}`,
		"no type":          `{"schemaVersion":2,"config":{` + blob + `}`,
		"an index":         `{"schemaVersion":2,"manifests":[]}`,
		"a climbing layer": strings.TrimSuffix(helm, "}") + `,"layers":[{"mediaType":"x/y","digest":"sha256:../../x","size":1}]}`,
	} {
		if c, err := ParseConfig([]byte(b)); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%s: %+v, %v", what, c, err)
		}
	}
	if c, err := ParseConfig([]byte(`{"os":"linux","rootfs":{"diff_ids":[]}}`)); err != nil || c.Artifact != nil {
		t.Errorf("an image config gives %+v, %v", c, err)
	}
}
