package imageservice

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Images by other builders show what these say that they are, whether they
// come from an archive or a registry, and go as they came. hack/corpus/make.sh
// makes them.
func TestImagesOfOtherBuilders(t *testing.T) {
	t.Parallel()
	archives, err := filepath.Glob("testdata/corpus/*.tar")
	if err != nil || len(archives) != 5 {
		t.Fatalf("the corpus is %q (%v)", archives, err)
	}
	for _, archive := range archives {
		name := strings.TrimSuffix(filepath.Base(archive), ".tar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			want := read(t, strings.TrimSuffix(archive, ".tar")+".list")
			s := openStore(t)
			images, err := s.Load(ctx, bytes.NewReader([]byte(read(t, archive))), nil)
			if err != nil || len(images) != 1 {
				t.Fatalf("%v, %v", images, err)
			}
			asListed(t, "loaded", want, mountImage(t, s, "loaded", images[0].ID))
			sound(t, s)

			ref := startRegistry(t) + "/corpus:" + name
			if _, err := s.Push(ctx, PushRequest{Image: images[0].ID, Ref: ref}); err != nil {
				t.Fatal(err)
			}
			other := openStore(t)
			pulled := mustPull(t, other, ref)
			if pulled.ID != images[0].ID || !slices.Equal(diffIDs(pulled), diffIDs(images[0])) {
				t.Errorf("it came back as %s", pulled.ID)
			}
			asListed(t, "pulled", want, mountImage(t, other, "pulled", pulled.ID))
			sound(t, other)
		})
	}
}

// asListed compares what is below root with the list of the builder.
func asListed(t *testing.T, what, want, root string) {
	t.Helper()
	got := strings.Split(list(t, root), "\n")
	for i, line := range strings.Split(want, "\n") {
		if i >= len(got) || got[i] != line {
			t.Fatalf("%s: line %d is\n\t%q\nand should be\n\t%q", what, i+1, slices.Concat(got, make([]string, i+1))[i], line)
		}
	}
}

// list writes what make.sh does: a line for each name with type, mode, owner,
// time, size, target and the number of the file, then the attributes.
func list(t *testing.T, root string) string {
	t.Helper()
	type line struct {
		name string
		st   unix.Stat_t
		to   string
	}
	var lines []line
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		l := line{name: strings.TrimPrefix(path, root+"/")}
		if d.Type()&fs.ModeSymlink != 0 {
			if l.to, err = os.Readlink(path); err != nil {
				return err
			}
		}
		lines = append(lines, l)
		return unix.Lstat(path, &lines[len(lines)-1].st)
	})
	if err != nil {
		t.Fatal(err)
	}
	// As sort(1) orders lines: a tab follows the name.
	slices.SortFunc(lines, func(a, b line) int { return cmp.Compare(a.name+"\t", b.name+"\t") })
	var out, attributes strings.Builder
	files := map[uint64]int{}
	for _, l := range lines {
		kind, size := "?", fmt.Sprint(l.st.Size)
		switch l.st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			kind = "f"
		case unix.S_IFDIR:
			kind, size = "d", "-"
		case unix.S_IFLNK:
			kind, size = "l", "-"
		case unix.S_IFIFO:
			kind = "p"
		case unix.S_IFCHR:
			kind = "c"
		}
		if files[l.st.Ino] == 0 {
			files[l.st.Ino] = len(files) + 1
		}
		fmt.Fprintf(&out, "%s\t%s\t%o\t%d:%d\t%d\t%s\t%s\t%d\n", l.name, kind, l.st.Mode&0o7777, l.st.Uid, l.st.Gid, l.st.Mtim.Sec, size, l.to, files[l.st.Ino])
		attributes.WriteString(listXattrs(t, root, l.name))
	}
	return out.String() + "\n" + attributes.String()
}

// listXattrs writes what getfattr does.
func listXattrs(t *testing.T, root, name string) string {
	t.Helper()
	buf, value := make([]byte, 4096), make([]byte, 4096)
	n, err := unix.Llistxattr(filepath.Join(root, name), buf)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(all)
	var out strings.Builder
	for _, attribute := range all {
		if !strings.HasPrefix(attribute, "user.") && !strings.HasPrefix(attribute, "security.") || attribute == "security.selinux" {
			continue
		}
		n, err := unix.Lgetxattr(filepath.Join(root, name), attribute, value)
		if err != nil {
			t.Fatal(err)
		}
		if out.Len() == 0 {
			fmt.Fprintf(&out, "# file: %s\n", name)
		}
		fmt.Fprintf(&out, "%s=0x%s\n", attribute, hex.EncodeToString(value[:n]))
	}
	if out.Len() > 0 {
		out.WriteByte('\n')
	}
	return out.String()
}
