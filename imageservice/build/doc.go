// Package build makes images from Dockerfiles.
//
// The model. A file is read by BuildKit's own parser into stages; a stage is a
// base and a list of instructions. A stage that is needed runs in a goroutine
// of its own and waits only for the stages that it copies from, so what is
// independent goes side by side and what nobody needs is never begun. Each
// instruction changes the stage's state: the configuration, and the stack of
// layers. COPY, ADD and WORKDIR compose the tar of a layer from their sources;
// RUN executes a command in a container (see Runner), and what that has
// changed is the layer. A layer goes into the store as one that was pulled
// does: hashed, unpacked, listed, synced.
//
// The laws.
//
// What cannot be done is refused, with its line, before anything starts.
//
// A key in the cache names all that its layer depends on: the stack below, the
// configuration, the instruction with its variables expanded, and the content
// of what it copies. Times of files are no part of it, secrets and proxies
// neither. What a key names is a layer that the store has; the store forgets
// both together.
//
// The same context and the same base give the same image. All that is written
// in a build has the build's time: SOURCE_DATE_EPOCH if that is given, else
// when the base was made (of scratch: 1980, before which zip has no words).
// Files that a command dates back itself keep what it gave them, and so do
// files that come from images, stages and archives.
//
// A context is hostile, and so are the trees of images: the context is never
// unpacked for COPY but read where it lies, by an index in memory; trees are
// read through handles, in which links lead where they would in a chroot. What
// is written is a tar whose names lead through no link. Whatever the author of
// a file or a context can make large has a limit; see Limits.
package build

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/imageservice/snapshot"
)

// Layer is one layer in the store. The zero value stands for none: what an
// instruction wrote was there already.
type Layer struct {
	DiffID digest.Digest
	Seq    uint64 // the store's number for it
}

// Stack is the layers of a state, bottom first.
type Stack []Layer

// Base is an image on which a stage begins, or from which it copies.
type Base struct {
	ID     string
	Config []byte
	Stack  Stack
}

// Store is what a build needs of the image store. Layers that it gives stay at
// least until the build ends.
type Store interface {
	// Base finds the image ref on the node, else fetches it; always, if fresh
	// is set and it is no id.
	Base(ctx context.Context, ref string, fresh bool) (Base, error)
	// Cached gives the layer that was committed under key.
	Cached(key digest.Digest) (Layer, bool)
	// Commit makes the layer on below whose tar write writes, which is called
	// more than once and writes the same each time. nil makes none. It remembers
	// the layer under key, and tells whether it had to be written.
	Commit(ctx context.Context, key digest.Digest, below Stack, write func(context.Context, io.Writer) error) (l Layer, fresh bool, err error)
	// View gives a handle on the merged tree of the layers, which nobody can
	// write and no path leads to.
	View(s Stack) (*os.File, error)
	// Mount mounts the merged tree of the layers at target; writable, it takes
	// what is written into the directory scratch.
	Mount(s Stack, scratch, target string, writable bool) error
	// CacheDir gives the directory of a cache mount, until release is called.
	// sharing is shared, private or locked; "" is shared.
	CacheDir(ctx context.Context, id, sharing string) (dir string, release func(), err error)
	// Serve lets containers be made of the layers, by the name that it gives,
	// until release is called. user is whom they run as by default.
	Serve(s Stack, user string) (name string, release func())
	// Diff writes what the container name has changed.
	Diff(ctx context.Context, container string, how snapshot.DiffOptions, w io.Writer) error
	// Image commits the image.
	Image(ctx context.Context, config []byte, s Stack, tags []string) (id string, err error)
}

// Network says what network a command sees.
type Network string

// The networks.
const (
	NetworkDefault Network = "default" // what containers have
	NetworkNone    Network = "none"
	NetworkHost    Network = "host"
)

// Process is a command to be executed in a container.
type Process struct {
	Title   string // for people
	Root    string // by which the store serves its root file system
	Args    []string
	Env     []string
	Dir     string
	Network Network
	Mounts  []Bind
	Output  func(stderr bool, p []byte) // what it prints, as it comes; p is not kept
}

// Bind is a path of the host to be seen in the container.
type Bind struct {
	Source   string
	Target   string
	ReadOnly bool
}

// Runner executes commands in the sandbox that every container has.
type Runner interface {
	// Run executes p and returns its exit code. When the code is 0, and before
	// the container is removed, it calls done with the container's id. Whatever
	// happens, nothing is left of the container when it returns.
	Run(ctx context.Context, p Process, done func(ctx context.Context, container string) error) (code int, err error)
}

// Request asks for a build.
type Request struct {
	Dockerfile []byte // nil: it is in the context, under File
	File       string // its name, for errors; "": Dockerfile
	// Context gives the context, a tar, compressed or not. It is called when
	// something of it is needed, at most once. nil: it is empty.
	Context  func(ctx context.Context) (io.Reader, error)
	Tags     []string
	Target   string            // stage, by name or number; "": the last
	Args     map[string]string // --build-arg
	Labels   map[string]string
	Secrets  map[string][]byte // by id
	NoCache  bool
	Pull     bool     // ask registries even for bases that are here
	Platform Platform // "" fields: this machine
	Network  Network  // of commands that name none; "": NetworkDefault
	Epoch    *time.Time
	Progress func(Event) // may be called concurrently; must not block for long
	Limits   Limits      // what is 0 is the default
}

// Platform is what images are for.
type Platform struct{ OS, Architecture, Variant string }

// EventKind says what an Event tells.
type EventKind string

// The kinds of events.
const (
	EventBegin  EventKind = "begin"  // of a step
	EventCached EventKind = "cached" // the step is over: its outcome was here
	EventDone   EventKind = "done"   // the step is over
	EventFailed EventKind = "failed" // the step is over
	EventOutput EventKind = "output" // of a command
	EventNote   EventKind = "note"   // something that a person may want to know
)

// Event tells of the progress of a build.
type Event struct {
	Kind   EventKind
	Step   int    // its number, from 1; 0: of the build as a whole
	Name   string // of the step, with Begin
	Text   string // with Note and Failed
	Output []byte // with Output; not kept
	Stderr bool
}

// Result is what a build has made.
type Result struct {
	ID       string
	Commands int // that were executed
	Layers   int // that were written
	Cached   int // steps whose outcome was here
}
