// Package refs normalises image references.
//
// A reference is what a person or a pod writes, "busybox" or
// "quay.io/app/web:v2"; a Ref is its one full form, under which an image is
// stored, listed and fetched. Two spellings of one image parse to equal Refs,
// so a Ref may be compared and used as a map key. Image ids ("sha256:..." or
// bare hex) are no references: whoever accepts both looks ids up first.
package refs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// DockerHub is the host of a reference that names none, unless configured.
const DockerHub = "docker.io"

const (
	// maxLength is above the longest host, name, tag and digest together.
	maxLength = 1024

	hubNamespace = "library/"
	defaultTag   = "latest"
)

// Ref is a normalised reference. At least one of Tag and Digest is set; with
// both the digest says what to fetch and the tag is only what was written.
type Ref struct {
	Host   string // "docker.io", "localhost:5000"
	Path   string // "library/busybox"
	Tag    string
	Digest digest.Digest
}

// Parse normalises s. The host of an s that names none is defaultHost, or
// DockerHub if that is empty. A lone name is put under library/ on DockerHub
// only, as no other registry has that namespace.
func Parse(s, defaultHost string) (Ref, error) {
	if len(s) > maxLength {
		return Ref{}, invalid(s, fmt.Sprintf("it has %d characters, and no reference has more than %d", len(s), maxLength))
	}
	if isID(s) {
		return Ref{}, invalid(s, "it is an image id")
	}
	if _, rest, found := strings.Cut(s, "://"); found {
		return Ref{}, invalid(s, fmt.Sprintf("a reference has no scheme; write %q", rest))
	}
	host, rest := splitHost(s)
	if host == "" {
		host = defaultHost
	}
	host = canonicalHost(host)
	if strings.Contains(host, "@") {
		return Ref{}, errkind.New(errkind.InvalidArgument, "cannot parse reference: it carries credentials, which belong elsewhere")
	}
	if !isHost(host) {
		// It would be read as part of the path when the full form is parsed.
		return Ref{}, invalid(s, strconv.Quote(host)+" is not a host"+lowerCase(s, defaultHost))
	}
	if !isPort(host) {
		return Ref{}, invalid(s, strconv.Quote(host)+" has no port that can be")
	}
	if host == DockerHub && !strings.Contains(rest, "/") {
		rest = hubNamespace + rest
	}
	parsed, err := reference.Parse(host + "/" + rest)
	switch {
	case errors.Is(err, reference.ErrNameContainsUppercase):
		return Ref{}, invalid(s, "a name has no upper case"+lowerCase(s, defaultHost))
	case errors.Is(err, reference.ErrNameTooLong):
		return Ref{}, invalid(s, fmt.Sprintf("a name has at most %d characters", reference.RepositoryNameTotalLengthMax))
	case err != nil:
		return Ref{}, invalid(s, "it is not [HOST[:PORT]/]NAME[:TAG][@DIGEST]")
	}
	named, ok := parsed.(reference.Named)
	if !ok || reference.Domain(named) != host {
		return Ref{}, invalid(s, "it names no repository")
	}
	r := Ref{Host: host, Path: reference.Path(named)}
	if d, ok := parsed.(reference.Digested); ok {
		if r.Digest = d.Digest(); r.Digest.Algorithm() != digest.SHA256 {
			return Ref{}, invalid(s, "its digest is not sha256")
		}
	}
	if t, ok := parsed.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

// String is the full form: "host/path:tag", or "host/path@digest" if there is
// a digest, because what was pulled by digest carries no tag.
func (r Ref) String() string { return r.Name() + r.suffix() }

// Name is the repository, "host/path".
func (r Ref) Name() string { return r.Host + "/" + r.Path }

// Short is the form that people know from docker: without the host and the
// library namespace of DockerHub, otherwise as String.
func (r Ref) Short() string {
	name := r.Name()
	if r.Host == DockerHub {
		name = strings.TrimPrefix(r.Path, hubNamespace)
	}
	return name + r.suffix()
}

func (r Ref) suffix() string {
	switch {
	case r.Digest != "":
		return "@" + r.Digest.String()
	case r.Tag != "":
		return ":" + r.Tag
	}
	return ""
}

// IsLoopback reports whether host ("name", "name:port", "[::1]:port") is this
// machine. Such a registry may answer in plain HTTP.
func IsLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && ip.IsLoopback()
}

// splitHost takes the first part of s for a host if it cannot be a name: it
// has a dot or a colon, is "localhost", or has upper case.
func splitHost(s string) (host, rest string) {
	first, after, found := strings.Cut(s, "/")
	if found && (isHost(first) || strings.ToLower(first) != first) {
		return first, after
	}
	return "", s
}

func isHost(s string) bool { return strings.ContainsAny(s, ".:") || s == "localhost" }

// isPort reports whether the port of host, if it has one, can exist.
func isPort(host string) bool {
	i := strings.LastIndex(host, ":")
	if i < 0 || strings.HasSuffix(host, "]") {
		return true
	}
	port, err := strconv.ParseUint(host[i+1:], 10, 16)
	return err == nil && port > 0
}

// lowerCase suggests s with its name in lower case, where that is a reference.
func lowerCase(s, defaultHost string) string {
	name, suffix := s, ""
	if i := strings.IndexByte(s, '@'); i >= 0 {
		name, suffix = s[:i], s[i:]
	}
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name, suffix = name[:i], name[i:]+suffix
	}
	lower := strings.ToLower(name) + suffix
	if lower == s {
		return ""
	}
	if _, err := Parse(lower, defaultHost); err != nil {
		return ""
	}
	return fmt.Sprintf("; write %q", lower)
}

// canonicalHost gives the one name of a host that has several.
func canonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case "", "index.docker.io", "registry.hub.docker.com":
		return DockerHub
	}
	return host
}

// isID reports whether s is an image id. "sha256:..." would otherwise parse
// as a tag of an image "sha256", and 64 hex digits as a name.
func isID(s string) bool {
	if strings.HasPrefix(s, "sha256:") {
		return true
	}
	_, err := hex.DecodeString(s)
	return len(s) == 64 && err == nil
}

// maxQuoted is how much of what is no reference an error repeats.
const maxQuoted = 300

func invalid(s, why string) error {
	if len(s) > maxQuoted {
		s = s[:maxQuoted] + "..."
	}
	return errkind.New(errkind.InvalidArgument, "cannot parse reference %q: %s", s, why)
}
