package checkpoint

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
)

// Key vouches for checkpoints: what is restored was written by a node that has
// it.
type Key []byte

// The size of a key's file in bytes: what cannot be guessed, and what is no key.
const (
	minKey = 32
	maxKey = 4 << 10
)

// LoadKey reads the key in the file path. With make, one that is absent is made
// there first, durably. A file that somebody else than its owner, who must be
// root or we, may read or write vouches for nothing, and is an error.
func LoadKey(path string, create bool) (Key, error) {
	key, err := readKey(path)
	if errors.Is(err, os.ErrNotExist) && create {
		var b [minKey]byte
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
		if err := atomicfile.Write(path, append(hex.AppendEncode(nil, b[:]), '\n'), 0o600); err != nil {
			return nil, fmt.Errorf("cannot make a key for checkpoints: %w", err)
		}
		key, err = readKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use the key of checkpoints: %w", err)
	}
	return key, nil
}

func readKey(path string) (Key, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is no regular file", path)
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return nil, fmt.Errorf("%s belongs to user %d, who could change it; run chown root %s", path, st.Uid, path)
	case st.Mode&0o077 != 0:
		return nil, fmt.Errorf("%s has mode %04o, so that others may know it; run chmod 0600 %s", path, st.Mode&0o7777, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return nil, err
	}
	if b = bytes.TrimSpace(b); len(b) < minKey || len(b) > maxKey {
		return nil, fmt.Errorf("%s has %d bytes, and a key has from %d to %d", path, len(b), minKey, maxKey)
	}
	return b, nil
}
