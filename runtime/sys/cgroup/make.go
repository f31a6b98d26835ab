package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func (h host) create(path string) error {
	if _, err := h.owned(path); err != nil {
		return err
	}
	for _, root := range h.hierarchies() {
		dir := root
		for name := range strings.SplitSeq(filepath.Join("/", path)[1:], "/") {
			passControllers(dir)
			parent := dir
			dir = filepath.Join(dir, name)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("cannot make cgroup %s: %w", path, err)
			}
			if err := inheritCpuset(parent, dir); err != nil {
				return fmt.Errorf("cannot make cgroup %s: %w", path, err)
			}
		}
	}
	return nil
}

// passControllers lets the children of a v2 group have its controllers, one
// by one: some cannot be passed (a real-time task, processes in the group),
// and then the limit that needs it says so more clearly than we could.
func passControllers(dir string) {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for c := range strings.FieldsSeq(string(have)) {
		_ = writeFile(filepath.Join(dir, "cgroup.subtree_control"), "+"+c)
	}
}

// inheritCpuset fills the empty cpuset of a v1 group from its parent's.
func inheritCpuset(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		// On v2 empty means the parent's.
		if len(bytes.TrimSpace(own)) != 0 || isType(dir, unix.CGROUP2_SUPER_MAGIC) {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, name), string(value)); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a control file, which exists or is not to be made.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func (h host) remove(path string) error {
	dirs, err := h.owned(path)
	if err != nil {
		return err
	}
	// A group is busy for a moment after its last process has ended.
	deadline := time.Now().Add(2 * time.Second)
	var errs []error
	for _, dir := range dirs {
		err := walk(dir, rmdir)
		for errors.Is(err, unix.EBUSY) && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
			err = walk(dir, rmdir)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("cannot remove cgroup %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

func rmdir(dir string) error {
	if err := unix.Rmdir(dir); err != nil && !gone(err) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
