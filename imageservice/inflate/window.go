package inflate

import (
	"bufio"
	"math/bits"

	"github.com/klauspost/compress/zstd"
)

// Window is the memory in bytes that Reader will take for r, which it leaves
// as it is: the window of the first frame for zstd, as far as Reader bears
// with it, and 0 for what takes little.
func Window(r *bufio.Reader) int64 {
	h, ok := header(r)
	if !ok {
		return 0
	}
	if h.SingleSegment {
		return int64(min(h.FrameContentSize, maxWindow))
	}
	return int64(min(h.WindowSize, maxWindow))
}

// header gives the header of r's first frame, if it is of zstd.
func header(r *bufio.Reader) (h zstd.Header, ok bool) {
	// A short peek or none is told again to whoever reads.
	head, _ := r.Peek(zstd.HeaderMaxSize)
	return h, len(head) >= 4 && isZstd(head[:4]) && h.Decode(head) == nil
}

// roomFor gives an empty frame to decode before r, or nil. The decoder keeps
// window and output in one buffer, the window and 1 MiB, and moves the window
// down whenever the rest is full: nine bytes for each that it gives, with the
// usual window of 8 MiB. The buffer stays for the next frame, so that one of a
// window a quarter larger makes it a third of that.
func roomFor(r *bufio.Reader) []byte {
	h, ok := header(r)
	if !ok || h.SingleSegment || h.WindowSize < 1<<20 || h.WindowSize > maxWindow/2 {
		return nil // nothing moves, little does, or it would be too much
	}
	const eighths = 3 // the bits of a descriptor that say how many eighths of the power of two come on top
	power := bits.Len64(h.WindowSize) - 1
	descriptor := (power-10)<<eighths + int(h.WindowSize>>(power-eighths))&7 + 2
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(descriptor), 1, 0, 0} // a last block of no bytes
}
