//go:build !failpoint

// Package fail marks the places where the crash test kills the daemon.
//
// In an ordinary build Hit does nothing and costs nothing. With the build tag
// failpoint, Hit(name) sends SIGKILL to the own process when the environment
// variable BERTH_FAILPOINT equals name, so the process ends exactly there
// without any cleanup, as a crash would.
package fail

// Hit marks the point name.
func Hit(string) {}
