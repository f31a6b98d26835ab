package spec

import "github.com/opencontainers/runtime-spec/specs-go"

// DefaultSeccomp is the filter of RuntimeDefault for a container with caps.
func DefaultSeccomp(caps []string) (*specs.LinuxSeccomp, error) { panic("unfinished") }

// ParseSeccompFile reads a Localhost profile.
func ParseSeccompFile(data []byte, caps []string) (*specs.LinuxSeccomp, error) { panic("unfinished") }
