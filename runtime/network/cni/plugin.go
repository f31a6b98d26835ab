package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

const (
	// maxOutput bounds what a plugin may print to stdout; a result has some
	// hundred bytes.
	maxOutput = 1 << 20
	// maxWords bounds what is kept of its stderr, and quoted of anything.
	maxWords = 4 << 10
	// pipePatience is how long a plugin's output is read on once it has ended.
	pipePatience = 3 * time.Second
	// busyTries is how often a program is tried that somebody is just writing.
	busyTries = 20
)

// plugins runs the programs for libcni: each in a process group of its own,
// which is killed as a whole when the time is over, with bounded output, and
// marked in its environment, so that the next daemon finds what this one left.
type plugins struct {
	version.PluginDecoder
	mark string // NAME=VALUE; see strays
}

var _ invoke.Exec = (*plugins)(nil)

// callError is the failure of one run of a plugin. libcni wraps it in words of
// its own, which say less.
type callError struct {
	plugin, verb string
	err          error
}

func (e *callError) Error() string { return fmt.Sprintf("plugin %s: %s: %v", e.plugin, e.verb, e.err) }
func (e *callError) Unwrap() error { return e.err }

// spoken is err in the words of the plugin that failed, if one did.
func spoken(err error) error {
	var call *callError
	if errors.As(err, &call) {
		return call
	}
	return err
}

// FindInPath implements invoke.Exec.
func (*plugins) FindInPath(name string, dirs []string) (string, error) {
	if err := checkProgram(name); err != nil {
		return "", err
	}
	path, err := invoke.FindInPath(name, dirs)
	if err != nil {
		return "", errkind.New(errkind.FailedPrecondition, "plugin %q is in none of the directories %s: install it there, or set network.cni.bin_dirs", name, strings.Join(dirs, ", "))
	}
	return path, nil
}

// ExecPlugin implements invoke.Exec.
func (p *plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	verb := "?"
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, "CNI_COMMAND="); ok {
			verb = v
		}
	}
	out, err := p.run(ctx, path, stdin, append(environ, p.mark))
	if err == nil && verb == "ADD" && !isObject(out) {
		err = fmt.Errorf("it answered with what is no result: %s", quoted(out))
	}
	if err != nil {
		return nil, &callError{filepath.Base(path), verb, err}
	}
	return out, nil
}

func isObject(text []byte) bool {
	text = bytes.TrimSpace(text)
	return len(text) > 0 && text[0] == '{' && json.Valid(text)
}

var errTooMuch = fmt.Errorf("it printed more than %d bytes", maxOutput)

func (p *plugins) run(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	out := &bounded{limit: maxOutput, full: func() { end(errTooMuch) }}
	words := &bounded{limit: maxWords, full: func() {}}
	var err error
	for try := 1; ; try++ {
		cmd := exec.CommandContext(ctx, path) //nolint:gosec // found in the administrator's directories
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ, bytes.NewReader(stdin), out, words
		cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
		cmd.WaitDelay = pipePatience
		err = cmd.Run()
		if !errors.Is(err, unix.ETXTBSY) || try == busyTries {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errTooMuch):
		return nil, cause
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		// The latter: it has ended well, and something that it left behind holds
		// its output open, or this machine has no time to read it.
		return out.kept, nil
	case errors.Is(cause, context.DeadlineExceeded):
		return nil, errkind.New(errkind.DeadlineExceeded, "it did not answer in time and was killed")
	case cause != nil:
		return nil, fmt.Errorf("it was ended: %w", cause)
	}
	return nil, refusal(err, out.kept, words.kept)
}

// refusal is the error that a plugin printed, else what can be said instead.
func refusal(err error, stdout, stderr []byte) error {
	var told types.Error
	if len(stdout) > 0 && json.Unmarshal(stdout, &told) == nil && (told.Msg != "" || told.Code != 0) {
		text := printable(told.Msg)
		if told.Details != "" {
			text += "; " + printable(told.Details)
		}
		if told.Code != 0 {
			text += fmt.Sprintf(" (code %d)", told.Code)
		}
		if told.Code == types.ErrTryAgainLater {
			return errkind.New(errkind.Unavailable, "%s", text)
		}
		return errors.New(text)
	}
	text := "it ended with " + err.Error()
	for name, said := range map[string][]byte{"stdout": stdout, "stderr": stderr} {
		if len(said) > 0 {
			text += ", " + name + ": " + quoted(said)
		}
	}
	return errors.New(text)
}

// quoted is the begin of what a plugin printed, on one line.
func quoted(text []byte) string {
	const most = 300
	text = bytes.TrimSpace(text)
	if len(text) > most {
		return strconv.Quote(string(text[:most])) + "..."
	}
	return strconv.Quote(string(text))
}

// printable is a message that cannot steer a terminal and has an end.
func printable(s string) string {
	if len(s) > maxWords {
		s = s[:maxWords] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// bounded keeps the first limit bytes, swallows the rest, and tells when there
// is more. It has no other method to write by, since io.Copy would take that.
type bounded struct {
	kept  []byte
	limit int
	full  func()
}

func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - len(b.kept)
	b.kept = append(b.kept, p[:min(room, len(p))]...)
	if room < len(p) {
		b.full()
	}
	return len(p), nil
}

// strays are the plugins that a daemon started before it was killed. They run
// on without anybody who hears them: an ADD might still reserve an address after
// the DEL that the next daemon runs, and a GC free one that was granted since.
//
// A plugin of ours has the mark in its environment, and so has what it starts.
// The mark names the daemon's root directory, of which there is one daemon at a
// time, and its session: what a plugin leaves to live on, such as a daemon of
// its own, begins another one.
func strays(mark string) []int {
	name, value, _ := strings.Cut(mark, "=")
	root, _, _ := strings.Cut(value, ";")
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil {
			continue
		}
		for _, variable := range bytes.Split(environ, []byte{0}) {
			n, v, _ := strings.Cut(string(variable), "=")
			of, session, _ := strings.Cut(v, ";")
			if n != name || of != root {
				continue
			}
			if sid, err := unix.Getsid(pid); err == nil && strconv.Itoa(sid) == session && sameMounts(pid) {
				out = append(out, pid)
			}
		}
	}
	return out
}

// sameMounts tells whether a process has our mount namespace: no container has,
// whatever is in its environment.
func sameMounts(pid int) bool {
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	ours, ourErr := os.Readlink("/proc/self/ns/mnt")
	return err == nil && ourErr == nil && theirs == ours
}

// markOf is the environment variable that the plugins of this daemon carry.
func markOf(owner string) string {
	sid, _ := unix.Getsid(0) // cannot fail for oneself
	return fmt.Sprintf("BERTH_CNI=%s;%d", owner, sid)
}

// endStrays lets the plugins of an earlier daemon end by themselves, since one
// that is killed halfway leaves more behind, and kills those that do not.
func endStrays(ctx context.Context, mark string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const look = 20 * time.Millisecond
	for {
		left := strays(mark)
		if len(left) == 0 {
			return nil
		}
		select {
		case <-time.After(look):
			continue
		case <-ctx.Done():
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for range 100 {
			if left = strays(mark); len(left) == 0 {
				return nil
			}
			time.Sleep(look)
		}
		return fmt.Errorf("plugins of an earlier daemon do not end: processes %v", left)
	}
}
