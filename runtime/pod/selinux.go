package pod

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/selinux"
)

// Labels gives pods and containers their labels of SELinux. Nil: they get none.
type Labels struct {
	policy *selinux.Policy
	known  func(selinux.Label) error // asks the kernel
	mu     sync.Mutex                // held while a level is picked and noted
}

// NewLabels gives labels by the host's policy, on a host that has SELinux on.
func NewLabels(p *selinux.Policy) *Labels { return &Labels{policy: p, known: selinux.Known} }

// labels are those of one container; all are empty where it gets none.
type labels struct {
	process string // empty for a privileged container too: what that is, the policy says
	file    selinux.Label
	shared  selinux.Label // of files that the containers of all pods may use
}

func askedLabel(s *spec.SELinux) selinux.Label {
	if s == nil {
		return selinux.Label{}
	}
	return selinux.Label{User: s.User, Role: s.Role, Type: s.Type, Level: s.Level}
}

// labelPod checks the label that a pod asks for and notes its level: the one
// asked for, or one that no other pod has.
func (t *Table) labelPod(p *Pod) error {
	l := t.cfg.SELinux
	if l == nil {
		return refuseLabel(p.config.SELinux)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	level := askedLabel(p.config.SELinux).Level
	if level == "" {
		var err error
		if level, err = selinux.FreeLevel(t.takenLevels()); err != nil {
			return err
		}
	}
	if _, err := l.of(askedLabel(p.config.SELinux), level); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rec.SELinuxLevel = level
	return nil
}

// takenLevels are those of all pods that there are, since this daemon's start
// or before it, and of those that are being made.
func (t *Table) takenLevels() map[string]bool {
	taken := map[string]bool{}
	for _, p := range t.snapshotPods() {
		taken[p.record().SELinuxLevel] = true
	}
	return taken
}

// of works out labels and asks the kernel whether it has them.
func (l *Labels) of(asked selinux.Label, level string) (labels, error) {
	process, file, err := l.policy.Labels(asked, level)
	if err != nil {
		return labels{}, err
	}
	for _, label := range []selinux.Label{process, file} {
		if err := l.known(label); err != nil {
			return labels{}, err
		}
	}
	return labels{process.String(), file, l.policy.File}, nil
}

// copyInit copies the program of pods' inits to where it can have a label that
// lets containers execute it: at its own place it is a program of the host's.
// It does so at every start of the daemon, and replaces what is there.
func (l *Labels) copyInit(from, to string) error {
	program, err := os.ReadFile(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a pod that wants it is told
	}
	if err != nil {
		return err
	}
	if err := atomicfile.Write(to, program, 0o755); err != nil {
		return err
	}
	return selinux.Set(to, l.policy.ReadOnly.String())
}

// confineInit gives the pod's init the pod's label. Its /dev becomes a mount with
// that of its files, like every container's: clients look for a pod's label among
// the mounts of process 1 (kubernetes' specs of CRI do).
func (l labels) confineInit(oci *specs.Spec) {
	if l.file == (selinux.Label{}) {
		return
	}
	oci.Process.SelinuxLabel, oci.Linux.MountLabel = l.process, l.file.String()
	oci.Mounts = append(oci.Mounts, specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "mode=755", "size=64k"}})
}

// initPath is the program of pods' inits.
func (t *Table) initPath() string {
	if t.cfg.SELinux == nil {
		return t.cfg.InitPath
	}
	return filepath.Join(t.cfg.Root, "berth-init")
}

// podLabels are those of what belongs to the pod and of containers that ask for
// none.
func (t *Table) podLabels(p *Pod) (labels, error) {
	if t.cfg.SELinux == nil {
		return labels{}, nil
	}
	return t.cfg.SELinux.of(askedLabel(p.config.SELinux), p.record().SELinuxLevel)
}

// containerLabels are those that a container asks for, or its pod's. Without a
// level of its own it has its pod's, to share what the pod has.
func (t *Table) containerLabels(c *container) (labels, error) {
	if t.cfg.SELinux == nil {
		return labels{}, refuseLabel(c.asked().Security.SELinux)
	}
	out, err := t.cfg.SELinux.of(c.askedLabel(), c.pod.record().SELinuxLevel)
	if c.asked().Security.Privileged {
		out.process = ""
	}
	return out, err
}

// askedLabel is what the container asks for, or its pod.
func (c *container) askedLabel() selinux.Label {
	if asked := c.asked().Security.SELinux; asked != nil {
		return askedLabel(asked)
	}
	return askedLabel(c.pod.config.SELinux)
}

// refuseLabel refuses a label on a host that has SELinux, where it would have
// to be given and is not: to run without would be to say that it is confined
// as asked. A host without SELinux has nothing that a label could change.
func refuseLabel(asked *spec.SELinux) error {
	if asked == nil || !selinux.Enabled() {
		return nil
	}
	return errkind.New(errkind.FailedPrecondition, "cannot give it the SELinux label %s: set selinux.enable in the configuration of berthd", askedLabel(asked))
}

// relabel gives files of ours, or of a client that asks for it, to those who
// have the labels.
func (l labels) relabel(paths ...string) error {
	if l.file == (selinux.Label{}) {
		return nil
	}
	for _, path := range paths {
		if err := selinux.Relabel(path, l.file); err != nil {
			return err
		}
	}
	return nil
}

// relabelMounts relabels the volumes that the image declares and named ones,
// which are ours, and the host paths for which the client asks it. What else is
// mounted keeps its label, wherever in the container it appears (CVE-2021-43816).
func (t *Table) relabelMounts(c *container, l labels, mounts []specs.Mount) error {
	if t.cfg.SELinux == nil {
		return nil
	}
	asked := map[string]bool{}
	for _, m := range c.asked().Mounts {
		asked[filepath.Clean(m.ContainerPath)] = m.SELinuxRelabel && m.Image == ""
	}
	for _, m := range mounts {
		var err error
		switch {
		case asked[m.Destination] && slices.Contains(c.asked().Extra.SharedLabel, m.Destination):
			err = selinux.Relabel(m.Source, l.shared)
		case asked[m.Destination] || filepath.Dir(m.Source) == t.volumeDir(c.id):
			err = l.relabel(m.Source)
		case t.cfg.Volumes.IsNamed(m.Source):
			err = selinux.RelabelUnlike(m.Source, l.shared)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// toldLabels are those that a container's status tells. That a privileged one's
// processes have is the policy's to say, and not told.
func (t *Table) toldLabels(c *container) (process, file string) {
	if t.cfg.SELinux == nil {
		return "", ""
	}
	p, f, err := t.cfg.SELinux.policy.Labels(c.askedLabel(), c.pod.record().SELinuxLevel)
	if err != nil {
		return "", "" // it has been refused, and is not made
	}
	if c.asked().Security.Privileged {
		return "", f.String()
	}
	return p.String(), f.String()
}

// mountRoot mounts the container's root file system.
func (t *Table) mountRoot(ctx context.Context, c *container) error {
	l, err := t.containerLabels(c)
	if err != nil {
		return err
	}
	return t.cfg.Images.Mount(ctx, c.id, t.rootfs(c.id), t.userns(c.pod), l.file.String())
}
