// Package manifest reads image manifests, indexes and configs: OCI's and
// docker's, which differ in their media types only. It is pure.
//
// A manifest whose config is no image config is an artifact: its layers are
// files under the names of their titles, or tars of files. Many artifacts have
// one and the same empty config, so an artifact's manifest stands in for it
// wherever an image has its config: it is what ParseConfig reads, and its
// digest is the id.
//
// The law: bytes from a registry or an archive are taken for what they say
// they are only if nothing in them says otherwise. A document that could be
// read as a manifest and as an index is refused (CVE-2021-41190), so is a
// media type inside that contradicts the one outside.
package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Media types of docker that have an equal in OCI.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
)

// Document is a manifest or an index; exactly one of the two is set.
type Document struct {
	Manifest *v1.Manifest
	Index    *v1.Index
}

// Parse reads a manifest or an index. mediaType is what the sender calls it
// and may be empty.
func Parse(mediaType string, b []byte) (Document, error) {
	if err := CheckSize("manifest", b); err != nil {
		return Document{}, err
	}
	var probe struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     string          `json:"mediaType"`
		Config        json.RawMessage `json:"config"`
		Layers        json.RawMessage `json:"layers"`
		FSLayers      json.RawMessage `json:"fsLayers"`
		Manifests     json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(b, &probe); err != nil {
		return Document{}, invalid("it is not JSON: %v", err)
	}
	if err := checkLists(probe.Layers, probe.Manifests); err != nil {
		return Document{}, err
	}
	if key := saidTwice(b); key != "" {
		return Document{}, invalid("it has %q twice", key)
	}
	switch {
	case probe.SchemaVersion == 1 || probe.FSLayers != nil:
		return Document{}, errkind.New(errkind.Unimplemented, "cannot read manifest: it is of docker schema 1; push the image again with a current tool")
	case probe.SchemaVersion != 2:
		return Document{}, invalid("schema version %d is not known", probe.SchemaVersion)
	case probe.Manifests != nil && (probe.Layers != nil || probe.Config != nil):
		return Document{}, invalid("it has both layers and manifests")
	case mediaType == "" || mediaType == "application/json":
		mediaType = probe.MediaType
	case probe.MediaType != "" && probe.MediaType != mediaType:
		return Document{}, invalid("it was sent as %q and calls itself %q", mediaType, probe.MediaType)
	}
	if mediaType == "" && probe.Manifests != nil {
		mediaType = v1.MediaTypeImageIndex
	} else if mediaType == "" {
		mediaType = v1.MediaTypeImageManifest
	}
	isIndex := mediaType == v1.MediaTypeImageIndex || mediaType == DockerIndex
	switch {
	case isIndex && probe.Manifests == nil:
		return Document{}, invalid("it is called an index and has no manifests")
	case isIndex:
		return parseIndex(b)
	case mediaType == v1.MediaTypeImageManifest || mediaType == DockerManifest:
		return parseManifest(b)
	}
	return Document{}, invalid("media type %q is no image", mediaType)
}

// saidTwice gives a key that the outermost table of a JSON text has twice. Of
// such a one some readers take the first value, others the last; ours does not
// tell upper case from lower.
func saidTwice(b []byte) string {
	dec := json.NewDecoder(bytes.NewReader(b))
	if _, err := dec.Token(); err != nil {
		return ""
	}
	seen := map[string]bool{}
	for dec.More() {
		key, _ := dec.Token()
		name, ok := key.(string)
		var value json.RawMessage
		if !ok || dec.Decode(&value) != nil {
			return ""
		}
		if name = strings.ToLower(name); seen[name] {
			return name
		}
		seen[name] = true
	}
	return ""
}

func parseManifest(b []byte) (Document, error) {
	m := new(v1.Manifest)
	if err := json.Unmarshal(b, m); err != nil {
		return Document{}, invalid("%v", err)
	}
	if m.Config.Digest == "" {
		return Document{}, invalid("it has no config")
	}
	if m.Config.MediaType == "" {
		return Document{}, invalid("its config has no media type")
	}
	for _, d := range append([]v1.Descriptor{m.Config}, m.Layers...) {
		if err := checkDescriptor(d); err != nil {
			return Document{}, err
		}
	}
	if IsArtifact(m) {
		return Document{Manifest: m}, nil
	}
	for _, l := range m.Layers {
		if err := checkLayer(l); err != nil {
			return Document{}, err
		}
	}
	return Document{Manifest: m}, nil
}

func parseIndex(b []byte) (Document, error) {
	i := new(v1.Index)
	if err := json.Unmarshal(b, i); err != nil {
		return Document{}, invalid("%v", err)
	}
	for _, d := range i.Manifests {
		if err := checkDescriptor(d); err != nil {
			return Document{}, err
		}
	}
	return Document{Index: i}, nil
}

func checkDescriptor(d v1.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return invalid("digest %q: %v", string(d.Digest), err)
	}
	if d.Digest.Algorithm() != digest.SHA256 {
		return invalid("digest %s: only sha256 is supported", d.Digest)
	}
	if d.Size < 0 {
		return invalid("blob %s has size %d", d.Digest, d.Size)
	}
	return nil
}

// checkLayer accepts the tar layers. Their compression is read from their own
// first bytes, since there are registries whose media types are wrong about it.
func checkLayer(d v1.Descriptor) error {
	switch d.MediaType {
	case v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd,
		DockerLayer, DockerLayer + ".gzip", DockerLayer + ".zstd":
		return nil
	case "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd":
		return invalid("layer %s is not distributed by registries (media type %q)", d.Digest, d.MediaType)
	}
	return invalid("layer %s has media type %q, which is no layer that can be unpacked", d.Digest, d.MediaType)
}

// Config is the part of an image config that the store reads.
type Config struct {
	Created  time.Time
	DiffIDs  []digest.Digest // of an artifact the ids of its parts
	Image    v1.ImageConfig
	Artifact *Artifact // nil for a container image
}

// ParseConfig reads an image config, or the manifest of an artifact.
func ParseConfig(b []byte) (Config, error) {
	if err := CheckSize("image config", b); err != nil {
		return Config{}, err
	}
	var probe struct {
		SchemaVersion json.RawMessage `json:"schemaVersion"` // only a manifest has it
	}
	if err := json.Unmarshal(b, &probe); err == nil && probe.SchemaVersion != nil {
		return parseArtifactConfig(b)
	}
	var c v1.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return Config{}, badConfig("%v", err)
	}
	if err := checkCounts(&c); err != nil {
		return Config{}, err
	}
	if c.OS != "" && c.OS != "linux" {
		return Config{}, badConfig("it is for %q, not linux", c.OS)
	}
	for _, d := range c.RootFS.DiffIDs {
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return Config{}, badConfig("diff ID %q is no sha256 digest", string(d))
		}
	}
	out := Config{DiffIDs: c.RootFS.DiffIDs, Image: c.Config}
	if c.Created != nil {
		out.Created = *c.Created
	}
	return out, nil
}

func invalid(format string, args ...any) error {
	return errkind.New(errkind.InvalidArgument, "cannot read manifest: %s", quoted(fmt.Sprintf(format, args...)))
}

func badConfig(format string, args ...any) error {
	return errkind.New(errkind.InvalidArgument, "cannot read image config: %s", quoted(fmt.Sprintf(format, args...)))
}
