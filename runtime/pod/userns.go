package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/idmap"
)

// userns is the user namespace of a pod, which owns its network, IPC and UTS
// namespaces; nil: the host's.
func (t *Table) userns(p *Pod) *idmap.Pinned {
	if !p.config.Namespaces.HasUserNamespace() {
		return nil
	}
	return &idmap.Pinned{Map: p.config.Namespaces.IDs, Path: t.nsPath(p.id, "user")}
}

// hostIDs are, on the host, a user and a group of the pod.
func (t *Table) hostIDs(p *Pod, uid, gid uint32) (hostUID, hostGID int) {
	if ns := t.userns(p); ns != nil {
		return ns.Owner(uid, gid)
	}
	return int(uid), int(gid)
}

// giveToRoot makes the pod's root the owner of files of ours, as it would be
// without a user namespace.
func (t *Table) giveToRoot(p *Pod, paths ...string) error {
	uid, gid := t.hostIDs(p, 0, 0)
	if uid == 0 && gid == 0 {
		return nil
	}
	for _, path := range paths {
		if err := os.Lchown(path, uid, gid); err != nil {
			return fmt.Errorf("cannot give a file to the pod's root: %w", err)
		}
	}
	return nil
}

// makePrivate makes a directory below which users of the host have no
// business: a set-user-ID program of an image would be one of the host's to
// them (CVE-2021-41103), and shared memory theirs to write. Only the root of
// the user namespace in may pass, on its way to its root file system: all else
// that containers use is opened for them.
func makePrivate(dir string, in *idmap.Pinned) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if in == nil {
		return os.Chmod(dir, 0o700)
	}
	_, gid := in.Owner(0, 0)
	if err := os.Chown(dir, 0, gid); err != nil {
		return err
	}
	return os.Chmod(dir, 0o710)
}

// ownedByRoot tells whether a file belongs to the root of the host.
func ownedByRoot(st os.FileInfo) bool {
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Uid == 0 && sys.Gid == 0
}

// etcFiles are the files of /etc that the pod's containers share.
func (t *Table) etcFiles(p *Pod) []string {
	dir := t.podDir(p.id)
	return []string{filepath.Join(dir, "hostname"), filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf")}
}

// checkMapping refuses a mount whose owners cannot be mapped as asked for: the
// files of an image are those of the pod's users and nobody else's.
func checkMapping(m spec.Mount, ns *spec.Namespaces) error {
	if m.Image == "" || m.IDs == nil || ns.HasUserNamespace() && *m.IDs == ns.IDs {
		return nil
	}
	return errkind.New(errkind.InvalidArgument, "its mapping is not that of the pod's user namespace")
}
