package hack

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// contractFields are all fields that a request or an answer of CRI has, by
// their messages' names.
func contractFields() []string {
	var out []string
	seen := map[protoreflect.FullName]bool{}
	var walk func(protoreflect.MessageDescriptor)
	walk = func(m protoreflect.MessageDescriptor) {
		if seen[m.FullName()] {
			return
		}
		seen[m.FullName()] = true
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			out = append(out, string(m.Name())+"."+string(f.Name()))
			if f.Message() != nil && !f.IsMap() {
				walk(f.Message())
			}
		}
	}
	services := (&criv1.VersionRequest{}).ProtoReflect().Descriptor().ParentFile().Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			walk(methods.Get(j).Input())
			walk(methods.Get(j).Output())
		}
	}
	return out
}

// testRef is how contract.txt names a test.
var testRef = regexp.MustCompile(`^([a-z0-9/]+)\.(Test\w+)(?:/(.+))?$`)

// testSources are the test files of a package that are read once.
type testSources map[string][]string

// has tells whether the package dir has the test, and its file the case.
func (s testSources) has(t *testing.T, dir, test, sub string) bool {
	t.Helper()
	if s[dir] == nil {
		files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s[dir] = append(s[dir], string(b))
		}
	}
	return slices.ContainsFunc(s[dir], func(text string) bool {
		return strings.Contains(text, "\nfunc "+test+"(t *testing.T)") && (sub == "" || strings.Contains(text, strconv.Quote(sub)))
	})
}

// TestContract holds contract.txt to CRI's descriptors, in both directions,
// and to the tests that it names.
func TestContract(t *testing.T) {
	text, err := os.ReadFile("contract.txt")
	if err != nil {
		t.Fatal(err)
	}
	fields := contractFields()
	if len(fields) < 400 {
		t.Fatalf("CRI has %d fields: were its services not found?", len(fields))
	}
	told := map[string]bool{}
	sources := testSources{}
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		field, how, ok := strings.Cut(line, "\t")
		if !ok || how == "" || how == "-" || how == "- " {
			t.Errorf("contract.txt:%d: neither tests nor a reason: %q", i+1, line)
			continue
		}
		found := false
		for _, f := range fields {
			prefix, all := strings.CutSuffix(field, "*")
			if f != field && (!all || !strings.HasPrefix(f, prefix)) {
				continue
			}
			if told[f] {
				t.Errorf("contract.txt:%d: %s is told of twice", i+1, f)
			}
			told[f], found = true, true
		}
		if !found {
			t.Errorf("contract.txt:%d: CRI has no field %s", i+1, field)
		}
		if strings.HasPrefix(how, "- ") {
			continue
		}
		for ref := range strings.SplitSeq(how, ", ") {
			if m := testRef.FindStringSubmatch(ref); m == nil || !sources.has(t, m[1], m[2], m[3]) {
				t.Errorf("contract.txt:%d: there is no test %s", i+1, ref)
			}
		}
	}
	for _, f := range fields {
		if !told[f] {
			t.Errorf("contract.txt does not tell of %s", f)
		}
	}
}
