package inflate

import (
	"bufio"

	"github.com/klauspost/compress/zstd"
)

// Window is the memory in bytes that Reader will take for r, which it leaves
// as it is: the window of the first frame for zstd, as far as Reader bears
// with it, and 0 for what takes little.
func Window(r *bufio.Reader) int64 {
	// A short peek or none is told again to whoever reads.
	head, _ := r.Peek(zstd.HeaderMaxSize)
	var h zstd.Header
	if len(head) < 4 || !isZstd(head[:4]) || h.Decode(head) != nil {
		return 0
	}
	if h.SingleSegment {
		return int64(min(h.FrameContentSize, maxWindow))
	}
	return int64(min(h.WindowSize, maxWindow))
}
