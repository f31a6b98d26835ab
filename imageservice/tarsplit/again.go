package tarsplit

import (
	"archive/tar"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Again makes at file, in place of the journal that is there, one of the tar in
// src that has every content which the files below root do not have at its
// name.
func Again(file string, src io.Reader, root string) (err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	c := comparer{files: assembler{root: dir}, theirs: make([]byte, chunkSize), ours: make([]byte, chunkSize)}
	return record(src, f, c.contents)
}

// comparer journals contents by name if the file of that name has it.
type comparer struct {
	files        assembler
	theirs, ours []byte // of the tar and of the file
}

func (c *comparer) contents(j *journal, h *tar.Header, r io.Reader) error {
	f, err := c.files.open(h.Name)
	if err != nil {
		return c.segments(j, r)
	}
	defer func() { _ = f.Close() }()
	for same := int64(0); ; {
		n, err := io.ReadFull(r, c.theirs)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		k, _ := io.ReadFull(f, c.ours[:n])
		if string(c.ours[:k]) != string(c.theirs[:n]) {
			// What was the same so far is of no use without the rest.
			if err := c.segments(j, io.NewSectionReader(f, 0, same)); err != nil {
				return err
			}
			j.segment(c.theirs[:n])
			return c.segments(j, r)
		}
		if same += int64(n); err == nil {
			continue
		}
		if fi, err := f.Stat(); err != nil || fi.Size() != same {
			return errors.Join(err, c.segments(j, io.NewSectionReader(f, 0, same)))
		}
		return named(j, h, r)
	}
}

func (c *comparer) segments(j *journal, r io.Reader) error {
	for {
		n, err := io.ReadFull(r, c.ours)
		j.segment(c.ours[:n])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return j.err
		}
		if err = errors.Join(err, j.err); err != nil {
			return err
		}
	}
}
