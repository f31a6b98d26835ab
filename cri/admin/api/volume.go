package api

import (
	"context"
	"time"
)

// RenameRequest gives a container a name.
type RenameRequest struct {
	Container string `json:"container"`
	Name      string `json:"name"`
}

// CreateVolumeRequest makes a named volume.
type CreateVolumeRequest struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// VolumeRequest names a volume.
type VolumeRequest struct {
	Name string `json:"name"`
}

// VolumesRequest asks for named volumes.
type VolumesRequest struct {
	Usage bool `json:"usage,omitempty"` // walk them for what they take up
}

// VolumeList is all volumes, by name.
type VolumeList struct {
	Volumes []Volume `json:"volumes"`
}

// Volume is a named volume.
type Volume struct {
	Name    string            `json:"name"`
	Path    string            `json:"path"` // of its directory on the host
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Bytes   *uint64           `json:"bytes,omitempty"` // on disk; nil if it was not asked for
	Users   []string          `json:"users,omitempty"` // containers that mount it, name and id
}

// Rename gives a local container another name.
func (c *Client) Rename(ctx context.Context, container, name string) error {
	_, err := call[Empty](ctx, c, "Rename", &RenameRequest{Container: container, Name: name})
	return err
}

// CreateVolume makes a named volume, or gives the one that is there.
func (c *Client) CreateVolume(ctx context.Context, r *CreateVolumeRequest) (*Volume, error) {
	return call[Volume](ctx, c, "CreateVolume", r)
}

// Volumes tells of all named volumes, by name.
func (c *Client) Volumes(ctx context.Context, usage bool) ([]Volume, error) {
	r, err := call[VolumeList](ctx, c, "Volumes", &VolumesRequest{Usage: usage})
	if err != nil {
		return nil, err
	}
	return r.Volumes, nil
}

// RemoveVolume removes a named volume with what it holds.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	_, err := call[Empty](ctx, c, "RemoveVolume", &VolumeRequest{Name: name})
	return err
}
