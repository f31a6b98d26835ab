package manifest

import (
	"runtime"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// variants gives, per architecture, the variants that this build takes, best
// first. The empty one is an entry that names none. An amd64 image of level
// v2 or v3 is taken only if there is no plain one: whether the processor has
// that level is found out by running it.
var variants = map[string][]string{
	"amd64": {"", "v1", "v2", "v3"},
	"arm64": {"v8", "", "v8.0"},
	"arm":   {"v7", "v6", "v5", ""},
}

// Choose picks the entry of an index for linux on this machine's architecture.
func Choose(i *v1.Index) (v1.Descriptor, error) { return choose(i, runtime.GOARCH) }

func choose(i *v1.Index, arch string) (v1.Descriptor, error) {
	order, ok := variants[arch]
	if !ok {
		order = []string{""}
	}
	best, rank := v1.Descriptor{}, len(order)
	var offered []string
	for _, d := range i.Manifests {
		p := d.Platform
		if p == nil {
			// An index of one image need not say for what it is.
			if len(i.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		if len(offered) < maxOffered {
			offered = append(offered, quoted(strings.TrimSuffix(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")))
		}
		if p.OS != "linux" || p.Architecture != arch {
			continue
		}
		for r, v := range order[:rank] {
			if v == p.Variant {
				best, rank = d, r
				break
			}
		}
	}
	if rank == len(order) && len(offered) == 0 {
		return best, errkind.New(errkind.NotFound, "cannot choose from index: none of its %d entries says for which platform it is; pull one by its digest", len(i.Manifests))
	}
	if rank == len(order) {
		return best, errkind.New(errkind.NotFound, "cannot choose from index: no image for linux/%s, only for %s",
			arch, strings.Join(offered, ", "))
	}
	return best, nil
}
