// Package apparmor tells what AppArmor, a Linux security module that confines
// processes by named profiles, has on this host, and loads the default one.
//
// Law. A name that is not loaded is never taken for "no profile": the kernel
// is asked, each time.
package apparmor

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// DefaultProfile is the name of the profile that containers have which ask
// for no other.
const DefaultProfile = "berth-default"

// Unconfined is the name by which no profile is asked for.
const Unconfined = "unconfined"

//go:embed default.profile
var defaultProfile []byte

// enabledFile says Y while the kernel's AppArmor is on, and profilesFile lists
// what is loaded, as "NAME (MODE)"; removeFile takes the names of those that
// are to go. The latter are there only where securityfs is mounted.
const (
	enabledFile  = "/sys/module/apparmor/parameters/enabled"
	profilesFile = "/sys/kernel/security/apparmor/profiles"
	removeFile   = "/sys/kernel/security/apparmor/.remove"
)

// Enabled tells whether the host confines processes with AppArmor.
func Enabled() bool {
	b, err := os.ReadFile(enabledFile)
	return err == nil && bytes.HasPrefix(b, []byte("Y"))
}

// Loaded tells whether the kernel has a profile of that name.
func Loaded(name string) (bool, error) {
	b, err := os.ReadFile(profilesFile)
	if err != nil {
		return false, fmt.Errorf("cannot list AppArmor's profiles: %w", err)
	}
	return listed(b, name), nil
}

func listed(profiles []byte, name string) bool {
	for line := range strings.Lines(string(profiles)) {
		// A name may have spaces and parentheses; the mode has neither.
		if i := strings.LastIndex(line, " ("); i >= 0 && line[:i] == name {
			return true
		}
	}
	return false
}

// LoadDefault loads DefaultProfile, replacing an earlier version of it, with
// AppArmor's own parser. The error is exec.ErrNotFound on a host without one.
func LoadDefault(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "apparmor_parser", "--replace", "--skip-cache")
	cmd.Stdin = bytes.NewReader(defaultProfile)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("cannot load AppArmor's profile %s: %w", DefaultProfile, err)
	}
	if err != nil {
		return fmt.Errorf("cannot load AppArmor's profile %s: %w: %s", DefaultProfile, err, bytes.TrimSpace(out))
	}
	return nil
}

// UnloadDefault takes DefaultProfile out of the kernel. One that is not there
// is success.
func UnloadDefault() error {
	if !Enabled() {
		return nil
	}
	f, err := os.OpenFile(removeFile, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(DefaultProfile)
		_ = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot unload AppArmor's profile %s: %w", DefaultProfile, err)
	}
	return nil
}
