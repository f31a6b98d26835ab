// Package cgroup finds, makes and ends control groups of either version.
//
// A group is named by its path from the root of a hierarchy, as OCI's
// linux.cgroupsPath is ("/berth/pod1/c1"). On a host with the unified
// hierarchy (v2) that is one directory; on a host with v1 it is one directory
// for each mounted hierarchy, the v2 hierarchy of a hybrid host among them. A
// group exists if any of its directories does: that is what a crash between
// two mkdirs leaves, and what Remove must find again. The root group itself
// is refused by everything that changes something.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// host is a place where hierarchies are mounted. Tests take the v2 hierarchy
// of a hybrid host for a host of its own.
type host struct{ root string }

func local() host { return host{root: "/sys/fs/cgroup"} }

// Unified tells whether the host has the v2 hierarchy only.
func Unified() bool { return local().unified() }

// SwapLimit tells whether the kernel can limit swap. On v2 a group without
// swap accounting is no obstacle, so it is always true there.
func SwapLimit() bool {
	h := local()
	if h.unified() {
		return true
	}
	_, err := os.Stat(filepath.Join(h.root, "memory/memory.memsw.limit_in_bytes"))
	return err == nil
}

// Controls tells whether the host has a controller, "hugetlb" for one, in a
// hierarchy of its own or for all groups below the root.
func Controls(controller string) bool { return local().controls(controller) }

// Paths are the directories of the group, whether they exist or not.
func Paths(path string) []string { return local().paths(path) }

// Exists tells whether the group is there in any hierarchy.
func Exists(path string) bool { return local().exists(path) }

// List names the child groups of parent, sorted. An absent parent has none.
func List(parent string) ([]string, error) { return local().list(parent) }

// Make creates the group and its parents in every hierarchy. A group that
// exists is success. On v1 a new cpuset gets the CPUs and memory nodes of its
// parent, without which no process could enter; on v2 the controllers of the
// parents are passed down.
func Make(path string) error { return local().create(path) }

// Remove removes the group and those below it from every hierarchy. A group
// that is absent is success; one with processes is an error after two seconds.
func Remove(path string) error { return local().remove(path) }

func (h host) unified() bool { return isType(h.root, unix.CGROUP2_SUPER_MAGIC) }

func (h host) controls(controller string) bool {
	if !h.unified() {
		return isType(filepath.Join(h.root, controller), unix.CGROUP_SUPER_MAGIC)
	}
	have, err := os.ReadFile(filepath.Join(h.root, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(have)), controller)
}

func isType(dir string, magic int64) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && int64(st.Type) == magic
}

// hierarchies are the mounted roots, each once: cpu and cpuacct are often
// links to one directory.
func (h host) hierarchies() []string {
	if h.unified() {
		return []string{h.root}
	}
	entries, err := os.ReadDir(h.root)
	if err != nil {
		return nil
	}
	var out []string
	seen := map[uint64]bool{}
	for _, e := range entries {
		dir := filepath.Join(h.root, e.Name())
		if !isType(dir, unix.CGROUP_SUPER_MAGIC) && !isType(dir, unix.CGROUP2_SUPER_MAGIC) {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil || seen[st.Dev] {
			continue
		}
		seen[st.Dev] = true
		out = append(out, dir)
	}
	return out
}

func (h host) paths(path string) []string {
	roots := h.hierarchies()
	for i, r := range roots {
		// A rooted Join keeps ".." inside the hierarchy.
		roots[i] = filepath.Join(r, filepath.Join("/", path))
	}
	return roots
}

// owned is paths for those who change something: it refuses the root.
func (h host) owned(path string) ([]string, error) {
	if filepath.Join("/", path) == "/" {
		return nil, fmt.Errorf("cannot change cgroup %q: it is the root", path)
	}
	return h.paths(path), nil
}

func (h host) exists(path string) bool {
	return slices.ContainsFunc(h.paths(path), isDir)
}

func isDir(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}

func (h host) list(parent string) ([]string, error) {
	var names []string
	for _, dir := range h.paths(parent) {
		children, err := subdirs(dir)
		if err != nil {
			return nil, fmt.Errorf("cannot list cgroup %s: %w", parent, err)
		}
		names = append(names, children...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// subdirs names the groups directly below dir; a vanished dir has none.
func subdirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !gone(err) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// gone tells of an error that means the group was removed: reading a file
// that was opened before gives ENODEV.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// walk calls f for dir and each group below it, children first.
func walk(dir string, f func(dir string) error) error {
	children, err := subdirs(dir)
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := walk(filepath.Join(dir, c), f); err != nil {
			return err
		}
	}
	return f(dir)
}
