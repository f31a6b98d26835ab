package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// terminal is a pty with a person's screen on its other side.
type terminal struct {
	*os.File // what the program has as its stdout
	master   *os.File
	done     chan struct{}

	mu      sync.Mutex
	written bytes.Buffer
}

func newTerminal(t *testing.T, rows, columns uint16) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &terminal{File: slave, master: master, done: make(chan struct{})}
	t.Cleanup(func() { s.hangUp(); _ = master.Close() })
	s.resize(t, rows, columns)
	go func() {
		defer close(s.done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			s.mu.Lock()
			s.written.Write(buf[:n])
			s.mu.Unlock()
			if err != nil {
				return // the slave is closed
			}
		}
	}()
	return s
}

func (s *terminal) resize(t *testing.T, rows, columns uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(s.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

// text is what was written so far.
func (s *terminal) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.written.String()
}

// await waits until what is written has the text.
func (s *terminal) await(t *testing.T, has string) {
	t.Helper()
	for range 500 {
		if strings.Contains(s.text(), has) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the terminal never got %q: %q", has, s.text())
}

// hangUp ends the program's side and waits for all it has written.
func (s *terminal) hangUp() { _ = s.Close(); <-s.done }

// screen plays what was written on a terminal of that width, as far as our
// output needs one: it wraps, and knows the cursor upwards and erasing.
func screen(t *testing.T, written string, columns int) []string {
	t.Helper()
	lines, row, column := [][]rune{nil}, 0, 0
	for len(written) > 0 {
		if rest, ok := strings.CutPrefix(written, "\x1b["); ok {
			end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' })
			number, _ := strconv.Atoi(rest[:end])
			switch rest[end] {
			case 'A':
				row = max(row-max(number, 1), 0)
			case 'J':
				lines = append(lines[:row:row], lines[row][:min(column, len(lines[row]))])
			case 'K':
				lines[row] = lines[row][:min(column, len(lines[row]))]
			case 'h', 'l': // the cursor is shown or hidden
			default:
				t.Fatalf("the terminal was sent %q", rest[:end+1])
			}
			written = rest[end+1:]
			continue
		}
		r, n := utf8.DecodeRuneInString(written)
		written = written[n:]
		switch {
		case r == '\r':
			column = 0
			continue
		case r != '\n':
			if column == columns {
				row, column = row+1, 0
			}
		default:
			row, column = row+1, 0
		}
		for row >= len(lines) {
			lines = append(lines, nil)
		}
		if r == '\n' {
			continue
		}
		for column >= len(lines[row]) {
			lines[row] = append(lines[row], ' ')
		}
		lines[row][column] = r
		column++
	}
	var out []string
	for _, l := range lines {
		if text := strings.TrimRight(string(l), " "); text != "" {
			out = append(out, text)
		}
	}
	return out
}

func layerDigest(i int) string { return fmt.Sprintf("sha256:%012x%052d", 0xa0+i, 0) }

// Each layer has one line, on terminals of any width, also when that changes.
func TestBarsOnATerminal(t *testing.T) {
	t.Parallel()
	for _, width := range [][2]uint16{{120, 120}, {80, 80}, {40, 40}, {20, 20}, {100, 30}, {30, 100}} {
		s := newTerminal(t, 24, width[0])
		show := showProgress(t.Context(), s.File, false)
		if _, ok := show.(*bars); !ok {
			t.Fatalf("a terminal is shown %T", show)
		}
		const layers, total = 5, 30_000_000
		report := func(done int64, status string) {
			for i := range layers {
				show.report(&api.Progress{Layer: layerDigest(i), Done: done, Total: total, Status: status})
			}
		}
		report(1_000_000, "downloading")
		s.await(t, "a4") // the last of them is drawn
		s.resize(t, 24, width[1])
		report(20_000_000, "downloading")
		time.Sleep(3 * barsRefresh) // nothing depends on it; the bars have the time to be drawn once more
		show.report(&api.Progress{Layer: layerDigest(0), Done: total, Total: total, Status: "exists"})
		report(total, "done")
		show.end(true)
		s.hangUp()
		if width[0] != width[1] {
			// What a terminal makes of lines that no longer fit is its own affair.
			// What is drawn from then on has to fit.
			if last := lastFrame(s.text()); widest(last) > int(width[1]) {
				t.Errorf("%v: the last frame is %d wide: %q", width, widest(last), last)
			}
			continue
		}
		got := screen(t, s.text(), int(width[0]))
		if len(got) != layers {
			t.Errorf("%v: the screen has %q", width, got)
			continue
		}
		for i, line := range got {
			if !strings.HasPrefix(line, short(layerDigest(i), false)) {
				t.Errorf("%v: line %d is %q", width, i, line)
			}
			if width[0] >= 80 && !strings.HasSuffix(line, "30.0 MB / 30.0 MB done") {
				t.Errorf("%v: line %d is %q", width, i, line)
			}
		}
	}
}

// lastFrame is what was written after the screen was erased for the last time.
func lastFrame(written string) string {
	const erase = "\x1b[J"
	return written[strings.LastIndex(written, erase)+len(erase):]
}

func widest(text string) (n int) {
	for line := range strings.Lines(text) {
		n = max(n, utf8.RuneCountInString(strings.TrimRight(line, "\r\n")))
	}
	return n
}

// More layers than the terminal has lines do not scroll it full of copies.
func TestBarsOfManyLayers(t *testing.T) {
	t.Parallel()
	s := newTerminal(t, 10, 80)
	show := showProgress(t.Context(), s.File, false)
	for i := range 40 {
		show.report(&api.Progress{Layer: layerDigest(i), Done: 1, Total: 2, Status: "downloading"})
	}
	time.Sleep(5 * barsRefresh)
	show.end(true)
	s.hangUp()
	if got := screen(t, s.text(), 80); len(got) > 40 {
		t.Errorf("the screen has %d lines: %q", len(got), got)
	}
}

func TestPullOnATerminal(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.registry["docker.io/library/box:latest"] = "box"
	s := newTerminal(t, 24, 80)
	var errs bytes.Buffer
	if code := run([]string{"--socket", n.socket, "pull", "box"}, strings.NewReader(""), s.File, &errs); code != 0 {
		t.Fatalf("code %d: %s", code, errs.String())
	}
	s.hangUp()
	got := screen(t, s.text(), 80)
	if len(got) != 2 || !strings.HasPrefix(got[0], "abababababab [") || !strings.HasSuffix(got[0], "2.0 MB / 2.0 MB done") || !strings.HasPrefix(got[1], "box: ") {
		t.Errorf("the screen has %q", got)
	}
}
