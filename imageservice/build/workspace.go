package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// workspace is the directory of one build: what commands mount that is no
// layer. All of it goes when the build does.
//
//	DIR/secrets/N   a secret, in memory: the directory is a tmpfs
//	DIR/N           what one mount of a command shows
type workspace struct {
	path    string
	secrets map[string]string // id to file
	last    atomic.Int64
}

func newWorkspace(dir string, secrets map[string][]byte) (*workspace, error) {
	w := &workspace{path: dir, secrets: map[string]string{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if len(secrets) == 0 {
		return w, nil
	}
	at := filepath.Join(dir, "secrets")
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, err
	}
	// Secrets are never written to a disk. (ramfs would not be swapped out, but
	// has no bound either.)
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size="+strconv.Itoa(maxSecrets)); err != nil {
		return nil, fmt.Errorf("cannot keep secrets in memory: %w", err)
	}
	n := 0
	for id, value := range secrets {
		file := filepath.Join(at, strconv.Itoa(n))
		if err := os.WriteFile(file, value, 0o400); err != nil {
			if errors.Is(err, unix.ENOSPC) {
				return nil, errkind.New(errkind.ResourceExhausted, "cannot keep secrets in memory: they have more than %d bytes together", maxSecrets)
			}
			return nil, fmt.Errorf("cannot keep secrets in memory: %w", err)
		}
		w.secrets[id] = file
		n++
	}
	return w, nil
}

// maxSecrets is how many bytes the secrets of a build may have together.
const maxSecrets = 4 << 20

// secretFor gives a secret a file with these attributes.
func (w *workspace) secretFor(file string, mode uint64, uid, gid int) (string, error) {
	value, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	own := filepath.Join(w.path, "secrets", "for-"+strconv.FormatInt(w.last.Add(1), 10))
	if err := os.WriteFile(own, value, 0o400); err != nil {
		return own, err
	}
	return own, errors.Join(os.Chown(own, uid, gid), unix.Chmod(own, uint32(mode)&0o7777))
}

// fresh makes a directory that nothing else uses.
func (w *workspace) fresh() (string, error) {
	dir := filepath.Join(w.path, strconv.FormatInt(w.last.Add(1), 10))
	return dir, os.Mkdir(dir, 0o700)
}

// tmpfs gives a directory in memory; size is its limit in bytes, 0 for none but
// the kernel's own.
func (w *workspace) tmpfs(size int64) (string, error) {
	dir, err := w.fresh()
	if err != nil {
		return "", err
	}
	options := "mode=1777"
	if size > 0 {
		options += ",size=" + strconv.FormatInt(size, 10)
	}
	return dir, unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
}

// RemoveWorkspace removes the directory of a build, or one of them all, after
// whatever is mounted below it. One that is absent is success.
func RemoveWorkspace(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// unmountBelow unmounts what is mounted below dir: a removal must never reach
// through a mount.
func unmountBelow(dir string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var errs []error
	for i := len(table) - 1; i >= 0; i-- { // what was mounted last lies on top
		if strings.HasPrefix(table[i].Target, dir+"/") {
			errs = append(errs, mount.Unmount(table[i].Target))
		}
	}
	return errors.Join(errs...)
}
