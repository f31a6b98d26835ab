package main

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/berth-runtime/berth/runtime/shimrpc"
)

// shimPatience is how long one shim may take to say who it is. It does so at
// once or not at all.
const shimPatience = time.Second

// shimPids asks every shim that has a socket for its pid, so that people and
// tests see the processes there are, not those that the daemon believes in.
func shimPids(ctx context.Context, state string) []int {
	sockets, _ := filepath.Glob(filepath.Join(state, "shims", "*.sock")) // the pattern is right
	var pids []int
	for _, path := range sockets {
		ctx, cancel := context.WithTimeout(ctx, shimPatience)
		info, err := shimrpc.Dial(path).Info(ctx)
		cancel()
		if err == nil {
			pids = append(pids, info.Pid)
		}
	}
	slices.Sort(pids)
	return pids
}
