package main

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// keyboard is the terminal that a person types at. In raw mode every key is
// the container's; whatever ends us, the terminal is given back as it was.
type keyboard struct {
	fd      int
	restore func() // any number of times
}

// rawKeyboard puts the terminal behind f into raw mode.
func rawKeyboard(f *os.File) (*keyboard, error) {
	fd := int(f.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return &keyboard{fd: fd, restore: sync.OnceFunc(func() { _ = term.Restore(fd, before) })}, nil
}

// guard runs f in a goroutine. A panic there would end the process without the
// deferred calls of any other.
func (k *keyboard) guard(f func()) {
	go func() {
		defer func() {
			if r := recover(); r != nil {
				k.restore()
				panic(r)
			}
		}()
		f()
	}()
}

// terminalOf gives the file behind a reader or a writer if it is a terminal.
func terminalOf(stream any) (*os.File, bool) {
	f, ok := stream.(*os.File)
	return f, ok && term.IsTerminal(int(f.Fd()))
}

// watchSize tells the size of the terminal f now and after each change, until
// the returned function is called.
func watchSize(f *os.File, run func(func()), tell func(api.Size)) (stop func()) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	done := make(chan struct{})
	report := func() {
		if columns, rows, err := term.GetSize(int(f.Fd())); err == nil {
			tell(api.Size{Columns: uint16(columns), Rows: uint16(rows)})
		}
	}
	report()
	run(func() {
		for {
			select {
			case <-changes:
				report()
			case <-done:
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		signal.Stop(changes)
		close(done)
	})
}

// defaultDetachKeys are docker's.
const defaultDetachKeys = "ctrl-p,ctrl-q"

// parseDetachKeys reads keys as docker writes them; none means that nothing
// detaches.
func parseDetachKeys(text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	var keys []byte
	for _, word := range strings.Split(text, ",") {
		letter, control := strings.CutPrefix(strings.ToLower(word), "ctrl-")
		switch {
		case !control && len(word) == 1:
			keys = append(keys, word[0])
		case control && len(letter) == 1 && (letter[0] >= 'a' && letter[0] <= 'z' || strings.IndexByte(`@[\]^_`, letter[0]) >= 0):
			keys = append(keys, strings.ToUpper(letter)[0]-'@')
		default:
			return nil, &problem{what: "cannot detach with the keys " + text, why: word + " is no key", do: "write letters and ctrl-LETTER with commas between them: --detach-keys ctrl-p,ctrl-q"}
		}
	}
	return keys, nil
}

// errDetached ends the reading of a keyboard at which somebody detached.
var errDetached = errors.New("detached")

// typed reads a keyboard and looks for the keys that detach. Keys that may
// become those are held back until the next one tells.
type typed struct {
	in   io.Reader
	keys []byte // none: nothing detaches
	held int    // so many of the keys have been typed
}

// Read gives what was typed; errDetached, alone, once the keys have been.
func (t *typed) Read(p []byte) (int, error) {
	if len(t.keys) == 0 {
		return t.in.Read(p)
	}
	buf := make([]byte, max(1, len(p)-len(t.keys)))
	for {
		n, err := t.in.Read(buf)
		out := p[:0]
		for _, b := range buf[:n] {
			if b == t.keys[t.held] {
				if t.held++; t.held == len(t.keys) {
					t.held = 0
					return len(out), errDetached
				}
				continue
			}
			out = append(out, t.keys[:t.held]...)
			t.held = 0
			if b == t.keys[0] {
				t.held = 1
				if len(t.keys) == 1 {
					return len(out), errDetached
				}
				continue
			}
			out = append(out, b)
		}
		if err != nil {
			out = append(out, t.keys[:t.held]...)
			t.held = 0
		}
		if len(out) > 0 || err != nil {
			return len(out), err
		}
	}
}
