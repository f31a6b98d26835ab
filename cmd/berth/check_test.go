package main

import (
	"strings"
	"testing"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func TestCheckEndsWithOneUntilAllIsRepaired(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.problems = []api.Problem{{Kind: "layer", Object: "sha256:aa", Detail: `file "etc/passwd": its content differs`}}
	code, out, errs := n.berth("check", "--quick")
	if code != 1 || !strings.Contains(out, "etc/passwd") || strings.Contains(out, "repaired") || errs != "" {
		t.Errorf("check: code %d, %q, %q", code, out, errs)
	}
	if out := n.must(t, "check", "--repair"); !strings.Contains(out, `repaired: file "etc/passwd"`) {
		t.Errorf("check --repair: %q", out)
	}
}
