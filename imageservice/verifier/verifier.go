// Package verifier asks the administrator's programs whether an image may be
// pulled.
//
// The programs are those in one directory, with the interface that containerd
// gives its "bindir" verifiers, so that the same ones serve both: the
// reference and the digest as arguments, the image's descriptor as JSON on
// standard input, exit status 0 for yes, the reason on standard output.
//
// The law: an image passes when every program says so. All else is a refusal,
// also a program that cannot be run, does not end in time, or a directory that
// is not there: whoever names one wants no image that nobody has looked at.
package verifier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// DefaultTimeout is how long one program may take.
const DefaultTimeout = 10 * time.Second

const (
	// maxOutput bounds what is kept of each output of a program, in bytes. The
	// reason goes into an event of the pod.
	maxOutput = 4 << 10

	// maxPrograms is containerd's default. There those beyond it are skipped.
	maxPrograms = 10
)

// Refusal says which program refuses an image, and why.
type Refusal struct{ Program, Reason string }

func (r *Refusal) Error() string {
	return fmt.Sprintf("image verifier %s refuses it: %s", r.Program, r.Reason)
}

// Programs are the verifiers in a directory. The zero value has none and lets
// every image pass.
type Programs struct {
	Dir     string
	Timeout time.Duration // of each program; 0 means DefaultTimeout
}

type watchKey struct{}

// Watched makes Verify tell asking of each program before it is asked.
func Watched(ctx context.Context, asking func(program string)) context.Context {
	return context.WithValue(ctx, watchKey{}, asking)
}

// Verify asks all programs, in the order of their names, about the image that
// the reference name leads to. The directory is read each time. A refusal is
// a *Refusal.
func (p Programs) Verify(ctx context.Context, name string, image v1.Descriptor) error {
	if p.Dir == "" {
		return nil
	}
	entries, err := os.ReadDir(p.Dir)
	if err != nil {
		return &Refusal{p.Dir, fmt.Sprintf("cannot list the verifiers: %v", err)}
	}
	if len(entries) > maxPrograms {
		return &Refusal{p.Dir, fmt.Sprintf("it has %d verifiers, more than %d", len(entries), maxPrograms)}
	}
	stdin, err := json.Marshal(image)
	if err != nil {
		return fmt.Errorf("cannot describe %s to its verifiers: %w", name, err)
	}
	args := []string{"-name", name, "-digest", image.Digest.String(), "-stdin-media-type", v1.MediaTypeDescriptor}
	asking, _ := ctx.Value(watchKey{}).(func(string))
	for _, e := range entries {
		if asking != nil {
			asking(e.Name())
		}
		if err := p.run(ctx, e.Name(), args, stdin); err != nil {
			return err
		}
	}
	return nil
}

// run asks one program.
func (p Programs) run(ctx context.Context, program string, args []string, stdin []byte) error {
	limit := p.Timeout
	if limit == 0 {
		limit = DefaultTimeout
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var stdout, stderr head
	cmd := exec.CommandContext(limited, filepath.Join(p.Dir, program), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	// What it has started ends with it, and does not keep us waiting for the
	// end of its output.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	end := func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.Cancel, cmd.WaitDelay = end, time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		_ = end() // usually nothing is left
	}

	klog.FromContext(ctx).V(4).Info("Asked an image verifier", "program", program, "says", stdout.text(), "stderr", stderr.text(), "result", fmt.Sprint(err))
	exit := (*exec.ExitError)(nil)
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter: it said yes and left a process behind
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("cannot wait for image verifier %s: %w", program, ctx.Err())
	case limited.Err() != nil:
		return &Refusal{program, fmt.Sprintf("it has not answered within %v", limit)}
	case !errors.As(err, &exit):
		return &Refusal{program, fmt.Sprintf("it cannot be run: %v", err)}
	case stdout.text() == "":
		return &Refusal{program, fmt.Sprintf("it gives no reason (%v)", err)}
	}
	return &Refusal{program, stdout.text()}
}

// head keeps the beginning of what is written to it.
type head struct {
	kept []byte
	cut  bool // there was more
}

func (h *head) Write(b []byte) (int, error) {
	room := maxOutput - len(h.kept)
	h.kept = append(h.kept, b[:min(len(b), room)]...)
	h.cut = h.cut || len(b) > room
	return len(b), nil
}

// text is what may go into a message: a program may repeat what an image says
// of itself.
func (h *head) text() string {
	text := strings.ToValidUTF8(string(h.kept), "?")
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text))
	if h.cut {
		text += " (truncated)"
	}
	return text
}
