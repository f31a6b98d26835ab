package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	it := func(name, state string) spec {
		return spec{ContainerHierarchyTexts: []string{"[k8s.io] AppArmor"}, LeafNodeType: "It", LeafNodeText: name, State: state}
	}
	all, some := pass{all: true}, pass{}
	const list = "# why\n1 | AppArmor allowed | | not here\n"
	for name, c := range map[string]struct {
		specs []spec
		pass  pass
		want  string // of the error; empty: none
	}{
		"all passed":           {[]spec{it("a", "passed")}, all, ""},
		"allowed skip":         {[]spec{it("a", "passed"), it("allowed", "skipped")}, all, ""},
		"other skip":           {[]spec{it("other", "skipped")}, all, "skipped: [k8s.io] AppArmor other"},
		"one skip too many":    {[]spec{it("allowed 1", "skipped"), it("allowed 2", "skipped")}, all, "of which 1 may be"},
		"left out by the user": {[]spec{it("other", "skipped")}, some, ""},
		"allowed, but fails":   {[]spec{it("allowed", "failed")}, all, "failed: [k8s.io] AppArmor allowed"},
		"as many as there are": {[]spec{it("a", "passed"), it("other", "skipped")}, pass{runs: 1}, ""},
		"fewer than there are": {[]spec{it("a", "passed"), it("other", "skipped")}, pass{runs: 2}, "1 specs passed, and there are 2"},
		"one got lost":         {[]spec{it("a", "passed"), it("allowed", "skipped")}, pass{all: true, of: 3}, "tells of 2 specs, and there are 3"},
		"panic":                {[]spec{it("a", "panicked")}, some, "panicked"},
		"suite node fails":     {[]spec{{LeafNodeType: "SynchronizedBeforeSuite", State: "failed"}}, all, "failed"},
	} {
		text, err := judge(c.specs, list, c.pass)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", name, err, c.want)
		case !strings.Contains(text, "critest: "):
			t.Errorf("%s: summary %q", name, text)
		}
	}
}

func TestAllowedIsReadable(t *testing.T) {
	t.Parallel()
	list, err := parseAllowed(allowed)
	if err != nil || len(list) == 0 {
		t.Fatalf("%d, %v", len(list), err)
	}
	for _, a := range list {
		if a.count < 1 || a.words == "" || a.reason == "" {
			t.Errorf("%+v: want a count, words and a reason", a)
		}
	}
	for _, bad := range []string{"9 | AppArmor", "9 | AppArmor | none", "nine | AppArmor | | none", "9 | AppArmor | a feature that nothing looks for | none"} {
		if _, err := parseAllowed(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// What a host has may not be skipped there.
func TestAllowedHoldsWhereTheHostLacksIt(t *testing.T) {
	for has, want := range map[bool]int{false: 2, true: 1} {
		list, err := parseAllowed("9 | AppArmor | AppArmor | none here\n5 | benchmark | | never\n")
		if err != nil {
			t.Fatal(err)
		}
		real := features["AppArmor"]
		features["AppArmor"] = func() bool { return has }
		list = forHost(list)
		features["AppArmor"] = real
		if len(list) != want || list[len(list)-1].words != "benchmark" {
			t.Errorf("a host that has it (%v) is allowed %d skips, want %d", has, len(list), want)
		}
	}
}

func TestReportMustNameSpecs(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "report.json")
	if _, err := readReport(file); err == nil {
		t.Error("an absent report was taken")
	}
	if err := os.WriteFile(file, []byte(`[{"SpecReports": []}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readReport(file); err == nil {
		t.Error("a report without specs was taken")
	}
	if err := os.WriteFile(file, []byte(`[{"SpecReports": [{"ContainerHierarchyTexts": ["a"], "LeafNodeText": "b", "State": "passed"}]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	if specs, err := readReport(file); err != nil || len(specs) != 1 || specs[0].name() != "a b" {
		t.Errorf("%v, %v", specs, err)
	}
}
