package pod

import (
	"fmt"
	"io"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// seccomp resolves the filter; nil is unconfined, as is any privileged
// container. builtin is the path of what SeccompDefault means; empty: the
// profile that comes with us.
func (t *Table) seccomp(sec *spec.Security, builtin string) (*specs.LinuxSeccomp, error) {
	if sec.Seccomp == nil || sec.Privileged || sec.Seccomp.Mode == spec.SeccompUnconfined {
		return nil, nil
	}
	caps, err := spec.Capabilities(sec, t.hostCaps)
	if err != nil {
		return nil, err
	}
	path := sec.Seccomp.Path
	if sec.Seccomp.Mode == spec.SeccompDefault {
		if builtin == "" {
			return spec.DefaultSeccomp(caps)
		}
		path = builtin
	}
	b, err := readSeccompFile(path)
	if err != nil {
		return nil, err
	}
	return spec.ParseSeccompFile(b, caps)
}

func readSeccompFile(path string) ([]byte, error) {
	// Opening a FIFO must not wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errkind.New(errkind.InvalidArgument, "cannot open seccomp profile: %w", err)
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errkind.New(errkind.InvalidArgument, "seccomp profile %s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, spec.MaxSeccompProfile+1)) // one more is refused by who parses it
	if err != nil {
		return nil, fmt.Errorf("cannot read seccomp profile: %w", err)
	}
	return b, nil
}
