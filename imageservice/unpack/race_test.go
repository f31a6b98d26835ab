package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// flip starts to swap each name below dir with a link to its target, one after
// the other, as fast as it can. stop gives how often it could.
func flip(t testing.TB, dir string, pairs map[string]string) (flips *atomic.Int64, stop func()) {
	t.Helper()
	root, err := os.Open(dir)
	must(t, err)
	type pair struct{ trap, target, parent, base string }
	var all []pair
	for name, target := range pairs {
		trap := filepath.Join(filepath.Dir(dir), fmt.Sprintf("trap-%x", name))
		parent, base := splitPath(name)
		all = append(all, pair{trap, target, parent, base})
	}
	flips = new(atomic.Int64)
	var ended atomic.Bool
	var done sync.WaitGroup
	done.Go(func() {
		for laid := false; !ended.Load(); laid = !laid {
			for _, p := range all {
				if !laid { // again: the unpacker may have removed the link
					_ = os.RemoveAll(p.trap)
					_ = os.Symlink(p.target, p.trap)
				}
				parent, err := openBelow(root, p.parent, unix.O_PATH|unix.O_DIRECTORY) // not through its own traps
				if err != nil {
					continue
				}
				if unix.Renameat2(unix.AT_FDCWD, p.trap, int(parent.Fd()), p.base, unix.RENAME_EXCHANGE) == nil {
					flips.Add(1)
				}
				_ = parent.Close()
			}
		}
	})
	return flips, func() { ended.Store(true); done.Wait(); _ = root.Close() }
}

// CVE-2025-47290 and its kind: names that were looked at are others when they
// are used. Whoever can rename below the unpacker still reaches nothing else.
func TestTARRaceOfLinksThatAreSwapped(t *testing.T) {
	t.Parallel()
	needRoot(t)
	outer := t.TempDir()
	work := filepath.Join(outer, "work") // traps are laid here; in it is the layer
	dir := filepath.Join(work, "in")
	must(t, os.MkdirAll(dir, 0o755))
	canary := filepath.Join(outer, "canary")
	must(t, os.Mkdir(canary, 0o750))
	for _, name := range []string{"f", "g", "node", "sub"} {
		must(t, os.WriteFile(filepath.Join(canary, name), []byte("alive"), 0o640))
	}
	before := listing(t, outer, work)

	out := tar.Header{Mode: 0o4777, Uid: 7, Gid: 7, ModTime: time.Unix(1, 0), PAXRecords: map[string]string{"SCHILY.xattr.user.evil": "1", "SCHILY.xattr.trusted.evil": "1"}}
	entry := func(kind byte, name, link string) tar.Header {
		h := out
		h.Typeflag, h.Name, h.Linkname = kind, name, link
		return h
	}
	// Short ones, as an error ends each.
	var tarballs [][]byte
	for _, headers := range [][]tar.Header{
		{entry(tar.TypeFifo, "node", ""), entry(tar.TypeFifo, "node", ""), entry(tar.TypeFifo, "node", "")},
		{entry(tar.TypeDir, "d", ""), entry(tar.TypeReg, "d/f", ""), entry(tar.TypeDir, "d/sub", ""), entry(tar.TypeReg, "d/sub/f", "")},
		{entry(tar.TypeReg, "f", ""), entry(tar.TypeLink, "hard", "f"), entry(tar.TypeDir, "f", ""), entry(tar.TypeReg, "f", "")},
		{entry(tar.TypeReg, "d/sub/x0/implied", ""), entry(tar.TypeReg, "d/.wh..wh..opq", ""), entry(tar.TypeReg, ".wh.d", "")},
		{entry(tar.TypeSymlink, "g", "/nowhere"), entry(tar.TypeDir, "g", ""), entry(tar.TypeReg, ".wh.g", ""), entry(tar.TypeLink, "later", "absent")},
		{entry(tar.TypeReg, "x0/f", ""), entry(tar.TypeLink, "x0/later", "absent")},
		{entry(tar.TypeDir, "d/sub", ""), entry(tar.TypeReg, "d", ""), entry(tar.TypeDir, "d", ""), entry(tar.TypeFifo, "d/f", "")},
	} {
		tarballs = append(tarballs, makeTar(t, headers...))
	}
	lower := t.TempDir()
	must(t, os.WriteFile(filepath.Join(lower, "absent"), []byte("x"), 0o644))
	must(t, os.Symlink(canary, filepath.Join(lower, "x0")))

	flips, stop := flip(t, dir, map[string]string{
		"d": canary, "node": filepath.Join(canary, "node"), "f": filepath.Join(canary, "f"), "g": filepath.Join(canary, "g"), "hard": filepath.Join(canary, "f"),
		"d/sub": canary, "d/f": filepath.Join(canary, "f"), "later": filepath.Join(canary, "g"), "x0": canary,
	})
	wholes := 0
	for rounds := 0; flips.Load() < 20_000 || rounds < 3_000; rounds++ {
		// Many end with an error, as names are others than they were.
		r, err := Layer(context.Background(), bytes.NewReader(tarballs[rounds%len(tarballs)]), dir, DefaultLimits(), nil)
		if err == nil {
			_, err = Settle(context.Background(), dir, r, []string{lower})
		}
		if err == nil {
			wholes++
		}
	}
	stop()
	t.Logf("%d flips, %d unpacked to the end", flips.Load(), wholes)
	differ(t, "outside", before, listing(t, outer, work))
}
