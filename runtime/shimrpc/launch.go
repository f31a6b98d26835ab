package shimrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// LaunchConfig says which shim to start, and where.
type LaunchConfig struct {
	Binary string   // path of berth-shim; unused if Sealed is set
	Sealed *os.File // from Seal, so that many shims share one copy; stays the caller's

	Socket  string // at most 107 bytes
	Dir     string // made with mode 0700 if it is absent; holds the socket
	Root    string // libcontainer's state root, where Delete finds containers that the shim does not know
	LogFile string // appended to; empty: discarded

	// Cgroup, if set, moves the new process out of the daemon's cgroup, before
	// it is known to anyone.
	Cgroup func(pid int) error
}

// Launch starts a shim that outlives this process, in a session of its own, and
// returns its pid when it answers. On failure nothing runs.
//
// The shim is executed from a sealed memfd. libcontainer re-executes its own
// binary for every init and every exec and first makes a safe copy of it,
// unless it finds that it already is one (exeseal.IsSelfExeCloned); that copy
// is half of the time of a start.
func Launch(ctx context.Context, cfg LaunchConfig) (pid int, err error) {
	if cfg.Dir != "" {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return 0, fmt.Errorf("cannot start shim %s: %w", cfg.Socket, err)
		}
	}
	exe := cfg.Sealed
	if exe == nil {
		if exe, err = Seal(cfg.Binary); err != nil {
			return 0, fmt.Errorf("cannot start shim %s: %w", cfg.Socket, err)
		}
		defer func() { _ = exe.Close() }()
	}
	p, err := start(exe, cfg)
	if err != nil {
		return 0, fmt.Errorf("cannot start shim %s: %w", cfg.Socket, err)
	}
	gone := make(chan struct{})
	go func() {
		_, _ = p.Wait() // reaps, should the shim end before this process does
		close(gone)
	}()
	if cfg.Cgroup != nil {
		err = cfg.Cgroup(p.Pid)
	}
	if err == nil {
		var info Info
		info, err = Dial(cfg.Socket).await(ctx, gone)
		if err == nil && info.Pid != p.Pid {
			err = fmt.Errorf("process %d answers there", info.Pid)
		}
	}
	if err != nil {
		_ = p.Kill()
		<-gone
		return 0, fmt.Errorf("cannot start shim %s: %w", cfg.Socket, err)
	}
	return p.Pid, nil
}

func start(exe *os.File, cfg LaunchConfig) (*os.Process, error) {
	out := cfg.LogFile
	if out == "" {
		out = os.DevNull
	}
	log, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	fd, err := rawFd(exe)
	if err != nil {
		return nil, err
	}
	//nolint:forbidigo // the shim outlives every context of ours
	cmd := exec.Command("/proc/self/fd/"+strconv.Itoa(fd), "--socket", cfg.Socket, "--root", cfg.Root)
	cmd.Args[0] = "berth-shim"
	cmd.Dir = "/"
	cmd.Env = environ()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Process, nil
}

// environ is what the shim gets of the daemon's environment: not what systemd
// meant for the daemon (NOTIFY_SOCKET, LISTEN_FDS), nor credentials of proxies.
// GOMAXPROCS bounds its threads, since it waits rather than computes, and
// libcontainer hands it on to every init.
func environ() []string {
	env := []string{"GOMAXPROCS=2"}
	for _, k := range []string{"PATH", "GODEBUG", "GOTRACEBACK", "DBUS_SYSTEM_BUS_ADDRESS", "BERTH_FAILPOINT"} {
		if v, ok := os.LookupEnv(k); ok {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// seals are those that libcontainer's exeseal wants to see.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// Seal copies the program at path into an executable memfd that nothing can
// change any more. The caller closes it; running processes do not mind.
func Seal(path string) (sealed *os.File, err error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = src.Close() }()
	// MFD_EXEC (Linux 6.3) is needed where vm.memfd_noexec is 1 and unknown
	// to older kernels.
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("berth-shim", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("berth-shim", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a memfd for %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), "memfd:berth-shim")
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if _, err = io.Copy(f, src); err != nil {
		return nil, fmt.Errorf("cannot copy %s: %w", path, err)
	}
	if err = unix.Fchmod(fd, 0o511); err != nil {
		return nil, fmt.Errorf("cannot seal %s: %w", path, err)
	}
	// F_SEAL_EXEC (Linux 6.3) fixes the mode too; older kernels lack it.
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_EXEC)
	if _, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("cannot seal %s: %w", path, err)
	}
	return f, nil
}
