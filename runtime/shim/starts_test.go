package shim

import (
	"os"
	"slices"
	"testing"
	"time"
)

// TestStrayChildrenAreReaped is of children that a failed start has left, and
// nobody was told of: those that have ended, and those that end later.
func TestStrayChildrenAreReaped(t *testing.T) {
	s := starts{pids: map[int]struct{}{}}
	for _, pid := range childrenOf(os.Getpid()) {
		s.pids[pid] = struct{}{} // of whoever else tests here
	}
	start := func(seconds string) int {
		t.Helper()
		p, err := os.StartProcess("/bin/sleep", []string{"sleep", seconds}, &os.ProcAttr{})
		if err != nil {
			t.Fatal(err)
		}
		pid := p.Pid
		if err := p.Release(); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	s.begin()
	s.begin()
	ours, strays := start("1000"), []int{start("0"), start("0.5")}
	s.done(ours)
	s.done(0)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		left := childrenOf(os.Getpid())
		if !slices.Contains(left, strays[0]) && !slices.Contains(left, strays[1]) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("of %v are left: %v", strays, left)
		}
	}
	p, err := os.FindProcess(ours)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if state, err := p.Wait(); err != nil || state.Exited() {
		t.Errorf("the child that somebody waits for: %v, %v", state, err)
	}
}
