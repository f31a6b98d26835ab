package main

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parseVolumes reads the values of --volume, each
// HOST:CONTAINER[:OPTION[,OPTION]...]. A relative host path is made absolute
// here, as the daemon does not share our working directory.
func parseVolumes(specs []string) ([]*criv1.Mount, error) {
	var mounts []*criv1.Mount
	taken := map[string]bool{}
	for _, s := range specs {
		m, err := parseVolume(s)
		if err != nil {
			return nil, err
		}
		if taken[m.ContainerPath] {
			return nil, volumeProblem(s, fmt.Sprintf("something else is mounted at %s already", m.ContainerPath))
		}
		taken[m.ContainerPath] = true
		mounts = append(mounts, m)
	}
	return mounts, nil
}

func parseVolume(s string) (*criv1.Mount, error) {
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return nil, volumeProblem(s, "it does not name one path of the host and one in the container")
	}
	host, inside := parts[0], path.Clean(parts[1])
	if !strings.ContainsRune(host, '/') && host != "." && host != ".." {
		return nil, &problem{
			what: fmt.Sprintf("cannot mount %q", s),
			why:  fmt.Sprintf("%q would be a named volume, and this version mounts host paths only", host),
			do:   fmt.Sprintf("for a folder of the current one write -v ./%s", s),
		}
	}
	if !path.IsAbs(inside) || inside == "/" {
		return nil, volumeProblem(s, fmt.Sprintf("%q is not an absolute path below / in the container", parts[1]))
	}
	host, err := filepath.Abs(host)
	if err != nil {
		return nil, volumeProblem(s, err.Error())
	}
	m := &criv1.Mount{HostPath: host, ContainerPath: inside}
	if len(parts) == 3 {
		for option := range strings.SplitSeq(parts[2], ",") {
			if err := volumeOption(m, option); err != nil {
				return nil, volumeProblem(s, err.Error())
			}
		}
	}
	return m, nil
}

func volumeOption(m *criv1.Mount, option string) error {
	switch option {
	case "ro":
		m.Readonly = true
	case "rw":
		m.Readonly = false
	case "rprivate", "private":
		m.Propagation = criv1.MountPropagation_PROPAGATION_PRIVATE
	case "rslave", "slave":
		m.Propagation = criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case "rshared", "shared":
		m.Propagation = criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case "z", "Z":
		m.SelinuxRelabel = true
	default:
		return fmt.Errorf("there is no option %q", option)
	}
	return nil
}

func volumeProblem(s, why string) error {
	return &problem{
		what: fmt.Sprintf("cannot mount %q", s),
		why:  why,
		do:   "write HOST:CONTAINER[:ro|rw][,rshared|rslave|rprivate], for example -v /srv/www:/www:ro",
	}
}
