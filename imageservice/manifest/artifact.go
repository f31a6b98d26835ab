package manifest

import (
	"encoding/json"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Artifact is what a manifest holds that describes no container image: files.
type Artifact struct {
	Type  string `json:"type"`  // artifactType, else the media type of the config
	Parts []Part `json:"parts"` // one for each layer of the manifest, in its order
}

// Part is one blob of an artifact.
type Part struct {
	Blob digest.Digest `json:"blob"`
	Size int64         `json:"size"`
	File string        `json:"file,omitempty"` // path below the artifact's root that has these bytes; "" if they are a tar to be unpacked there
}

// IsFile reports whether the part, which may be nil, is one file of an artifact.
func (p *Part) IsFile() bool { return p != nil && p.File != "" }

// ID is what a part has in place of a diff ID. It says all that makes the
// part's files what they are, and is the digest of no tar.
func (p Part) ID() digest.Digest {
	return digest.FromString("berth artifact part\n" + p.Blob.String() + "\n" + p.File)
}

// The annotations of a layer that say what it becomes on disk.
const (
	annotationUnpack    = "io.deis.oras.content.unpack" // "true" for a directory that ORAS packed
	annotationModelFile = "org.cncf.model.filepath"     // the model specification's title
)

// IsArtifact reports whether m describes an artifact. Its config decides: an
// image has one of the types that images have.
func IsArtifact(m *v1.Manifest) bool {
	return m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != DockerConfig
}

func artifactOf(m *v1.Manifest) *Artifact {
	a := &Artifact{Type: m.ArtifactType}
	if a.Type == "" {
		a.Type = m.Config.MediaType
	}
	var taken paths
	for _, l := range m.Layers {
		p := Part{Blob: l.Digest, Size: l.Size}
		if !isPacked(l) {
			p.File = taken.take(fileName(l), l.Digest)
		}
		a.Parts = append(a.Parts, p)
	}
	return a
}

// isPacked reports whether a layer is a tar to be unpacked. The type of a plain
// layer says nothing beside a title: ORAS gives it to every file by default.
func isPacked(l v1.Descriptor) bool {
	if l.Annotations[annotationUnpack] == "true" {
		return true
	}
	if l.MediaType == v1.MediaTypeImageLayer && l.Annotations[v1.AnnotationTitle] != "" {
		return false
	}
	base := strings.TrimSuffix(strings.TrimSuffix(l.MediaType, "+gzip"), "+zstd")
	return strings.HasSuffix(base, ".tar")
}

// fileName is the name that a layer asks for, if it is one that can be given;
// else "".
func fileName(l v1.Descriptor) string {
	name := l.Annotations[v1.AnnotationTitle]
	if name == "" {
		name = l.Annotations[annotationModelFile]
	}
	const longest = 1024 // what an author needs, and far below PATH_MAX
	if name == "" || len(name) > longest || strings.ContainsFunc(name, unicode.IsControl) {
		return ""
	}
	clean := path.Clean(name)
	// The names of digests are for the parts that have no other.
	if !filepath.IsLocal(name) || clean == "." || strings.HasPrefix(clean, digestName("")) {
		return ""
	}
	for c := range strings.SplitSeq(clean, "/") {
		// In a layer of files that prefix would be a deletion.
		if len(c) > unix.NAME_MAX || strings.HasPrefix(c, ".wh.") {
			return ""
		}
	}
	return clean
}

// digestName names the file of a blob that has no usable title.
func digestName(hex string) string { return "sha256-" + hex }

// paths are the files of one artifact, each with its blob, and the directories
// above them, which have none.
type paths map[string]digest.Digest

// take gives the blob the path name, or one of its own if another blob has
// that path or needs it for a directory.
func (p *paths) take(name string, blob digest.Digest) string {
	if *p == nil {
		*p = paths{}
	}
	if name == "" || !p.free(name, blob) {
		name = digestName(blob.Encoded())
	}
	(*p)[name] = blob
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		(*p)[dir] = ""
	}
	return name
}

func (p *paths) free(name string, blob digest.Digest) bool {
	if of, ok := (*p)[name]; ok && of != blob {
		return false
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if of := (*p)[dir]; of != "" {
			return false
		}
	}
	return true
}

// parseArtifactConfig reads the manifest of an artifact for what a config
// tells of an image.
func parseArtifactConfig(b []byte) (Config, error) {
	var probe struct {
		RootFS json.RawMessage `json:"rootfs"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return Config{}, invalid("it is not JSON: %v", err)
	}
	if probe.RootFS != nil {
		return Config{}, invalid("it is a config too")
	}
	doc, err := Parse("", b)
	if err != nil {
		return Config{}, err
	}
	if doc.Manifest == nil || !IsArtifact(doc.Manifest) {
		return Config{}, invalid("it is not that of an artifact")
	}
	c := Config{Artifact: artifactOf(doc.Manifest)}
	if t, err := time.Parse(time.RFC3339, doc.Manifest.Annotations[v1.AnnotationCreated]); err == nil {
		c.Created = t
	}
	for _, p := range c.Artifact.Parts {
		c.DiffIDs = append(c.DiffIDs, p.ID())
	}
	return c, nil
}
