// Package hack guards the shape of the house: who may import whom, and what
// the shim links. The law itself is text (imports.txt, shim-packages.txt), so
// that a change of it shows in review as what it is.
package hack

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/berth-runtime/berth"

// shimTags are those of the Makefile's bin/berth-shim.
const shimTags = "seccomp runc_nocriu netgo osusergo"

var update = flag.Bool("update", false, "write shim-packages.txt anew")

// law is imports.txt, parsed.
type law struct {
	own  []rule // first match governs
	only []rule // pattern: the module; allowed: packages
	leaf []rule // pattern: the package; allowed: modules
}

type rule struct {
	line    int
	pattern string
	allowed []string
}

func parseLaw(r io.Reader) (*law, error) {
	l := &law{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		if rest, ok := strings.CutPrefix(text, "only "); ok {
			mod, in, ok := strings.Cut(rest, " in ")
			if !ok {
				return nil, fmt.Errorf("line %d: only MODULE in PATTERN...", n)
			}
			l.only = append(l.only, rule{n, strings.TrimSpace(mod), strings.Fields(in)})
			continue
		}
		leaf, isLeaf := strings.CutPrefix(text, "leaf ")
		pattern, allowed, ok := strings.Cut(leaf, ":")
		if !ok {
			return nil, fmt.Errorf("line %d: PATTERN: PACKAGES...", n)
		}
		r := rule{n, strings.TrimSpace(pattern), strings.Fields(allowed)}
		if isLeaf {
			l.leaf = append(l.leaf, r)
		} else {
			l.own = append(l.own, r)
		}
	}
	return l, lines.Err()
}

// matches tells whether path is the pattern's, where "x/..." is x and all below.
func matches(pattern, path string) bool {
	if base, ok := strings.CutSuffix(pattern, "/..."); ok {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return pattern == path
}

func allows(allowed []string, path string) bool {
	ok := false
	for _, pattern := range allowed {
		if denied, not := strings.CutPrefix(pattern, "!"); not {
			if matches(denied, path) {
				return false
			}
		} else if matches(pattern, path) {
			ok = true
		}
	}
	return ok
}

// check returns what is wrong with pkg importing path, or "".
func (l *law) check(pkg, path string) string {
	if own, ok := strings.CutPrefix(path, module+"/"); ok {
		for _, r := range l.own {
			if !matches(r.pattern, pkg) {
				continue
			}
			if !allows(r.allowed, own) {
				return fmt.Sprintf("%s must not import %s (imports.txt:%d)", pkg, own, r.line)
			}
			return ""
		}
		return fmt.Sprintf("%s imports %s, but imports.txt has no line for it", pkg, own)
	}
	for _, r := range l.only {
		if matches(r.pattern+"/...", path) && !allows(r.allowed, pkg) {
			return fmt.Sprintf("%s must not import %s (imports.txt:%d)", pkg, path, r.line)
		}
	}
	for _, r := range l.leaf {
		if !matches(r.pattern, pkg) || !strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
			continue // not governed, or the standard library
		}
		below := func(mod string) bool { return matches(mod+"/...", path) }
		if !slices.ContainsFunc(r.allowed, below) {
			return fmt.Sprintf("%s must not import %s (imports.txt:%d)", pkg, path, r.line)
		}
	}
	return ""
}

func TestImportLaw(t *testing.T) {
	text, err := os.Open("imports.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	l, err := parseLaw(text)
	if err != nil {
		t.Fatalf("imports.txt: %v", err)
	}
	type pkg struct {
		ImportPath string
		Imports    []string
	}
	list := json.NewDecoder(bytes.NewReader(goList(t, "-e", "-json=ImportPath,Imports", "./...")))
	for {
		var p pkg
		if err := list.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, path := range p.Imports {
			if wrong := l.check(name, path); wrong != "" {
				t.Error(wrong)
			}
		}
	}
}

// TestShimPackages keeps the shim small: everything it links is initialised
// again at every container start and every exec.
func TestShimPackages(t *testing.T) {
	const file = "shim-packages.txt"
	deps := strings.Fields(string(goList(t, "-deps", "-f", "{{.ImportPath}} {{.Standard}}", "./cmd/berth-shim")))
	var linked []string
	for i := 0; i+1 < len(deps); i += 2 {
		path, standard := deps[i], deps[i+1] == "true"
		for _, heavy := range []string{"net/http", "google.golang.org/grpc", "google.golang.org/protobuf", "github.com/prometheus", "go.opentelemetry.io"} {
			if matches(heavy+"/...", path) {
				t.Errorf("berth-shim must not link %s: its init would run at every start and exec", path)
			}
		}
		if !standard {
			linked = append(linked, path)
		}
	}
	slices.Sort(linked)
	got := strings.Join(linked, "\n") + "\n"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before := strings.Fields(string(want))
	for _, path := range linked {
		if !slices.Contains(before, path) {
			t.Errorf("berth-shim now links %s", path)
		}
	}
	for _, path := range before {
		if !slices.Contains(linked, path) {
			t.Errorf("berth-shim no longer links %s", path)
		}
	}
	if t.Failed() {
		t.Log("if that is meant: go test ./hack -run TestShimPackages -update")
	}
}

// TestLaw keeps the checker itself honest.
func TestLaw(t *testing.T) {
	l, err := parseLaw(strings.NewReader(`
a/b: c d/... !d/x
only example.org/m in a/... # reason
leaf c: golang.org/x/sys
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		pkg, path string
		ok        bool
	}{
		{"a/b", module + "/c", true},
		{"a/b", module + "/d/e", true},
		{"a/b", module + "/d/x", false},
		{"a/b", module + "/e", false},
		{"nobody", module + "/c", false},
		{"a/b", "example.org/m/sub", true},
		{"z", "example.org/m", false},
		{"z", "example.org/more", true},
		{"c", "golang.org/x/sys/unix", true},
		{"c", "golang.org/x/net", false},
		{"c", "os/exec", true},
	} {
		if wrong := l.check(c.pkg, c.path); (wrong == "") != c.ok {
			t.Errorf("%s imports %s: %q", c.pkg, c.path, wrong)
		}
	}
}

func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-tags", shimTags}, args...)...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}
