package inventory

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// selinuxLabel is the host's to give and to change.
const selinuxLabel = "security.selinux"

// procPath leads to what a handle is of. The calls for extended attributes
// take no handles that were opened with O_PATH, and none of directory and name
// before Linux 6.13.
func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// attributed reports whether a file's attributes are of the inventory.
func attributed(st *unix.Stat_t) bool {
	kind := st.Mode & unix.S_IFMT
	return kind == unix.S_IFDIR || kind == unix.S_IFREG && st.Mode&0o111 != 0
}

// attributes sums extended attributes, with memory that it uses again.
type attributes struct{ names, value []byte }

// sum gives a CRC-32C of the names and values of a file's attributes, in the
// order of their names; 0 for none. The file is no symbolic link.
func (a *attributes) sum(path string) (uint32, error) {
	n, err := fill(&a.names, func(b []byte) (int, error) { return unix.Listxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) || err == nil && n == 0 {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	names := bytes.Split(bytes.TrimSuffix(a.names[:n], []byte{0}), []byte{0})
	slices.SortFunc(names, bytes.Compare)
	h := crc32.New(castagnoli())
	for _, name := range names {
		if string(name) == selinuxLabel {
			continue
		}
		n, err := fill(&a.value, func(b []byte) (int, error) { return unix.Getxattr(path, string(name), b) })
		if err != nil {
			return 0, err
		}
		_, _ = io.WriteString(h, string(name)+"\x00"+strconv.Itoa(n)+"\x00")
		_, _ = h.Write(a.value[:n])
	}
	return h.Sum32(), nil
}

// fill calls read with a buffer that is large enough.
func fill(buf *[]byte, read func([]byte) (int, error)) (int, error) {
	if *buf == nil {
		*buf = make([]byte, 4096)
	}
	for {
		n, err := read(*buf)
		if !errors.Is(err, unix.ERANGE) || len(*buf) > 1<<20 {
			return n, err
		}
		*buf = make([]byte, 4*len(*buf))
	}
}
