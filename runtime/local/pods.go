package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/local/manifest"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// ManifestAnnotation is on pods that were made of a manifest, and is that: all
// that is to be done for the pod follows from it and from the rows.
const ManifestAnnotation = "io.berth.manifest"

// Change is what Apply did.
type Change string

// The changes.
const (
	Created   Change = "created"
	Unchanged Change = "unchanged"
	Replaced  Change = "replaced"
)

// Applied tells of one pod of a manifest.
type Applied struct {
	Namespace, Name string
	Change          Change
	Differs         []string // in what it differed from what was there, by fields
	Pod             string   // its id; empty with a dry run that would make one
	Images          []manifest.Image
}

// Apply makes the pods of a manifest. One that is there and asks for the same is
// left as it is; one that differs is removed, with what its emptyDirs hold, and
// made anew. With dry nothing is done, and what would be is told.
func (s *Service) Apply(ctx context.Context, text []byte, dry bool) ([]Applied, error) {
	pods, err := manifest.Parse(text)
	if err != nil {
		return nil, err
	}
	if err := twice(pods); err != nil {
		return nil, err
	}
	var out []Applied
	for i := range pods {
		a, err := s.apply(ctx, &pods[i], dry)
		if err != nil {
			return out, fmt.Errorf("cannot apply pod %s/%s: %w", pods[i].NamespaceOrDefault(), pods[i].Metadata.Name, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// twice refuses two pods of one name.
func twice(pods []manifest.Pod) error {
	taken := map[string]bool{}
	for i := range pods {
		name := pods[i].NamespaceOrDefault() + "/" + pods[i].Metadata.Name
		if taken[name] {
			return errkind.New(errkind.InvalidArgument, "cannot apply the manifest: it has two pods %s", name)
		}
		taken[name] = true
	}
	return nil
}

func (s *Service) apply(ctx context.Context, m *manifest.Pod, dry bool) (Applied, error) {
	out := Applied{Namespace: m.NamespaceOrDefault(), Name: m.Metadata.Name, Change: Created, Images: m.Plan(s.place("", "", "")).Images}
	// All that are made of manifests of one name follow each other.
	defer s.locks.Lock("manifest " + out.Namespace + "/" + out.Name)()
	there, err := s.named(out.Namespace, out.Name)
	if err != nil {
		return out, err
	}
	if there != nil {
		before, err := manifestOf(there)
		if err != nil {
			return out, err
		}
		out.Pod, out.Change, out.Differs = there.ID, Unchanged, manifest.Differences(before, m)
		if len(out.Differs) == 0 {
			return out, nil
		}
		out.Change = Replaced
	}
	if dry {
		return out, nil
	}
	if there != nil {
		if err := s.delete(ctx, there); err != nil {
			return out, err
		}
	}
	out.Pod, err = s.make(ctx, m)
	return out, err
}

// Delete ends and removes the pods of a manifest, of which only the names count.
// One that is not there is success. It returns those that were.
func (s *Service) Delete(ctx context.Context, text []byte) ([]Applied, error) {
	pods, err := manifest.Parse(text)
	if err != nil {
		return nil, err
	}
	var out []Applied
	for i := range pods {
		ns, name := pods[i].NamespaceOrDefault(), pods[i].Metadata.Name
		err := func() error {
			defer s.locks.Lock("manifest " + ns + "/" + name)()
			there, err := s.named(ns, name)
			if err != nil || there == nil {
				return err
			}
			out = append(out, Applied{Namespace: ns, Name: name, Pod: there.ID})
			return s.delete(ctx, there)
		}()
		if err != nil {
			return out, fmt.Errorf("cannot delete pod %s/%s: %w", ns, name, err)
		}
	}
	return out, nil
}

// named is the newest attempt of the local pod that was made of a manifest of
// that name; nil: there is none. A pod that was made in another way is in the way.
func (s *Service) named(ns, name string) (*pod.PodStatus, error) {
	for _, p := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) { // newest first
		m := p.Config.Metadata
		if m.Namespace != ns || m.Name != name || p.Origin != pod.OriginLocal {
			continue
		}
		if p.Config.Annotations[ManifestAnnotation] == "" {
			return nil, errkind.New(errkind.AlreadyExists, "pod %.12s has this name, and was made in another way; remove it first: berth rm -f %.12s", p.ID, p.ID)
		}
		return p, nil
	}
	return nil, nil
}

func manifestOf(p *pod.PodStatus) (*manifest.Pod, error) {
	pods, err := manifest.Parse([]byte(p.Config.Annotations[ManifestAnnotation]))
	if err != nil {
		return nil, fmt.Errorf("the manifest in the record of pod %s: %w", p.ID, err)
	}
	return &pods[0], nil
}

// place is where a pod has what the node adds to its manifest.
func (s *Service) place(name, uid, logRoot string) manifest.Place {
	return manifest.Place{UID: uid, LogDirectory: filepath.Join(logRoot, name+"_"+uid), Dir: func(volume string, memory bool) string {
		if memory {
			return filepath.Join(s.cfg.State, "local", uid, volume)
		}
		return filepath.Join(s.cfg.Root, "local", uid, volume)
	}}
}

func (s *Service) planOf(m *manifest.Pod, uid string) *manifest.Plan {
	plan := m.Plan(s.place(m.Metadata.Name, uid, s.cfg.LogRoot))
	plan.Pod.Annotations = maps.Clone(plan.Pod.Annotations)
	if plan.Pod.Annotations == nil {
		plan.Pod.Annotations = map[string]string{}
	}
	plan.Pod.Annotations[ManifestAnnotation] = m.Text()
	return plan
}

// policyFor is when a container of a manifest is started again: its init
// containers until they succeed, sidecars always.
func policyFor(m *manifest.Pod, name string) string {
	for i := range m.Spec.InitContainers {
		if c := &m.Spec.InitContainers[i]; c.Name == name {
			switch {
			case c.Sidecar():
				return always
			case m.Spec.RestartPolicy == "Never":
				return never
			}
			return onFailure
		}
	}
	switch m.Spec.RestartPolicy {
	case "Never":
		return never
	case "OnFailure":
		return onFailure
	}
	return always
}

// make runs the pod and begins with its containers. On failure nothing stays.
func (s *Service) make(ctx context.Context, m *manifest.Pod) (string, error) {
	// Once begun it is carried through, or taken back: a caller that goes away
	// in between would not know what is there.
	ctx = context.WithoutCancel(ctx)
	var uid [16]byte
	_, _ = rand.Read(uid[:]) // never fails
	plan := s.planOf(m, hex.EncodeToString(uid[:]))
	if err := checkHostPaths(plan.HostPaths); err != nil {
		return "", err
	}
	id, err := s.cfg.Pods.Run(ctx, pod.ViewAll, plan.Pod)
	if err != nil {
		return "", err
	}
	if err = s.advance(ctx, id); err == nil {
		return id, nil
	}
	if p, perr := s.cfg.Pods.Pod(pod.ViewAll, id); perr == nil {
		err = errors.Join(err, s.delete(ctx, p))
	}
	return "", err
}

// advance brings a pod of a manifest as far as it can be at this moment. It may
// be called any number of times.
func (s *Service) advance(ctx context.Context, id string) error {
	p, unlock, err := s.lockPod(id)
	if err != nil {
		return err
	}
	defer unlock()
	return s.advanceLocked(ctx, p)
}

func (s *Service) advanceLocked(ctx context.Context, p *pod.PodStatus) error {
	m, err := manifestOf(p)
	if err != nil {
		return err
	}
	plan := s.planOf(m, p.Config.Metadata.UID)
	if !p.Ready {
		if s.wanted(p, plan) {
			return s.renew(ctx, p)
		}
		return nil
	}
	there := s.latest(p.ID)
	for _, c := range plan.Init {
		have := there[c.Metadata.Name]
		if have == nil || have.State == pod.StateCreated {
			if have, err = s.begin(ctx, p.ID, m, plan, c, have); err != nil {
				return err
			}
		}
		sidecar := plan.Sidecars[c.Metadata.Name]
		switch {
		case sidecar:
		case have.State == pod.StateExited && have.ExitCode == 0:
		case have.State == pod.StateExited && !policyOf(have).again(have, triesOf(have).count):
			// It has failed for good, and the pod with it.
			return s.cfg.Pods.Stop(ctx, pod.ViewAll, p.ID)
		default:
			return nil // its end brings us here again
		}
	}
	over := true
	for _, c := range plan.Containers {
		have := there[c.Metadata.Name]
		if have == nil || have.State == pod.StateCreated {
			if have, err = s.begin(ctx, p.ID, m, plan, c, have); err != nil {
				return err
			}
		}
		over = over && have.State == pod.StateExited && !policyOf(have).again(have, triesOf(have).count)
	}
	if over {
		// Sidecars end with it, and its address and ports are free.
		return s.cfg.Pods.Stop(ctx, pod.ViewAll, p.ID)
	}
	return nil
}

// wanted tells whether a pod that is not ready is to be made again: a container
// of it is to be started again, or it came to an end before it had them all. Init
// containers and sidecars are not what it is there for.
func (s *Service) wanted(p *pod.PodStatus, plan *manifest.Plan) bool {
	there := s.latest(p.ID)
	for _, c := range plan.Containers {
		if have := there[c.Metadata.Name]; have != nil && policyOf(have).again(have, triesOf(have).count) {
			return true
		}
	}
	for _, have := range there {
		if have.StopAsked {
			return false
		}
	}
	return len(there) < len(plan.Init)+len(plan.Containers)
}

// latest are the containers of a pod by name, of each the newest attempt.
func (s *Service) latest(podID string) map[string]*pod.ContainerStatus {
	out := map[string]*pod.ContainerStatus{}
	for _, c := range s.members(podID) {
		if have := out[c.Config.Metadata.Name]; have == nil || c.Config.Metadata.Attempt > have.Config.Metadata.Attempt {
			out[c.Config.Metadata.Name] = c
		}
	}
	return out
}

// begin makes a container of a manifest, unless have was made before, and
// starts it.
func (s *Service) begin(ctx context.Context, podID string, m *manifest.Pod, plan *manifest.Plan, c spec.Container, have *pod.ContainerStatus) (*pod.ContainerStatus, error) {
	c.Mounts = slices.Clone(c.Mounts)
	for _, d := range plan.EmptyDirs {
		for i := range c.Mounts {
			if c.Mounts[i].HostPath != d.Path {
				continue
			}
			c.Mounts[i].SELinuxRelabel = true // it is the pod's
			if err := makeDir(d); err != nil {
				return nil, fmt.Errorf("cannot make a volume of container %s: %w", c.Metadata.Name, err)
			}
		}
	}
	id := ""
	if have != nil {
		id = have.ID
	} else {
		c.Annotations = map[string]string{RestartAnnotation: policyFor(m, c.Metadata.Name)}
		var err error
		if id, err = s.cfg.Pods.Create(ctx, pod.ViewAll, podID, c); err != nil {
			return nil, fmt.Errorf("cannot make container %s: %w", c.Metadata.Name, err)
		}
	}
	if err := s.cfg.Pods.Start(ctx, pod.ViewAll, id); err != nil {
		return nil, fmt.Errorf("cannot start container %s: %w", c.Metadata.Name, err)
	}
	return s.cfg.Pods.Container(pod.ViewAll, id)
}

// renew makes the next attempt of a pod of a manifest that was stopped or that a
// reboot has ended: with all its containers, the init containers first. The
// caller has the pod locked.
func (s *Service) renew(ctx context.Context, p *pod.PodStatus) error {
	ctx = context.WithoutCancel(ctx)
	next := s.readyAttempt(p)
	if next == "" {
		var err error
		if next, err = s.cfg.Pods.Run(ctx, pod.ViewAll, s.nextPod(p)); err != nil {
			return err
		}
	}
	for _, c := range s.members(p.ID) {
		s.forget(c.ID)
	}
	if err := s.cfg.Pods.Remove(ctx, pod.ViewAll, p.ID); err != nil {
		return err
	}
	now, err := s.cfg.Pods.Pod(pod.ViewAll, next)
	if err != nil {
		return err
	}
	return s.advanceLocked(ctx, now)
}

// ofManifest tells whether a pod was made of one.
func ofManifest(p *pod.PodStatus) bool {
	return p != nil && p.Origin == pod.OriginLocal && p.Config.Annotations[ManifestAnnotation] != ""
}

// advanceSoon advances a pod beside what is under way, until that succeeds.
func (s *Service) advanceSoon(p *pod.PodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	// Two at a time wait for each other, and the second sees what the first did.
	s.work.Go(func() {
		for delay := firstDelay; ; delay = min(2*delay, lastDelay) {
			err := s.advance(s.ctx, p.ID)
			if err == nil || gone(err) || s.ctx.Err() != nil {
				return
			}
			s.logged("Cannot go on with a pod of a manifest", &pod.ContainerStatus{ID: p.ID}, err)
			select {
			case <-s.ctx.Done():
				return
			case <-time.After(delay):
			}
		}
	})
}

// beginPods goes on with the pods of manifests after a start of the daemon, and
// removes the directories of those that are gone.
func (s *Service) beginPods(ctx context.Context) {
	newest := map[spec.PodMetadata]*pod.PodStatus{}
	kept := map[string]bool{}
	for _, p := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) { // newest first
		if !ofManifest(p) {
			continue
		}
		kept[p.Config.Metadata.UID] = true
		if newest[identity(p)] == nil {
			newest[identity(p)] = p
			continue
		}
		// A renewal was cut: the one before has nothing more.
		s.logged("Cannot remove an earlier attempt of a pod", &pod.ContainerStatus{ID: p.ID}, s.cfg.Pods.Remove(ctx, pod.ViewAll, p.ID))
	}
	for _, p := range newest {
		s.advanceSoon(p)
	}
	for _, base := range []string{s.cfg.Root, s.cfg.State} {
		entries, err := os.ReadDir(filepath.Join(base, "local"))
		if err != nil {
			continue // there never was one
		}
		for _, e := range entries {
			if !kept[e.Name()] {
				s.logged("Cannot remove the volumes of a pod that is gone", &pod.ContainerStatus{ID: e.Name()}, s.removeDirs(e.Name()))
			}
		}
	}
}

// delete ends and removes a pod of a manifest, all its attempts, with what its
// emptyDirs hold.
func (s *Service) delete(ctx context.Context, p *pod.PodStatus) error {
	ctx = context.WithoutCancel(ctx)
	defer s.locks.Lock(lockName(p))()
	grace := time.Duration(manifest.DefaultGrace) * time.Second
	if m, err := manifestOf(p); err == nil {
		grace = time.Duration(m.Grace()) * time.Second
	}
	var ends []error
	results := make(chan error)
	running := slices.DeleteFunc(slices.Clone(s.members(p.ID)), func(c *pod.ContainerStatus) bool { return c.State != pod.StateRunning })
	for _, c := range running {
		go func() { results <- s.cfg.Pods.StopContainer(ctx, pod.ViewAll, c.ID, grace) }()
	}
	for range running {
		ends = append(ends, <-results)
	}
	if err := errors.Join(ends...); err != nil {
		return err
	}
	for _, o := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		if o.Origin == pod.OriginLocal && identity(o) == identity(p) {
			if err := s.cfg.Pods.Remove(ctx, pod.ViewAll, o.ID); err != nil {
				return err
			}
		}
	}
	return s.removeDirs(p.Config.Metadata.UID)
}

// removed is told that a pod is gone, by whomever.
func (s *Service) removed(p *pod.PodStatus) {
	if !ofManifest(p) {
		return
	}
	defer s.locks.Lock(lockName(p))()
	for _, o := range s.cfg.Pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		if identity(o) == identity(p) {
			return // another attempt has what it had
		}
	}
	s.logged("Cannot remove the volumes of a pod", &pod.ContainerStatus{ID: p.ID}, s.removeDirs(p.Config.Metadata.UID))
}

// makeDir makes the directory of an emptyDir, where it is not there, or what a
// reboot took of it.
func makeDir(d manifest.Dir) error {
	if err := os.MkdirAll(filepath.Dir(d.Path), 0o711); err != nil {
		return err
	}
	switch err := os.Mkdir(d.Path, 0o700); {
	case err == nil:
		// Whoever the containers run as.
		if err := os.Chmod(d.Path, 0o777); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	if !d.Memory {
		return nil
	}
	return mountMemory(d)
}

func mountMemory(d manifest.Dir) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(table, func(m mount.Info) bool { return m.Target == d.Path }) {
		return nil
	}
	options := "mode=1777"
	if d.Size > 0 {
		options += ",size=" + strconv.FormatInt(d.Size, 10)
	}
	return unix.Mount("tmpfs", d.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
}

// removeDirs removes the directories of a pod's emptyDirs.
func (s *Service) removeDirs(uid string) error {
	memory := filepath.Join(s.cfg.State, "local", uid)
	entries, err := os.ReadDir(memory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var all []error
	for _, e := range entries {
		all = append(all, mount.Unmount(filepath.Join(memory, e.Name())))
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(memory), os.RemoveAll(filepath.Join(s.cfg.Root, "local", uid)))
}

// checkHostPaths holds paths of the host to the types that they are to have, and
// makes those that are to be made.
func checkHostPaths(paths []manifest.HostPath) error {
	for _, h := range paths {
		if err := checkHostPath(h); err != nil {
			return errkind.New(errkind.FailedPrecondition, "hostPath %s: %w", h.Path, err)
		}
	}
	return nil
}

func checkHostPath(h manifest.HostPath) error {
	st, err := os.Stat(h.Path)
	kind, create := strings.CutSuffix(h.Type, "OrCreate")
	if create && errors.Is(err, fs.ErrNotExist) {
		if kind == "Directory" {
			return os.MkdirAll(h.Path, 0o755)
		}
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	if h.Type == "" {
		return nil // whatever it is; one that is not there is as for every other mount
	}
	if err != nil {
		return err
	}
	mode := st.Mode()
	is := map[string]bool{
		"Directory": mode.IsDir(), "File": mode.IsRegular(), "Socket": mode&fs.ModeSocket != 0,
		"CharDevice": mode&fs.ModeCharDevice != 0, "BlockDevice": mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0,
	}[kind]
	if !is {
		return fmt.Errorf("it is no %s", kind)
	}
	return nil
}

// Manifest gives a manifest of any pod. lost tells what it cannot say.
func (s *Service) Manifest(id string) (text string, lost []string, err error) {
	p, err := s.cfg.Pods.Pod(pod.ViewAll, id)
	if err != nil {
		return "", nil, err
	}
	if ofManifest(p) {
		return p.Config.Annotations[ManifestAnnotation], nil, nil
	}
	var containers []spec.Container
	restart := "Never"
	for _, c := range slices.Backward(s.members(p.ID)) { // oldest first
		if slices.ContainsFunc(containers, func(o spec.Container) bool { return o.Metadata.Name == c.Config.Metadata.Name }) {
			continue // another attempt
		}
		containers = append(containers, *c.Config)
		switch policyOf(c).kind {
		case always, unlessStopped:
			restart = "Always"
		case onFailure:
			restart = "OnFailure"
		}
	}
	m, lost := manifest.Of(p.Config, containers, restart)
	return m.Text(), lost, nil
}
