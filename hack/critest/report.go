package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
)

// allowed names what may be skipped, and why.
//
//go:embed allowed.txt
var allowed string

// spec is what became of one spec, as ginkgo's report tells it.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string // passed, failed, panicked, timedout, interrupted, aborted, skipped, pending
	Failure                 struct{ Message string }
}

func (s spec) name() string {
	return strings.Join(append(slices.Clone(s.ContainerHierarchyTexts), s.LeafNodeText), " ")
}

func readReport(file string) ([]spec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct{ SpecReports []spec }
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, fmt.Errorf("cannot read the report %s: %w", file, err)
	}
	var out []spec
	for _, s := range suites {
		out = append(out, s.SpecReports...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the report %s names no spec", file)
	}
	return out, nil
}

// allowance is a line of allowed.txt: specs whose names contain words may be
// skipped, because of reason; there are count of them. On a host that has
// unless, they may not.
type allowance struct {
	count                 int
	words, unless, reason string
	used                  int
}

// features are what a line of allowed.txt can name, and how a host shows that
// it has it.
var features = map[string]func() bool{
	"AppArmor": func() bool {
		enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		return err == nil && strings.TrimSpace(string(enabled)) == "Y"
	},
}

// forHost leaves out what does not hold on this host.
func forHost(all []*allowance) []*allowance {
	return slices.DeleteFunc(all, func(a *allowance) bool { return a.unless != "" && features[a.unless]() })
}

func parseAllowed(text string) ([]*allowance, error) {
	var out []*allowance
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		var a allowance
		parts := strings.SplitN(line, "|", 4)
		if len(parts) != 4 {
			return nil, fmt.Errorf("cannot read %q: want COUNT | WORDS OF THE NAME | UNLESS THE HOST HAS | REASON", line)
		}
		if _, err := fmt.Sscan(parts[0], &a.count); err != nil {
			return nil, fmt.Errorf("cannot read the count of %q: %w", line, err)
		}
		a.words, a.unless, a.reason = strings.TrimSpace(parts[1]), strings.TrimSpace(parts[2]), strings.TrimSpace(parts[3])
		if _, known := features[a.unless]; !known && a.unless != "" {
			return nil, fmt.Errorf("cannot read %q: nothing here finds out whether a host has %q", line, a.unless)
		}
		out = append(out, &a)
	}
	return out, nil
}

// judge gives the summary of a pass, and an error if anything failed or was
// skipped beyond what allowed admits, or if other than p.runs have passed, or if
// the report tells of fewer than there are. Unless
// the pass was of all specs, what was skipped is what was left out.
func judge(specs []spec, allowed string, p pass) (string, error) {
	allowances, err := parseAllowed(allowed)
	if err != nil {
		return "", err
	}
	allowances = forHost(allowances)
	var out strings.Builder
	var passed, skipped int
	var bad []string
	told := 0
	for _, s := range specs {
		if s.LeafNodeType == "It" {
			told++
		}
		switch s.State {
		case "passed":
			if s.LeafNodeType == "It" {
				passed++
			}
		case "skipped", "pending":
			skipped++
			if p.all && !allow(allowances, s.name()) {
				bad = append(bad, fmt.Sprintf("%s: %s: %s", s.State, s.name(), s.Failure.Message))
			}
		default:
			bad = append(bad, fmt.Sprintf("%s: %s", s.State, s.name()))
		}
	}
	fmt.Fprintf(&out, "critest: %d passed, %d skipped, %d that must not fail or be skipped\n", passed, skipped, len(bad))
	for _, a := range allowances {
		if a.used > 0 {
			fmt.Fprintf(&out, "  %d skipped: %s: %s\n", a.used, a.words, a.reason)
		}
		if p.all && a.used > a.count {
			bad = append(bad, fmt.Sprintf("%d skipped of %q, of which %d may be", a.used, a.words, a.count))
		}
	}
	if p.runs > 0 && passed != p.runs {
		bad = append(bad, fmt.Sprintf("%d specs passed, and there are %d", passed, p.runs))
	}
	if told < p.of {
		bad = append(bad, fmt.Sprintf("the report tells of %d specs, and there are %d", told, p.of))
	}
	if len(bad) == 0 {
		return out.String(), nil
	}
	return out.String(), fmt.Errorf("%d specs failed or were skipped:\n  %s", len(bad), strings.Join(bad, "\n  "))
}

func allow(allowances []*allowance, name string) bool {
	for _, a := range allowances {
		if strings.Contains(name, a.words) {
			a.used++
			return true
		}
	}
	return false
}
