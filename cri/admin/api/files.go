package api

import (
	"context"
	"errors"
	"io"
	"time"
)

// PathRequest names a path in a container.
type PathRequest struct {
	Container string `json:"container"`
	Path      string `json:"path"`
	Follow    bool   `json:"follow,omitempty"` // a symbolic link stands for what it leads to
	As        string `json:"as,omitempty"`     // of CopyOut: the name in the tar, "." for none; empty: the path's last component
}

// PathInfo describes what is at a path.
type PathInfo struct {
	Name      string    `json:"name"` // the last component
	Mode      uint32    `json:"mode"` // as Go's fs.FileMode
	Size      int64     `json:"size"`
	Time      time.Time `json:"time"`
	Link      string    `json:"link,omitempty"`       // of a symbolic link, as it is written
	LeadsTo   uint32    `json:"leads_to"`             // mode of what it leads to; that of itself otherwise
	LeadsAway bool      `json:"leads_away,omitempty"` // it is a link to what is not there
}

// CopyInRequest says where a tar goes.
type CopyInRequest struct {
	Container string `json:"container"`
	Dir       string `json:"dir"`            // a directory that is there
	Keep      bool   `json:"keep,omitempty"` // the owners that the tar says; otherwise root
}

// ChangesResult lists what a container has changed, by path.
type ChangesResult struct {
	Changes []Change `json:"changes"`
}

// Change is one path that differs from the image.
type Change struct {
	Kind string `json:"kind"` // A added, C changed, D deleted
	Path string `json:"path"`
}

// CommitRequest asks for an image of a container.
type CommitRequest struct {
	Container string   `json:"container"`
	Tags      []string `json:"tags,omitempty"`
	Author    string   `json:"author,omitempty"`
	Comment   string   `json:"comment,omitempty"`
	Pause     bool     `json:"pause,omitempty"`   // one that runs stands still meanwhile
	Changes   []string `json:"changes,omitempty"` // instructions of a Dockerfile that alter the configuration
}

// CommitResult names the image.
type CommitResult struct {
	ImageID string `json:"image_id"`
}

// StatPath describes what a container has at a path.
func (c *Client) StatPath(ctx context.Context, container, path string) (*PathInfo, error) {
	return call[PathInfo](ctx, c, "StatPath", &PathRequest{Container: container, Path: path})
}

// CopyOut writes what a container has at a path to w, as a tar.
func (c *Client) CopyOut(ctx context.Context, r *PathRequest, w io.Writer) error {
	return receive(ctx, c, "CopyOut", r, func(chunk *Chunk) error {
		_, err := w.Write(chunk.Data)
		return err
	})
}

// CopyIn makes in a directory of a container what the tar tar has.
func (c *Client) CopyIn(ctx context.Context, r *CopyInRequest, tar io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.open(ctx, "CopyIn", r)
	if err != nil {
		return err
	}
	buf := make([]byte, MaxChunk)
	for {
		n, rerr := io.ReadFull(tar, buf)
		if n > 0 {
			if _, err := s.Write(buf[:n]); errors.Is(err, io.EOF) {
				break // the server has ended the call; Recv tells why
			} else if err != nil {
				return err
			}
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			if err := s.EndStdin(); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		return err // nil: it has said that it is done
	}
	return errors.New("the daemon ended the copy without a word")
}

// Changes tells what a container has changed.
func (c *Client) Changes(ctx context.Context, container string) ([]Change, error) {
	r, err := call[ChangesResult](ctx, c, "Changes", &ContainerRequest{Container: container})
	if err != nil {
		return nil, err
	}
	return r.Changes, nil
}

// Commit makes an image of a container.
func (c *Client) Commit(ctx context.Context, r *CommitRequest) (string, error) {
	res, err := call[CommitResult](ctx, c, "Commit", r)
	if err != nil {
		return "", err
	}
	return res.ImageID, nil
}

// Pause lets all processes of a container stand still.
func (c *Client) Pause(ctx context.Context, container string) error {
	_, err := call[Empty](ctx, c, "Pause", &ContainerRequest{Container: container})
	return err
}

// Unpause lets a paused container go on.
func (c *Client) Unpause(ctx context.Context, container string) error {
	_, err := call[Empty](ctx, c, "Unpause", &ContainerRequest{Container: container})
	return err
}
