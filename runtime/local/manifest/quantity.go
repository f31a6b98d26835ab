package manifest

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// Quantity is an amount as Kubernetes writes it: 1.5, 500m, 64Mi, 1e3.
type Quantity string

// suffixes by how much they multiply, as powers of 10 and of 2.
var suffixes = map[string]struct{ ten, two int }{
	"n": {-9, 0}, "u": {-6, 0}, "m": {-3, 0}, "": {}, "k": {3, 0}, "M": {6, 0}, "G": {9, 0}, "T": {12, 0}, "P": {15, 0}, "E": {18, 0},
	"Ki": {0, 10}, "Mi": {0, 20}, "Gi": {0, 30}, "Ti": {0, 40}, "Pi": {0, 50}, "Ei": {0, 60},
}

// times is the quantity multiplied by scale, rounded up. It is never negative.
func (q Quantity) times(scale int64) (int64, error) {
	bad := fmt.Errorf("%q is no quantity such as 0.5, 500m or 64Mi", string(q))
	text := string(q)
	i := strings.LastIndexAny(text, "0123456789.") + 1
	number, suffix := text[:i], text[i:]
	s, ok := suffixes[suffix]
	// Longer ones are nobody's, and cost time to compute.
	if !ok || number == "" || len(number) > 32 || strings.HasPrefix(number, "-") {
		return 0, bad
	}
	if mantissa, exponent, scientific := strings.Cut(strings.ToLower(number), "e"); scientific {
		n, err := strconv.Atoi(exponent)
		if err != nil || n < -18 || n > 18 || suffix != "" {
			return 0, bad
		}
		number, s.ten = mantissa, n
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok || strings.Trim(number, "0123456789.") != "" { // no fractions, no hexadecimal digits
		return 0, bad
	}
	r.Mul(r, new(big.Rat).SetInt64(scale))
	r.Mul(r, new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(s.two))))
	power := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(max(s.ten, -s.ten))), nil))
	if s.ten < 0 {
		power.Inv(power)
	}
	r.Mul(r, power)
	n := new(big.Int).Add(r.Num(), new(big.Int).Sub(r.Denom(), big.NewInt(1)))
	n.Div(n, r.Denom())
	if !n.IsInt64() {
		return 0, fmt.Errorf("%q is too much", string(q))
	}
	return n.Int64(), nil
}
