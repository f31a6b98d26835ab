package named

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/network/hostcheck"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// choose fills in what a record leaves open, and refuses what others have.
func (s *Set) choose(r *Record) error {
	taken, err := hostcheck.Routes()
	if err != nil {
		return fmt.Errorf("cannot read the host's routes: %w", err)
	}
	taken = append(taken, s.cfg.Bridge.Subnets...)
	names := map[string]bool{}
	for _, m := range s.members() {
		taken, names[m.record.Interface] = append(taken, m.record.Subnets...), true
	}
	if len(r.Subnets) > 0 {
		if err := free(r.Subnets, taken); err != nil {
			return err
		}
	} else if r.Subnets, err = s.cut(taken); err != nil {
		return err
	}
	for n := 1; r.Interface == ""; n++ {
		name := fmt.Sprintf("%s-%d", s.cfg.Bridge.Name, n)
		if len(name) >= unix.IFNAMSIZ {
			return errkind.New(errkind.ResourceExhausted, "no name is left for its interface, which begins with %s-; a shorter network.bridge leaves more", s.cfg.Bridge.Name)
		}
		if !names[name] {
			r.Interface = name
		}
	}
	return nil
}

// free refuses subnets that overlap what is taken, or each other.
func free(subnets, taken []netip.Prefix) error {
	for i, p := range subnets {
		if !p.IsValid() || p.Addr().Is4In6() {
			return errkind.New(errkind.InvalidArgument, "%s is no subnet", p)
		}
		subnets[i] = p.Masked()
		for _, t := range taken {
			if t.Overlaps(p) {
				return errkind.New(errkind.FailedPrecondition, "subnet %s overlaps %s, which the host or another network has", p, t)
			}
		}
	}
	// The bridge wants the IPv4 one first, whatever order they came in.
	slices.SortStableFunc(subnets, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return nil
}

// cut takes a subnet of each family from the pools.
func (s *Set) cut(taken []netip.Prefix) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, bits := range []int{24, 64} {
		four := bits == 24
		var some bool
		for _, pool := range s.cfg.Pools {
			if pool.Addr().Is4() != four || some {
				continue
			}
			for p := range parts(pool, bits) {
				if !slices.ContainsFunc(taken, p.Overlaps) {
					out, some = append(out, p), true
					break
				}
			}
		}
		if !some && four {
			return nil, errkind.New(errkind.ResourceExhausted, "the pools %v have no free /%d; name a subnet, or configure more (network.pools)", s.cfg.Pools, bits)
		}
	}
	return out, nil
}

// parts goes through the subnets of pool with so many bits, or pool itself if
// that has more. There may be more than anybody waits for: it ends after 65,536.
func parts(pool netip.Prefix, bits int) func(func(netip.Prefix) bool) {
	return func(yield func(netip.Prefix) bool) {
		bits := max(bits, pool.Bits())
		raw := pool.Masked().Addr().AsSlice()
		for range 1 << 16 {
			a, _ := netip.AddrFromSlice(raw)
			p := netip.PrefixFrom(a, bits)
			if !pool.Contains(a) || !yield(p) {
				return
			}
			// Add one at the last bit of the subnet.
			for i, carry := (bits-1)/8, 1<<((8-bits%8)%8); carry > 0; i-- {
				if i < 0 {
					return
				}
				sum := int(raw[i]) + carry
				raw[i], carry = byte(sum), sum>>8
			}
		}
	}
}
