package portmap

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables/expr"
)

// Where it is not known behind which interface the pods are, no rule is about one
// that has no name: such a rule would match nothing, and guard nothing.
func TestRulesWithoutABridge(t *testing.T) {
	t.Parallel()
	rules, err := Config{Name: "t"}.rules([]Entry{{PodID: strings.Repeat("a", 64), Protocol: "tcp", HostPort: 80, PodIP: netip.MustParseAddr("192.0.2.2"),
		PodPort: 80, Beside: netip.MustParsePrefix("192.0.2.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	named, beside := 0, 0
	for _, r := range rules {
		for i, e := range r.Exprs {
			meta, ok := e.(*expr.Meta)
			if !ok || meta.Key != expr.MetaKeyIIFNAME && meta.Key != expr.MetaKeyOIFNAME {
				continue
			}
			cmp, ok := r.Exprs[i+1].(*expr.Cmp)
			if !ok || strings.Trim(string(cmp.Data), "\x00") != "lo" || cmp.Op != expr.CmpOpNeq {
				t.Errorf("%s: %+v", r.Comment, r.Exprs[i+1])
			}
			named++
		}
		if strings.HasPrefix(r.Comment, "beside the pod") {
			beside++
		}
	}
	if named != 3 || beside != 1 {
		t.Errorf("%d rules about interfaces and %d beside the pod, want 3 and 1", named, beside)
	}
}
