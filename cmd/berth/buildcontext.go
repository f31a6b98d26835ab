package main

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// maxIgnore bounds a .dockerignore, in bytes.
const maxIgnore = 1 << 20

// readIgnore reads what the context leaves out: the file beside the Dockerfile
// that has its name with .dockerignore, else the one of the context.
func readIgnore(dir, dockerfile string) (*patternmatcher.PatternMatcher, error) {
	var names []string
	if dockerfile != "-" {
		names = append(names, dockerfile+".dockerignore")
	}
	for _, name := range append(names, filepath.Join(dir, ".dockerignore")) {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		limited := &io.LimitedReader{R: f, N: maxIgnore}
		patterns, err := ignorefile.ReadAll(limited)
		if err == nil && limited.N == 0 {
			err = fmt.Errorf("it has more than %d bytes", maxIgnore)
		}
		var m *patternmatcher.PatternMatcher
		if err == nil {
			m, err = patternmatcher.New(patterns)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		return m, nil
	}
	return patternmatcher.New(nil)
}

// packContext streams a folder as a tar, without what ignore names: names,
// permissions and contents, nothing of owners and times. Closing it early ends
// the packing.
func packContext(dir string, ignore *patternmatcher.PatternMatcher) (io.ReadCloser, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		p := &packer{root: root, out: tw, ignore: ignore}
		err := p.dir("", patternmatcher.MatchInfo{})
		if err == nil {
			err = tw.Close()
		}
		_ = root.Close()
		w.CloseWithError(err)
	}()
	return r, nil
}

// packer packs one context. Every file is opened below the folder's handle:
// who changes links meanwhile does not get files of elsewhere packed.
type packer struct {
	root   *os.Root
	out    *tar.Writer
	ignore *patternmatcher.PatternMatcher
}

// dir packs what is in the folder name.
func (p *packer) dir(name string, above patternmatcher.MatchInfo) error {
	f, err := p.root.Open(cmp.Or(name, "."))
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	_ = f.Close()
	if err != nil {
		return err
	}
	for _, e := range sortedEntries(entries) {
		below := path.Join(name, e.Name())
		skip, info, err := p.ignore.MatchesUsingParentResults(below, above)
		if err != nil {
			return fmt.Errorf("cannot tell whether .dockerignore leaves out %s: %w", below, err)
		}
		if skip && (!e.IsDir() || !p.ignore.Exclusions()) {
			continue
		}
		if err := p.entry(below, skip, info); err != nil {
			return err
		}
	}
	return nil
}

// entry packs one file. A folder that is left out is looked into, as something
// in it may be taken in again; it comes with that.
func (p *packer) entry(name string, skip bool, info patternmatcher.MatchInfo) error {
	st, err := p.root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it went meanwhile
	}
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: int64(tarMode(st.Mode())), Format: tar.FormatPAX}
	switch {
	case st.IsDir():
		if !skip {
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
			if err := p.out.WriteHeader(h); err != nil {
				return err
			}
		}
		return p.dir(name, info)
	case st.Mode().Type() == fs.ModeSymlink:
		if h.Linkname, err = p.root.Readlink(name); err != nil {
			return err
		}
		h.Typeflag = tar.TypeSymlink
		return p.out.WriteHeader(h)
	case st.Mode().IsRegular():
		return p.file(name, h)
	}
	return nil // sockets, FIFOs and devices are of this machine
}

func (p *packer) file(name string, h *tar.Header) error {
	f, err := p.root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if err := p.out.WriteHeader(h); err != nil {
		return err
	}
	if n, err := io.CopyN(p.out, f, h.Size); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s became shorter while it was read: %d bytes instead of %d", name, n, h.Size)
		}
		return err
	}
	return nil
}

func sortedEntries(entries []fs.DirEntry) []fs.DirEntry {
	sortBy(entries, func(e fs.DirEntry) string { return e.Name() })
	return entries
}

// tarMode are the bits of chmod(2).
func tarMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range []struct {
		have fs.FileMode
		want uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.have != 0 {
			mode |= b.want
		}
	}
	return mode
}
