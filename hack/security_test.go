package hack

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var suiteRow = regexp.MustCompile("^\\| T-([A-Z]+) \\|.*\\| ((?:`[^`]+` ?)+) \\|$")

// TestSecurityTable holds the table of SECURITY.md to the tests: each class
// has some in each of the packages that the table names.
func TestSecurityTable(t *testing.T) {
	text, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	classes := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		row := suiteRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		classes++
		suite := regexp.MustCompile(`\bT-` + row[1] + `\b|\nfunc Test` + row[1] + `[A-Z(]`)
		for _, pkg := range strings.Fields(strings.ReplaceAll(row[2], "`", "")) {
			files, err := filepath.Glob(filepath.Join("..", pkg, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(files, func(file string) bool {
				b, err := os.ReadFile(file)
				return err == nil && suite.Match(b)
			}) {
				t.Errorf("SECURITY.md says that %s has tests of T-%s", pkg, row[1])
			}
		}
	}
	if classes < 10 {
		t.Errorf("the table has %d classes", classes)
	}
}
