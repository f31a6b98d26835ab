// Package cgroup finds, makes and ends control groups of either version.
package cgroup

import "golang.org/x/sys/unix"

// Unified tells whether the host has the v2 hierarchy only.
func Unified() bool { panic("unfinished") }

// SwapLimit tells whether the kernel can limit swap.
func SwapLimit() bool { panic("unfinished") }

// Paths are the directories of the group.
func Paths(cgroupPath string) []string { panic("unfinished") }

// Make creates the group in every hierarchy.
func Make(path string) error { panic("unfinished") }

// Exists tells whether the group is there in any hierarchy.
func Exists(path string) bool { panic("unfinished") }

// List names the child groups of parent.
func List(parent string) ([]string, error) { panic("unfinished") }

// Procs lists the processes of the group and those below.
func Procs(path string) ([]int, error) { panic("unfinished") }

// Kill signals every process of the group and those below.
func Kill(path string, sig unix.Signal) error { panic("unfinished") }

// Remove removes the group and those below.
func Remove(path string) error { panic("unfinished") }

// OOMKills counts the processes of the group that the OOM killer ended.
func OOMKills(path string) (uint64, error) { panic("unfinished") }
