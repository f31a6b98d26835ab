package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// buildShow shows how far a build is.
type buildShow interface {
	event(api.BuildEvent)
	output(api.Output)
	end(ok bool)
}

// showBuild picks what --progress says.
func (c *cli) showBuild(b *buildFlags) (buildShow, error) {
	f, isFile := c.err.(*os.File)
	terminal := isFile && term.IsTerminal(int(f.Fd()))
	switch {
	case b.silent():
		return &quietBuild{w: c.err}, nil
	case b.progress == "plain", b.progress == "auto" && !terminal:
		return &plainBuild{w: c.err, now: c.now, steps: map[int]*shownStep{}}, nil
	case b.progress == "auto", b.progress == "tty" && terminal:
		return newLiveBuild(f, c.now), nil
	case b.progress == "tty":
		return nil, &problem{what: "cannot show progress as on a terminal", why: "stderr is none", do: "leave out --progress, or choose plain"}
	}
	return nil, &problem{what: fmt.Sprintf("cannot show progress as %q", b.progress), why: "there is no such way", do: "choose --progress auto, plain, tty or quiet"}
}

// interruptible ends with a signal, so that the daemon hears of it and clears up.
func interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
}

func sortBy[T any, K cmp.Ordered](list []T, key func(T) K) {
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

// shownStep is a step as it is shown.
type shownStep struct {
	number int
	name   string
	begin  time.Time
	rest   map[bool][]byte // of the last line of output, by stream
	tail   []string        // last lines of output
}

// maxTail is how many lines of a command's output are kept to be told after its
// failure.
const maxTail = 40

// maxLine bounds a line of output that does not end, in bytes.
const maxLine = 16 << 10

// lines gives the lines that more of a stream completes.
func (s *shownStep) lines(o api.Output) (out []string) {
	if s.rest == nil {
		s.rest = map[bool][]byte{}
	}
	all := slices.Concat(s.rest[o.Stderr], o.Data)
	for {
		i := bytes.IndexAny(all, "\n\r")
		if i < 0 && len(all) < maxLine {
			break
		}
		if i < 0 {
			i = len(all)
		}
		line := string(all[:i])
		all = all[min(i+1, len(all)):]
		if line != "" {
			out = append(out, shownLine(line))
		}
	}
	s.rest[o.Stderr] = all
	s.keep(out)
	return out
}

func (s *shownStep) keep(lines []string) {
	s.tail = append(s.tail, lines...)
	if n := len(s.tail) - maxTail; n > 0 {
		s.tail = slices.Delete(s.tail, 0, n)
	}
}

// flush gives what came of lines that did not end.
func (s *shownStep) flush() (out []string) {
	for _, stderr := range []bool{false, true} {
		if len(s.rest[stderr]) > 0 {
			out = append(out, shownLine(string(s.rest[stderr])))
		}
	}
	s.rest = nil
	s.keep(out)
	return out
}

// shownLine keeps what a command prints from steering the terminal.
func shownLine(s string) string { return printable(strings.ReplaceAll(stripColours(s), "\t", "    ")) }

// stripColours takes out the sequences that colour text.
func stripColours(s string) string {
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return s
		}
		j := strings.IndexFunc(s[i+2:], func(r rune) bool { return r >= '@' && r <= '~' })
		if j < 0 {
			return s[:i]
		}
		s = s[:i] + s[i+2+j+1:]
	}
}

// quietBuild says nothing but what a command said that failed.
type quietBuild struct {
	w     io.Writer
	steps map[int]*shownStep
}

func (q *quietBuild) event(e api.BuildEvent) {
	if q.steps == nil {
		q.steps = map[int]*shownStep{}
	}
	switch e.Kind {
	case "begin":
		q.steps[e.Step] = &shownStep{number: e.Step, name: e.Name}
	case "failed":
		if s := q.steps[e.Step]; s != nil {
			s.flush()
			for _, line := range s.tail {
				fmt.Fprintln(q.w, line)
			}
		}
	}
	if e.Kind == "done" || e.Kind == "cached" {
		delete(q.steps, e.Step)
	}
}

func (q *quietBuild) output(o api.Output) {
	if s := q.steps[o.Step]; s != nil {
		s.lines(o)
	}
}

func (q *quietBuild) end(bool) {}

// plainBuild writes a line for all that happens, for logs and pipes.
type plainBuild struct {
	w     io.Writer
	now   func() time.Time
	steps map[int]*shownStep
}

func (p *plainBuild) event(e api.BuildEvent) {
	s := p.steps[e.Step]
	switch e.Kind {
	case "begin":
		p.steps[e.Step] = &shownStep{number: e.Step, name: e.Name, begin: p.now()}
		fmt.Fprintf(p.w, "#%d %s\n", e.Step, printable(e.Name))
	case "note":
		fmt.Fprintf(p.w, "note: %s\n", printable(e.Text))
	case "cached":
		fmt.Fprintf(p.w, "#%d CACHED\n", e.Step)
	case "done", "failed":
		if s == nil {
			return
		}
		p.write(s, s.flush())
		if e.Kind == "done" {
			fmt.Fprintf(p.w, "#%d DONE %.1fs\n", e.Step, p.now().Sub(s.begin).Seconds())
		} else {
			fmt.Fprintf(p.w, "#%d FAILED\n", e.Step)
		}
		delete(p.steps, e.Step)
	}
}

func (p *plainBuild) write(s *shownStep, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(p.w, "#%d %.1f %s\n", s.number, p.now().Sub(s.begin).Seconds(), line)
	}
}

func (p *plainBuild) output(o api.Output) {
	if s := p.steps[o.Step]; s != nil {
		p.write(s, s.lines(o))
	}
}

func (p *plainBuild) end(bool) {}

// liveBuild redraws the steps under way at the bottom of a terminal, and leaves
// a line for each that is over.
type liveBuild struct {
	f   *os.File
	now func() time.Time

	mu    sync.Mutex
	steps map[int]*shownStep // under way; guarded by mu
	drawn int                // lines at the bottom that are to be redrawn; guarded by mu
	stop  chan struct{}
	over  sync.WaitGroup
}

// liveTail is how many lines of output are shown of each step under way.
const liveTail = 4

func newLiveBuild(f *os.File, now func() time.Time) *liveBuild {
	l := &liveBuild{f: f, now: now, steps: map[int]*shownStep{}, stop: make(chan struct{})}
	l.over.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				l.mu.Lock()
				l.draw(nil)
				l.mu.Unlock()
			case <-l.stop:
				return
			}
		}
	})
	return l
}

func (l *liveBuild) event(e api.BuildEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.steps[e.Step]
	switch e.Kind {
	case "begin":
		l.steps[e.Step] = &shownStep{number: e.Step, name: e.Name, begin: l.now()}
	case "note":
		l.draw([]string{"note: " + e.Text})
	case "cached", "done", "failed":
		if s == nil {
			return
		}
		delete(l.steps, e.Step)
		s.flush()
		took := fmt.Sprintf("%.1fs", l.now().Sub(s.begin).Seconds())
		if e.Kind == "cached" {
			took = "cached"
		}
		lines := []string{fmt.Sprintf("%s %s", s.name, took)}
		if e.Kind == "failed" {
			lines = append(append([]string{s.name}, s.tail...), "FAILED "+took)
		}
		l.draw(lines)
	}
}

func (l *liveBuild) output(o api.Output) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.steps[o.Step]; s != nil {
		s.lines(o)
	}
}

// draw replaces what is at the bottom: first lines that stay, then the steps
// under way. mu is held.
func (l *liveBuild) draw(stay []string) {
	width, _, err := term.GetSize(int(l.f.Fd()))
	if err != nil || width < 20 {
		width = 80
	}
	var b strings.Builder
	if l.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\r\x1b[J", l.drawn)
	}
	for _, line := range stay {
		b.WriteString(clipped(line, 4*width) + "\n")
	}
	l.drawn = 0
	steps := make([]*shownStep, 0, len(l.steps))
	for _, s := range l.steps {
		steps = append(steps, s)
	}
	sortBy(steps, func(s *shownStep) int { return s.number })
	for _, s := range steps {
		lines := []string{fmt.Sprintf("> %s %.1fs", clipped(s.name, width-12), l.now().Sub(s.begin).Seconds())}
		for _, t := range s.tail[max(0, len(s.tail)-liveTail):] {
			lines = append(lines, "    "+t)
		}
		for _, line := range lines {
			b.WriteString(clipped(line, width-1) + "\n")
			l.drawn++
		}
	}
	_, _ = io.WriteString(l.f, b.String())
}

// clipped cuts a line to a number of characters, and what would steer a
// terminal out of it.
func clipped(s string, n int) string {
	r := []rune(printable(s))
	if len(r) > n {
		r = append(r[:max(n-3, 0)], []rune("...")...)
	}
	return string(r)
}

func (l *liveBuild) end(bool) {
	close(l.stop)
	l.over.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.steps = map[int]*shownStep{}
	l.draw(nil)
}
