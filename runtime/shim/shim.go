// Package shim is the process that is the parent of containers, so that they
// outlive the daemon. It runs libcontainer in process, carries output to logs,
// reaps, and records exits; package shimrpc is its wire. It is the only
// package that imports libcontainer.
//
// The model: a container in the table has been created or adopted and not yet
// deleted. A goroutine for each of its outputs and one for its end sleep in
// the runtime's poller; nothing ticks. What the shim holds also lies outside
// of it, so that it may be killed at any instant: stdio FIFOs and exit.json in
// the bundle, the libcontainer state below Create.Root, ptys and pidfds in the
// daemon.
//
// The laws of a long-lived parent on libcontainer:
//
//   - Nothing here calls wait4(-1) or signal.Ignore: the first steals
//     libcontainer's children, the second is inherited by containers.
//   - libcontainer holds one mutex of a container through a whole Start. What
//     ends a container (kill, wait, delete) goes by pidfd and cgroup first and
//     takes that mutex only when every process is gone.
//   - An exit is told to nobody before its log is drained, for a bounded time,
//     and exit.json is written.
//   - A panic in a goroutine of ours is one container's misfortune.
//   - An error says why. Of which container and verb is said by the daemon,
//     which asked.
package shim

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/keylock"
)

// Version is the version that Info tells; the linker sets it.
var Version = "dev"

// Main is the whole program. It returns the exit code.
func Main() int {
	socket := flag.String("socket", "", "`path` of the socket to serve")
	root := flag.String("root", "", "libcontainer's state root, for deleting containers of an earlier shim")
	check := flag.Bool("check", false, "only tell by the exit code that this binary runs here")
	forker := flag.Bool("forker", false, "start execs for the shim at descriptor 3 (internal)")
	enter := flag.String("enter", "", "enter the cgroups at these comma-separated `paths` and execute the arguments (internal)")
	flag.Parse()
	if *check {
		return 0
	}
	l := log.New(os.Stderr, "", log.LstdFlags|log.LUTC|log.Lmsgprefix)
	logrus.SetOutput(os.Stderr)
	logrus.SetLevel(logrus.WarnLevel)
	logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true})
	// The heap is small and mostly garbage of the last start.
	debug.SetGCPercent(30)
	unix.Umask(0o022)
	var err error
	switch {
	case *forker:
		err = runForker(l)
	case *enter != "":
		err = enterAndExecute(*enter, flag.Args())
	case *socket == "":
		err = errors.New("cannot serve: no --socket says where; berthd starts this program and says it")
	default:
		err = serve(*socket, *root, l)
	}
	if err != nil {
		l.Print(err)
		return 1
	}
	return 0
}

// serve answers calls on socket until a Shutdown or a SIGTERM finds no
// containers.
func serve(socket, root string, l *log.Logger) error {
	// The lock, which the kernel drops with the process, makes the socket
	// file of a dead shim safe to remove.
	lock, err := lockFile(socket + ".lock")
	if err != nil {
		return fmt.Errorf("cannot serve %s: %w", socket, err)
	}
	defer func() { _ = lock.Close() }()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot serve %s: %w", socket, err)
	}
	old := unix.Umask(0o177)
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	unix.Umask(old)
	if err != nil {
		return fmt.Errorf("cannot serve %s: %w", socket, err)
	}
	s := newServer(root, l, func() { _ = ln.Close() })
	if cgroup.Unified() {
		s.forkers = &forkers{log: l, starts: &s.starts}
	}

	// Caught, never ignored: a caught signal is reset by execve, an ignored
	// one stays ignored in every container.
	sigs := make(chan os.Signal, 1)
	signal.Notify(sigs, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	go func() {
		for sig := range sigs {
			if sig == unix.SIGHUP {
				continue
			}
			if err := s.shutdown(); err != nil {
				l.Print(err)
				continue
			}
			s.end()
		}
	}()
	for {
		conn, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of descriptors, most likely: others may be closed meanwhile.
			l.Printf("cannot accept on %s: %v", socket, err)
			time.Sleep(100 * time.Millisecond)
			continue
		}
		go s.serveConn(shimrpc.NewConn(conn))
	}
}

// lockWait is for a shim that was killed: its files close only with the last
// of its threads, some time after its pid has become a zombie.
const lockWait = 5 * time.Second

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			_ = f.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
	}
}

// server is the table of containers and what serves all of them.
type server struct {
	root    string
	log     *log.Logger
	end     func() // makes serve return
	ids     keylock.Locks
	starts  starts
	filters filterSet
	forkers *forkers    // fork execs; nil: this process does, as on cgroup v1
	trim    *time.Timer // gives memory back some time after the last start

	isForker bool // this process is one

	mu         sync.Mutex
	containers map[string]*container // guarded by mu
	watchers   map[*watcher]struct{} // guarded by mu
	ending     bool                  // guarded by mu; set by shutdown, for good
}

// trimAfter is how long the shim is quiet before it gives freed memory back.
const trimAfter = 3 * time.Second

func newServer(root string, l *log.Logger, end func()) *server {
	s := &server{
		root:       root,
		log:        l,
		end:        end,
		containers: make(map[string]*container),
		watchers:   make(map[*watcher]struct{}),
	}
	s.starts.pids = make(map[int]struct{})
	s.trim = time.AfterFunc(trimAfter, debug.FreeOSMemory)
	return s
}

// find returns the container id, or NotFound.
func (s *server) find(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, errkind.New(errkind.NotFound, "the shim does not hold it")
}

// add puts c into the table. From here on its end is watched and told.
func (s *server) add(c *container, status func() shimrpc.Exited) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return errkind.New(errkind.Unavailable, "cannot take container %s: the shim is ending", c.ID)
	}
	s.containers[c.ID] = c
	go s.watch(c, status)
	return nil
}

func (s *server) info() shimrpc.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.containers))
	for id := range s.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return shimrpc.Info{Pid: os.Getpid(), Version: Version, Containers: ids}
}

// shutdown takes no more containers, unless there are some; the caller then
// calls end.
func (s *server) shutdown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.containers); n > 0 {
		return errkind.New(errkind.FailedPrecondition, "cannot end the shim: it holds %d containers", n)
	}
	s.ending = true
	return nil
}

// serveConn answers the one call of a connection.
func (s *server) serveConn(conn *shimrpc.Conn) {
	defer func() { _ = conn.Close() }()
	var req shimrpc.Request
	files, err := conn.Recv(&req)
	defer func() { shimrpc.CloseAll(files) }()
	if errors.Is(err, io.EOF) {
		return
	}
	var resp shimrpc.Response
	var back []*os.File
	if err == nil {
		resp, back, err = s.guard(conn, req, files)
	}
	defer shimrpc.CloseAll(back)
	if err != nil {
		resp = shimrpc.Response{Error: shimrpc.WireError(err)}
	}
	// A peer that is gone has abandoned the call, which is no news.
	_ = conn.Send(resp, back...)
	if req.Verb == shimrpc.VerbShutdown && err == nil {
		s.end()
	}
}

// guard turns a panic of a call into its error.
func (s *server) guard(conn *shimrpc.Conn, req shimrpc.Request, files []*os.File) (_ shimrpc.Response, _ []*os.File, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Printf("panic in %s of %s: %v\n%s", req.Verb, req.ID, r, debug.Stack())
			err = fmt.Errorf("cannot %s container %s: panic: %v", req.Verb, req.ID, r)
		}
	}()
	return s.do(conn, req, files)
}

// do carries out one call. It returns the last response, with files that are
// closed when they are sent; earlier responses it sends itself. The files of
// the request are closed by the caller.
func (s *server) do(conn *shimrpc.Conn, req shimrpc.Request, files []*os.File) (resp shimrpc.Response, back []*os.File, err error) {
	switch req.Verb {
	case shimrpc.VerbInfo:
		info := s.info()
		resp.Info = &info
	case shimrpc.VerbCreate:
		resp.Created, err = s.create(req.Create)
		if err == nil && resp.Created.Console != nil {
			back = append(back, resp.Created.Console)
		}
	case shimrpc.VerbStart:
		err = s.start(req.ID)
	case shimrpc.VerbRestore:
		resp.Started, err = s.restore(req.ID, req.Restore, files)
	case shimrpc.VerbDelete:
		err = s.delete(req.ID)
	case shimrpc.VerbExec:
		resp.Exited, err = s.exec(conn, req.ID, req.Exec, files)
	case shimrpc.VerbReopenLog:
		err = s.reopenLog(req.ID)
	case shimrpc.VerbUpdate:
		err = s.update(req.ID, req.ResourcesFile)
	case shimrpc.VerbAdopt:
		err = s.adopt(req, files)
	case shimrpc.VerbAttach:
		resp.Exited, err = s.attach(conn, req.ID, req.Attach, files)
	case shimrpc.VerbConsole:
		var f *os.File
		if f, err = s.console(req.ID); err == nil {
			back = append(back, f)
		}
	case shimrpc.VerbEndStdin:
		err = s.endStdin(req.ID)
	case shimrpc.VerbWatch:
		err = s.tell(conn)
	case shimrpc.VerbShutdown:
		err = s.shutdown()
	default:
		err = errkind.New(errkind.Unimplemented, "cannot do %q: this shim does not know the verb", req.Verb)
	}
	return resp, back, err
}
