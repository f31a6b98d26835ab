// Package thread runs code on OS threads that nothing else will ever run on.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Throwaway runs fn on an OS thread that ends with it, so that fn may change
// what belongs to a thread: its namespaces, its identity, its directory. The
// goroutine never unlocks the thread, so the Go runtime ends it instead of
// reusing it. If fn ends its goroutine (runtime.Goexit, as Fatal and Skip of a
// test do), the caller's ends too.
func Throwaway(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		defer close(done)
		runtime.LockOSThread()
		// The runtime cannot end the main thread, it parks it for good; and
		// what it is in is what /proc/self and /proc/net show to everyone. So
		// if the scheduler gave us the main thread, sit on it and let
		// somebody else, who cannot get it, do the work.
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- Throwaway(fn)
			return
		}
		done <- fn()
	}()
	err, returned := <-done
	if !returned {
		runtime.Goexit()
	}
	return err
}
