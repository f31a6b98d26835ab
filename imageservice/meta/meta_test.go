package meta

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func TestRowsComeBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "meta.db")
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	image := Image{ID: "sha256:aa", Digests: []string{"x@sha256:bb"}, Blobs: nil, Layers: []uint64{1, 300}}
	layer := Layer{Seq: 300, DiffID: "sha256:cc", Chain: "sha256:dd", Root: true, Opaque: true, Bytes: 1, Inodes: 2}
	snapshot := Snapshot{Container: "c", Image: "sha256:aa", Layers: []uint64{1, 300}, Created: time.Unix(1, 0).UTC()}
	step := Build{Key: "sha256:ee", Layer: 300, Used: time.Unix(2, 0).UTC()}
	err = db.Update(func(tx *Tx) error {
		tx.SetBoot("boot")
		tx.PutImage(image)
		tx.PutTag("x:v1", image.ID)
		tx.PutLayer(layer)
		tx.PutLayer(Layer{Seq: 1})
		tx.PutSnapshot(snapshot)
		tx.PutBuild(step)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	if err := db.Update(func(tx *Tx) error { tx.DeleteImage(image.ID); return stop }); !errors.Is(err, stop) {
		t.Fatalf("got %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	got, err := db.Load()
	want := State{
		Boot:      "boot",
		Images:    map[string]Image{image.ID: image},
		Tags:      map[string]string{"x:v1": image.ID},
		Layers:    map[uint64]Layer{1: {Seq: 1}, 300: layer},
		Snapshots: map[string]Snapshot{"c": snapshot},
		Builds:    map[string]Build{step.Key: step},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	err = db.Update(func(tx *Tx) error {
		tx.DeleteImage(image.ID)
		tx.DeleteTag("x:v1")
		tx.DeleteLayer(1)
		tx.DeleteLayer(300)
		tx.DeleteSnapshot("c")
		tx.DeleteBuild(step.Key)
		tx.DeleteSnapshot("absent")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err = db.Load()
	if err != nil || len(got.Images)+len(got.Tags)+len(got.Layers)+len(got.Snapshots)+len(got.Builds) != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
}
