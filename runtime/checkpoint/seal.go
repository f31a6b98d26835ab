package checkpoint

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// SealFile holds the seal of PodFile, beside it.
const SealFile = "pod.mac"

// What one checkpoint of a pod may say of itself. The number of containers is
// far above what a pod has.
const (
	maxIndex      = 4 << 20
	maxContainers = 4096
)

// sealed is what the seal is made over, so that a key used for something else
// cannot be made to say it.
const sealed = "berth: checkpoint of a pod\n"

func (k Key) seal(index []byte) []byte {
	m := hmac.New(sha256.New, k)
	_, _ = io.WriteString(m, sealed) // a hash takes everything
	_, _ = m.Write(index)
	return hex.AppendEncode(nil, m.Sum(nil))
}

// Seal writes PodFile of the checkpoint at dir, and its seal.
func Seal(dir string, p Pod, key Key) error {
	if err := Put(dir, PodFile, p); err != nil {
		return err
	}
	index, err := os.ReadFile(filepath.Join(dir, PodFile))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, SealFile), append(key.seal(index), '\n'), 0o600)
}

// Open reads the description of the checkpoint of a pod at dir. One whose seal
// was not made with key, or whose description is not one that Seal writes, is
// errkind.InvalidArgument.
func Open(dir string, key Key) (Pod, error) {
	var p Pod
	index, err := readBounded(filepath.Join(dir, PodFile), maxIndex)
	if err != nil {
		return p, err
	}
	seal, err := readBounded(filepath.Join(dir, SealFile), 1<<10)
	if err != nil {
		return p, err
	}
	if !hmac.Equal(bytes.TrimSpace(seal), key.seal(index)) {
		return p, errkind.New(errkind.InvalidArgument,
			"the seal %s is not of this node's key: it was changed, or written by a node with another key (checkpoint.key in the configuration)", SealFile)
	}
	d := json.NewDecoder(bytes.NewReader(index))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, errkind.New(errkind.InvalidArgument, "%s: %w", PodFile, err)
	}
	if err := p.check(); err != nil {
		return p, errkind.New(errkind.InvalidArgument, "%s: %w", PodFile, err)
	}
	return p, nil
}

var (
	archiveName = regexp.MustCompile(`^[0-9a-f]{64}\.tar$`)
	digest      = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (p Pod) check() error {
	if p.Version != Version {
		return fmt.Errorf("its form is version %d, and this runtime reads %d", p.Version, Version)
	}
	if n := len(p.Containers); n == 0 || n > maxContainers {
		return fmt.Errorf("it has %d containers, not from 1 to %d", n, maxContainers)
	}
	names, archives := map[string]bool{}, map[string]bool{}
	for _, c := range p.Containers {
		switch {
		case c.Name == "" || names[c.Name]:
			return fmt.Errorf("container %q is there twice, or has no name", c.Name)
		case !archiveName.MatchString(c.Archive) || archives[c.Archive]:
			return fmt.Errorf("the archive %q of container %q is there twice, or is not named like one", c.Archive, c.Name)
		case !digest.MatchString(c.SHA256) || c.Size < 0:
			return fmt.Errorf("container %q has no size and digest", c.Name)
		}
		names[c.Name], archives[c.Archive] = true, true
	}
	return nil
}

// openRegular opens a regular file at a path whose last part is no link.
func openRegular(path string) (*os.File, int64, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, errkind.New(errkind.InvalidArgument, "%w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errkind.New(errkind.InvalidArgument, "%s is no regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, errkind.New(errkind.InvalidArgument, "%s has more than %d bytes", path, limit)
	}
	return b, nil
}

// Get reads the JSON file name of the unpacked checkpoint at dir into v. It is
// errkind.InvalidArgument if it is too large or not of that form.
func Get(dir, name string, v any) error {
	b, err := readBounded(filepath.Join(dir, name), maxIndex)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return errkind.New(errkind.InvalidArgument, "%s: %w", name, err)
	}
	return nil
}
