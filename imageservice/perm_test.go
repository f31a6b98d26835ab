package imageservice

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// modes are those of all that the store makes, by its path under Root; what
// an image's or a container's own files have is theirs. The first line that
// matches counts.
var modes = []struct {
	path *regexp.Regexp
	mode fs.FileMode // with the type; the container's kernel writes in work
	own  bool        // below it all is the image's, the container's or overlayfs'
}{
	{regexp.MustCompile(`^$`), fs.ModeDir | 0o700, false},
	{regexp.MustCompile(`^(b|blobs|blobs/sha256|c|ingest|l|s|spool)$`), fs.ModeDir | 0o700, false},
	{regexp.MustCompile(`^empty$`), fs.ModeDir | 0o755, false}, // the root of a container without layers
	{regexp.MustCompile(`^blobs/sha256/[0-9a-f]{64}$`), 0o600, false},
	{regexp.MustCompile(`^ingest/.*$`), 0o600, false},
	{regexp.MustCompile(`^meta\.db$`), 0o600, false},
	{regexp.MustCompile(`^l/[0-9]+$`), fs.ModeDir | 0o755, false},
	{regexp.MustCompile(`^l/[0-9]+/fs$`), fs.ModeDir | 0o777, true}, // of the image's own root
	{regexp.MustCompile(`^l/[0-9]+/(inventory|tar-split\.json\.gz)$`), 0o600, false},
	{regexp.MustCompile(`^s/[^/]+$`), fs.ModeDir | 0o700, false},
	{regexp.MustCompile(`^s/[^/]+/fs$`), fs.ModeDir | 0o777, true},
	{regexp.MustCompile(`^s/[^/]+/work$`), fs.ModeDir | 0o700, true},
}

// Nobody but root gets at what the store holds: a setuid program in a layer is
// one on the host too (CVE-2021-41103). The layers' own modes are the image's,
// so it is the directories above that keep people out.
func TestPERM(t *testing.T) {
	needRoot(t)
	defer unix.Umask(unix.Umask(0)) // the modes are ours, not those of who started us
	s := openAt(t, filepath.Join(t.TempDir(), "store"))
	s.cfg.KeepBlobs = true
	host := startRegistry(t)
	setuid := file("su", "x")
	setuid.Mode = 0o4755
	img := makeImage(t, gzLayer(t, dir("./", 0o777), setuid, dir("open", 0o777)), gzLayer(t, file("open/f", "y")))
	push(t, host+"/x:v1", img)
	image := mustPull(t, s, host+"/x:v1")
	if _, err := s.Load(context.Background(), bytes.NewReader(dockerArchive(t, "load.example/x:v1", img)), nil); err != nil {
		t.Fatal(err)
	}
	save(t, s, ArchiveOCI, host+"/x:v1")
	mountImage(t, s, "c1", image.ID)

	checked := map[string]bool{}
	err := filepath.WalkDir(s.cfg.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(s.cfg.Root, path)
		if rel == "." {
			rel = ""
		}
		for _, m := range modes {
			if !m.path.MatchString(rel) {
				continue
			}
			checked[m.path.String()] = true
			if got := info.Mode(); got.Type() != m.mode.Type() || got.Perm()&^m.mode.Perm() != 0 {
				t.Errorf("%q has mode %v, more than %v", rel, got, m.mode)
			}
			if uid := info.Sys().(*syscall.Stat_t); uid.Uid != 0 || uid.Gid != 0 {
				t.Errorf("%q belongs to %d:%d", rel, uid.Uid, uid.Gid)
			}
			if m.own {
				return fs.SkipDir
			}
			return nil
		}
		t.Errorf("%q (%v) is in no line of the table", rel, info.Mode())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(checked) < len(modes)-1 { // a finished pull leaves nothing in ingest
		t.Errorf("only %d of %d lines of the table were met: %v", len(checked), len(modes), checked)
	}
	unreachable(t, s, image)
}

// unreachable fails the test if a user of the machine can get at a layer.
func unreachable(t *testing.T, s *Service, image Image) {
	t.Helper()
	for _, path := range []string{place(s, image, 0, "su"), filepath.Join(s.snapshotDir("c1"), "fs")} {
		shut := false
		for dir := filepath.Dir(path); len(dir) >= len(s.cfg.Root); dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			shut = shut || info.Mode().Perm()&0o011 == 0 && dir != s.cfg.Root
		}
		if !shut {
			t.Errorf("no directory below the root of the store shuts %s off", path)
		}
	}
}
