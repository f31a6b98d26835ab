package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// fastRetry makes a client find a restarted daemon within milliseconds.
var fastRetry = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond},
	MinConnectTimeout: time.Second,
}

// startLimit is how long anything may take to answer first. Generous: the
// machine may be building at the same time.
const startLimit = 5 * time.Minute

// Process is a child whose end is always waited for.
type Process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has been reaped
}

func (l *Lab) startProcess(program string, args []string, env map[string]string, log string) (*Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = os.Environ()
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	// A session of its own: a Ctrl-C at the terminal is for us to handle.
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := l.Inside(cmd.Start); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	p := &Process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Ended tells whether it has been reaped.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Stop sends sig and waits; what does not end in 20 seconds is killed.
func (p *Process) Stop(sig unix.Signal) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// Await returns when ready is nil; it gives up when the process has ended.
func (p *Process) Await(ctx context.Context, ready func() error) error {
	var gone error
	err := Eventually(ctx, startLimit, func() error {
		err := ready()
		if err != nil && p.Ended() {
			gone = fmt.Errorf("%s ended: %s\n%s", filepath.Base(p.cmd.Path), p.cmd.ProcessState, p.lastWords())
			return nil
		}
		return err
	})
	return errors.Join(gone, err)
}

// Run starts a program of the node beside the daemon, such as a kubelet; what
// it says goes to NAME.log of Dir, after what is there. It must have a path of
// Dir among its arguments, by which Residue finds it. The caller stops it.
func (l *Lab) Run(name, program string, args ...string) (*Process, error) {
	return l.startProcess(program, args, nil, filepath.Join(l.Dir, name+".log"))
}

// Tail is the last lines of a text.
func Tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (p *Process) lastWords() string {
	data, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return Tail(string(data), 20)
}

// StartRegistry starts Debian's docker-registry on a free port of the
// loopback and makes it the mirror of Options.Mirrors.
func (l *Lab) StartRegistry(ctx context.Context) error {
	port, err := FreePort()
	if err != nil {
		return err
	}
	return l.StartRegistryAt(ctx, port)
}

// StartRegistryAt is StartRegistry on a port that the caller chose.
func (l *Lab) StartRegistryAt(ctx context.Context, port int) error {
	l.Registry = fmt.Sprintf("127.0.0.1:%d", port)
	config := filepath.Join(l.Dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %q}\n  delete: {enabled: true}\nhttp: {addr: %s}\n",
		filepath.Join(l.Dir, "registry"), l.Registry)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	if err := l.relay(port); err != nil {
		return err
	}
	p, err := l.startProcess("docker-registry", []string{"serve", config}, nil, filepath.Join(l.Dir, "registry.log"))
	if err != nil {
		return err
	}
	l.registry = p
	ready := func() error {
		resp, err := http.Get("http://" + l.Registry + "/v2/")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := p.Await(ctx, ready); err != nil {
		return fmt.Errorf("cannot start docker-registry: %w", err)
	}
	return l.mirror()
}

func (l *Lab) mirror() error {
	for _, host := range l.Mirrors {
		dir := filepath.Join(l.Dir, "certs.d", host)
		text := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", "http://"+l.Registry, "http://"+l.Registry)
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)); err != nil {
			return err
		}
	}
	return nil
}
