package unpack

import (
	"archive/tar"
	"os"
	"strings"
)

// IsSparse reports whether the file has holes by one of the formats of GNU
// tar: a type of its own, or PAX records of version 0.0, 0.1 or 1.0.
func IsSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// sparseWriter writes a file of its final size front to back and leaves out
// blocks of zeros. The tar's own map is not to be had from archive/tar.
type sparseWriter struct {
	f     *os.File
	off   int64
	taken *uint64 // the bytes of blocks that were written
	last  int64   // the end of the last block that was
}

func (w *sparseWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := int(min(blockSize-w.off%blockSize, int64(len(rest))))
		if !isZero(rest[:n]) {
			// As many blocks as have data, in one write.
			for n < len(rest) && !isZero(rest[n:min(n+blockSize, len(rest))]) {
				n = min(n+blockSize, len(rest))
			}
			if _, err := w.f.WriteAt(rest[:n], w.off); err != nil {
				return 0, err
			}
			w.account(int64(n))
		}
		w.off += int64(n)
		rest = rest[n:]
	}
	return len(p), nil
}

func (w *sparseWriter) account(n int64) {
	begin := max(w.last, w.off/blockSize*blockSize)
	w.last = (w.off + n + blockSize - 1) / blockSize * blockSize
	*w.taken += uint64(max(w.last-begin, 0))
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
