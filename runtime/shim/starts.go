package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// starts knows which children are ours to wait for.
//
// libcontainer's init is cloned by a helper with CLONE_PARENT, so a start that
// fails early leaves a child whose pid nobody was told. Such a child is
// recognised when no start is under way: it is then one that nobody waits for.
// It may live yet, as what a killed container takes along ends in its own time;
// unreaped, it would keep the container's init from ending.
type starts struct {
	mu    sync.Mutex
	n     int              // guarded by mu; starts under way
	dirty bool             // guarded by mu; one of them has failed
	pids  map[int]struct{} // guarded by mu; children that somebody waits for
}

func (s *starts) begin() {
	s.mu.Lock()
	s.n++
	s.mu.Unlock()
}

// done ends what begin began: with the pid of the new child, which is owned
// until reaped is called for it, or 0 after a failure.
func (s *starts) done(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pid > 0 {
		s.pids[pid] = struct{}{}
	} else {
		s.dirty = true
	}
	s.endLocked()
}

// end ends what begin began where no child outlives it, such as hooks that
// libcontainer runs and waits for, and helpers that it reads a mapping by.
func (s *starts) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked()
}

func (s *starts) endLocked() {
	s.n--
	if s.n == 0 && s.dirty {
		s.dirty = false
		s.reapLocked()
	}
}

// reaped tells that pid, of a former done, has been waited for.
func (s *starts) reaped(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pids, pid)
}

func (s *starts) reapLocked() {
	for _, pid := range childrenOf(os.Getpid()) {
		if _, ours := s.pids[pid]; ours {
			continue
		}
		s.pids[pid] = struct{}{}
		stray, _ := os.FindProcess(pid) // a child, so no other can have its pid; it never fails
		go func() {
			_, _ = stray.Wait()
			s.reaped(pid)
		}()
	}
}

// childrenOf lists the children of a process, zombies included.
func childrenOf(pid int) (children []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, l := range lists {
		b, err := os.ReadFile(l)
		if err != nil {
			continue // the thread has ended; its children are in another's list
		}
		for f := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(f); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}
