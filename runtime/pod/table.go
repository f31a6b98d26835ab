package pod

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/sys/capability"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/cdi"
	"github.com/berth-runtime/berth/runtime/checkpoint"
	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/state"
	"github.com/berth-runtime/berth/runtime/stats"
	"github.com/berth-runtime/berth/runtime/steps"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Config of a Table. Root, State and NetnsDir are absolute.
type Config struct {
	Root          string // records; survives a reboot
	State         string // what a reboot ends anyway
	NetnsDir      string // where network namespaces are pinned
	CgroupParent  string // for pods that name none
	SystemdCgroup bool
	BootID        string
	InitPath      string // the pod init for shared PID namespaces
	Shim          ShimConfig
	Images        Images
	Volumes       Volumes
	Network       network.Network
	// Handlers are the runtime handlers by name. The empty name is the default
	// one's; without an entry it is the built-in one.
	Handlers   map[string]spec.Handler
	CDI        cdi.Dirs // where the devices of CDI are specified
	AppArmor   string   // profile of containers that ask for no other; empty: none
	SELinux    *Labels  // nil: containers get no labels
	Checkpoint CheckpointConfig
	// Hooks, if set, are asked and told of the turns of pods' lives.
	Hooks Hooks
	// Observe, if set, is told of every step of every verb.
	Observe steps.Observe
	// Exited, if set, is told of every exit of a container once it is published.
	Exited func(spec.Exit)
	// Righted, if set, is told of each difference between the records and the
	// machine that was found and put right without a client's asking: things
	// without a record, ends that nobody told. Its kind is as in Problem.
	Righted func(kind string)
}

// Table holds all pods of the node. Its methods may be called concurrently.
type Table struct {
	cfg            Config
	podRows        state.Rows[podRecord]
	containerRows  state.Rows[containerRecord]
	shims          *shims
	sampler        *stats.Sampler
	events         broker
	board          steps.Board // what is under way
	hostCaps       []string
	brokenRecords  []string
	background     sync.WaitGroup // verbs and clean-ups, which outlive their request
	backgroundDone context.CancelFunc
	backgroundCtx  context.Context
	repairs        *time.Timer // fires while there is something to look at

	criuMu    sync.Mutex
	criuWorks string // guarded by criuMu; the program that has said so

	hostsMu sync.Mutex // held while names in /etc/hosts are written

	endMu     sync.Mutex // held to add to background, so that Close misses nothing
	ended     bool       // guarded by endMu
	repairing bool       // guarded by endMu; the timer is set

	mu         sync.Mutex            // never held across I/O
	pods       map[string]*Pod       // guarded by mu
	byKey      map[podKey]*Pod       // guarded by mu
	containers map[string]*container // guarded by mu

	view atomic.Pointer[snapshot] // what lists and statuses are served from
}

// podKey is the identity that a client chose.
type podKey struct {
	meta spec.PodMetadata
}

// Pod is one pod. It is created by Run or Recover and ended by Remove.
type Pod struct {
	id     string
	key    podKey
	from   Origin    // never changes
	group  ShimGroup // never changes
	config *spec.Pod // never changes
	// restore is set for a pod that is made from a checkpoint by this daemon.
	restore *restoration
	// verbs orders what may not overlap: creating and starting containers
	// share it, stopping and removing the pod exclude them.
	verbs sync.RWMutex
	made  chan struct{} // closed when Run has ended
	told  chan struct{} // closed when the snapshot shows it: only then does a caller hear
	err   error         // of Run; valid once made is closed
	quiet hold          // of the one goroutine that makes or removes the pod
	turn  Turn          // the last one told, of whoever holds verbs

	writing sync.Mutex // one writer of the row at a time; taken before mu

	mu         sync.Mutex // guards what follows; never held across I/O
	rec        podRecord
	containers map[string]*container // by id
	byName     map[spec.ContainerMetadata]*container
	retrying   bool // a stop that failed is going to be tried again
	retries    int  // how often it was
}

// container is one container of a Pod.
type container struct {
	id    string
	pod   *Pod
	saved *checkpoint.PodContainer // of what it is made, in a pod that is restored by this daemon
	made  chan struct{}            // closed when Create has ended
	told  chan struct{}            // closed when the snapshot shows it
	err   error                    // of Create; valid once made is closed
	op    sync.Mutex               // orders start, exit, update and removal
	quiet hold                     // guarded by op
	turn  Turn                     // guarded by op; the last one told

	exitOnce sync.Once
	exited   chan struct{} // closed when the exit is published

	writing sync.Mutex // one writer of the row at a time; taken before mu

	mu       sync.Mutex // guards what follows; never held across I/O
	rec      containerRecord
	stopSent bool       // the stop signal goes out once
	killed   bool       // a stop, or a signal by request, has killed it
	nudged   bool       // somebody looks for the exit already
	held     []*os.File // FIFOs, held a second time
	pidfd    *os.File   // likewise
	console  *os.File   // likewise: the pty's master, of a container with a terminal
	stdin    *os.File   // likewise: open for writing; of a container that has one
}

// New makes a Table over the directories of cfg. Recover must be called
// before any other method.
func New(cfg Config) (*Table, error) {
	if err := checkHandlers(cfg.Handlers); err != nil {
		return nil, err
	}
	podRows, err := state.Open[podRecord](filepath.Join(cfg.Root, "pods"))
	if err != nil {
		return nil, err
	}
	containerRows, err := state.Open[containerRecord](filepath.Join(cfg.Root, "containers"))
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join(cfg.State, "pods"), filepath.Join(cfg.State, "containers")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	// In libcontainer's lies a FIFO of each created container, which libcontainer
	// lets everyone write: a byte there is the word to start.
	for _, dir := range []string{filepath.Join(cfg.State, "libcontainer"), filepath.Join(cfg.State, "shims"), filepath.Join(cfg.Root, "volumes")} {
		if err := makePrivate(dir, nil); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(cfg.NetnsDir, 0o755); err != nil {
		return nil, err
	}
	caps, err := boundingSet()
	if err != nil {
		return nil, err
	}
	t := &Table{
		cfg: cfg, podRows: podRows, containerRows: containerRows, hostCaps: caps,
		sampler: stats.NewSampler(),
		pods:    map[string]*Pod{}, byKey: map[podKey]*Pod{}, containers: map[string]*container{},
	}
	if l := cfg.SELinux; l != nil {
		if err := l.copyInit(cfg.InitPath, t.initPath()); err != nil {
			return nil, err
		}
	}
	t.backgroundCtx, t.backgroundDone = context.WithCancel(context.Background())
	t.shims = newShims(t, cfg.Shim)
	t.repairs = time.AfterFunc(repairEvery, t.repair)
	t.repairs.Stop() // until there is something to look at
	t.view.Store(&snapshot{})
	return t, nil
}

// closeTime bounds Close. Whatever is undone has steps.UndoTimeout.
const closeTime = steps.UndoTimeout + 5*time.Second

// Close ends the daemon's part: what is half made is undone, a stop or a start
// under way is left to the next daemon, watches end. It does so in bounded
// time, since what hangs in the kernel is found again by Recover. Containers
// and their shims go on; a shim that holds nothing is told to end.
func (t *Table) Close() {
	t.endMu.Lock()
	t.ended = true
	t.endMu.Unlock()
	t.repairs.Stop()
	t.backgroundDone()
	idle := make(chan struct{})
	go func() {
		t.background.Wait()
		close(idle)
	}()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
		klog.Background().Error(nil, "Some operations could not be ended and are left to the next start")
	}
	t.shims.retire()
	for _, c := range t.all() {
		c.release()
	}
}

// goBackground runs f in a goroutine that Close waits for. It tells whether it
// did: a Table that has been closed begins nothing.
func (t *Table) goBackground(ctx context.Context, f func(context.Context)) bool {
	ctx = withoutCancel{t.backgroundCtx, ctx}
	t.endMu.Lock()
	defer t.endMu.Unlock()
	if t.ended {
		return false
	}
	t.background.Go(func() { f(ctx) })
	return true
}

// ending is the refusal to begin anything after Close.
func ending() error {
	return errkind.New(errkind.Unavailable, "the daemon is ending; ask the next one")
}

// withoutCancel has the life of one context and the values of another.
type withoutCancel struct {
	context.Context
	values context.Context
}

func (c withoutCancel) Value(key any) any { return c.values.Value(key) }

// boundingSet names the capabilities that the daemon itself may ever have:
// no container can be given more.
func boundingSet() ([]string, error) {
	c, err := capability.NewPid2(0)
	if err != nil {
		return nil, err
	}
	if err := c.Load(); err != nil {
		return nil, fmt.Errorf("cannot read the daemon's capabilities: %w", err)
	}
	var out []string
	for _, k := range capability.ListKnown() {
		if c.Get(capability.BOUNDING, k) {
			out = append(out, "CAP_"+strings.ToUpper(k.String()))
		}
	}
	return out, nil
}

// newID makes 64 random hex digits.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// find resolves an id or unique prefix among the objects that see admits.
func find[T any](what, id string, all map[string]T, see func(T) bool) (T, error) {
	var none T
	if id == "" {
		return none, errkind.New(errkind.InvalidArgument, "no %s id is given", what)
	}
	if v, ok := all[id]; ok && see(v) {
		return v, nil
	}
	var hits []string
	for k, v := range all {
		if strings.HasPrefix(k, id) && see(v) {
			hits = append(hits, k)
		}
	}
	switch len(hits) {
	case 0:
		return none, errkind.New(errkind.NotFound, "%s %s does not exist", what, id)
	case 1:
		return all[hits[0]], nil
	}
	sort.Strings(hits)
	for i := range hits {
		hits[i] = hits[i][:12]
	}
	return none, errkind.New(errkind.InvalidArgument, "%s id %s is ambiguous: it begins %s; give more digits", what, id, strings.Join(hits, ", "))
}

func (t *Table) findPod(v View, id string) (*Pod, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return find("pod", id, t.pods, func(p *Pod) bool { return v.sees(p.origin()) && p.finished() })
}

func (t *Table) findContainer(v View, id string) (*container, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return find("container", id, t.containers, func(c *container) bool { return v.sees(c.pod.origin()) && c.finished() })
}

// origin needs no lock: it never changes after the pod was made.
func (p *Pod) origin() Origin { return p.from }

// finished tells whether Run has ended; before, the pod is not listed.
func (p *Pod) finished() bool { return closed(p.made) }

// finished tells whether Create has ended.
func (c *container) finished() bool { return closed(c.made) }

func closed(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// phase reads the pod's phase.
func (p *Pod) phase() phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec.Phase
}

// record returns a copy of the pod's record.
func (p *Pod) record() podRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec
}

// record returns a copy of the container's record.
func (c *container) record() containerRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec
}

// members lists the pod's containers.
func (p *Pod) members() []*container {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*container, 0, len(p.containers))
	for _, c := range p.containers {
		out = append(out, c)
	}
	return out
}

// setPod changes the pod's record, in memory and on disk, and publishes it.
// The disk comes first: what is told is what a restart would find.
func (t *Table) setPod(p *Pod, change func(*podRecord)) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	rec := p.record()
	change(&rec)
	err := t.podRows.Update(p.id, rec)
	if err == nil {
		p.mu.Lock()
		p.rec = rec
		p.mu.Unlock()
	}
	t.publish()
	return err
}

// sinkPod changes the pod's record on its way down, which no full disk may hold
// up: what cannot be written is told all the same, and a restart, which finds
// the older phase, looks at the kernel and comes to the same end.
func (t *Table) sinkPod(ctx context.Context, p *Pod, change func(*podRecord)) {
	err := t.setPod(p, change)
	if err == nil {
		return
	}
	klog.FromContext(ctx).Error(err, "Cannot record what became of a pod", "pod", p.id)
	p.mu.Lock()
	change(&p.rec)
	p.mu.Unlock()
	t.publish()
}

// setContainer changes a container's record like setPod does a pod's.
func (t *Table) setContainer(c *container, change func(*containerRecord)) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	rec := c.record()
	change(&rec)
	err := t.containerRows.Update(c.id, rec)
	if err == nil {
		c.mu.Lock()
		c.rec = rec
		c.mu.Unlock()
	}
	t.publish()
	return err
}

// setExited records and publishes that a container has ended; like sinkPod, it
// does so whatever the disk says.
func (t *Table) setExited(ctx context.Context, c *container, exit *spec.Exit) {
	before := c.record().Phase
	change := func(r *containerRecord) {
		exit.At = latest(exit.At, r.CreatedAt, r.StartedAt)
		r.Phase, r.Exit = phaseExited, exit
	}
	if err := t.setContainer(c, change); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot record an exit", "container", c.id)
		c.mu.Lock()
		change(&c.rec)
		c.mu.Unlock()
		t.publish()
	}
	if before == phaseStarting || before == phaseRunning {
		t.tellContainer(ctx, TurnStop, c)
	}
	c.markExited()
	if t.cfg.Exited != nil {
		t.cfg.Exited(*exit)
	}
}
