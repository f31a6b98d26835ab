package imageservice

import (
	"context"
	"fmt"
	"math/rand"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// BenchmarkPull pulls an image of about 100 MB compressed in four layers, half
// of it noise and half text, each time into an empty store.
func BenchmarkPull(b *testing.B) {
	needRoot(b)
	const files, size = 160, 256 << 10
	noise, host := rand.New(rand.NewSource(1)), startRegistry(b)
	var layers []v1.Layer
	var total int64
	for l := range 4 {
		var entries []entry
		for f := range files {
			content := make([]byte, size)
			noise.Read(content[:size/2])
			for i := size / 2; i < size; i++ {
				content[i] = "abcdefgh"[noise.Intn(8)]
			}
			entries = append(entries, file(fmt.Sprintf("layer%d-file%d", l, f), string(content)))
		}
		layer := gzLayer(b, entries...)
		n, err := layer.Size()
		if err != nil {
			b.Fatal(err)
		}
		total += n
		layers = append(layers, layer)
	}
	push(b, host+"/big:v1", makeImage(b, layers...))
	b.SetBytes(total)
	for b.Loop() {
		b.StopTimer()
		s, err := Open(context.Background(), Config{Root: b.TempDir(), BootID: "test"})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		mustPull(b, s, host+"/big:v1")
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
