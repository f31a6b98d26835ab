package pod

import (
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/pidfd"
)

// phase is how far a pod or container has come, as its record says.
type phase string

const (
	phaseCreating phase = "creating" // made but not answered for: undone after a crash
	phaseReady    phase = "ready"    // pods: serving
	phaseStopping phase = "stopping" // pods: the stop goes on after a crash
	phaseStopped  phase = "stopped"  // pods: waits to be removed
	phaseCreated  phase = "created"  // containers: init waits for start
	phaseStarting phase = "starting" // containers: the start goes on after a crash
	phaseRunning  phase = "running"
	phaseExited   phase = "exited"
)

// podRecord is a pod's row, root/pods/ID.json. Only the Table writes it. It is
// durable before the first effect; later changes of phase are not synced,
// since a power cut ends the boot and with it what they tell.
type podRecord struct {
	ID        string        `json:"id"`
	BootID    string        `json:"boot_id"`
	Origin    Origin        `json:"origin"`
	ShimGroup ShimGroup     `json:"shim_group"` // whose shim holds its processes
	Config    spec.Pod      `json:"config"`
	Phase     phase         `json:"phase"`
	CreatedAt time.Time     `json:"created_at"`
	Lease     network.Lease `json:"lease"`
	// SELinuxLevel keeps the pod apart from others; empty where labels are off.
	SELinuxLevel string `json:"selinux_level,omitempty"`
	// Init is the pod's own first process where the PID namespace is shared.
	Init pidfd.Process `json:"init"`
	// Trouble is why the last verb that should end the pod could not.
	Trouble *Trouble `json:"trouble,omitempty"`
}

// containerRecord is a container's row, root/containers/ID.json, written like
// a pod's.
type containerRecord struct {
	ID     string           `json:"id"`
	PodID  string           `json:"pod_id"`
	BootID string           `json:"boot_id"`
	Config spec.Container   `json:"config"`
	Image  spec.ImageConfig `json:"image"`
	// VolumeImages are the ids of the images that are mounted as volumes, by
	// the number of the mount; empty for a host path.
	VolumeImages []string       `json:"volume_images,omitempty"`
	Phase        phase          `json:"phase"`
	CreatedAt    time.Time      `json:"created_at"`
	StartedAt    time.Time      `json:"started_at,omitzero"`
	User         spec.User      `json:"user"`
	StopSignal   string         `json:"stop_signal"`
	LogPath      string         `json:"log_path,omitempty"`
	Resources    spec.Resources `json:"resources"`
	Process      pidfd.Process  `json:"process"`
	Exit         *spec.Exit     `json:"exit,omitempty"`
	// StartError says why the program cannot be executed. The container has no
	// process then, and its start, which clients expect to fail, tells.
	StartError string `json:"start_error,omitempty"`
	// OOMBefore is how many OOM kills the parent cgroup had counted when the
	// container was started.
	OOMBefore uint64 `json:"oom_before,omitempty"`
	// Trouble is why the last verb that should end the container could not.
	Trouble *Trouble `json:"trouble,omitempty"`
	// From is the container, which has ended, of which this one is a new attempt,
	// and Keep tells whether its writable layer comes along as its volumes do.
	From string `json:"from,omitempty"`
	Keep bool   `json:"keep,omitempty"`
	// StopAsked says that somebody wanted the container to end, so that no
	// restart policy brings it back. Only local containers have it.
	StopAsked bool `json:"stop_asked,omitempty"`
	// Restore says that its start brings back the processes of a checkpoint,
	// which lies in savedDir until then.
	Restore bool `json:"restore,omitempty"`
	// Paused says that all of its processes stand still.
	Paused bool `json:"paused,omitempty"`
	// Checkpoint are the files and directories that a checkpoint under way
	// makes, which freezes the container; none: there is none.
	Checkpoint []string `json:"checkpoint,omitempty"`
}

// latest keeps the times of a container in order where the clock was set back.
func latest(t time.Time, earlier ...time.Time) time.Time {
	for _, e := range earlier {
		if t.Before(e) {
			t = e
		}
	}
	return t
}

// Where things of a pod and a container are. Every name derives from the id,
// so that undo needs no memory.

func (t *Table) podDir(id string) string     { return filepath.Join(t.cfg.State, "pods", id) }
func (t *Table) nsPath(id, ns string) string { return filepath.Join(t.podDir(id), "ns", ns) }
func (t *Table) shmDir(id string) string     { return filepath.Join(t.podDir(id), "shm") }
func (t *Table) initDir(id string) string    { return filepath.Join(t.podDir(id), "init") }
func (t *Table) bundle(id string) string     { return filepath.Join(t.cfg.State, "containers", id) }
func (t *Table) rootfs(id string) string     { return filepath.Join(t.bundle(id), "rootfs") }
func (t *Table) volumeDir(id string) string  { return filepath.Join(t.cfg.Root, "volumes", id) }
func (t *Table) savedDir(id string) string   { return filepath.Join(t.volumeDir(id), "saved") }
func (t *Table) netns(id string) string      { return filepath.Join(t.cfg.NetnsDir, netnsPrefix+id) }
func (t *Table) libcontainerRoot() string    { return filepath.Join(t.cfg.State, "libcontainer") }

const netnsPrefix = "berth-"

// cgroup gives the OCI cgroupsPath of a pod's init or a container, and the path of
// the same group below the hierarchy's root. The leaf is one that the kubelet
// can parse: the 64 hex digits, or a scope that ends in them.
func (t *Table) cgroup(parent, id string) (oci, path string) {
	if parent == "" {
		parent = t.cfg.CgroupParent
		if t.cfg.SystemdCgroup && !strings.HasSuffix(parent, ".slice") {
			parent += ".slice" // one default serves both drivers
		}
	}
	if !t.cfg.SystemdCgroup {
		p := filepath.Join("/", parent, id)
		return p, p
	}
	slice := filepath.Base(parent)
	return slice + ":berth:" + id, filepath.Join(slicePath(slice), "berth-"+id+".scope")
}

// slicePath is where systemd has a slice: its name alone tells, whatever path
// a client gives. "a-b.slice" is in "a.slice".
func slicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	if name == "-" {
		return "/" // the root slice
	}
	path := "/"
	for i, r := range name {
		if r == '-' {
			path = filepath.Join(path, name[:i]+".slice")
		}
	}
	return filepath.Join(path, slice)
}
