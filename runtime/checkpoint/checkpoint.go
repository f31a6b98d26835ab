// Package checkpoint is the form of a checkpoint on disk: which files the
// checkpoint of a container consists of, and the archive that they become. It
// is that of checkpointctl, CRI-O, podman and containerd, so that their tools
// read it.
//
//	spec.dump         the OCI specification
//	config.dump       Config: whose checkpoint it is, and of which image
//	status            Status
//	bind.mounts       a list of BindMount
//	rootfs-diff.tar   what the container changed, as a layer on its image
//	dump.log          what CRIU said, and beside it its figures, stats-dump
//	checkpoint/       CRIU's images: the processes with their memory
//
// The law: a process is restored with whatever credentials and memory its images
// give it, and CRIU, as root, believes them: who may write an archive that is
// restored may do all that CRIU may. So what is restored are checkpoints of pods
// whose description (PodFile) has a seal (SealFile, an HMAC) of a key of this
// node's; the description has the digests of the archives. Nothing else is read,
// and even of that only files of a checkpoint are unpacked.
package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// The names in a checkpoint.
const (
	SpecFile        = "spec.dump"
	ConfigFile      = "config.dump"
	StatusFile      = "status"
	BindMountsFile  = "bind.mounts"
	RootfsDiffFile  = "rootfs-diff.tar"
	LogFile         = "dump.log"
	ImagesDir       = "checkpoint"
	DescriptorsFile = "checkpoint/descriptors.json" // what the first process has as stdin, stdout and stderr
	StdioFile       = "checkpoint/stdio.json"       // Stdio
	PodFile         = "pod.json"                    // Pod, beside the archives of its containers

	statsFile = "stats-dump" // CRIU's figures
)

// Config is what config.dump holds.
type Config struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	Image         string    `json:"rootfsImage,omitempty"` // as it was asked for
	ImageRef      string    `json:"rootfsImageRef,omitempty"`
	ImageName     string    `json:"rootfsImageName,omitempty"`
	Runtime       string    `json:"runtime,omitempty"`
	CreatedAt     time.Time `json:"createdTime"`
	CheckpointAt  time.Time `json:"checkpointedTime"`
	RestoredAt    time.Time `json:"restoredTime"`
	Restored      bool      `json:"restored"`
	PodID         string    `json:"podID,omitempty"`
	ContainerName string    `json:"containerName,omitempty"` // of its metadata
	Attempt       uint32    `json:"attempt,omitempty"`
}

// Status is what the file status holds; times are nanoseconds since 1970.
type Status struct {
	CreatedAt int64
	StartedAt int64
	Pid       uint32
}

// BindMount is a mount that the checkpoint does not hold: who restores it must
// have something of that kind for it.
type BindMount struct {
	Source      string `json:"source"`
	Destination string `json:"destination"`
	FileType    string `json:"file_type"` // "directory" or "file"
}

// Stdio names the FIFOs of a container's stdio as CRIU does, by the names that
// they have in the bundle. One that no process has open is absent.
type Stdio map[string]string

// Version is that of Pod and of what lies beside it.
const Version = 2

// Pod is what pod.json holds.
type Pod struct {
	Version    int            `json:"version"`
	ID         string         `json:"id"`
	Name       string         `json:"name"`
	Namespace  string         `json:"namespace"`
	UID        string         `json:"uid"`
	Handler    string         `json:"runtimeHandler,omitempty"`
	At         time.Time      `json:"checkpointedTime"`
	Containers []PodContainer `json:"containers"` // by name
}

// PodContainer is one container of a Pod.
type PodContainer struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	ImageID string `json:"imageID"`
	Archive string `json:"archive"` // name of the file beside pod.json
	Size    int64  `json:"size"`    // of the archive, in bytes
	SHA256  string `json:"sha256"`  // of the archive, in hex
}

// Archive writes dir, a checkpoint, as a tar to w. It holds regular files and
// directories only; anything else, which nobody put there, is an error.
func Archive(ctx context.Context, w io.Writer, dir string) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return add(out, path, name, d)
	})
	if err != nil {
		return fmt.Errorf("cannot archive a checkpoint: %w", err)
	}
	return out.Close()
}

func add(out *tar.Writer, path, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: name, Mode: 0o600, ModTime: info.ModTime(), Typeflag: tar.TypeReg, Size: info.Size(), Format: tar.FormatPAX}
	switch {
	case info.IsDir():
		h.Name, h.Mode, h.Typeflag, h.Size = name+"/", 0o700, tar.TypeDir, 0
		return out.WriteHeader(h)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", name)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyN(out, f, h.Size)
	return err
}

// Put writes v as JSON to the file name of the checkpoint at dir.
func Put(dir, name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), b, 0o600)
}

// logTail is how much of the end of a log is looked at for its errors.
const logTail = 64 << 10

// errorLine is how CRIU tells of an error: the time, where in its source, what.
var errorLine = regexp.MustCompile(`(?m)^(?:\([0-9.]+\) +)?(?:[0-9]+: )?Error \([^)]*\): (.*)$`)

// Reason finds in a log of CRIU why it failed: the first of the last errors is
// the cause of those after it. It is empty where the log says nothing.
func Reason(log []byte) string {
	if len(log) > logTail {
		log = log[len(log)-logTail:]
	}
	// What it tries at its start fails harmlessly.
	if at := bytes.LastIndex(log, []byte("Dumping processes")); at >= 0 {
		log = log[at:]
	} else if at := bytes.Index(log, []byte("Forking task with")); at >= 0 { // to restore it
		log = log[at:]
	}
	all := errorLine.FindAllSubmatch(log, -1)
	for _, m := range all {
		// Programs that it tries first have their own say.
		if !bytes.HasPrefix(m[1], []byte("exited, status=")) {
			return string(m[1])
		}
	}
	return ""
}
