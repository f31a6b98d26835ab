package content

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Extent is the bytes from Begin to End of a blob, without that at End.
type Extent struct{ Begin, End int64 }

// extents are what a part has of a blob: in order, none empty, no two of them
// adjacent.
type extents []Extent

// extentsXattr has them where the part has gaps; a part without it has every
// byte up to its size. It lists less than is there after a kill, never more:
// bytes come first.
const (
	extentsXattr = "user.berth.extents"
	maxExtents   = 128 // far more than there are ranges at a time
)

func (e extents) end() int64 {
	if len(e) == 0 {
		return 0
	}
	return e[len(e)-1].End
}

// reached is where the extent that has at ends; at if none has it.
func (e extents) reached(at int64) int64 {
	for _, x := range e {
		if x.Begin <= at && at < x.End {
			return x.End
		}
	}
	return at
}

func (e extents) missing(size int64) (gaps []Extent) {
	at := int64(0)
	for _, x := range append(slices.Clone(e), Extent{size, size}) {
		if x.Begin > at {
			gaps = append(gaps, Extent{at, x.Begin})
		}
		at = max(at, x.End)
	}
	return gaps
}

// with gives e and x. It does not change e.
func (e extents) with(x Extent) extents {
	if x.Begin >= x.End {
		return e
	}
	var all extents
	for _, old := range e {
		if old.End < x.Begin || x.End < old.Begin {
			all = append(all, old)
			continue
		}
		x = Extent{min(x.Begin, old.Begin), max(x.End, old.End)}
	}
	all = append(all, x)
	slices.SortFunc(all, func(a, b Extent) int { return int(min(max(a.Begin-b.Begin, -1), 1)) })
	return all
}

// save writes e beside the bytes of f.
func (e extents) save(f *os.File) error {
	var b []byte
	for _, x := range e {
		b = binary.LittleEndian.AppendUint64(b, uint64(x.Begin))
		b = binary.LittleEndian.AppendUint64(b, uint64(x.End))
	}
	if err := unix.Fsetxattr(int(f.Fd()), extentsXattr, b, 0); err != nil {
		return &os.PathError{Op: "fsetxattr", Path: f.Name(), Err: err}
	}
	return nil
}

// loadExtents gives what f has, and whether that lies beside its bytes. What
// makes no sense is nothing.
func loadExtents(f *os.File) (e extents, beside bool, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, false, err
	}
	b := make([]byte, 16*maxExtents)
	n, err := unix.Fgetxattr(int(f.Fd()), extentsXattr, b)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return e.with(Extent{0, size}), false, nil
	}
	if err != nil && !errors.Is(err, unix.ERANGE) {
		return nil, false, &os.PathError{Op: "fgetxattr", Path: f.Name(), Err: err}
	}
	for b = b[:max(n, 0)]; len(b) >= 16; b = b[16:] {
		x := Extent{int64(binary.LittleEndian.Uint64(b)), int64(binary.LittleEndian.Uint64(b[8:]))}
		if x.Begin < e.end() || x.End <= x.Begin || x.End > size {
			return nil, true, nil
		}
		e = append(e, x)
	}
	return e, true, nil
}
