package manifest

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const oneDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// list is a JSON list, or a table with as many keys, of n members.
func list(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`"",`, n), ",") + "]" }

func table(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%d":`, i)
		b.WriteString(`{}`)
	}
	return "{" + strings.TrimPrefix(b.String(), ",") + "}"
}

// Every list that an image's author writes has a limit, and none of what is
// over one gets into memory as more than a small multiple of its bytes. Ten
// thousand times a limit is beyond what is read of a document at all.
func TestLIMDocuments(t *testing.T) {
	config := func(key, value string) string { return `{"config":{"` + key + `":` + value + `}}` }
	manifest := func(key, value string) string {
		return `{"schemaVersion":2,"config":{"mediaType":"` + v1.MediaTypeImageConfig + `","digest":"` + oneDigest + `","size":2},"` + key + `":` + value + `}`
	}
	labels := func(n int) string { return strings.ReplaceAll(table(n), "{}", `""`) }
	parseManifest := func(b []byte) error {
		_, err := Parse("", b)
		return err
	}
	parseConfig := func(b []byte) error {
		_, err := ParseConfig(b)
		return err
	}
	const over = maxEntries + 1
	for name, c := range map[string]struct {
		parse func([]byte) error
		text  string
	}{
		"layers":         {parseManifest, manifest("layers", "["+strings.Repeat("{},", MaxLayers)+"{}]")},
		"manifests":      {parseManifest, `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", maxDescriptors) + `{}]}`},
		"diff ids":       {parseConfig, `{"rootfs":{"diff_ids":` + list(MaxLayers+1) + `}}`},
		"history":        {parseConfig, `{"history":[` + strings.Repeat("{},", maxEntries) + `{}]}`},
		"env":            {parseConfig, config("Env", list(over))},
		"labels":         {parseConfig, config("Labels", labels(over))},
		"ports":          {parseConfig, config("ExposedPorts", table(over))},
		"volumes":        {parseConfig, config("Volumes", table(over))},
		"entrypoint":     {parseConfig, config("Entrypoint", list(over))},
		"cmd":            {parseConfig, config("Cmd", list(over))},
		"manifest bytes": {parseManifest, manifest("x", `"`+strings.Repeat("x", MaxBytes)+`"`)},
		"annotations":    {parseManifest, manifest("annotations", labels(MaxBytes/10))},
		"config bytes":   {parseConfig, `{"x":"` + strings.Repeat("x", MaxBytes) + `"}`},
	} {
		if err := c.parse([]byte(c.text)); !errkind.Is(err, errkind.ResourceExhausted) || len(err.Error()) > 2*maxQuoted {
			t.Errorf("%s: got %.300v", name, err)
		}
	}
}

// Documents that are as large as may be, of the smallest members there are,
// are refused before they take more memory than a few times their bytes.
func TestLIMMemory(t *testing.T) {
	for name, text := range map[string]string{
		"nested":    strings.Repeat(`[`, MaxBytes),
		"objects":   strings.Repeat(`{"config":`, MaxBytes/10),
		"env":       `{"config":{"Env":` + list(MaxBytes/3-20) + `}}`,
		"layers":    `{"schemaVersion":2,"config":{},"layers":[` + strings.Repeat("{},", MaxBytes/3-30) + `{}]}`,
		"manifests": `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", MaxBytes/3-30) + `{}]}`,
		"in case":   `{"schemaVersion":2,"MANIFESTS":[` + strings.Repeat("{},", maxMembers/2-20) + `{}]}`,
		"twice":     `{"schemaVersion":2,"manifests":[` + strings.Repeat("{},", maxMembers/2-20) + `{}],"manifests":[]}`,
		"quotes":    `{"schemaVersion":2,"x":"\",[{\\","manifests":[` + strings.Repeat("{},", maxMembers/2-20) + `{}]}`,
	} {
		if len(text) > MaxBytes {
			t.Fatalf("%s: the text has %d bytes, over the limit", name, len(text))
		}
		for read, parse := range map[string]func([]byte) error{
			"manifest": func(b []byte) error { _, err := Parse("", b); return err },
			"config":   func(b []byte) error { _, err := ParseConfig(b); return err },
		} {
			b := []byte(text)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			err := parse(b)
			runtime.ReadMemStats(&after)
			// To a config these lists are nothing.
			if err == nil && read == "manifest" {
				t.Errorf("%s as %s was taken", name, read)
			}
			if took := after.TotalAlloc - before.TotalAlloc; took > 64<<20 {
				t.Errorf("%s as %s took %d MiB", name, read, took>>20)
			}
		}
	}
}

// What an author writes is not written into the log at any length.
func TestLIMWordsInErrors(t *testing.T) {
	long := strings.Repeat("x", MaxBytes/2)
	config := `"config":{"mediaType":"` + v1.MediaTypeImageConfig + `","digest":"` + oneDigest + `","size":2}`
	for _, text := range []string{
		`{"schemaVersion":2,"mediaType":"` + long + `",` + config + `}`,
		`{"schemaVersion":2,"config":{"mediaType":"x","digest":"` + long + `"}}`,
		`{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:` + long + `"}}`,
		`{"schemaVersion":2,` + config + `,"layers":[{"mediaType":"` + long + `","digest":"` + oneDigest + `"}]}`,
		`{"schemaVersion":2,"` + long + `":` + long + `}`,
	} {
		if _, err := Parse("", []byte(text)); err == nil || len(err.Error()) > 2*maxQuoted {
			t.Errorf("%.60s: got %.600v", text, err)
		}
	}
	for _, text := range []string{`{"os":"` + long + `"}`, `{"created":"` + long + `"}`, `{"rootfs":{"diff_ids":["` + long + `"]}}`} {
		if _, err := ParseConfig([]byte(text)); err == nil || len(err.Error()) > 2*maxQuoted {
			t.Errorf("%.60s: got %.600v", text, err)
		}
	}
	index := &v1.Index{}
	for range 100 {
		index.Manifests = append(index.Manifests, v1.Descriptor{Platform: &v1.Platform{OS: long, Architecture: long, Variant: long}})
	}
	if _, err := choose(index, "amd64"); !errkind.Is(err, errkind.NotFound) || len(err.Error()) > (maxOffered+1)*(maxQuoted+10) {
		t.Errorf("got %.600v", err)
	}
}
