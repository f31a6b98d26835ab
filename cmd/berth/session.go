package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// interaction is how a person takes part in a session.
type interaction struct {
	detachKeys []byte
	redraw     bool // what runs already shall draw its screen anew
	// signals, if set, gets those that end a command without a terminal, in
	// our place: the process may have a use for them.
	signals func(unix.Signal)
	// begin, if set, is called once nothing is missed any more.
	begin func() error
}

// converse carries our stdio to and from the process of a session until it
// ends. detached tells that it goes on without us. end ends the session.
func (c *cli) converse(s *api.Session, end context.CancelCauseFunc, how interaction) (code int32, detached bool, err error) {
	k := &keyboard{restore: func() {}}
	screen, onScreen := terminalOf(c.out)
	if in, ok := terminalOf(c.in); ok && s.TTY && s.Stdin {
		if k, err = rawKeyboard(in); err != nil {
			return 0, false, cannot(err, "give the terminal to the container")
		}
		screen, onScreen = in, true
	}
	defer k.restore()
	defer c.obey(k, s, end, how)()
	if s.TTY && onScreen {
		if how.redraw {
			// Programs draw at a change of size only.
			_ = s.Resize(api.Size{Columns: 1, Rows: 1})
		}
		defer watchSize(screen, k.guard, func(size api.Size) { _ = s.Resize(size) })()
	}
	if how.begin != nil {
		if err := how.begin(); err != nil {
			return 0, false, err
		}
	}
	left := make(chan struct{})
	if s.Stdin {
		keys := how.detachKeys
		if !s.TTY {
			keys = nil
		}
		k.guard(func() {
			if errors.Is(say(s, &typed{in: c.in, keys: keys}), errDetached) {
				close(left)
				_ = s.Detach()
			}
		})
	}
	code, err = c.hear(s)
	select {
	case <-left:
		return 0, true, nil
	default:
	}
	return code, false, err
}

// obey takes the signals that would end us, until the returned function is
// called: the terminal is given back before anything else.
func (c *cli) obey(k *keyboard, s *api.Session, end context.CancelCauseFunc, how interaction) (stop func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded()...)
	done := make(chan struct{})
	k.guard(func() {
		for {
			select {
			case sig := <-signals:
				if how.signals != nil && !s.TTY {
					how.signals(sig.(unix.Signal))
					continue
				}
				k.restore()
				signal.Stop(signals) // the next one ends us at once
				end(exitCode(128 + int(sig.(unix.Signal))))
				return
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// say sends what is typed, to its end.
func say(s *api.Session, in io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, serr := s.Write(buf[:n]); serr != nil {
				return serr
			}
		}
		if errors.Is(err, errDetached) {
			return err
		}
		if err != nil {
			return s.EndStdin()
		}
	}
}

// hear prints what the process says until it has ended.
func (c *cli) hear(s *api.Session) (code int32, err error) {
	for {
		f, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		switch f.Kind {
		case api.FrameStdout:
			_, err = c.out.Write(f.Data)
		case api.FrameStderr:
			_, err = c.err.Write(f.Data)
		case api.FrameExit:
			var e api.Exit
			err = f.Decode(api.FrameExit, &e)
			return e.Code, err
		}
		if err != nil {
			return 0, err // our reader has gone: the process hears of it
		}
	}
}

// needTerminal refuses -t where a person's keys cannot come through.
func (c *cli) needTerminal(what string, stdin, tty bool) error {
	if _, ok := terminalOf(c.in); ok || !stdin || !tty {
		return nil
	}
	return &problem{what: "cannot " + what + " with -t", why: "stdin is no terminal", do: "leave out -t: -i alone passes stdin on"}
}

// endedBy is why a session ended, if it was us who ended it.
func endedBy(ctx context.Context, err error) error {
	var code exitCode
	if cause := context.Cause(ctx); err != nil && errors.As(cause, &code) {
		return code
	}
	return err
}

// goesOn tells a person who has detached how to come back.
func (c *cli) goesOn(what, back string) {
	fmt.Fprintf(c.err, "\nberth: detached; %s goes on. Come back with: %s\n", what, back)
}
