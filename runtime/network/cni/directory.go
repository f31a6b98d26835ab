package cni

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"
)

// settle is how long a directory must be quiet before it is read again: whoever
// writes a file in pieces is not met halfway, mostly.
const settle = 50 * time.Millisecond

// directory is a place of configuration lists and what was last read there.
type directory struct {
	path  string
	limit int // networks that count

	mu     sync.Mutex
	lists  []list // guarded by mu
	err    error  // guarded by mu: why there are none
	loads  uint64 // guarded by mu: how often what is there changed
	health health // guarded by mu
}

// current is what the directory has.
func (d *directory) current() ([]list, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lists, d.err
}

// load reads the directory, and tells whether that made a difference.
func (d *directory) load() bool {
	lists, err := loadDir(d.path, d.limit)
	d.mu.Lock()
	defer d.mu.Unlock()
	same := slices.EqualFunc(lists, d.lists, func(a, b list) bool { return a.file == b.file && string(a.Bytes) == string(b.Bytes) }) &&
		fmt.Sprint(err) == fmt.Sprint(d.err)
	d.lists, d.err = lists, err
	if same && d.loads > 0 {
		return false
	}
	d.loads++
	d.health = health{}
	return true
}

// watcher reads directories again when they change. A directory may be absent,
// come, go, be renamed, or be a link that is turned elsewhere: so beside the
// directory itself its nearest parent that exists is watched, and the
// directories of the plugins of its networks.
type watcher struct {
	events *fsnotify.Watcher
	dirs   []*directory
	// changed is told of every directory that was read and is another one now.
	changed func(*directory)
	paths   map[string]bool // that are watched
}

func newWatcher(dirs []*directory, changed func(*directory)) (*watcher, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch the configuration of networks: %w", err)
	}
	return &watcher{events: events, dirs: dirs, changed: changed, paths: map[string]bool{}}, nil
}

// follow reads until ctx ends. What happens between a look and its watch is
// seen all the same, since the watch is set before the look.
func (w *watcher) follow(ctx context.Context) {
	defer func() { _ = w.events.Close() }()
	quiet := time.NewTimer(settle)
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-w.events.Events:
			if !ok {
				return
			}
			if e.Op != fsnotify.Chmod {
				quiet.Reset(settle)
			}
		case err, ok := <-w.events.Errors:
			if !ok {
				return
			}
			// Events were lost, mostly because there were too many.
			klog.FromContext(ctx).Info("The watch of the configuration of networks is started over", "why", err)
			quiet.Reset(settle)
		case <-quiet.C:
			w.look(ctx)
		}
	}
}

// look sets the watches anew and reads every directory.
func (w *watcher) look(ctx context.Context) {
	for {
		added := w.arm(ctx)
		for _, d := range w.dirs {
			if d.load() {
				w.changed(d)
			}
		}
		if !added {
			return
		}
	}
}

// arm watches what is there to be watched now, and tells whether any of it was
// not watched before.
func (w *watcher) arm(ctx context.Context) bool {
	want := map[string]bool{}
	for _, d := range w.dirs {
		want[d.path], want[parentOf(d.path)] = true, true
		lists, _ := d.current()
		for _, l := range lists {
			want[filepath.Join(d.path, l.Name)] = true
		}
	}
	for p := range maps.Keys(w.paths) {
		if !want[p] || !isDir(p) {
			_ = w.events.Remove(p) // gone already, mostly
			delete(w.paths, p)
		}
	}
	added := false
	for p := range want {
		// What is watched already is asked for again: under the same name there
		// may be another directory now, of which nothing would be heard.
		switch err := w.events.Add(p); {
		case err == nil:
			added = added || !w.paths[p]
			w.paths[p] = true
		case !errors.Is(err, fs.ErrNotExist) && isDir(p):
			klog.FromContext(ctx).Error(err, "Cannot watch a directory of network configuration", "directory", p)
		}
	}
	return added
}

// parentOf is the nearest directory above path that exists.
func parentOf(path string) string {
	for path = filepath.Dir(path); path != "/" && !isDir(path); {
		path = filepath.Dir(path)
	}
	return path
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
