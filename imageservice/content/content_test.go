package content_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/content"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

func open(t *testing.T, root string) *content.Store {
	t.Helper()
	s, err := content.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantKind(t *testing.T, err error, want errkind.Kind) {
	t.Helper()
	if !errkind.Is(err, want) {
		t.Errorf("got %v of kind %d, want kind %d", err, errkind.Of(err), want)
	}
}

func TestBlobs(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	data := []byte("hello")
	d := digest.FromBytes(data)

	if s.Has(d) {
		t.Error("an empty store has the blob")
	}
	_, err := s.ReadFile(d, 100)
	wantKind(t, err, errkind.NotFound)
	for range 2 {
		if err := s.Put(d, data); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.ReadFile(d, 5); err != nil || !bytes.Equal(got, data) {
		t.Errorf("ReadFile = %q, %v", got, err)
	}
	_, err = s.ReadFile(d, 4)
	wantKind(t, err, errkind.ResourceExhausted)
	wantKind(t, s.Put(digest.FromString("other"), data), errkind.DataLoss)
	if all, err := s.List(); err != nil || !slices.Equal(all, []digest.Digest{d}) {
		t.Errorf("List = %v, %v", all, err)
	}
	for range 2 {
		if err := s.Delete(d); err != nil {
			t.Error(err)
		}
	}
	if s.Has(d) {
		t.Error("the blob is there after Delete")
	}
}

func TestRottenBlobIsDataLoss(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	d := digest.FromString("hello")
	if err := os.WriteFile(s.Path(d), []byte("hellO"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := s.ReadFile(d, 100)
	wantKind(t, err, errkind.DataLoss)
}

func TestDigestNeverBecomesAPath(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	for _, d := range []digest.Digest{"", "sha256:../../x", "sha256:abc", digest.Digest("sha512:" + strings.Repeat("ab", 64)), "../x"} {
		if s.Has(d) || s.Path(d) != "" {
			t.Errorf("%q has a path", d)
		}
		wantKind(t, s.Delete(d), errkind.InvalidArgument)
		wantKind(t, s.Put(d, nil), errkind.InvalidArgument)
		wantKind(t, s.Abandon(d), errkind.InvalidArgument)
		_, err := s.ReadFile(d, 1)
		wantKind(t, err, errkind.InvalidArgument)
		_, err = s.Ingest(d)
		wantKind(t, err, errkind.InvalidArgument)
	}
}

func TestOpenSweepsAndIsPrivate(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root)
	d := digest.FromString("hello")
	if err := s.Put(d, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	litter := filepath.Join(filepath.Dir(s.Path(d)), ".tmp-x-1")
	if err := os.WriteFile(litter, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s = open(t, root); !s.Has(d) {
		t.Error("the blob did not survive")
	}
	if _, err := os.Lstat(litter); !os.IsNotExist(err) {
		t.Errorf("litter is still there: %v", err)
	}
	for _, dir := range []string{"blobs", "blobs/sha256", "ingest"} {
		if fi, err := os.Stat(filepath.Join(root, dir)); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, fi.Mode(), err)
		}
	}
}

func ingest(t *testing.T, s *content.Store, d digest.Digest) *content.Ingest {
	t.Helper()
	in, err := s.Ingest(d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	return in
}

func TestIngestGoesOnAfterRestart(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root)
	d := digest.FromString("hello world")

	in := ingest(t, s, d)
	if _, err := io.WriteString(in, "hello "); err != nil {
		t.Fatal(err)
	}
	_, err := s.Ingest(d)
	wantKind(t, err, errkind.FailedPrecondition)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, root)
	if all, err := s.Ingests(); err != nil || !slices.Equal(all, []digest.Digest{d}) {
		t.Errorf("Ingests = %v, %v", all, err)
	}
	in = ingest(t, s, d)
	if got, err := io.ReadAll(in.Received()); err != nil || string(got) != "hello " || in.Offset() != 6 {
		t.Errorf("Received = %q, %v at offset %d", got, err, in.Offset())
	}
	if _, err := io.WriteString(in, "world"); err != nil {
		t.Fatal(err)
	}
	if err := in.Commit(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.ReadFile(d, 100); err != nil || string(got) != "hello world" {
		t.Errorf("ReadFile = %q, %v", got, err)
	}
	if all, err := s.Ingests(); err != nil || len(all) != 0 {
		t.Errorf("Ingests = %v, %v after Commit", all, err)
	}
}

func TestAbandonBefore(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	s := open(t, root)
	old, busy, young := digest.FromString("old"), digest.FromString("busy"), digest.FromString("young")
	for _, d := range []digest.Digest{old, busy, young} {
		if err := ingest(t, s, d).Close(); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-time.Hour)
	for _, d := range []digest.Digest{old, busy} {
		if err := os.Chtimes(filepath.Join(root, "ingest", d.Encoded()+".part"), then, then); err != nil {
			t.Fatal(err)
		}
	}
	ingest(t, s, busy)
	if err := s.AbandonBefore(time.Now().Add(-time.Minute)); err != nil {
		t.Fatal(err)
	}
	want := []digest.Digest{busy, young}
	slices.Sort(want)
	if all, err := s.Ingests(); err != nil || !slices.Equal(all, want) {
		t.Errorf("Ingests = %v, %v", all, err)
	}
}

func TestIngestOfWrongBytesLeavesNothing(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	d := digest.FromString("hello")
	in := ingest(t, s, d)
	if _, err := io.WriteString(in, "hellO"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, in.Commit(), errkind.DataLoss)
	if s.Has(d) {
		t.Error("wrong bytes became a blob")
	}
	if in = ingest(t, s, d); in.Offset() != 0 {
		t.Errorf("the next ingest starts at %d", in.Offset())
	}
	if err := s.Abandon(d); err != nil {
		t.Error(err)
	}
	if err := s.Abandon(d); err != nil {
		t.Error(err)
	}
}

// What one abandons and another begins anew is not committed for the first.
func TestAbandonedIngestCommitsNothing(t *testing.T) {
	t.Parallel()
	s, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := []byte("the whole blob")
	d := digest.FromBytes(b)
	first, err := s.Ingest(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(d); err != nil {
		t.Fatal(err)
	}
	second, err := s.Ingest(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Write(b[:3]); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(); err == nil || s.Has(d) {
		t.Errorf("committed with %v, the store has it: %v", err, s.Has(d))
	}
	if _, err := second.Write(b[3:]); err != nil {
		t.Fatal(err)
	}
	if err := second.Commit(); err != nil || !s.Has(d) {
		t.Errorf("the second gives %v", err)
	}
}
