package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// overlay is what a container's root is made of, as the kernel tells it.
type overlay struct {
	lower []string // topmost first
	upper string
}

// overlay reads the mounts of the first process of the container called name.
func (s *story) overlay(ctx context.Context, name string) (overlay, error) {
	id, err := s.containerID(ctx, name)
	if err != nil {
		return overlay{}, err
	}
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return overlay{}, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\134`, `\`)
	for _, line := range strings.Split(string(data), "\n") {
		left, right, ok := strings.Cut(line, " - overlay ")
		fields := strings.Fields(left)
		if !ok || len(fields) < 5 || !strings.Contains(fields[4], id) {
			continue
		}
		var o overlay
		for _, option := range strings.Split(right[strings.LastIndex(right, " ")+1:], ",") {
			key, value, _ := strings.Cut(option, "=")
			switch key {
			case "lowerdir":
				o.lower = strings.Split(unescape.Replace(value), ":")
			case "lowerdir+":
				o.lower = append(o.lower, unescape.Replace(value))
			case "upperdir":
				o.upper = unescape.Replace(value)
			}
		}
		o.absolute(s.Root)
		return o, nil
	}
	return overlay{}, fmt.Errorf("container %s has no overlay mount", name)
}

// absolute completes paths that were mounted relative to the store, as many
// layers must be for mount(2)'s one page of options.
func (o *overlay) absolute(root string) {
	whole := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		found := path
		_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasSuffix(p, "/"+path) {
				found = p
				return fs.SkipAll
			}
			return nil
		})
		return found
	}
	for i := range o.lower {
		o.lower[i] = whole(o.lower[i])
	}
	o.upper = whole(o.upper)
}

func (s *story) containerID(ctx context.Context, name string) (string, error) {
	r, err := criv1.NewRuntimeServiceClient(s.Conn()).ListContainers(ctx, &criv1.ListContainersRequest{})
	if err != nil {
		return "", err
	}
	for _, c := range r.Containers {
		if c.Metadata.Name == name {
			return c.Id, nil
		}
	}
	return "", fmt.Errorf("no container %s", name)
}

// hashTree is SHA-256 over everything that a container can see of dir.
func hashTree(dir string) (string, error) {
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(sum, "%s %o %d %d %d %d\n", rel, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Nano())
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			fmt.Fprintln(sum, target)
			return err
		case d.Type().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(sum, f)
			return err
		}
		return nil
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}
