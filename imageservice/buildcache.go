package imageservice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/meta"
)

// CacheDir gives the directory of a cache mount.
func (b *building) CacheDir(ctx context.Context, id, sharing string) (string, func(), error) {
	name := digest.FromString(id).Encoded()[:32]
	name, release, err := b.s.caches.take(ctx, name, sharing)
	if err != nil {
		return "", nil, err
	}
	dir := filepath.Join(b.s.cachesDir(), name)
	err = os.Mkdir(dir, 0o755)
	if errors.Is(err, unix.EEXIST) {
		return dir, release, nil
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		release()
		return "", nil, err
	}
	return dir, release, nil
}

// caches tells which directories of cache mounts are in use. The zero value is ready.
type caches struct {
	mu    sync.Mutex
	users map[string]int           // guarded by mu
	turns map[string]chan struct{} // of those that one command at a time may have; guarded by mu
}

// take gives the name of the directory that is to be used, until release is called.
func (c *caches) take(ctx context.Context, name, sharing string) (string, func(), error) {
	c.mu.Lock()
	if c.users == nil {
		c.users, c.turns = map[string]int{}, map[string]chan struct{}{}
	}
	if sharing == "private" {
		own := name
		for n := 1; c.users[own] > 0; n++ {
			own = fmt.Sprintf("%s-%d", name, n)
		}
		name = own
	}
	c.users[name]++
	turn := c.turns[name]
	if turn == nil {
		turn = make(chan struct{}, 1)
		c.turns[name] = turn
	}
	c.mu.Unlock()
	leave := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.users[name]--; c.users[name] == 0 {
			delete(c.users, name)
			delete(c.turns, name)
		}
	}
	if sharing != "locked" {
		return name, leave, nil
	}
	select {
	case turn <- struct{}{}:
		return name, func() { <-turn; leave() }, nil
	case <-ctx.Done():
		leave()
		return "", nil, ctx.Err()
	}
}

// removeCaches removes the directories of cache mounts that no command has.
func (s *Service) removeCaches() error {
	entries, err := os.ReadDir(s.cachesDir())
	if err != nil {
		return err
	}
	c := &s.caches
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, e := range entries {
		if c.users[e.Name()] == 0 {
			errs = append(errs, removeTree(filepath.Join(s.cachesDir(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

// touchBuilds notes that a build had these steps.
func (s *Service) touchBuilds(ctx context.Context, keys map[string]bool) error {
	if len(keys) == 0 {
		return nil
	}
	now := time.Now().UTC().Round(time.Second)
	return s.step(ctx, verbBuild, "used", func() error {
		return s.change(func(tx *meta.Tx, st *meta.State) error {
			for key := range keys {
				if row, ok := st.Builds[key]; ok {
					row.Used = now
					tx.PutBuild(row)
					st.Builds[key] = row
				}
			}
			return nil
		})
	})
}

// defaultBuildCache is how many bytes the layers may have that only the cache
// of builds keeps.
const defaultBuildCache = 10 << 30

// maxBuildSteps is how many steps the cache remembers; each is a row in memory.
const maxBuildSteps = 20_000

// boundBuilds forgets the steps that were not used for the longest time while
// there are more than the limits allow.
func (s *Service) boundBuilds(ctx context.Context) error {
	s.mu.Lock()
	doomed := s.surplusBuilds()
	s.mu.Unlock()
	if len(doomed) == 0 {
		return nil
	}
	return s.collect(ctx, verbRemove, func(tx *meta.Tx, st *meta.State) {
		for _, row := range doomed {
			if st.Builds[row.Key] == row {
				tx.DeleteBuild(row.Key)
				delete(st.Builds, row.Key)
			}
		}
	})
}

// surplusBuilds lists the steps that are too many. mu is held.
func (s *Service) surplusBuilds() []meta.Build {
	limit := s.cfg.BuildCache
	if limit <= 0 {
		limit = defaultBuildCache
	}
	others := s.state
	others.Builds = nil
	only := map[uint64]bool{} // layers that nobody but the cache has
	for _, seq := range unused(others, s.held) {
		only[seq] = true
	}
	rows := make([]meta.Build, 0, len(s.state.Builds))
	for _, row := range s.state.Builds {
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b meta.Build) int {
		if c := b.Used.Compare(a.Used); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	var bytes int64
	counted := map[uint64]bool{}
	for i, row := range rows {
		if only[row.Layer] && !counted[row.Layer] {
			counted[row.Layer] = true
			bytes += int64(s.state.Layers[row.Layer].Bytes)
		}
		if bytes > limit || i >= maxBuildSteps {
			return rows[i:]
		}
	}
	return nil
}
