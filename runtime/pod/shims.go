package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/shimrpc"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/keylock"
)

// ShimGroup says which pods share a shim.
type ShimGroup string

// The groups: one shim for the node, or one for each pod. The code is the
// same, only the routing differs.
const (
	GroupNode ShimGroup = "node"
	GroupPod  ShimGroup = "pod"
)

// ShimConfig says how shims are started.
type ShimConfig struct {
	Group   ShimGroup
	Binary  string // path of berth-shim
	LogFile string // where shims write what is no container's output
	// Place, if set, moves a new shim to where it is to be instead of beside the
	// daemon, by the group's key and its pid. One that cannot be moved stays.
	Place func(key string, pid int) error
}

// shims routes calls to the shim of a pod's group, starts shims, watches them
// for exits, and replaces one that died: the new one adopts what still runs.
type shims struct {
	t      *Table
	cfg    ShimConfig
	locks  keylock.Locks // by group key: one launch at a time
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // watches

	mu     sync.Mutex
	live   map[string]*shimrpc.Client // by group key; guarded by mu
	sealed *os.File                   // the binary, once; guarded by mu
}

// nodeKey is the group key when all pods share one shim.
const nodeKey = "node"

func newShims(t *Table, cfg ShimConfig) *shims {
	s := &shims{t: t, cfg: cfg, live: map[string]*shimrpc.Client{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// key names the shim of a pod. It is that of the group which the configuration
// named when the pod was run: a shim that lives is the parent of its
// containers, and no other can take its place.
func (s *shims) key(p *Pod) string {
	if p.group == GroupPod {
		return p.id
	}
	return nodeKey
}

// dir is where sockets are. Their names are short: a unix socket's path ends
// at 107 bytes.
func (s *shims) dir() string { return filepath.Join(s.t.cfg.State, "shims") }

func (s *shims) socket(key string) string {
	return filepath.Join(s.dir(), key[:min(len(key), 16)]+".sock")
}

// ensure makes sure that a shim runs.
func (s *shims) ensure(ctx context.Context, key string) error {
	_, err := s.bringUp(ctx, key)
	return err
}

// client returns the client of the pod's shim, which it starts if need be.
func (s *shims) client(ctx context.Context, p *Pod) (*shimrpc.Client, error) {
	return s.bringUp(ctx, s.key(p))
}

func (s *shims) bringUp(ctx context.Context, key string) (*shimrpc.Client, error) {
	if c := s.get(key); c != nil {
		return c, nil
	}
	defer s.locks.Lock(key)()
	if c := s.get(key); c != nil {
		return c, nil
	}
	// All callers share the outcome, so that none who goes away may leave it
	// half done: a container that was not handed over is watched by nobody.
	ctx, cancel := context.WithTimeout(withoutCancel{s.ctx, ctx}, bringUpTime)
	defer cancel()
	c := shimrpc.Dial(s.socket(key))
	info, err := s.info(ctx, c)
	if err != nil {
		if err := s.launch(ctx, key); err != nil {
			return nil, err
		}
		if info, err = s.info(ctx, c); err != nil {
			return nil, fmt.Errorf("cannot reach the shim that was just started: %w", err)
		}
	}
	s.adopt(ctx, c, key, info)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, ending()
	}
	s.live[key] = c
	s.wg.Go(func() { s.watch(c, key) })
	return c, nil
}

// The bounds on a shim that hangs: to bring one up, to say who it is, and to
// forget a container, for which it gives killed processes 15 s.
const (
	bringUpTime = 60 * time.Second
	infoTime    = 5 * time.Second
	deleteTime  = 30 * time.Second
)

func (s *shims) info(ctx context.Context, c *shimrpc.Client) (shimrpc.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, infoTime)
	defer cancel()
	return c.Info(ctx)
}

func (s *shims) get(key string) *shimrpc.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[key]
}

// launch starts a shim from the sealed copy of its binary.
func (s *shims) launch(ctx context.Context, key string) error {
	s.mu.Lock()
	var err error
	if s.sealed == nil {
		s.sealed, err = shimrpc.Seal(s.cfg.Binary)
	}
	sealed := s.sealed
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot prepare the shim %s: %w", s.cfg.Binary, err)
	}
	pid, err := shimrpc.Launch(ctx, shimrpc.LaunchConfig{Sealed: sealed, Socket: s.socket(key), Dir: s.dir(),
		Root: s.t.libcontainerRoot(), LogFile: s.cfg.LogFile, Cgroup: s.place(ctx, key)})
	if err != nil {
		return fmt.Errorf("cannot start a shim: %w", err)
	}
	klog.FromContext(ctx).V(2).Info("Shim started", "group", key, "pid", pid)
	return nil
}

// place is Place for one shim. Its failure is told and no reason to go without
// a shim.
func (s *shims) place(ctx context.Context, key string) func(pid int) error {
	if s.cfg.Place == nil {
		return nil
	}
	return func(pid int) error {
		logged(ctx, "Cannot move a shim out of the daemon's cgroup", s.cfg.Place(key, pid))
		return nil
	}
}

// adopt hands a shim the processes of its group that it does not hold, and
// takes from it what a former daemon held of those that it does.
func (s *shims) adopt(ctx context.Context, c *shimrpc.Client, key string, info shimrpc.Info) {
	log := klog.FromContext(ctx)
	for _, a := range s.t.adoptable(func(p *Pod) bool { return s.key(p) == key }) {
		if slices.Contains(info.Containers, a.create.ID) {
			if a.create.TTY && a.create.Console == nil {
				logged(ctx, "Cannot hold a container's terminal, which ends with the shim then", s.t.holdConsole(ctx, c, a.create.ID))
			}
			continue
		}
		if err := c.Adopt(ctx, a.create, a.pidfd); err != nil {
			log.Error(err, "Shim cannot adopt a container", "container", a.create.ID)
		}
	}
}

// watch passes exits on until the shim is gone or the daemon ends. If the
// group still has processes, a new shim takes over.
func (s *shims) watch(c *shimrpc.Client, key string) {
	log := klog.Background()
	err := c.Watch(s.ctx, func(e shimrpc.Exited) { s.t.exitSeen(e) })
	s.mu.Lock()
	if s.live[key] == c {
		delete(s.live, key)
	}
	s.mu.Unlock()
	for s.ctx.Err() == nil && s.t.groupInUse(func(p *Pod) bool { return s.key(p) == key }) {
		log.Error(err, "Shim is gone; a new one takes over its containers", "group", key)
		if _, err = s.bringUp(s.ctx, key); err == nil {
			return
		}
		select {
		case <-s.ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// delete makes the pod's shim forget a container. Without a shim there is
// nothing to forget.
func (s *shims) delete(ctx context.Context, p *Pod, id string) error {
	ctx, cancel := context.WithTimeout(ctx, deleteTime)
	defer cancel()
	err := shimrpc.Dial(s.socket(s.key(p))).Delete(ctx, id)
	if errkind.Is(err, errkind.Unavailable) {
		return nil
	}
	return err
}

// release ends the shim of a pod that has one of its own.
func (s *shims) release(ctx context.Context, p *Pod) error {
	key := s.key(p)
	if key == nodeKey {
		return nil
	}
	defer s.locks.Lock(key)()
	if err := s.end(ctx, key); err != nil {
		return err
	}
	// Nobody starts a shim for this pod again, so nobody needs its lock.
	return remove(s.socket(key) + ".lock")
}

// sweep ends what shims hold of pods and containers that have no record, and
// the shims of pods that have none.
func (s *shims) sweep(ctx context.Context) error {
	sockets, err := filepath.Glob(filepath.Join(s.dir(), "*.sock"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range sockets {
		c := shimrpc.Dial(path)
		info, err := s.info(ctx, c)
		if err != nil {
			continue // dead or hung: whoever needs it finds out
		}
		held := 0
		for _, id := range info.Containers {
			if s.t.knows(id) {
				held++
				continue
			}
			if err := c.Delete(ctx, id); err != nil {
				errs = append(errs, fmt.Errorf("cannot delete container %s: %w", id, err))
			}
		}
		if held > 0 || s.cfg.Group == GroupNode && path == s.socket(nodeKey) || s.wanted(path) {
			continue
		}
		if err := c.Shutdown(ctx); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, remove(path), remove(path+".lock"))
	}
	return errors.Join(errs...)
}

// wanted tells whether some pod's shim has its socket at path.
func (s *shims) wanted(path string) bool {
	for _, p := range s.t.snapshotPods() {
		if s.socket(s.key(p)) == path {
			return true
		}
	}
	return false
}

// remove removes a file; one that is absent is success.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// end asks the shim of a group to end; one that is gone has.
func (s *shims) end(ctx context.Context, key string) error {
	s.mu.Lock()
	delete(s.live, key)
	s.mu.Unlock()
	err := shimrpc.Dial(s.socket(key)).Shutdown(ctx)
	if errkind.Is(err, errkind.Unavailable) {
		err = nil
	}
	if err != nil {
		return err
	}
	return remove(s.socket(key))
}

// retire ends the daemon's part. The node's shim ends if it holds nothing; it
// refuses if it does.
func (s *shims) retire() {
	s.mu.Lock() // orders this against client, which adds to wg
	s.cancel()
	s.mu.Unlock()
	s.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = s.end(ctx, nodeKey) // a shim that holds containers stays, by design
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed != nil {
		_ = s.sealed.Close()
		s.sealed = nil
	}
}
