package manifest

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	index := func(platforms ...string) *v1.Index {
		i := &v1.Index{}
		for _, p := range platforms {
			f := append(strings.Split(p, "/"), "")
			i.Manifests = append(i.Manifests, v1.Descriptor{
				MediaType: p, Platform: &v1.Platform{OS: f[0], Architecture: f[1], Variant: f[2]},
			})
		}
		return i
	}
	for _, c := range []struct {
		arch string
		from *v1.Index
		want string
	}{
		{"amd64", index("linux/arm64/v8", "linux/amd64", "linux/amd64/v3"), "linux/amd64"},
		{"amd64", index("linux/amd64/v3", "linux/amd64/v2"), "linux/amd64/v2"},
		{"amd64", index("windows/amd64", "linux/arm64"), ""},
		{"arm64", index("linux/arm64", "linux/arm64/v8"), "linux/arm64/v8"},
		{"arm64", index("linux/arm/v7", "linux/arm64"), "linux/arm64"},
		{"arm64", index("linux/amd64", "linux/arm64/v8", "linux/arm/v7", "unknown/unknown"), "linux/arm64/v8"},
		{"arm64", index("linux/arm64/v8.0", "linux/arm64/v9"), "linux/arm64/v8.0"},
		{"arm64", index("linux/amd64", "linux/arm/v8", "windows/arm64"), ""},
		{"arm", index("linux/arm/v5", "linux/arm/v7", "linux/arm/v6"), "linux/arm/v7"},
		{"riscv64", index("linux/riscv64", "unknown/unknown"), "linux/riscv64"},
		{"amd64", index(), ""},
	} {
		got, err := choose(c.from, c.arch)
		if got.MediaType != c.want || (c.want == "") != errkind.Is(err, errkind.NotFound) {
			t.Errorf("%s: got %q, %v, not %q", c.arch, got.MediaType, err, c.want)
		}
	}
	nameless := &v1.Index{Manifests: []v1.Descriptor{{MediaType: "a"}, {MediaType: "b"}}}
	if _, err := choose(nameless, "amd64"); !errkind.Is(err, errkind.NotFound) || !strings.Contains(err.Error(), "2 entries") {
		t.Errorf("an index without platforms: %v", err)
	}
	alone := &v1.Index{Manifests: []v1.Descriptor{{MediaType: "only"}}}
	if got, err := choose(alone, "amd64"); err != nil || got.MediaType != "only" {
		t.Errorf("an index of one: got %q, %v", got.MediaType, err)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	const config = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` +
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" + `","size":2}`
	for body, kind := range map[string]errkind.Kind{
		`{`:                                 errkind.InvalidArgument,
		`{"schemaVersion":1}`:               errkind.Unimplemented,
		`{"schemaVersion":2,"fsLayers":[]}`: errkind.Unimplemented,
		`{"schemaVersion":3}`:               errkind.InvalidArgument,
		`{"schemaVersion":2,"manifests":[],"layers":[]}`:                       errkind.InvalidArgument,
		`{"schemaVersion":2,"manifests":[],` + config + `}`:                    errkind.InvalidArgument,
		`{"schemaVersion":2,"mediaType":"` + DockerIndex + `",` + config + `}`: errkind.InvalidArgument,
		`{"schemaVersion":2}`: errkind.InvalidArgument,
		`{"schemaVersion":2,"mediaType":"` + DockerIndex + `","layers":[],` + config + `}`:                                     errkind.InvalidArgument,
		`{"schemaVersion":2,"layers":[],` + config + `,"LAYERS":[]}`:                                                           errkind.InvalidArgument,
		`{"schemaVersion":2,"manifests":[],"manifests":null}`:                                                                  errkind.InvalidArgument,
		`{"schemaVersion":2,` + config + `,"layers":[{"mediaType":"` + DockerLayer + `","digest":"sha256:../../x","size":1}]}`: errkind.InvalidArgument,
		`{"schemaVersion":2,` + config + `,"layers":[` + strings.Repeat(`{},`, MaxLayers) + `{}]}`:                             errkind.ResourceExhausted,
		strings.Repeat(" ", MaxBytes+1):                                                                                        errkind.ResourceExhausted,
	} {
		_, err := Parse(v1.MediaTypeImageManifest, []byte(body))
		if !errkind.Is(err, kind) {
			t.Errorf("%.80s: got %v", body, err)
		}
	}
	if _, err := Parse("", []byte(`{"schemaVersion":2,"mediaType":"`+DockerIndex+`","layers":[],`+config+`}`)); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("an index without manifests gives %v", err)
	}
	if doc, err := Parse("", []byte(`{"schemaVersion":2,"layers":[],`+config+`}`)); err != nil || doc.Manifest == nil {
		t.Errorf("an honest manifest gives %v", err)
	}
}

// What is read as a manifest or an index is that alone, is within its limits,
// and reads the same when it is written again.
func FuzzParse(f *testing.F) {
	const config = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + oneDigest + `","size":2}`
	for _, body := range []string{
		`{"schemaVersion":2,"manifests":[]}`, `{"schemaVersion":2,` + config + `,"layers":[]}`,
		`{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"` + oneDigest + `","size":1,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"schemaVersion":2,` + config + `,"layers":[{"mediaType":"` + DockerLayer + `.gzip","digest":"` + oneDigest + `","size":1}]}`,
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + oneDigest + `","size":2},"layers":[{"mediaType":"text/plain","digest":"` +
			oneDigest + `","annotations":{"org.opencontainers.image.title":"../x"}}]}`,
		`{"schemaVersion":1,"fsLayers":[]}`, `{"schemaVersion":2,"Manifests":[],"manifests":null}`, `{"schemaVersion":2,"manifests":[],` + config + `}`,
	} {
		f.Add("", []byte(body))
		f.Add(v1.MediaTypeImageManifest, []byte(body))
		f.Add(DockerIndex, []byte(body))
	}
	f.Fuzz(func(t *testing.T, mediaType string, b []byte) {
		doc, err := Parse(mediaType, b)
		if err != nil {
			if len(err.Error()) > 2*maxQuoted {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if (doc.Manifest == nil) == (doc.Index == nil) {
			t.Fatal("neither manifest nor index, or both")
		}
		var descriptors []v1.Descriptor
		var written any = doc.Manifest
		if doc.Index != nil {
			descriptors, written = doc.Index.Manifests, doc.Index
			_, _ = choose(doc.Index, "amd64")
		} else {
			descriptors = append(slices.Clone(doc.Manifest.Layers), doc.Manifest.Config)
		}
		for _, d := range descriptors {
			if len(d.Digest) != len(oneDigest) || d.Digest.Validate() != nil || d.Size < 0 {
				t.Fatalf("descriptor %+v", d)
			}
		}
		if len(descriptors) > maxDescriptors || doc.Manifest != nil && len(doc.Manifest.Layers) > MaxLayers {
			t.Fatalf("%d descriptors", len(descriptors))
		}
		again, err := json.Marshal(written)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Parse("", again)
		if err != nil {
			t.Fatalf("%q became %q: %v", b, again, err)
		}
		written = back.Manifest
		if back.Index != nil {
			written = back.Index
		}
		if third, err := json.Marshal(written); err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%q became %q, then %q, %v", b, again, third, err)
		}
	})
}

// What is read as a config has digests that can be paths, lists within their
// limits, and, of an artifact, files below its root.
func FuzzParseConfig(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"os":"linux","config":{"Env":["A=b"],"Labels":{"a":"b"},"Volumes":{"/v":{}}},"rootfs":{"diff_ids":["` + oneDigest + `"]}}`,
		`{"created":"2024-01-01T00:00:00Z","history":[{"created_by":"x","empty_layer":true}]}`, `{"os":"windows"}`, `{"rootfs":{"diff_ids":["sha256:../x"]}}`,
		`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"` + oneDigest + `","size":2},"layers":[{"mediaType":"text/plain","digest":"` +
			oneDigest + `","annotations":{"org.opencontainers.image.title":"../x"}},{"mediaType":"text/plain","digest":"` + oneDigest + `","annotations":{"org.opencontainers.image.title":"a/b"}}]}`,
		`{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"` + oneDigest + `"},"layers":[{"mediaType":"a/b","digest":"sha256:` + strings.Repeat("b", 64) +
			`","annotations":{"org.opencontainers.image.title":"x/y"}},{"mediaType":"c.tar","digest":"sha256:` + strings.Repeat("c", 64) + `"}]}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			if len(err.Error()) > 2*maxQuoted {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		for _, d := range c.DiffIDs {
			if len(d) != len(oneDigest) || d.Validate() != nil {
				t.Fatalf("diff ID %q", d)
			}
		}
		if len(c.DiffIDs) > MaxLayers || len(c.Image.Env) > maxEntries || len(c.Image.Labels) > maxEntries {
			t.Fatal("more than the limits")
		}
		if c.Artifact == nil {
			return
		}
		if len(c.Artifact.Parts) != len(c.DiffIDs) {
			t.Fatalf("%d parts, %d ids", len(c.Artifact.Parts), len(c.DiffIDs))
		}
		at := map[string]digest.Digest{}
		for i := range c.Artifact.Parts {
			p := &c.Artifact.Parts[i]
			if !p.IsFile() {
				continue
			}
			if !fs.ValidPath(p.File) || p.File == "." || strings.Contains("/"+p.File, "/.wh.") {
				t.Errorf("%q is to be a file", p.File)
			}
			if of, taken := at[p.File]; taken && of != p.Blob {
				t.Errorf("%q is to be %s and %s", p.File, of, p.Blob)
			}
			at[p.File] = p.Blob
		}
		for file := range at {
			for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
				if at[dir] != "" {
					t.Errorf("%q is to be below the file %q", file, dir)
				}
			}
		}
	})
}
