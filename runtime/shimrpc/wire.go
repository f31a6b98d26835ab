// Package shimrpc is the wire between berthd and berth-shim: the messages, the
// framing and the client. It uses the standard library (and x/sys) only,
// because everything linked into the shim is initialised again at every
// container start and every exec.
//
// One connection carries one call: the client connects to the shim's
// SOCK_SEQPACKET unix socket, sends one Request as JSON in one packet with the
// call's file descriptors attached (SCM_RIGHTS), and reads one Response packet
// (two for Exec: started, then exited; a sequence for Watch). Closing the
// connection abandons the call, it never undoes it. A packet is at most
// MaxPacket bytes; whatever is always large (the OCI spec) lies in a file that
// the request names, and a message that happens to be larger (an exec with
// long arguments) travels in a memfd behind a packet that says so.
package shimrpc

import (
	"os"
	"time"
)

// MaxPacket bounds one message in bytes.
const MaxPacket = 64 << 10

// Verb names a call.
type Verb string

// The verbs of the shim. Signals are not among them: the daemon stops and
// kills by pidfd and cgroup, so that a hung start cannot hold up a kill.
const (
	VerbInfo      Verb = "info"       // -> Info
	VerbCreate    Verb = "create"     // Create -> Created, with TTY + the pty's master
	VerbStart     Verb = "start"      // ID
	VerbRestore   Verb = "restore"    // ID, Restore + fds -> Started
	VerbDelete    Verb = "delete"     // ID; idempotent
	VerbExec      Verb = "exec"       // Exec + fds -> Started, then Exited on the same connection
	VerbReopenLog Verb = "reopen-log" // ID
	VerbUpdate    Verb = "update"     // ID, ResourcesFile
	VerbAdopt     Verb = "adopt"      // Create (with Pid, StartTime) + optional pidfd and pty master: take over a running container
	VerbAttach    Verb = "attach"     // ID, Attach + fds -> nothing at once, then Exited when the output has ended
	VerbConsole   Verb = "console"    // ID -> nothing + the pty's master
	VerbEndStdin  Verb = "end-stdin"  // ID; the container reads the end of its stdin when the last attached writer closes; idempotent
	VerbWatch     Verb = "watch"      // -> a sequence of Exited: first all that are known, then each as it happens
	VerbShutdown  Verb = "shutdown"   // refuse while containers run; else end
)

// Request is the one message that a client sends.
type Request struct {
	Verb   Verb    `json:"verb"`
	ID     string  `json:"id,omitempty"`
	Create *Create `json:"create,omitempty"`
	Exec   *Exec   `json:"exec,omitempty"`
	Attach *Attach `json:"attach,omitempty"`

	Restore *Restore `json:"restore,omitempty"`
	// With VerbAdopt: which descriptors are attached, in this order.
	Pidfd   bool `json:"pidfd,omitempty"`
	Console bool `json:"console,omitempty"`
	// ResourcesFile holds a specs.LinuxResources as JSON (VerbUpdate).
	ResourcesFile string `json:"resources_file,omitempty"`
}

// Create describes a container to the shim. Everything the shim must know
// after it was replaced by a new one is here.
type Create struct {
	ID            string `json:"id"`
	PodID         string `json:"pod_id"`
	Bundle        string `json:"bundle"`   // directory with config.json (OCI spec); the shim keeps stdio FIFOs and exit.json here
	Root          string `json:"root"`     // libcontainer's state root (a directory in our state directory)
	LogPath       string `json:"log_path"` // absolute CRI log file; empty: output is discarded
	TTY           bool   `json:"tty"`      //
	Stdin         bool   `json:"stdin"`    // false: /dev/null
	StdinOnce     bool   `json:"stdin_once"`
	SystemdCgroup bool   `json:"systemd_cgroup"`
	UID           int    `json:"uid"` // owner of the stdio FIFOs
	GID           int    `json:"gid"`
	// With VerbAdopt only: who to adopt.
	Pid       int    `json:"pid,omitempty"`
	StartTime uint64 `json:"start_time,omitempty"`
	// Console is the pty's master of a container with TTY, if the caller
	// still has it: without it the terminal ended with the shim that held it.
	Console *os.File `json:"-"`
}

// Restore starts a created container by bringing the processes of a checkpoint
// back instead of its program. The shim runs CRIU in the container's cgroup, and
// in a cgroup namespace of the container's own if it has one, as its child whose
// siblings the restored processes are; then it ends the init that has waited for
// a start. A container that is restored already is success.
type Restore struct {
	Args    []string `json:"args"`     // the program and its arguments; descriptors attached to the request are 3 and more
	PidFile string   `json:"pid_file"` // absolute; where the program writes the first process's pid
	Timeout int      `json:"timeout"`  // how long the program may take, in seconds
}

// Attach asks for a copy of what a container prints from now on. The
// descriptors attached to the request are stdout and stderr, where true; with
// a TTY all comes as stdout. A reader that takes nothing for some seconds
// holds the container up for so long and is then cut off.
//
// What a person types goes another way: into the pty's master, or into the
// FIFO that is StdinFile in the bundle.
type Attach struct {
	Stdout bool `json:"stdout,omitempty"`
	Stderr bool `json:"stderr,omitempty"`
}

// Exec describes a further process. The descriptors attached to the request
// are, in this order and only where true: stdin, stdout, stderr; with TTY the
// shim sends the pty's master back with Started instead.
type Exec struct {
	Args   []string `json:"args"`
	TTY    bool     `json:"tty,omitempty"`
	Stdin  bool     `json:"stdin,omitempty"`
	Stdout bool     `json:"stdout,omitempty"`
	Stderr bool     `json:"stderr,omitempty"`

	// What follows is the container's own process's where it is not set.
	Env  []string `json:"env,omitempty"` // NAME=VALUE, over the variables of that process
	Cwd  string   `json:"cwd,omitempty"`
	User *User    `json:"user,omitempty"`
}

// User is an identity inside a container.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"` // supplementary
}

// Response answers a Request; exactly one of its pointers is set, or none for
// an empty success.
type Response struct {
	Error   *Error   `json:"error,omitempty"`
	Info    *Info    `json:"info,omitempty"`
	Created *Created `json:"created,omitempty"`
	Started *Started `json:"started,omitempty"`
	Exited  *Exited  `json:"exited,omitempty"`
}

// Error is a failure with its kind as a number of package errkind.
type Error struct {
	Kind    int    `json:"kind"`
	Message string `json:"message"`
}

// Info tells who the shim is and what it holds.
type Info struct {
	Pid        int      `json:"pid"`
	Version    string   `json:"version"`
	Containers []string `json:"containers"` // ids of containers created or adopted and not deleted
}

// Created answers Create: the container's init exists and waits for Start.
type Created struct {
	// Unstartable says why the program cannot be executed: it is absent, or no
	// program. Then nothing is left of the container, and nothing else is set.
	Unstartable string `json:"unstartable,omitempty"`

	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks since boot, see package pidfd
	// Console is the pty's master with TTY, else nil; the receiver's to close.
	// Held by two, a terminal survives the death of either.
	Console *os.File `json:"-"`
}

// Started answers Exec when the process runs. Pid is its pid on the host.
type Started struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
}

// Exited tells how a process ended. For a container's first process the shim
// has written it to Bundle/exit.json, and has drained the container's log
// (bounded), before it tells anyone.
type Exited struct {
	ID    string    `json:"id"`    // container
	Code  int32     `json:"code"`  // 128+signal for a signal
	Known bool      `json:"known"` // false: nobody could tell the status; Code is 255
	At    time.Time `json:"at"`
}

// The files that the shim makes in the bundle. The FIFOs exist only without a
// TTY, and that of stdin only with Create.Stdin and until VerbEndStdin.
const (
	ExitFile   = "exit.json" // Exited, written once
	StdinFile  = "stdin"
	StdoutFile = "stdout"
	StderrFile = "stderr"
)
