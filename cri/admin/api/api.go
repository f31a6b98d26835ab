// Package api is the wire of berth's own service, berth.admin.v1.Admin: what
// the command line needs of the daemon and CRI has no word for.
//
// Model. It is gRPC with JSON messages in place of protobuf: the Go structs
// here are the whole contract, a message can be read with any tool, and
// nothing is generated. A call says so by its content-subtype ("json"), so
// the service shares berth.sock with CRI, whose messages stay protobuf. It is
// never served on kubelet.sock.
//
// Law. Fields are added, never renamed and never given a new meaning; a reader
// ignores what it does not know. A failure is a gRPC status, as in CRI, and
// Code and Message of package status tell it. Images and containers are named
// by reference, id or unique prefix of the id wherever a request names one.
//
// The package imports grpc and the standard library only, so that the command
// line, which may import no domain package, can use it.
package api

import (
	"encoding/json"
	"time"
)

// ServiceName is the full gRPC name of the service.
const ServiceName = "berth.admin.v1.Admin"

// MaxChunk is the most data that one Chunk should carry.
const MaxChunk = 256 << 10

// Empty is a message without content.
type Empty struct{}

// Info describes the running daemon.
type Info struct {
	Version      string `json:"version"`
	Root         string `json:"root"`     // durable: images, records
	State        string `json:"state"`    // ends with the boot: sockets, mount points
	LogRoot      string `json:"log_root"` // parent of the log directories of local pods
	ShimGroup    string `json:"shim_group"`
	Pids         Pids   `json:"pids"`
	BootID       string `json:"boot_id"`
	CgroupDriver string `json:"cgroup_driver"`
}

// Pids are berth's own processes.
type Pids struct {
	Daemon int   `json:"daemon"`
	Shims  []int `json:"shims,omitempty"`
}

// PullRequest asks for an image. Without credentials it is pulled anonymously.
type PullRequest struct {
	Ref string `json:"ref"`
	Credentials
}

// Credentials are what a registry is told about the caller.
type Credentials struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	IdentityToken string `json:"identity_token,omitempty"`
	RegistryToken string `json:"registry_token,omitempty"`
	Server        string `json:"server,omitempty"` // the one host that may have them; empty: any that answers for the image
}

// Progress tells how far a pull or a push has come. The last message of the
// stream carries ImageID or Digest and nothing else.
type Progress struct {
	Layer   string `json:"layer,omitempty"` // digest of the blob; empty: the whole image
	Done    int64  `json:"done,omitempty"`  // bytes
	Total   int64  `json:"total,omitempty"` // bytes; 0: not known
	Status  string `json:"status,omitempty"`
	ImageID string `json:"image_id,omitempty"` // of what was pulled
	Digest  string `json:"digest,omitempty"`   // of the manifest that was pushed
}

// Chunk is a piece of an archive that goes up. It is the one message that is
// not JSON on the wire but its bytes as they are.
type Chunk struct {
	Data []byte
}

// LoadResult names the images that an archive held.
type LoadResult struct {
	IDs  []string `json:"ids"`
	Tags []string `json:"tags,omitempty"`
}

// TagRequest gives an image one more name.
type TagRequest struct {
	Source string `json:"source"`
	Target string `json:"target"`
}

// ImageRequest names an image.
type ImageRequest struct {
	Ref string `json:"ref"`
}

// Image is all that is known of an image.
type Image struct {
	ID      string          `json:"id"`
	Tags    []string        `json:"tags,omitempty"`
	Digests []string        `json:"digests,omitempty"`
	Size    uint64          `json:"size"` // bytes that its removal frees
	Pinned  bool            `json:"pinned,omitempty"`
	Layers  []Layer         `json:"layers"` // lowest first
	Created time.Time       `json:"created"`
	Config  json.RawMessage `json:"config,omitempty"`  // the "config" part of the OCI image configuration
	History []History       `json:"history,omitempty"` // oldest first

	Artifact   *Artifact `json:"artifact,omitempty"`   // set if it is no container image
	Containers []string  `json:"containers,omitempty"` // ids of those that were made of it or mount it
}

// Artifact is what an artifact holds.
type Artifact struct {
	Type  string         `json:"type"` // media type
	Files []ArtifactFile `json:"files"`
}

// ArtifactFile is one blob of an artifact.
type ArtifactFile struct {
	Path   string `json:"path,omitempty"` // empty: the blob is a tar, of which the image volume has the content
	Digest string `json:"digest"`
	Size   int64  `json:"size"` // bytes of the blob
}

// Layer is one layer of an image.
type Layer struct {
	DiffID string `json:"diff_id"`
	Size   int64  `json:"size"` // bytes unpacked
}

// LogsRequest asks for the log of a container.
type LogsRequest struct {
	Container string    `json:"container"`
	Follow    bool      `json:"follow,omitempty"` // until the container has ended and its log is read
	Tail      *int      `json:"tail,omitempty"`   // so many last lines, before Since and Until choose; nil: all
	Since     time.Time `json:"since"`            // zero: from the beginning
	Until     time.Time `json:"until,omitzero"`   // zero: to the end
}

// LogLine is one line of a container's log, or a part of one.
type LogLine struct {
	Stream  string    `json:"stream"` // stdout or stderr
	Time    time.Time `json:"time"`
	Text    []byte    `json:"text"`              // without the newline; any bytes
	Partial bool      `json:"partial,omitempty"` // the line goes on in the next one of this stream
}

// LogLines are lines in their order, several in a message because a message
// costs more than a line.
type LogLines struct {
	Lines []LogLine `json:"lines"`
}

// ContainerRequest names a container.
type ContainerRequest struct {
	Container string `json:"container"`
}

// WaitResult is how a container ended.
type WaitResult struct {
	ExitCode int32  `json:"exit_code"`
	OOM      bool   `json:"oom,omitempty"`
	Error    string `json:"error,omitempty"` // why it could not run at all
}

// SignalRequest sends a signal to the first process of a container.
type SignalRequest struct {
	Container string `json:"container"`
	Signal    string `json:"signal"` // "SIGHUP", "HUP" or "1"
}

// CheckRequest says how closely to look, and what to do about it.
type CheckRequest struct {
	Quick  bool `json:"quick,omitempty"`  // do not read the contents of layers
	Repair bool `json:"repair,omitempty"` // fetch damaged layers and blobs again

	Credentials map[string]Credentials `json:"credentials,omitempty"` // for the repair, by host of the registry
}

// Problem is one difference between the records and the machine.
type Problem struct {
	Kind     string `json:"kind"`
	Object   string `json:"object"`
	Detail   string `json:"detail"`
	Repaired bool   `json:"repaired,omitempty"` // it was there and is there no more

	Registries []string `json:"registries,omitempty"` // hosts from which a repair would fetch
}

// CheckResult lists every problem; none means that all is as recorded.
type CheckResult struct {
	Problems []Problem `json:"problems"`
}

// DfResult tells what takes up space.
type DfResult struct {
	Mountpoint string  `json:"mountpoint"` // of the image store
	Bytes      uint64  `json:"bytes"`      // of all layers, each counted once
	Inodes     uint64  `json:"inodes"`
	Images     []Usage `json:"images"`
	Containers []Usage `json:"containers"`
}

// Usage is the space that one object takes up: of an image what its removal
// frees, so without the layers that others have too.
type Usage struct {
	ID     string `json:"id"`
	Name   string `json:"name,omitempty"`
	Bytes  uint64 `json:"bytes"`
	Inodes uint64 `json:"inodes,omitempty"`
	InUse  bool   `json:"in_use"`
}

// StepsResult lists the failpoints of this build.
type StepsResult struct {
	Names []string `json:"names"`
}
