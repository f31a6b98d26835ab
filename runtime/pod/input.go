package pod

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// specInput gathers what spec.Build needs of the host.
func (t *Table) specInput(ctx context.Context, c *container) (*spec.Input, error) {
	rec, pod := c.record(), c.pod.record()
	if rec.Config.Security.Privileged && !pod.Config.Privileged {
		return nil, errkind.New(errkind.FailedPrecondition, "it is privileged but its pod is not")
	}
	handler, err := t.handler(pod.Config.RuntimeHandler)
	if err != nil {
		return nil, err
	}
	oci, _ := t.cgroup(pod.Config.CgroupParent, c.id)
	in := &spec.Input{ID: c.id, PodID: pod.ID, Pod: &pod.Config, Container: &rec.Config, Image: &rec.Image, User: rec.User, Handler: handler,
		Hostname: hostname(&pod.Config), Rootfs: t.rootfs(c.id), CgroupPath: oci, HostCaps: t.hostCaps,
		CgroupV2: cgroup.Unified(), NoSwapLimit: !cgroup.SwapLimit()}
	if in.NamespacePaths, err = t.containerNamespaces(c); err != nil {
		return nil, err
	}
	if in.Mounts, err = t.containerMounts(ctx, c); err != nil {
		return nil, err
	}
	if in.Devices, err = hostDevices(rec.Config.Devices); err != nil {
		return nil, err
	}
	if rec.Config.Security.Privileged && !handler.NoHostDevices {
		if in.HostDevices, err = allDevices(); err != nil {
			return nil, err
		}
	}
	l, err := t.containerLabels(c)
	if err != nil {
		return nil, err
	}
	in.ProcessLabel, in.MountLabel = l.process, l.file.String()
	if err := t.relabelMounts(c, l, in.Mounts); err != nil {
		return nil, err
	}
	if in.AppArmor, err = t.appArmor(&rec.Config.Security); err != nil {
		return nil, err
	}
	in.Seccomp, err = t.seccomp(&rec.Config.Security, handler.Seccomp)
	return in, err
}

// containerNamespaces are the paths of the namespaces that the container joins.
func (t *Table) containerNamespaces(c *container) (map[specs.LinuxNamespaceType]string, error) {
	out := t.namespacePaths(c.pod)
	var pid int
	switch ns := c.rec.Config.Security.Namespaces; ns.PID {
	case spec.ModePod:
		init := c.pod.record().Init
		if !init.Alive() {
			return nil, errkind.New(errkind.FailedPrecondition, "pod %s has no shared PID namespace, or its init has ended; run the pod with PID mode POD", c.pod.id)
		}
		pid = init.Pid
	case spec.ModeTarget:
		target, err := t.findContainer(ViewAll, ns.TargetID)
		if err != nil {
			return nil, err
		}
		rec := target.record()
		if target.pod != c.pod || rec.Phase != phaseRunning || !rec.Process.Alive() {
			return nil, errkind.New(errkind.FailedPrecondition, "target container %s is not running in pod %s", ns.TargetID, c.pod.id)
		}
		if rec.Config.Security.Namespaces.PID != spec.ModeContainer {
			// What it is in is not its own: it may be the host's.
			return nil, errkind.New(errkind.FailedPrecondition, "target container %s has no PID namespace of its own: it was created with mode %s, not CONTAINER",
				ns.TargetID, strings.ToUpper(string(rec.Config.Security.Namespaces.PID)))
		}
		pid = rec.Process.Pid
	default:
		return out, nil
	}
	out[specs.PIDNamespace] = "/proc/" + strconv.Itoa(pid) + "/ns/pid"
	return out, nil
}

// containerMounts are the pod's files, the image's volumes that nothing
// covers, and the mounts asked for, in this order: later ones win.
func (t *Table) containerMounts(ctx context.Context, c *container) ([]specs.Mount, error) {
	rec, pod := c.record(), c.pod.record()
	mode := "rw"
	if rec.Config.Security.ReadonlyRootfs {
		mode = "ro"
	}
	var out []specs.Mount
	for _, path := range t.etcFiles(c.pod) {
		out = append(out, specs.Mount{Destination: "/etc/" + filepath.Base(path), Type: "bind", Source: path,
			Options: []string{"rbind", "rprivate", mode}})
	}
	shm := "/dev/shm"
	if hasIPC(&pod.Config) {
		shm = t.shmDir(c.pod.id)
	}
	out = append(out, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"}})

	asked, err := t.askedMounts(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := t.prepareVolumes(ctx, c); err != nil {
		return nil, err
	}
	asked = append(asked, tmpfsMounts(rec.Config.Extra.Tmpfs)...)
	covered := map[string]bool{}
	for _, m := range asked {
		covered[filepath.Clean(m.Destination)] = true
	}
	// What an image declares must not cover what the runtime mounts.
	volumes, err := spec.VolumePaths(&rec.Image, rec.Config.Extra.Volumes...)
	if err != nil {
		return nil, err
	}
	for i, clean := range volumes {
		if covered[clean] {
			continue
		}
		dst := filepath.Join(t.volumeDir(c.id), strconv.Itoa(i))
		if err := t.copyUp(ctx, c, clean, dst); err != nil {
			return nil, err
		}
		out = append(out, specs.Mount{Destination: clean, Type: "bind", Source: dst, Options: []string{"rbind", "rprivate", "rw"}})
	}
	kept := out[:0]
	for _, m := range out {
		if !covered[m.Destination] {
			kept = append(kept, m)
		}
	}
	return append(kept, asked...), nil
}

// tmpfsMounts are file systems in memory; their options add to docker's own.
func tmpfsMounts(asked []spec.Tmpfs) []specs.Mount {
	var out []specs.Mount
	for _, m := range asked {
		out = append(out, specs.Mount{Destination: m.Path, Type: "tmpfs", Source: "tmpfs",
			Options: append([]string{"nosuid", "nodev", "noexec"}, m.Options...)})
	}
	return out
}

func (t *Table) copyUp(ctx context.Context, c *container, path, dst string) error {
	if err := os.MkdirAll(t.volumeDir(c.id), 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(dst); err == nil && c.record().From != "" {
		return nil // what earlier attempts made of it, even if that is nothing
	}
	if err := t.cfg.Volumes.CopyUp(ctx, t.rootfs(c.id), path, dst); err != nil {
		return fmt.Errorf("cannot fill the image's volume %s: %w", path, err)
	}
	// One that the image has not is the host's root's, and must be the pod's.
	if st, err := os.Stat(dst); err != nil || !ownedByRoot(st) {
		return err
	}
	return t.giveToRoot(c.pod, dst)
}

// reader makes a reader of a file that may be absent. spec.ResolveUser bounds
// what it reads.
func reader(f *os.File) io.Reader {
	if f == nil {
		return nil
	}
	return f
}

// signalName normalises "term", "SIGTERM" or "15" to "SIGTERM".
func signalName(s string) (string, error) {
	sig, err := parseSignal(s)
	if err != nil {
		return "", err
	}
	if name := unix.SignalName(sig); name != "" {
		return name, nil
	}
	return strings.ToUpper(s), nil
}

// parseSignal understands names with and without SIG, real-time signals as
// SIGRTMIN+N and SIGRTMAX-N, and numbers.
func parseSignal(s string) (unix.Signal, error) {
	name := strings.ToUpper(strings.TrimSpace(s))
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n < 65 {
		return unix.Signal(n), nil
	}
	name = "SIG" + strings.TrimPrefix(name, "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	const rtmin, rtmax = 34, 64
	for prefix, base := range map[string]int{"SIGRTMIN": rtmin, "SIGRTMAX": rtmax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(rest); err != nil {
				continue
			}
		}
		if n += base; n >= rtmin && n <= rtmax {
			return unix.Signal(n), nil
		}
	}
	return 0, errkind.New(errkind.InvalidArgument, "signal %q is not known", s)
}
