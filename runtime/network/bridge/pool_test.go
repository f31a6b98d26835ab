package bridge

import (
	"net/netip"
	"testing"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func network24(a string) netip.Prefix { return netip.PrefixFrom(netip.MustParseAddr(a), 24) }

func TestPoolGoesAround(t *testing.T) {
	t.Parallel()
	p := newPool(netip.MustParsePrefix("10.0.0.0/29")) // .1 is the gateway, .7 broadcast
	take := func(want string) {
		t.Helper()
		if a, err := p.take("pod"); err != nil || a.String() != want {
			t.Errorf("got %s (%v), want %s", a, err, want)
		}
	}
	take("10.0.0.2")
	take("10.0.0.3")
	delete(p.holder, netip.MustParseAddr("10.0.0.2"))
	take("10.0.0.4")
	take("10.0.0.5")
	take("10.0.0.6")
	take("10.0.0.2")
	if _, err := p.take("pod"); !errkind.Is(err, errkind.ResourceExhausted) {
		t.Errorf("got %v, want ResourceExhausted", err)
	}
	p.giveBack("pod")
	if err := p.claim("pod", netip.MustParseAddr("10.0.0.4")); err != nil {
		t.Error(err)
	}
	take("10.0.0.5")
	for _, a := range []string{"10.0.0.0", "10.0.0.1", "10.0.0.7"} {
		if err := p.claim("pod", netip.MustParseAddr(a)); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("claim of %s: got %v, want InvalidArgument", a, err)
		}
	}
	if err := p.claim("other", netip.MustParseAddr("10.0.0.4")); !errkind.Is(err, errkind.AlreadyExists) {
		t.Errorf("got %v, want AlreadyExists", err)
	}
}

func TestPoolOfIPv6HasNoBroadcast(t *testing.T) {
	t.Parallel()
	p := newPool(netip.MustParsePrefix("fd00::/126"))
	if p.gateway.String() != "fd00::1" || p.last.String() != "fd00::3" {
		t.Errorf("got gateway %s and last %s", p.gateway, p.last)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	prefixes := func(all ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, s := range all {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	for _, c := range []Config{
		{Name: "sixteenletterslo"},
		{Name: "a/b"},
		{Subnets: prefixes()},
		{Subnets: prefixes("fd00::/64")},
		{Subnets: prefixes("10.0.0.0/24", "10.1.0.0/24")},
		{Subnets: prefixes("10.0.0.0/31")},
		{Subnets: []netip.Prefix{{}}},
	} {
		if c.Subnets == nil && c.Name == "" {
			c.Subnets = []netip.Prefix{}
		}
		if _, err := c.complete(); !errkind.Is(err, errkind.InvalidArgument) {
			t.Errorf("%+v: got %v, want InvalidArgument", c, err)
		}
	}
	c, err := Config{Subnets: prefixes("10.0.0.9/24")}.complete()
	if err != nil || c.Subnets[0].String() != "10.0.0.0/24" || c.Name != "berth0" || c.Table != "berth-berth0" {
		t.Errorf("got %+v (%v)", c, err)
	}
}
