package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// kept is the file of a lab's directory that Keep writes.
const kept = "lab.json"

// Keep writes down what Open needs: a started lab may then outlive the process
// that has made it. One with a network namespace of its own cannot be kept,
// since what leads into that ends with the process.
func (l *Lab) Keep() error {
	if l.net != nil {
		return errors.New("cannot keep a lab with a network namespace of its own")
	}
	text, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(l.Dir, kept), text, 0o600)
}

// Open gives the lab that was kept in dir, for its pods and its End.
func Open(dir string) (*Lab, error) {
	text, err := os.ReadFile(filepath.Join(dir, kept))
	if err != nil {
		return nil, fmt.Errorf("cannot open a lab in %s: %w", dir, err)
	}
	l := &Lab{kept: true}
	if err := json.Unmarshal(text, l); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", filepath.Join(dir, kept), err)
	}
	l.config = filepath.Join(l.Dir, "config.toml")
	return l, nil
}

// endKept ends a daemon in order that another process has started. Close ends
// by force what does not go.
func (l *Lab) endKept(pid int) {
	if !l.owns(pid) || unix.Kill(pid, unix.SIGTERM) != nil {
		return
	}
	_ = Eventually(context.Background(), 20*time.Second, func() error {
		if l.owns(pid) {
			return fmt.Errorf("process %d does not end", pid)
		}
		return nil
	})
}
