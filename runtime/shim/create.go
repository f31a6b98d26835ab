package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// create makes a container whose init waits for start. On failure nothing is
// left of it but its log file.
func (s *server) create(req *shimrpc.Create) (_ *shimrpc.Created, err error) {
	if req == nil || req.ID == "" || !filepath.IsAbs(req.Bundle) || !filepath.IsAbs(req.Root) {
		return nil, errkind.New(errkind.InvalidArgument, "cannot create a container: it needs an id, and a bundle and a root with absolute paths")
	}
	unlock := s.ids.Lock(req.ID)
	defer unlock()
	if _, err := s.find(req.ID); err == nil {
		return nil, errkind.New(errkind.AlreadyExists, "the shim has it already")
	}
	defer s.trim.Reset(trimAfter)
	c := &container{Create: *req, ended: make(chan struct{})}
	// Of a user namespace libcontainer reads the mapping by a child.
	s.starts.begin()
	process, err := c.prepare(&s.filters)
	s.starts.end()
	if err == nil {
		err = s.launch(c, process)
	}
	if err != nil && isOfProgram(err) {
		return &shimrpc.Created{Unstartable: err.Error()}, nil
	}
	if err != nil {
		return nil, classify(err)
	}
	created := &shimrpc.Created{Pid: c.init.Pid, StartTime: c.init.StartTime}
	if c.TTY {
		if created.Console, err = s.console(c.ID); err != nil {
			return nil, err
		}
	}
	return created, nil
}

// prepare reads the bundle and makes libcontainer's container of it, which
// has no processes yet.
func (c *container) prepare(filters *filterSet) (*libcontainer.Process, error) {
	sp, err := readSpec(c.Bundle)
	if err != nil {
		return nil, err
	}
	config, err := c.config(sp, filters)
	if err != nil {
		return nil, err
	}
	process, err := newProcess(sp.Process)
	if err != nil {
		return nil, err
	}
	process.Init = true
	c.sharedPID = !config.Namespaces.IsPrivate(configs.NEWPID)
	c.lc, err = libcontainer.Create(c.Root, c.ID, config)
	return process, err
}

// config turns the specification into libcontainer's form of it.
func (c *container) config(sp *specs.Spec, filters *filterSet) (*configs.Config, error) {
	if sp.Root == nil || sp.Process == nil || sp.Linux == nil {
		return nil, errkind.New(errkind.InvalidArgument, "the specification lacks root, process or linux")
	}
	if !filepath.IsAbs(sp.Root.Path) {
		sp.Root.Path = filepath.Join(c.Bundle, sp.Root.Path)
	}
	if err := clampOOMScore(sp.Process); err != nil {
		return nil, err
	}
	// The filter is by far the largest part and nearly always the same: all
	// containers share one.
	profile := sp.Linux.Seccomp
	sp.Linux.Seccomp = nil
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       c.ID,
		UseSystemdCgroup: c.SystemdCgroup,
		Spec:             sp,
	})
	if err != nil {
		return nil, err
	}
	if config.Seccomp, err = filters.get(profile); err != nil {
		return nil, err
	}
	if r := config.Cgroups.Resources; c.SystemdCgroup && r.PidsLimit == nil {
		// A scope has systemd's DefaultTasksMax else, whatever the pod may have.
		none := int64(-1)
		r.PidsLimit = &none
	}
	// libcontainer takes the working directory for the bundle.
	for i, l := range config.Labels {
		if strings.HasPrefix(l, "bundle=") {
			config.Labels[i] = "bundle=" + c.Bundle
		}
	}
	return config, nil
}

// launch starts init and puts the container into the table.
func (s *server) launch(c *container, process *libcontainer.Process) (err error) {
	var theirs []*os.File
	started := false
	defer func() {
		shimrpc.CloseAll(theirs)
		if err == nil {
			return
		}
		if started {
			_ = process.Signal(unix.SIGKILL)
			_, _ = process.Wait()
			s.starts.reaped(c.init.Pid)
			_ = cgroup.Kill(c.cgroup, unix.SIGKILL)
		}
		if derr := s.destroy(c.Root, c.lc); derr != nil {
			s.log.Printf("cannot remove container %s after it failed: %v", c.ID, derr)
		}
		c.release()
	}()
	if err := c.openLog(); err != nil {
		return err
	}
	if theirs, err = c.makeStdio(process); err != nil {
		return err
	}
	if err := s.spawn(c, process); err != nil {
		return err
	}
	started = true
	if c.init.Pid, err = process.Pid(); err != nil {
		return err
	}
	if c.init, err = pidfd.Find(c.init.Pid); err != nil {
		return err
	}
	if c.pidfd, err = c.init.Open(); err != nil {
		return fmt.Errorf("cannot open process %d: %w", c.init.Pid, err)
	}
	if c.cgroup, err = cgroupOf(c.lc); err != nil {
		return err
	}
	if c.TTY {
		if err := c.receiveTTY(); err != nil {
			return err
		}
	}
	pid := c.init.Pid
	return s.add(c, func() shimrpc.Exited {
		defer s.starts.reaped(pid)
		return waitStatus(process)
	})
}

// spawn starts a process, first or further, of the container, as a child of
// this process. On cgroup v2 the shim itself has only first ones, which enter
// the container's cgroup after the fork; see forkers.
func (s *server) spawn(c *container, process *libcontainer.Process) error {
	process.LogLevel = "3" // logrus.WarnLevel
	s.starts.begin()
	pid := 0
	defer func() { s.starts.done(pid) }()
	err := c.current().lc.Start(process)
	if err != nil {
		return err
	}
	pid, err = process.Pid()
	return err
}

// waitStatus waits for a process that has ended or is about to.
func waitStatus(p *libcontainer.Process) shimrpc.Exited {
	// The error repeats an exit status that is not zero.
	state, _ := p.Wait()
	if state == nil {
		return exited(0, false)
	}
	ws, ok := state.Sys().(syscall.WaitStatus)
	return exited(pidfd.Code(unix.WaitStatus(ws)), ok)
}

// readSpec reads a bundle's specification.
func readSpec(bundle string) (*specs.Spec, error) {
	sp := new(specs.Spec)
	return sp, readJSON(filepath.Join(bundle, "config.json"), sp)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errkind.New(errkind.InvalidArgument, "cannot parse %s: %w", path, err)
	}
	return nil
}

// cgroupOf is the path of the container's cgroup from the root of a hierarchy.
func cgroupOf(lc *libcontainer.Container) (string, error) {
	st, err := lc.State()
	if err != nil {
		return "", err
	}
	for _, dir := range slices.Sorted(mapValues(st.CgroupPaths)) {
		rel, ok := strings.CutPrefix(dir, "/sys/fs/cgroup/")
		if !ok {
			continue
		}
		if !cgroup.Unified() {
			_, rel, _ = strings.Cut(rel, "/") // the hierarchy
		}
		if rel != "" {
			return "/" + rel, nil
		}
	}
	return "", errors.New("it has no cgroup")
}

func mapValues(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if v != "" && !yield(v) {
				return
			}
		}
	}
}

// start lets init execute the container's program.
//
// libcontainer's own Exec leaves a goroutine and a thread behind when init
// dies at the wrong moment, and holds the container's mutex; what it does is
// to open and read the exec FIFO, whose place and meaning are those that
// separate `runc start` processes rely on.
func (s *server) start(id string) error {
	unlock := s.ids.Lock(id)
	defer unlock()
	c, err := s.find(id)
	if err != nil {
		return err
	}
	path := filepath.Join(c.Root, c.ID, "exec.fifo")
	// Opening a FIFO for reading without blocking needs no writer; init's
	// own, blocking open goes on when it sees the reader.
	fifo, err := openRaw(path, unix.O_RDONLY|unix.O_NONBLOCK)
	if errors.Is(err, os.ErrNotExist) {
		return errkind.New(errkind.FailedPrecondition, "it was started before")
	}
	if err != nil {
		return err
	}
	defer func() { _ = fifo.Close() }()
	if err := c.awaitGo(fifo); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.trim.Reset(trimAfter)
	return nil
}

// awaitGo waits until init has written to the exec FIFO or ended; it may have
// done both by now. A frozen init is waited for; killing it ends the wait.
func (c *container) awaitGo(fifo *os.File) error {
	dead := errkind.New(errkind.FailedPrecondition, "its init process has ended")
	first := c.current()
	if first.pidfd == nil {
		return dead
	}
	fds := make([]unix.PollFd, 2)
	for i, f := range []*os.File{fifo, first.pidfd} {
		if err := control(f, func(fd int) { fds[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN} }); err != nil {
			return err
		}
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		var b [16]byte
		if n, _ := fifo.Read(b[:]); n > 0 {
			return nil
		}
		if fds[1].Revents != 0 && !first.init.Alive() {
			return dead
		}
		// Init has opened the FIFO and not written yet, or has closed it
		// and not ended yet.
	}
}
