package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Freezer is the directory of the group by which its processes can be stopped,
// in either version of cgroups.
func Freezer(path string) (string, error) { return local().freezer(path) }

// Freeze stops all processes of the group and those below, and returns when
// they have stopped. If ctx ends before, it is thawed again.
func Freeze(ctx context.Context, path string) error { return local().freeze(ctx, path) }

func (h host) freezer(path string) (string, error) {
	dirs, err := h.owned(path)
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		for _, name := range []string{"cgroup.freeze", "freezer.state"} {
			// The hybrid's group of version 2 may have one too, and be empty.
			if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err != nil || len(b) == 0 {
				continue
			}
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("cannot freeze cgroup %s: no hierarchy has its processes and a freezer", path)
}

func (h host) freeze(ctx context.Context, path string) error {
	dir, err := h.freezer(path)
	if err != nil {
		return err
	}
	file, on, off := filepath.Join(dir, "cgroup.freeze"), "1", "0"
	if _, err := os.Stat(file); err != nil {
		file, on, off = filepath.Join(dir, "freezer.state"), "FROZEN", "THAWED"
	}
	// Version 1 stops half way at times, for good, however often it is told
	// again; after a thaw it begins anew (tried: one freeze in a hundred).
	for tries := 1; ; tries++ {
		if err := ctx.Err(); err != nil {
			return errors.Join(fmt.Errorf("cannot freeze cgroup %s: its processes do not stop: %w", path, err), writeFile(file, off))
		}
		if tries%freezeTries == 0 {
			if err := writeFile(file, off); err != nil {
				return err
			}
		}
		if err := writeFile(file, on); err != nil {
			return errors.Join(err, writeFile(file, off))
		}
		if stopped(dir) {
			return nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// freezeTries is how often a freezer is looked at before it begins anew.
const freezeTries = 20

// stopped tells whether a freezer has done its work.
func stopped(dir string) bool {
	v2, _ := os.ReadFile(filepath.Join(dir, "cgroup.events")) // each is absent in the other version
	v1, _ := os.ReadFile(filepath.Join(dir, "freezer.state"))
	return bytes.Contains(v2, []byte("frozen 1")) || string(v1) == "FROZEN\n"
}

// Unfreeze undoes Freeze, whoever froze the group. An absent group is success.
func Unfreeze(path string) error {
	dirs, err := local().owned(path)
	if err != nil {
		return err
	}
	thaw(dirs)
	for _, dir := range dirs {
		file := filepath.Join(dir, "cgroup.freeze")
		if _, err := os.Stat(file); err != nil {
			continue // no group of version 2
		}
		if err := writeFile(file, "0"); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}
