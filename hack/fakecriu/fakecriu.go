// Package fakecriu stands in for CRIU's restore where CRIU does not run, which is
// on kernels that are newer than it. As far as others see it does the same: the
// first process, in namespaces of its own and in those that it is told to join,
// with the stdio that it is given and the root file system that there is, is a
// sibling of the program. But it is a shell, whatever was saved.
//
// A test's binary calls Restore instead of its tests; Script is the part of a
// stand-in, a shell script, that does so.
package fakecriu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Called tells whether this process, a test's binary, is to be CRIU; then it
// gives what Restore needs.
func Called() (notes string, args []string, ok bool) {
	if len(os.Args) < 4 || os.Args[1] != "restore" {
		return "", nil, false
	}
	return os.Args[2], os.Args[4:], true
}

// Script is the beginning of a shell script with CRIU's command line, which has
// the directory notes in $here.
func Script() (string, error) {
	tests, err := os.Executable()
	return "#!/bin/sh\nhere=$(dirname \"$0\")\n[ \"$1\" != restore ] || { echo \"$*\" >>\"$here/calls\"; exec " + tests + " restore \"$here\" \"$@\"; }\n", err
}

// revived is what is restored: it says so, and ends with 7 when it is told to.
const revived = `mount -t proc proc /proc; echo "revived in $(cat /proc/self/cgroup | wc -l) groups"; trap "echo told; exit 7" TERM; while :; do sleep 0.1; done`

// Restore is the program's "restore" with the arguments after it. What the file
// mode in the directory notes says comes first: "fail" writes a log with a reason,
// "hang" writes the file hangs there and then hangs. It returns the exit code.
func Restore(notes string, args []string) int {
	flags := map[string][]string{}
	for i := 0; i < len(args); i++ {
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") {
			flags[args[i]] = append(flags[args[i]], args[i+1])
			i++
		}
	}
	mode, _ := os.ReadFile(filepath.Join(notes, "mode"))
	switch string(mode) {
	case "fail":
		_ = os.WriteFile(filepath.Join(flags["--work-dir"][0], flags["--log-file"][0]), []byte("(00.1) Forking task with 1 pid\n(00.2)      1: Error (criu/files-reg.c:1): File f has bad size\n"), 0o600)
		return 1
	case "hang":
		_ = os.WriteFile(filepath.Join(notes, "hangs"), nil, 0o600)
		time.Sleep(10 * time.Minute)
	}
	if err := startSibling(flags); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func startSibling(flags map[string][]string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(flags["--images-dir"][0], "stdio.json"))
	if err != nil {
		return err
	}
	var names map[string]string
	if err := json.Unmarshal(b, &names); err != nil {
		return err
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	stdio := []*os.File{null, null, null}
	for _, inherit := range flags["--inherit-fd"] {
		number, name, _ := strings.Cut(strings.TrimPrefix(inherit, "fd["), "]:")
		fd, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		if name == "extRootNetNS" {
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
		}
		for i, fifo := range []string{"stdin", "stdout", "stderr"} {
			if names[fifo] == name {
				stdio[i] = os.NewFile(uintptr(fd), fifo)
			}
		}
	}
	for _, join := range flags["--join-ns"] {
		_, path, _ := strings.Cut(join, ":")
		ns, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := unix.Setns(int(ns.Fd()), 0); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	pidfile, err := os.Create(flags["--pidfile"][0])
	if err != nil {
		return err
	}
	// Who joins a mount namespace is at its root.
	if err := errors.Join(unix.Chdir(flags["--root"][0]), unix.PivotRoot(".", "."), unix.Unmount(".", unix.MNT_DETACH), unix.Chdir("/")); err != nil {
		return err
	}
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", revived}, &os.ProcAttr{Dir: "/", Files: stdio, Env: []string{"PATH=/bin"},
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT | unix.CLONE_NEWPID}})
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(pidfile, p.Pid)
	return err
}
