package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// initUID is nobody: the init only reaps, for which it needs no right at all.
const initUID = 65534

// initUser is initUID, or the last that the pod's user namespace has.
func initUser(p *Pod) uint32 {
	if ns := &p.config.Namespaces; ns.HasUserNamespace() {
		return min(initUID, ns.IDs.UID.Length-1, ns.IDs.GID.Length-1)
	}
	return initUID
}

// startInit starts the pod's own first process, where containers share a PID
// namespace: something must be process 1 there and reap.
func (t *Table) startInit(ctx context.Context, p *Pod) error {
	if !sharesPIDs(p.config) {
		return nil
	}
	dir := t.initDir(p.id)
	root := filepath.Join(dir, "rootfs")
	if err := os.MkdirAll(root, 0o711); err != nil {
		return err
	}
	if err := t.giveToRoot(p, root); err != nil { // who makes the mount points in it
		return err
	}
	l, err := t.podLabels(p)
	if err != nil {
		return err
	}
	if err := l.relabel(root); err != nil {
		return err
	}
	seccomp, err := spec.DefaultSeccomp(nil)
	if err != nil {
		return err
	}
	oci := t.initSpec(p)
	oci.Linux.Seccomp = seccomp
	l.confineInit(oci)
	if err := putSpec(dir, oci); err != nil {
		return err
	}
	shim, err := t.shims.client(ctx, p)
	if err != nil {
		return err
	}
	created, err := shim.Create(ctx, t.initCreate(p))
	if err != nil {
		return fmt.Errorf("cannot create the pod's init: %w", err)
	}
	if err := t.setPod(p, func(r *podRecord) {
		r.Init = pidfd.Process{Pid: created.Pid, StartTime: created.StartTime}
	}); err != nil {
		return err
	}
	return shim.Start(ctx, p.id)
}

// initCreate describes the init to a shim.
func (t *Table) initCreate(p *Pod) shimrpc.Create {
	id := initUser(p)
	uid, gid := t.hostIDs(p, id, id)
	return shimrpc.Create{ID: p.id, PodID: p.id, Bundle: t.initDir(p.id), Root: t.libcontainerRoot(),
		SystemdCgroup: t.cfg.SystemdCgroup, UID: uid, GID: gid}
}

// initSpec is an empty read-only root with one static program, no capability
// and no foreign descriptor.
func (t *Table) initSpec(p *Pod) *specs.Spec {
	c := p.config
	ns := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}
	for kind, path := range t.namespacePaths(p) {
		ns = append(ns, specs.LinuxNamespace{Type: kind, Path: path})
	}
	oci, _ := t.cgroup(c.CgroupParent, p.id)
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: filepath.Join(t.initDir(p.id), "rootfs"), Readonly: true},
		Process: &specs.Process{Args: []string{"/init"}, Cwd: "/", NoNewPrivileges: true,
			User: specs.User{UID: initUser(p), GID: initUser(p)}, Capabilities: &specs.LinuxCapabilities{}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}},
			{Destination: "/init", Type: "bind", Source: t.initPath(), Options: []string{"bind", "ro", "nosuid", "nodev"}},
		},
		Linux: &specs.Linux{Namespaces: ns, CgroupsPath: oci,
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list"},
			ReadonlyPaths: []string{"/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"}},
	}
}

// namespacePaths are the pinned namespaces of the pod, but for PID.
func (t *Table) namespacePaths(p *Pod) map[specs.LinuxNamespaceType]string {
	out := map[specs.LinuxNamespaceType]string{}
	if ns := t.userns(p); ns != nil {
		out[specs.UserNamespace] = ns.Path
	}
	if hasNetns(p.config) {
		out[specs.NetworkNamespace] = t.netns(p.id)
		out[specs.UTSNamespace] = t.nsPath(p.id, "uts")
	}
	if hasIPC(p.config) {
		out[specs.IPCNamespace] = t.nsPath(p.id, "ipc")
	}
	return out
}

// stopInit ends the init and with it every process of the shared namespace.
func (t *Table) stopInit(ctx context.Context, p *Pod) error {
	if !sharesPIDs(p.config) {
		return nil
	}
	if err := p.record().Init.Signal(unix.SIGKILL); err != nil {
		return err
	}
	return t.deleteFromShim(ctx, p, p.id)
}

// deleteFromShim ends what is left in the cgroup of a container or init and
// makes the shim forget it. It works without a shim too.
func (t *Table) deleteFromShim(ctx context.Context, p *Pod, id string) error {
	_, path := t.cgroup(p.config.CgroupParent, id)
	if cgroup.Exists(path) {
		if err := cgroup.Kill(path, unix.SIGKILL); err != nil {
			return err
		}
	}
	if err := t.shims.delete(ctx, p, id); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(t.libcontainerRoot(), id)); err != nil {
		return err
	}
	return cgroup.Remove(path)
}
