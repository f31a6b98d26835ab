// Package named keeps the volumes that people give names to: directories that
// outlive the containers that mount them.
//
// Model. A volume is a row and a directory of the same name. Nothing else knows
// of it: a container mounts the directory's path, and who mounts it is told by
// whoever asks for a removal.
//
//	Root/rows/NAME.json   the row
//	Root/data/NAME        what the volume holds
//
// Law. The row comes before the directory and goes after it; one that is being
// removed says so before the first file goes, so that Open finishes what a
// crash cut. One writer a row. What has no row is never removed, since it may be
// somebody's data, and never mounted: Check tells of it. A removal and a
// container that is being made exclude each other: the container can be seen
// before it prepares the volume, and the volume is locked meanwhile.
package named

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/state"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/fail"
	"github.com/berth-runtime/berth/runtime/sys/keylock"
)

// Volume is what is known of one.
type Volume struct {
	Name    string
	Path    string // of its directory on the host
	Created time.Time
	Labels  map[string]string
}

// row is a volume on disk.
type row struct {
	Name     string            `json:"name"`
	Created  time.Time         `json:"created"`
	Labels   map[string]string `json:"labels,omitempty"`
	Removing bool              `json:"removing,omitempty"`
}

// Store is all volumes. Its methods may be called concurrently.
type Store struct {
	data   string
	rows   state.Rows[row]
	locks  keylock.Locks // by name; orders making, filling and removal
	broken []string

	mu  sync.Mutex
	all map[string]row // guarded by mu
}

// partial ends the name of a directory that is to become a volume's content.
const partial = ".partial"

// goodName is what may become the name of a file.
var goodName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

// Open reads the volumes below root, an absolute path that is made if need be,
// and finishes removals that were cut.
func Open(root string) (*Store, error) {
	rows, err := state.Open[row](filepath.Join(root, "rows"))
	if err != nil {
		return nil, err
	}
	s := &Store{data: filepath.Join(root, "data"), rows: rows}
	if err := os.MkdirAll(s.data, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of volumes: %w", err)
	}
	if s.all, s.broken, err = rows.All(); err != nil {
		return nil, err
	}
	for name, r := range s.all {
		if r.Name != name || !goodName.MatchString(name) {
			aside, err := rows.SetAside(name)
			if err != nil {
				return nil, err
			}
			s.broken = append(s.broken, "the row of volume "+name+" is not its own (kept as "+aside+")")
			delete(s.all, name)
			continue
		}
		if r.Removing {
			err = s.destroy(name)
		} else {
			err = s.makeDir(name) // its making may have been cut
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Store) dir(name string) string { return filepath.Join(s.data, name) }

func (s *Store) volume(r row) Volume {
	return Volume{Name: r.Name, Path: s.dir(r.Name), Created: r.Created, Labels: r.Labels}
}

func (s *Store) get(name string) (row, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.all[name]
	return r, ok
}

func (s *Store) set(name string, r *row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r == nil {
		delete(s.all, name)
	} else {
		s.all[name] = *r
	}
}

// Create makes a volume, or gives the one that is there. made tells which.
func (s *Store) Create(_ context.Context, name string, labels map[string]string) (v Volume, made bool, err error) {
	if !goodName.MatchString(name) || strings.HasSuffix(name, partial) {
		return Volume{}, false, errkind.New(errkind.InvalidArgument, "%q is no name of a volume: it has letters, digits, _, . and -, at most 128, and begins with one of the first two", name)
	}
	defer s.locks.Lock(name)()
	if r, ok := s.get(name); ok && !r.Removing {
		return s.volume(r), false, nil
	} else if ok {
		return Volume{}, false, errkind.New(errkind.FailedPrecondition, "volume %s is being removed, which failed before; remove it again", name)
	}
	if _, err := os.Lstat(s.dir(name)); err == nil {
		return Volume{}, false, errkind.New(errkind.AlreadyExists, "%s has no record and may be somebody's data; move it away first", s.dir(name))
	}
	r := row{Name: name, Created: time.Now(), Labels: maps.Clone(labels)}
	err = step("make", "record", func() error { return s.rows.Put(name, r) })
	if err == nil {
		err = step("make", "directory", func() error { return s.makeDir(name) })
	}
	if err != nil {
		return Volume{}, false, fmt.Errorf("cannot make volume %s: %w", name, errors.Join(err, os.RemoveAll(s.dir(name)), s.rows.Delete(name)))
	}
	s.set(name, &r)
	return s.volume(r), true, nil
}

func (s *Store) makeDir(name string) error {
	err := os.Mkdir(s.dir(name), 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.SyncDir(s.data)
}

// Get gives one volume; errkind.NotFound if there is none.
func (s *Store) Get(name string) (Volume, error) {
	r, ok := s.get(name)
	if !ok {
		return Volume{}, errkind.New(errkind.NotFound, "there is no volume %s", name)
	}
	return s.volume(r), nil
}

// List gives all volumes, by name.
func (s *Store) List() []Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Volume, 0, len(s.all))
	for _, name := range slices.Sorted(maps.Keys(s.all)) {
		out = append(out, s.volume(s.all[name]))
	}
	return out
}

// Has tells whether a path is a volume's.
func (s *Store) Has(path string) bool {
	name := filepath.Base(filepath.Clean(path))
	_, ok := s.get(name)
	return ok && filepath.Clean(path) == s.dir(name)
}

// Prepare is asked for each host path that a container mounts. Of a path that is
// no volume's it knows nothing. A volume must be there; one that is empty and
// that no other container mounts is filled by fill, which makes what is at dst
// whole or leaves it as it was; fill may be nil.
func (s *Store) Prepare(path string, shared func() bool, fill func(dst string) error) error {
	name := filepath.Base(filepath.Clean(path))
	if filepath.Clean(path) != s.dir(name) {
		return nil
	}
	defer s.locks.Lock(name)()
	if r, ok := s.get(name); !ok || r.Removing {
		return errkind.New(errkind.NotFound, "volume %s was removed; make it anew: berth volume create %s", name, name)
	}
	if fill == nil || shared() {
		return nil
	}
	if names, err := os.ReadDir(path); err != nil || len(names) > 0 {
		return err
	}
	return fill(path)
}

// Remove removes a volume with what it holds. users names the containers that
// mount a path, those that are being made too: with any it is
// errkind.FailedPrecondition.
func (s *Store) Remove(_ context.Context, name string, users func(path string) []string) error {
	defer s.locks.Lock(name)()
	r, ok := s.get(name)
	if !ok {
		return errkind.New(errkind.NotFound, "there is no volume %s", name)
	}
	if used := users(s.dir(name)); len(used) > 0 {
		return errkind.New(errkind.FailedPrecondition, "cannot remove volume %s: it is mounted by container %s", name, strings.Join(used, ", "))
	}
	r.Removing = true
	err := step("remove", "record", func() error { return s.rows.Put(name, r) })
	if err == nil {
		s.set(name, &r)
		err = s.destroy(name)
	}
	if err != nil {
		return fmt.Errorf("cannot remove volume %s: %w", name, err)
	}
	return nil
}

// destroy removes a volume whose row says that it is being removed.
func (s *Store) destroy(name string) error {
	if err := step("remove", "directory", func() error {
		return errors.Join(os.RemoveAll(s.dir(name)), os.RemoveAll(s.dir(name)+partial))
	}); err != nil {
		return err
	}
	if err := step("remove", "row", func() error { return s.rows.Delete(name) }); err != nil {
		return err
	}
	s.set(name, nil)
	return nil
}

// Usage walks a volume: the bytes that it takes up on disk.
func (s *Store) Usage(ctx context.Context, name string) (bytes uint64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(s.dir(name), func(path string, _ fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR && seen[st.Ino] {
			return nil //nolint:nilerr // it went meanwhile
		}
		seen[st.Ino] = st.Nlink > 1
		bytes += uint64(st.Blocks) * 512
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // files come and go
	}
	return bytes, err
}

// Check tells where rows and directories differ.
func (s *Store) Check() ([]string, error) {
	out := slices.Clone(s.broken)
	entries, err := os.ReadDir(s.data)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), partial) // a fill under way, or cut
		there[e.Name()] = true
		if _, ok := s.get(name); !ok {
			out = append(out, fmt.Sprintf("%s is no volume's: no record wants it", s.dir(e.Name())))
		}
	}
	for _, v := range s.List() {
		if !there[v.Name] {
			out = append(out, fmt.Sprintf("volume %s has lost its directory %s", v.Name, v.Path))
		}
	}
	return out, nil
}

// step does one step between its two failpoints.
func step(verb, name string, do func() error) error {
	fail.Hit("volume." + verb + "/" + name + "/before")
	if err := do(); err != nil {
		return err
	}
	fail.Hit("volume." + verb + "/" + name + "/after")
	return nil
}

// StepNames lists the failpoints, for the crash test.
func StepNames() []string {
	var names []string
	for _, step := range []string{"make/record", "make/directory", "remove/record", "remove/directory", "remove/row"} {
		names = append(names, "volume."+step+"/before", "volume."+step+"/after")
	}
	return names
}
