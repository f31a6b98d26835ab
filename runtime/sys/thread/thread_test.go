package thread

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTheThreadIsNobodyElses(t *testing.T) {
	want := errors.New("as fn says")
	seen := map[int]bool{}
	for range 20 {
		err := Throwaway(func() error {
			tid := unix.Gettid()
			if tid == unix.Getpid() || seen[tid] {
				t.Errorf("thread %d is not fn's own", tid)
			}
			seen[tid] = true
			return want
		})
		if !errors.Is(err, want) {
			t.Fatal(err)
		}
	}
}

// TestGoexitEndsTheCaller, as otherwise a test that calls Skip or Fatal on such
// a thread never ends.
func TestGoexitEndsTheCaller(t *testing.T) {
	for range 20 { // some of them get the main thread first
		ended := make(chan bool)
		go func() {
			returned := false
			defer func() { ended <- !returned }()
			_ = Throwaway(func() error { runtime.Goexit(); return nil })
			returned = true
		}()
		if !<-ended {
			t.Fatal("Throwaway has returned, of a function that has not")
		}
	}
}
