// Package state keeps records on disk: one JSON file a row, one writer a row.
//
// Law. A row is the truth. It is written whole by temporary file and rename,
// so a reader finds the old or the new one, never a part. Put is durable (for
// what must survive power loss before an effect); Update survives the death of
// the daemon only (for what the next look at the kernel would tell anyway). A
// row that cannot be read is set aside, reported and never guessed at.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
)

const (
	suffix       = ".json"
	brokenSuffix = ".broken"
)

// BootID identifies the running boot of the machine.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Rows is a table of records of one type, a file each, named by id.
type Rows[T any] struct{ dir string }

// Open makes the table's directory (mode 0700) if need be, and removes the
// temporary files that a crash left there.
func Open[T any](dir string) (Rows[T], error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Rows[T]{}, fmt.Errorf("cannot make the record directory %s: %w", dir, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".tmp-*"))
	if err != nil {
		return Rows[T]{}, err
	}
	for _, f := range left {
		if err := os.Remove(f); err != nil {
			return Rows[T]{}, err
		}
	}
	return Rows[T]{dir: dir}, nil
}

func (r Rows[T]) path(id string) string { return filepath.Join(r.dir, id+suffix) }

// Put writes the row and returns when it is on disk.
func (r Rows[T]) Put(id string, v T) error { return r.write(id, v, atomicfile.Write) }

// Update writes the row without waiting for the disk.
func (r Rows[T]) Update(id string, v T) error { return r.write(id, v, atomicfile.WriteVolatile) }

func (r Rows[T]) write(id string, v T, write func(string, []byte, os.FileMode) error) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode record %s: %w", id, err)
	}
	if err := write(r.path(id), b, 0o600); err != nil {
		return fmt.Errorf("cannot write record %s: %w", id, err)
	}
	return nil
}

// Get reads one row; fs.ErrNotExist if there is none.
func (r Rows[T]) Get(id string) (T, error) {
	var v T
	b, err := os.ReadFile(r.path(id))
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("cannot decode record %s: %w", r.path(id), err)
	}
	return v, nil
}

// Delete removes the row; one that is absent is success.
func (r Rows[T]) Delete(id string) error {
	if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove record %s: %w", id, err)
	}
	return nil
}

// SetAside renames a row that can be read but means nothing to its reader, as
// All does with one that cannot be read, and returns where it lies now.
func (r Rows[T]) SetAside(id string) (path string, err error) {
	path = r.path(id) + brokenSuffix
	if err := os.Rename(r.path(id), path); err != nil {
		return path, fmt.Errorf("cannot set broken record aside: %w", err)
	}
	return path, nil
}

// All reads every row. A row that cannot be decoded is renamed to *.broken and
// named in broken; the rest is returned.
func (r Rows[T]) All() (rows map[string]T, broken []string, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot list records: %w", err)
	}
	rows = make(map[string]T)
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		v, err := r.Get(id)
		if err != nil {
			aside, asideErr := r.SetAside(id)
			if asideErr != nil {
				return nil, nil, asideErr
			}
			broken = append(broken, fmt.Sprintf("%v (kept as %s)", err, aside))
			continue
		}
		rows[id] = v
	}
	return rows, broken, nil
}
