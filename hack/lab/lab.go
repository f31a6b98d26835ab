// Package lab runs a berthd of its own beside whatever else the machine runs:
// own root, state, bridge, subnets, cgroup parent and registry, all under one
// directory, and with one random name in all of theirs. As many as one likes run
// at the same time.
//
// # For tests of your own
//
// ForTest gives a test a node that runs, and takes it away when the test ends;
// what is left then of anything fails the test:
//
//	n := lab.ForTest(t, lab.Options{})
//	rt := criv1.NewRuntimeServiceClient(n.Conn())
//
// Socket is the endpoint for programs that want one, and Kubelet that of a
// kubelet. Elsewhere than in a test it is New, Start and End. It needs root, and
// the programs of berth: those of the clone (make), if there is one around the
// working directory; else those of the directory that Options.Bin or BERTH_BIN names, or
// where PATH has berthd, as the Debian package puts them. hack/lab/example is
// such a package of tests, and runs in continuous integration.
//
// In other languages, hack/lab.sh does the same:
//
//	eval "$(hack/lab.sh start)"
//	crictl pods
//	hack/lab.sh stop
//
// Law. What a lab makes in the kernel or on disk carries its name, so Residue
// finds what is left by looking at the machine, not at what anybody
// remembers; Close takes down the node's own things (shim, bridge, rules),
// which outlive every daemon by design, and then lets nothing remain.
package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// Options vary a lab. The zero value is a plain one.
type Options struct {
	ShimGroup string            // "node" (default) or "pod"
	Network   string            // mode of the network; empty: "bridge"
	OwnNet    bool              // everything runs in a network namespace of its own
	Mirrors   []string          // registry hosts that the lab's registry stands in for
	Config    string            // more TOML for the daemon
	Bin       string            // directory of berth's programs; empty: see the package comment
	Parent    string            // where the lab's directory is made; empty: hack/.cache of the clone, or else the one for temporary files
	Daemon    string            // path of berthd; default: that of Bin
	Env       map[string]string // more environment of the daemon
	LogLevel  int               // of the daemon; 0 means 4
}

// Lab is one node on trial.
type Lab struct {
	Options
	Clone   string // the repository; empty outside of one
	Name    string // "b" and six hex digits, in every name below
	Dir     string // everything on disk, but State where the path is long; in /tmp where layers cannot lie in Parent
	Root    string
	State   string
	Logs    string // pods' log directories for clients that choose them
	Socket  string // berth.sock
	Kubelet string // kubelet.sock

	Bridge       string
	Subnets      []netip.Prefix
	CgroupParent string
	Registry     string // host:port once StartRegistry ran

	config   string
	net      *netspace // nil: the machine's
	daemon   *Process
	registry *Process
	kept     bool // another process has started what runs
	conn     *grpc.ClientConn
}

// longestState is how long State may be: a unix socket's path ends at 107
// bytes, and those of shims lie one directory below it.
const longestState = 64

// New makes the directories and the configuration of a lab.
func New(o Options) (*Lab, error) {
	clone, err := cloneDir()
	if err != nil {
		return nil, err
	}
	if o.Bin, err = programs(o.Bin, clone); err != nil {
		return nil, err
	}
	raw := make([]byte, 3)
	if _, err := rand.Read(raw); err != nil {
		return nil, err
	}
	l := &Lab{Options: o, Clone: clone, Name: "b" + hex.EncodeToString(raw)}
	if l.Parent == "" {
		l.Parent = os.TempDir()
		if clone != "" {
			l.Parent = filepath.Join(clone, "hack/.cache")
		}
	}
	if l.Parent, err = filepath.Abs(l.Parent); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(l.Parent, 0o755); err != nil {
		return nil, err
	}
	l.Dir = filepath.Join(l.Parent, l.Name)
	if strings.ContainsAny(l.Parent, `:,\`) || onOverlay(l.Parent) {
		// Overlay options cannot carry such a path, nor can an overlay be written
		// to another (the clone's in a guest or a container). Close removes this one too.
		l.Dir = filepath.Join("/tmp", l.Name)
	}
	if err := os.MkdirAll(l.Dir, 0o711); err != nil {
		return nil, err
	}
	l.Root, l.State, l.Logs = filepath.Join(l.Dir, "root"), filepath.Join(l.Dir, "s"), filepath.Join(l.Dir, "logs")
	if len(l.State) > longestState {
		// Outside the clone only where that is deep; Close removes it too.
		l.State = filepath.Join("/tmp", l.Name)
	}
	l.Socket, l.Kubelet = filepath.Join(l.State, "berth.sock"), filepath.Join(l.State, "kubelet.sock")
	l.Bridge, l.CgroupParent = l.Name+"br", "/"+l.Name
	if SystemdRuns() {
		l.CgroupParent += ".slice"
	}
	if l.Daemon == "" {
		l.Daemon = filepath.Join(l.Bin, "berthd")
	}
	if l.Subnets, err = freeSubnets(raw); err != nil {
		return nil, err
	}
	if l.OwnNet {
		if l.net, err = newNetspace(l.Dir); err != nil {
			return nil, err
		}
	}
	return l, l.writeConfig()
}

// SystemdRuns tells whether systemd runs the machine, as the daemon finds out
// (sd_booted(3)): its cgroup driver is systemd's then.
func SystemdRuns() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

// Group is the cgroup of a container, or of a pod's init, whose pod names no
// parent, from the root of a hierarchy.
func (l *Lab) Group(id string) string { return GroupIn(l.CgroupParent, id) }

// GroupIn is the same below another parent.
func GroupIn(parent, id string) string {
	if SystemdRuns() {
		id = "berth-" + id + ".scope"
	}
	return filepath.Join(parent, id)
}

func onOverlay(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC
}

// cloneDir finds the repository: the running source file is in it (paths may
// have been trimmed), or the running program, or the working directory. It is ""
// where none is. Go's own copy of this module, which nobody writes to, is no clone.
func cloneDir() (string, error) {
	var inside []string
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		inside = append(inside, filepath.Dir(file))
	}
	if program, err := os.Executable(); err == nil {
		inside = append(inside, filepath.Dir(program))
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, dir := range append(inside, dir) {
		for ; dir != "/"; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "hack/imports.txt")); err == nil && !strings.Contains(filepath.Base(dir), "@") {
				return dir, nil
			}
		}
	}
	return "", nil
}

// programs is the directory of berth's programs, as the package comment says.
func programs(chosen, clone string) (string, error) {
	if chosen = cmp.Or(chosen, os.Getenv("BERTH_BIN")); chosen != "" {
		return filepath.Abs(chosen)
	}
	if clone != "" {
		return filepath.Join(clone, "bin"), nil
	}
	daemon, err := exec.LookPath("berthd")
	if err != nil {
		return "", fmt.Errorf("cannot find berth's programs: install them, or name their directory in BERTH_BIN: %w", err)
	}
	return filepath.Dir(daemon), nil
}

// tool is the path of a program that tests use: that of the clone, or of PATH.
func (l *Lab) tool(name string) string {
	if l.Clone == "" {
		return name
	}
	return filepath.Join(l.Clone, "hack/.cache", name)
}

// freeSubnets picks networks that no interface of the machine is in.
func freeSubnets(seed []byte) ([]netip.Prefix, error) {
	taken, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for n := 0; n < 128; n++ {
		// Not beside what is taken, which may be as large as a default bridge's.
		four := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 + (seed[0]/2+byte(n))%128, seed[1], 0}), 24)
		free := true
		for _, a := range taken {
			if ipnet, ok := a.(*net.IPNet); ok {
				if used, err := netip.ParsePrefix(ipnet.String()); err == nil && used.Masked().Overlaps(four) {
					free = false
				}
			}
		}
		if !free {
			continue
		}
		subnets := []netip.Prefix{four}
		if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
			six := [16]byte{0xfd, 0xbe, seed[0], seed[1], seed[2], byte(n)}
			subnets = append(subnets, netip.PrefixFrom(netip.AddrFrom16(six), 64))
		}
		return subnets, nil
	}
	return nil, errors.New("cannot find a free subnet in 10.128.0.0/9")
}

func (l *Lab) writeConfig() error {
	group := l.ShimGroup
	if group == "" {
		group = "node"
	}
	var quoted []string
	for _, s := range l.Subnets {
		quoted = append(quoted, fmt.Sprintf("%q", s))
	}
	// Networks that are made get their subnets beside: not those of another lab.
	four := l.Subnets[0].Addr().As4()
	pools := fmt.Sprintf("%q", netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64 | four[1]&63, four[2] & 0xf0, 0}), 20))
	if len(l.Subnets) > 1 {
		six := l.Subnets[1].Addr().As16()
		six[6] = 0x80
		pools += fmt.Sprintf(", %q", netip.PrefixFrom(netip.AddrFrom16(six), 56))
	}
	certs := filepath.Join(l.Dir, "certs.d")
	text := fmt.Sprintf("netns_dir = %q\nimage.certs_dirs = [%q]\n%s\n"+
		"[network]\nmode = %q\nbridge = %q\nsubnets = [%s]\npools = [%s]\n\n[network.cni]\nconf_dir = %q\nbin_dirs = [%q]\n\n"+
		"[shim]\ngroup = %q\npath = %q\ninit_path = %q\n",
		filepath.Join(l.State, "netns"), certs, l.Config, cmp.Or(l.Network, "bridge"), l.Bridge, strings.Join(quoted, ", "), pools,
		l.NetworkConf(), l.Plugins(),
		group, filepath.Join(l.Bin, "berth-shim"), filepath.Join(l.Bin, "berth-init"))
	l.config = filepath.Join(l.Dir, "config.toml")
	return errors.Join(
		os.MkdirAll(certs, 0o755), os.MkdirAll(l.Logs, 0o755),
		os.WriteFile(l.config, []byte(text), 0o644))
}

// NetworkConf is the directory where the daemon looks for networks of CNI, which
// is not there at first. Plugins are looked for in Plugins.
func (l *Lab) NetworkConf() string { return filepath.Join(l.Dir, "cni/net.d") }

// Plugins is where `make cni` puts the plugins of CNI, or else where they
// usually are.
func (l *Lab) Plugins() string {
	if l.Clone == "" {
		return "/opt/cni/bin"
	}
	return l.tool("cni")
}

// Start starts the daemon and waits until it answers.
func (l *Lab) Start(ctx context.Context) error {
	if _, err := os.Stat(l.Daemon); err != nil {
		return fmt.Errorf("cannot start berthd: run make in the clone, or name another directory in BERTH_BIN: %w", err)
	}
	level := strconv.Itoa(cmp.Or(l.LogLevel, 4))
	args := []string{"--config", l.config, "--root", l.Root, "--state", l.State, "--cgroup-parent", l.CgroupParent, "--log-level", level}
	p, err := l.startProcess(l.Daemon, args, l.Env, filepath.Join(l.Dir, "berthd.log"))
	if err != nil {
		return err
	}
	l.daemon = p
	ready := func() error {
		_, err := l.Admin().Info(ctx)
		return err
	}
	if err := p.Await(ctx, ready); err != nil {
		return fmt.Errorf("cannot start berthd: %w", err)
	}
	return nil
}

// Conn is a connection to berth.sock, which survives restarts of the daemon.
func (l *Lab) Conn() *grpc.ClientConn {
	if l.conn == nil {
		conn, err := l.Dial(l.Socket)
		if err != nil {
			panic(err) // the target is ours and well-formed
		}
		l.conn = conn
	}
	return l.conn
}

// Dial makes a connection to one of the sockets; the caller closes it.
func (l *Lab) Dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(fastRetry), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

// Admin calls the daemon's own service.
func (l *Lab) Admin() *api.Client { return api.NewClient(l.Conn()) }

// Pid is the daemon's.
func (l *Lab) Pid() int { return l.daemon.cmd.Process.Pid }

// Running tells whether the daemon lives.
func (l *Lab) Running() bool { return l.daemon != nil && !l.daemon.Ended() }

// Kill ends the daemon as a crash would.
func (l *Lab) Kill() { l.daemon.Stop(unix.SIGKILL) }

// Stop ends the daemon in order; containers live on.
func (l *Lab) Stop() { l.daemon.Stop(unix.SIGTERM) }

// KillShims ends every shim as a crash would and returns how many there were.
func (l *Lab) KillShims(ctx context.Context) (int, error) {
	info, err := l.Admin().Info(ctx)
	if err != nil {
		return 0, err
	}
	for _, pid := range info.Pids.Shims {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			return 0, fmt.Errorf("cannot kill shim %d: %w", pid, err)
		}
	}
	return len(info.Pids.Shims), nil
}

// DaemonLog is all that the daemon wrote so far.
func (l *Lab) DaemonLog() string {
	data, _ := os.ReadFile(filepath.Join(l.Dir, "berthd.log"))
	return string(data)
}

// ShimLog is all that the shims wrote so far, of what failed in them.
func (l *Lab) ShimLog() string {
	data, _ := os.ReadFile(filepath.Join(l.State, "shim.log"))
	return string(data)
}

// Berth runs the command line against this lab and returns its stdout.
func (l *Lab) Berth(ctx context.Context, args ...string) (string, error) {
	return l.run(ctx, filepath.Join(l.Bin, "berth"), append([]string{"--socket", l.Socket}, args...))
}

// Crictl runs crictl against this lab and returns its stdout.
func (l *Lab) Crictl(ctx context.Context, args ...string) (string, error) {
	endpoint := "unix://" + l.Socket
	return l.run(ctx, l.tool("crictl"),
		append([]string{"--config", "/dev/null", "-t", "60s", "-r", endpoint, "-i", endpoint}, args...))
}

func (l *Lab) run(ctx context.Context, program string, args []string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = l.Dir
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := l.Inside(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// EndNetwork removes every interface and rule of the lab, as a reboot does.
func (l *Lab) EndNetwork() error { return l.Inside(l.takeDownNetwork) }

// FreePort is a TCP port that nobody listens on at this moment.
func FreePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// End removes all pods and images and closes the lab. It returns an error that
// lists what `berth check` finds, and what is left after the pods or at the end.
func (l *Lab) End(ctx context.Context) error {
	return errors.Join(l.clear(ctx), l.Close(ctx))
}

// clear removes all pods and images, and looks at what is left of them.
func (l *Lab) clear(ctx context.Context) error {
	if !l.Running() && !l.kept {
		return nil
	}
	errs := []error{l.RemoveAll(ctx)}
	if problems, err := l.Admin().Check(ctx); err != nil {
		errs = append(errs, err)
	} else if len(problems) > 0 {
		errs = append(errs, fmt.Errorf("berth check: %+v", problems))
	}
	if left := l.OfPods(); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left by removed pods: %q", left))
	}
	return errors.Join(errs...)
}

// Close ends everything and removes the lab's files. It returns an error
// that lists what is left nevertheless.
func (l *Lab) Close(ctx context.Context) error {
	var errs []error
	if l.Running() || l.kept {
		if info, err := l.Admin().Info(ctx); err == nil {
			defer l.killLeft(info.Pids.Shims)
			if l.kept {
				l.endKept(info.Pids.Daemon)
			}
		}
		if l.Running() {
			l.Stop()
		}
	}
	if l.conn != nil {
		l.conn.Close()
	}
	if l.registry != nil {
		l.registry.Stop(unix.SIGTERM)
	}
	errs = append(errs, l.takeDown())
	if left := l.Residue(); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind: %s", strings.Join(left, "; ")))
	}
	if l.net != nil {
		errs = append(errs, l.net.close())
	}
	return errors.Join(append(errs, os.RemoveAll(l.State), os.RemoveAll(l.Dir))...)
}

// killLeft ends those of pids that still live and are this lab's.
func (l *Lab) killLeft(pids []int) {
	for _, pid := range pids {
		if l.owns(pid) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// Eventually tries f every few milliseconds until it is satisfied, ctx ends
// or limit has passed, and returns f's last word.
func Eventually(ctx context.Context, limit time.Duration, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}
