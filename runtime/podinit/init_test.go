package podinit

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInit runs the program as the first process of a PID namespace, lets it
// inherit an orphan, and ends it.
func TestInit(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin := filepath.Join(t.TempDir(), "berth-init")
	out, err := exec.Command("gcc", "-Wall", "-Wextra", "-Werror", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector",
		"-fno-asynchronous-unwind-tables", "-Os", "-s", "-o", bin, "init.c").CombinedOutput()
	if err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	init := exec.Command(bin)
	init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(init.Process.Pid)
	orphan := exec.Command("nsenter", "-t", pid, "-p", "sh", "-c", "sleep 0.05 & sleep 0.05 & exit 0")
	if out, err := orphan.CombinedOutput(); err != nil {
		t.Fatalf("cannot leave an orphan: %v\n%s", err, out)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		kids, err := os.ReadFile("/proc/" + pid + "/task/" + pid + "/children")
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimSpace(string(kids)) == "" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("children left: %s", kids)
		}
	}
	// The kernel spares the first process of a namespace what it does not
	// handle, so only the second signal ends it, and with success.
	for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM} {
		if err := init.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	if err := init.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
}
