package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/checkpoint"
	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/inroot"
)

// criu finds the program that saves processes, and asks it once whether it
// works on this kernel. What is wrong is asked again: it may have been mended.
func (t *Table) criu(ctx context.Context) (string, error) {
	if t.cfg.Checkpoint.CRIU == "" {
		return "", errkind.New(errkind.Unimplemented, "checkpoints are off on this node; to have them set enabled = true in section [checkpoint] of the daemon's configuration")
	}
	program, err := exec.LookPath(t.cfg.Checkpoint.CRIU)
	if err != nil {
		return "", errkind.New(errkind.Unimplemented, "there is no program %q on this node; install CRIU (on Debian the package criu), or set criu in section [checkpoint] of the daemon's configuration",
			t.cfg.Checkpoint.CRIU)
	}
	t.criuMu.Lock()
	defer t.criuMu.Unlock()
	if t.criuWorks == program {
		return program, nil
	}
	out, err := runCRIU(ctx, program, "check", "--no-default-config")
	if ctx.Err() != nil {
		return "", errkind.New(errkind.Of(ctx.Err()), "CRIU did not answer in time whether it works: %w", ctx.Err())
	}
	if err != nil {
		why := checkpoint.Reason(out)
		if why == "" {
			why = err.Error()
		}
		return "", errkind.New(errkind.Unimplemented, "CRIU does not work on this kernel (%s); `%s check` tells more, and a newer CRIU may help", why, program)
	}
	t.criuWorks = program
	return program, nil
}

// criuOutput is how much of what CRIU prints is kept; its log is in a file.
const criuOutput = 64 << 10

// runCRIU runs the program to its end and returns what it printed. It ends with
// ctx, and with the daemon: half a dump is good for nothing, and the kernel lets
// the processes go that it held.
func runCRIU(ctx context.Context, program string, args ...string) ([]byte, error) {
	// The kernel means the thread that forked by the parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	out := &head{left: criuOutput}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = killTime
	err := cmd.Run()
	return out.b.Bytes(), err
}

// head keeps the beginning of what is written to it.
type head struct {
	b    bytes.Buffer
	left int
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.left)
	h.left -= n
	h.b.Write(p[:n])
	return len(p), nil
}

// dump saves the processes of a frozen container into the directory of its
// checkpoint. They stay frozen.
func (t *Table) dump(ctx context.Context, program string, s *saved) error {
	rec := s.c.record()
	freezer, err := cgroup.Freezer(t.group(s.c))
	if err != nil {
		return err
	}
	args := []string{"dump", "--no-default-config", "--tree", strconv.Itoa(rec.Process.Pid), "--leave-running",
		"--images-dir", filepath.Join(s.dir, checkpoint.ImagesDir), "--work-dir", s.dir, "--log-file", checkpoint.LogFile, "-v4",
		"--root", t.rootfs(s.c.id), "--freeze-cgroup", freezer, "--manage-cgroups=ignore",
		"--file-locks", "--tcp-established", "--network-lock", "nftables"}
	outside, err := t.outside(s)
	if err != nil {
		return err
	}
	for _, o := range outside {
		args = append(args, "--external", o)
	}
	out, err := runCRIU(ctx, program, args...)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errkind.New(errkind.Of(ctx.Err()), "CRIU was ended: %w", ctx.Err())
	}
	why := reasonIn(filepath.Join(s.dir, checkpoint.LogFile), out)
	if why == "" {
		why = strings.TrimSpace(string(out))
	}
	return fmt.Errorf("CRIU cannot save it: %w: %s", err, why)
}

// reasonIn finds why CRIU failed in its log, or in what it printed where it
// did not come so far.
func reasonIn(log string, printed []byte) string {
	b, err := os.ReadFile(log)
	if err != nil {
		b = printed
	}
	return checkpoint.Reason(b)
}

// outside names to CRIU what belongs to the container and is not its own: the
// pod's network, the mounts from the host, and the FIFOs of stdio.
func (t *Table) outside(s *saved) ([]string, error) {
	var out []string
	for _, ns := range s.oci.Linux.Namespaces {
		if ns.Type != specs.NetworkNamespace || ns.Path == "" {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(ns.Path, &st); err != nil {
			return nil, &os.PathError{Op: "stat", Path: ns.Path, Err: err}
		}
		out = append(out, fmt.Sprintf("net[%d]:extRootNetNS", st.Ino))
	}
	for _, m := range s.oci.Mounts {
		if !isBind(m) {
			continue
		}
		at, err := t.mountedAt(s.c.id, m.Destination)
		if err != nil {
			return nil, err
		}
		out = append(out, "mnt["+at+"]:"+m.Destination)
	}
	return append(out, slices.Sorted(maps.Values(s.stdio))...), nil
}

// isBind tells whether a mount is of something that the host has elsewhere.
func isBind(m specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// mountedAt is where a mount of the specification is in the container, whose
// image may have links on the way.
func (t *Table) mountedAt(id, destination string) (string, error) {
	root := t.rootfs(id)
	f, err := inroot.Open(root, destination, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return filepath.Clean(destination), nil // on another mount, such as /dev
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return "", err
	}
	inside, ok := strings.CutPrefix(path, root)
	if !ok || inside == "" {
		return "", fmt.Errorf("%s leads to %s, which is not in the root file system", destination, path)
	}
	return inside, nil
}

// findStdio finds the FIFOs of stdio among the descriptors of a container's
// processes, as CRIU names files of other mount namespaces, and what the first
// process has as stdin, stdout and stderr.
func findStdio(init int, pids []int, bundle string) (fifos checkpoint.Stdio, first []string, err error) {
	fifos = checkpoint.Stdio{}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has ended before the freeze
		}
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			target, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil {
				return nil, nil, err
			}
			name, fifo := target, filepath.Base(target)
			if filepath.Dir(target) == bundle && slices.Contains(stdioFiles, fifo) {
				if name, err = fileName(pid, e.Name()); err != nil {
					return nil, nil, err
				}
				fifos[fifo] = name
			}
			if n, err := strconv.Atoi(e.Name()); err == nil && pid == init && n <= 2 {
				first = append(first, name)
			}
		}
	}
	return fifos, first, nil
}

// stdioFiles are the FIFOs of a container's stdio.
var stdioFiles = []string{shimrpc.StdinFile, shimrpc.StdoutFile, shimrpc.StderrFile}

// fileName is CRIU's name of an open file: file[MOUNT:INODE], in hex.
func fileName(pid int, fd string) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		return "", err
	}
	var mount uint64
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			if mount, err = strconv.ParseUint(strings.TrimSpace(v), 10, 64); err != nil {
				return "", err
			}
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%s", pid, fd), &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("file[%x:%x]", mount, st.Ino), nil
}
