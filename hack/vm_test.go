package hack

import (
	"os"
	"strings"
	"testing"
)

// TestGuestsNameTests compares hack/vm/tests.txt with the end-to-end tests that
// there are: a name that is misspelt would leave out nothing, or run nothing.
func TestGuestsNameTests(t *testing.T) {
	text, err := os.ReadFile("vm/tests.txt")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("vm/test.sh")
	if err != nil {
		t.Fatal(err)
	}
	sources := testSources{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.Split(line, " | ")
		switch {
		case len(parts) != 4 || parts[3] == "":
			t.Errorf("%q: want LANE | run or out | TEST | REASON", line)
		case !strings.Contains(string(script), "\n#   "+parts[0]+" "):
			t.Errorf("%q: hack/vm/test.sh has no lane %s", line, parts[0])
		case parts[1] != "run" && parts[1] != "out":
			t.Errorf("%q: a test is run or out", line)
		case (parts[1] == "run" || strings.HasSuffix(parts[0], "-e2e")) && !sources.has(t, "hack/e2e", parts[2], ""):
			t.Errorf("%q: hack/e2e has no %s", line, parts[2])
		}
	}
}
