package unpack

import (
	"archive/tar"
	"io"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Journal is told a tar, in order, as it is unpacked.
type Journal interface {
	// Raw tells the next bytes, which are in no file that is made. They are
	// not to be kept.
	Raw(b []byte)
	// File tells that the next size bytes are the content of the file that
	// the tar calls name.
	File(name string, size int64)
}

// source passes a tar on, tells the journal what of it is not a file's
// content, and remembers how the stream failed, to tell a broken tar from a
// broken stream. A tar reader never reads ahead, so that each byte that it
// reads is the content's if and only if the content is being read.
type source struct {
	r       io.Reader
	journal Journal // nil for none
	content bool    // of a file is what is read now
	err     error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	if s.journal != nil && !s.content && n > 0 {
		s.journal.Raw(p[:n])
	}
	return n, err
}

// beginContent says that the whole content of h's file is read next. That of
// sparse files is not announced: what a tar has of it is no part of the file.
func (s *source) beginContent(h *tar.Header) {
	if s.content = true; s.journal != nil && h.Size > 0 {
		s.journal.File(h.Name, h.Size)
	}
}

func (s *source) endContent() { s.content = false }

func (s *source) blame(err error) error {
	if s.err != nil {
		return s.err
	}
	return errkind.New(errkind.InvalidArgument, "cannot unpack layer: %w", err)
}

// content reads a file of the tar and blames whoever cuts it.
type content struct {
	r   io.Reader
	src *source
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped EOF is a failure, not the end
		err = c.src.blame(err)
	}
	return n, err
}
