// Command demo tells berth's main job as a story: an image goes to a registry
// and comes back, a pod of it serves a page from a port, the daemon dies and
// nobody notices, containers share layers and nothing else, a volume outlives
// its container. Every line that claims something has checked it, every
// figure is of this run, and the first thing that does not hold ends the
// story with exit code 1.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
)

func main() { os.Exit(demo()) }

// demo returns the exit code.
func demo() int {
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer cancel()
	begin := time.Now()
	s, err := newStory()
	if err == nil {
		err = s.whole(ctx)
	}
	switch {
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "Nothing is left of the demo.")
		return 130
	case err != nil:
		fmt.Fprintf(os.Stderr, "\nThe demo does not hold: %v\n", err)
		return 1
	}
	fmt.Printf("\nThe demo held: every step above was checked, in %s.\n", since(begin))
	return 0
}

var errInterrupted = errors.New("interrupted")

// whole tells the story and takes the lab down, whatever happened.
func (s *story) whole(ctx context.Context) error {
	err := s.tell(ctx)
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\nInterrupted; taking everything down.")
		err = nil
	case err != nil:
		fmt.Fprintf(os.Stderr, "\nthe daemon's last words:\n%s\n", lab.Tail(s.DaemonLog(), 30))
	}
	if err = errors.Join(err, s.end()); err == nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

func newStory() (*story, error) {
	l, err := lab.New(lab.Options{})
	if err != nil {
		return nil, err
	}
	port, err := lab.FreePort()
	if err != nil {
		return nil, err
	}
	return &story{Lab: l, url: fmt.Sprintf("http://127.0.0.1:%d", port), port: port}, nil
}

// tell runs the chapters in order.
func (s *story) tell(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for n, c := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"A node of its own", s.node},
		{"An image is made, pushed and pulled", s.image},
		{"A pod serves a page", s.serve},
		{"The daemon dies, the pod does not", s.crash},
		{"Two containers share the layers, and nothing else", s.share},
		{"A container goes, its volume stays", s.renew},
		{"The image is as it was", s.unchanged},
		{"Nothing is left", s.clean},
	} {
		fmt.Printf("\n%d. %s\n", n+1, c.title)
		if err := c.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
	}
	return nil
}

// end takes the lab down, whatever came before.
func (s *story) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if s.told { // the last chapter did it
		return nil
	}
	if s.Running() {
		_ = s.RemoveAll(ctx)
	}
	return s.Close(ctx)
}

// say prints one line of the story.
func say(format string, args ...any) { fmt.Printf("   "+format+"\n", args...) }

// since is the time since t, rounded for reading.
func since(t time.Time) time.Duration {
	d := time.Since(t)
	if d > 10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(time.Millisecond)
}
