package manifest

import (
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Limits on what an image's author controls.
const (
	MaxBytes       = 8 << 20 // of a manifest, index or config
	MaxLayers      = 500     // as many as overlayfs stacks
	maxDescriptors = 10000   // in an index
	maxEntries     = 10000   // of each list in a config: environment, labels, history and so on
	maxMembers     = 200000  // of all lists and tables of a document together
	maxOffered     = 20      // platforms that an error lists
	maxQuoted      = 512     // bytes of an author's words in an error
)

// checkCounts refuses a config with lists that nobody can use. It stays in
// memory as long as its image, and goes into answers and containers.
func checkCounts(c *v1.Image) error {
	for _, l := range []struct {
		what string
		n    int
		most int
	}{
		{"diff IDs", len(c.RootFS.DiffIDs), MaxLayers},
		{"entries of history", len(c.History), maxEntries},
		{"environment variables", len(c.Config.Env), maxEntries},
		{"labels", len(c.Config.Labels), maxEntries},
		{"exposed ports", len(c.Config.ExposedPorts), maxEntries},
		{"volumes", len(c.Config.Volumes), maxEntries},
		{"words of entrypoint", len(c.Config.Entrypoint), maxEntries},
		{"words of command", len(c.Config.Cmd), maxEntries},
	} {
		if l.n > l.most {
			return errkind.New(errkind.ResourceExhausted, "cannot read image config: it has %d %s, more than %d", l.n, l.what, l.most)
		}
	}
	return nil
}

// quoted is what may go of an author's words into an error, which is logged
// and becomes an event of the pod.
func quoted(s string) string {
	if len(s) <= maxQuoted {
		return s
	}
	return strings.ToValidUTF8(s[:maxQuoted], "") + "..."
}

// members counts the members of all lists and tables of a JSON text, and
// those of its outermost one. It may count one too many of each that is empty.
func members(b []byte) (all, outermost int) {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '}' || c == ']':
			depth--
		case c == '{' || c == '[' || c == ',':
			if c != ',' {
				depth++
			}
			all++
			if depth == 1 {
				outermost++
			}
		}
	}
	return all, outermost
}

// CheckSize refuses a JSON text that would take much more memory once it is
// read than its bytes do: two of them are enough for a member of a list, and
// what that becomes has hundreds.
func CheckSize(what string, b []byte) error {
	if len(b) > MaxBytes {
		return errkind.New(errkind.ResourceExhausted, "cannot read %s: it has more than %d bytes", what, MaxBytes)
	}
	if all, _ := members(b); all > maxMembers {
		return errkind.New(errkind.ResourceExhausted, "cannot read %s: it has %d members, more than %d", what, all, maxMembers)
	}
	return nil
}

// checkLists refuses lists of descriptors before they are read.
func checkLists(layers, manifests []byte) error {
	if _, n := members(layers); n > MaxLayers {
		return errkind.New(errkind.ResourceExhausted, "cannot read manifest: it has %d layers, more than %d", n, MaxLayers)
	}
	if _, n := members(manifests); n > maxDescriptors {
		return errkind.New(errkind.ResourceExhausted, "cannot read index: it has %d manifests, more than %d", n, maxDescriptors)
	}
	return nil
}
