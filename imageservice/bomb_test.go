package imageservice

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Blobs that are larger than they look. A tar of nothing but zeros is an empty
// one, with padding.

func gzBomb(t testing.TB, size, members int64) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, size/members); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return bytes.Repeat(b.Bytes(), int(members))
}

// zstBomb is a frame of size zero bytes that asks for a window of
// 2^windowLog: blocks of 128 KiB, each of which says one byte.
func zstBomb(size int64, windowLog byte) []byte {
	const block, rle = 128 << 10, 1
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, (windowLog - 10) << 3}
	for ; size > 0; size -= block {
		head := uint32(min(size, block))<<3 | rle<<1
		if size <= block {
			head |= 1 // the last one
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 0)
	}
	return b
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

const bombVar = "BERTH_TEST_BOMB" // the image that this process is to pull

// T-TAR: bombs by ratio are refused, and what is none, but asks for all the
// memory that a decompressor may, has it in turn. Each image is pulled by a
// process of its own, whose memory is the measure.
func TestTARBombs(t *testing.T) {
	t.Parallel()
	needRoot(t)
	if ref := os.Getenv(bombVar); ref != "" {
		s := openStore(t)
		s.ratioPad = 48 << 20
		_, err := s.Pull(context.Background(), PullRequest{Ref: ref})
		sound(t, s)
		// Never less than what was in use at a time; without the race detector's own.
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		fmt.Printf("kind=%d\nerr=%v\npeak=%d\n", errkind.Of(err), err, mem.Sys>>20)
		return
	}
	const large = 64 << 20
	host := startRegistry(t)
	for name, c := range map[string]struct {
		blob []byte
		want errkind.Kind
	}{
		"gzip":                  {gzBomb(t, large, 1), errkind.ResourceExhausted},
		"gzip of many members":  {gzBomb(t, large, 32), errkind.ResourceExhausted},
		"zstd":                  {zstBomb(large, 23), errkind.ResourceExhausted},
		"zstd of large windows": {nil, errkind.Unknown}, // 32 MiB for each layer, all of which is used
		"zstd of huge windows":  {zstBomb(1<<20, 26), errkind.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			var layers []v1.Layer
			for i := range 5 { // side by side
				content, pack := []byte{byte(i)}, func(testing.TB, []byte) []byte { return c.blob }
				if c.blob == nil {
					content = make([]byte, 40<<20+512*i)
					pack = func(_ testing.TB, b []byte) []byte { return zstBomb(int64(len(b)), 25) }
				}
				layers = append(layers, makeLayer(t, types.OCILayer, pack, content))
			}
			ref := host + "/" + strings.ReplaceAll(name, " ", "-") + ":1"
			push(t, ref, makeImage(t, layers...))
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestTARBombs$", "-test.count=1")
			cmd.Env = append(os.Environ(), bombVar+"="+ref)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if want := fmt.Sprintf("kind=%d\n", c.want); !strings.Contains(string(out), want) || c.want == errkind.Unknown && !strings.Contains(string(out), "err=<nil>") {
				t.Errorf("it ended otherwise than with %v:\n%s", c.want, out)
			}
			var mib int
			_, rest, _ := strings.Cut(string(out), "peak=")
			if _, err := fmt.Sscan(rest, &mib); err != nil || mib >= 256 {
				t.Errorf("its peak is %d MiB (%v)", mib, err)
			}
			t.Logf("peak %d MiB", mib)
		})
	}
}
