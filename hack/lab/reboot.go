package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// bootID is where records say in which boot they were made.
var bootID = regexp.MustCompile(`"boot_id":"[^"]*"`)

// Reboot ends the daemon and all that a reboot of the machine ends: processes,
// the registry's among them, network, mounts, cgroups and the state directory.
// The records are of another boot then. It starts the daemon again.
func (l *Lab) Reboot(ctx context.Context) error {
	if l.Running() {
		l.Kill()
	}
	errs := []error{l.takeDown(), os.RemoveAll(l.State)}
	for _, table := range []string{"pods", "containers"} {
		rows, err := filepath.Glob(filepath.Join(l.Root, table, "*.json"))
		errs = append(errs, err)
		for _, row := range rows {
			text, err := os.ReadFile(row)
			if err == nil && !bytes.Contains(text, []byte(`"boot_id":"`)) {
				err = fmt.Errorf("the record %s has no boot id", row)
			}
			if err == nil {
				err = os.WriteFile(row, bootID.ReplaceAll(text, []byte(`"boot_id":"an earlier boot"`)), 0o600)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, l.Start(ctx))...)
}
