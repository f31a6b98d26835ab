package build

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// emptyStore is a store of which every image is empty, and which forgets what is
// committed once it is written.
type emptyStore struct{ root string }

func (s emptyStore) Base(_ context.Context, ref string, _ bool) (Base, error) {
	if strings.Contains(ref, "absent") {
		return Base{}, errkind.New(errkind.NotFound, "it is absent")
	}
	return Base{ID: "x", Config: []byte(`{"config":{"OnBuild":["ENV TRIGGERED=1"]}}`)}, nil
}
func (emptyStore) Cached(digest.Digest) (Layer, bool) { return Layer{}, false }
func (emptyStore) Commit(ctx context.Context, key digest.Digest, _ Stack, write func(context.Context, io.Writer) error) (Layer, bool, error) {
	if write == nil {
		return Layer{}, false, nil
	}
	var first, second bytes.Buffer
	if err := write(ctx, &first); err != nil {
		return Layer{}, false, err
	}
	if err := write(ctx, &second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		panic("a layer is not the same each time")
	}
	return Layer{DiffID: digest.FromBytes(first.Bytes()), Seq: 1}, true, nil
}
func (s emptyStore) View(Stack) (*os.File, error)                { return os.Open(s.root) }
func (emptyStore) Mount(_ Stack, _, target string, _ bool) error { return os.Mkdir(target, 0o700) }
func (s emptyStore) CacheDir(context.Context, string, string) (string, func(), error) {
	return s.root, func() {}, nil
}
func (emptyStore) Serve(Stack, string) (string, func()) { return "x", func() {} }
func (emptyStore) Diff(_ context.Context, _ string, _ snapshot.DiffOptions, w io.Writer) error {
	_, err := w.Write(make([]byte, 1024))
	return err
}
func (emptyStore) Image(_ context.Context, config []byte, _ Stack, _ []string) (string, error) {
	return digest.FromBytes(config).String(), nil
}

// obedient runs nothing, with success.
type obedient struct{}

func (obedient) Run(ctx context.Context, p Process, done func(context.Context, string) error) (int, error) {
	for _, m := range p.Mounts {
		if !filepath.IsAbs(m.Source) || !filepath.IsAbs(m.Target) || filepath.Clean(m.Target) != m.Target {
			panic("a mount is not absolute")
		}
	}
	return 0, done(ctx, "x")
}

// FuzzBuild: T-BUILD. Whatever a Dockerfile says, the build ends, with an image
// or an error that has a kind, and the same each time.
func FuzzBuild(f *testing.F) {
	for _, seed := range []string{
		"FROM scratch\nCOPY . /\n", "FROM x AS a\nRUN <<EOF\n#!/bin/sh\nEOF\nFROM a\nCOPY --from=a /x* /y/\n",
		"# escape=`\nARG A=$B\nFROM ${A:-x}\nENV A=`$x B=${A#p*}${A/x/y}\nWORKDIR $A/$B\n",
		"FROM x\nRUN --mount=type=cache,target=/c,sharing=locked --mount=type=secret,id=s,target=/s --network=none [\"a\"]\n",
		"FROM x\nADD --chown=1:2 --chmod=644 <<a <<-\"b\" f /d/\n$x\na\n\tt\nb\n", "FROM scratch\nEXPOSE 1-70000/udp $X\nHEALTHCHECK --interval=1s CMD [\"x\"]\n",
		"FROM scratch\nCOPY --parents --exclude=*/x [\"f\", \"g h\", \"/p/\"]\nONBUILD COPY f /\nVOLUME [\"\", \"/\"]\n", "FROM x\nRUN --mount=source=f,target=../../x\n",
	} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "://") {
			return // the test fetches nothing
		}
		var ids [2]string
		for n := range ids {
			at := filepath.Join(dir, "b")
			r := Request{Dockerfile: []byte(text), Args: map[string]string{"X": "$A 80 *"}, Limits: Limits{File: 4096, Steps: 50, Value: 4096}}
			root := t.TempDir()
			if err := os.Chtimes(root, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
				t.Fatal(err)
			}
			out, err := Build(context.Background(), r, emptyStore{root}, obedient{}, at)
			if err == nil && out.ID == "" {
				t.Fatal("there is neither an image nor an error")
			}
			if err != nil && strings.Contains(err.Error(), "internal error") {
				t.Fatal(err)
			}
			if err := RemoveWorkspace(at); err != nil {
				t.Fatal(err)
			}
			ids[n] = out.ID
		}
		if ids[0] != ids[1] {
			t.Fatalf("it made %v", ids)
		}
	})
}

// FuzzArchive: T-BUILD. Whatever bytes a context has, reading them ends, and the
// tree has no name that climbs.
func FuzzArchive(f *testing.F) {
	f.Add([]byte("BZh91AY"))
	f.Add([]byte{0x1f, 0x8b})
	f.Add(make([]byte, 1024))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := readArchive(t.Context(), bytes.NewReader(b), dir, archiveLimits{bytes: 1 << 20, entries: 100, depth: 20, plain: true})
		if err != nil {
			return
		}
		defer func() { _ = a.Close() }()
		err = walk(a, "", 100, func(rel, name string, n *node) error {
			if rel != name || strings.Contains("/"+name+"/", "/../") || n.uid != 0 {
				t.Fatalf("%q is %q of %d", rel, name, n.uid)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}
