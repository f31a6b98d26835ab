// Command critest runs kubernetes' own CRI specs against a berthd of its own,
// and fails if one fails or is skipped that allowed.txt does not name with the
// reason. In a run of all, they run one after the other, then once more side by
// side; the specs of streaming are run three times more: critest speaks SPDY to
// exec, attach and port-forward, and WebSocket to the one that a flag names; and
// those of networking twice more, on nodes whose pods are on a network of CNI,
// with a plugin for host ports and without.
//
// Side by side, critest starts ginkgo, which starts critest several times and
// deals the specs out. Those of images, which list and remove what others use,
// say that they are serial, and ginkgo runs them at the end, alone. The ports
// of the host (12000 to 12003) are fixed, and each is one spec's own.
//
// critest names one image by a digest that only its makers' registry can
// serve. The constant is changed, in a copy of the module under hack/.cache
// that is made at build time, to the digest of our stand-in.
//
// usage: critest-node [build|built], in the clone
//
//	build   only builds what the specs need, with Go and gcc
//	built   runs them with what was built before, without either
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/selinux"
)

const (
	pinnedDigest = "sha256:9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf"
	module       = "sigs.k8s.io/cri-tools"
	runner       = "github.com/onsi/ginkgo/v2/ginkgo"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "critest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch verb := strings.Join(args, " "); verb {
	case "", "build":
		clone, err := os.Getwd()
		if err != nil {
			return err
		}
		if err := build(ctx, clone); err != nil || verb == "build" {
			return err
		}
	case "built":
	default:
		return fmt.Errorf("cannot %q: there are build and built", verb)
	}
	network := cmp.Or(os.Getenv("NETWORK"), embedded)
	if os.Getenv("FOCUS") != "" || os.Getenv("SKIP") != "" {
		p, err := chosen()
		if err != nil {
			return err
		}
		return onNode(ctx, network, p)
	}
	if network != embedded {
		return onNode(ctx, network, networking(network))
	}
	only, found := os.Getenv("PASS"), false
	var errs []error
	for _, node := range []struct {
		network string
		passes  []pass
	}{
		{embedded, []pass{inTurn, sideBySide, overWebSocket("exec"), overWebSocket("attach"), overWebSocket("portforward")}},
		{plugins, []pass{networking(plugins)}},
		{withoutPortmap, []pass{networking(withoutPortmap)}},
	} {
		passes := slices.DeleteFunc(node.passes, func(p pass) bool { return only != "" && cmp.Or(p.name, "specs") != only })
		if len(passes) > 0 {
			found = true
			errs = append(errs, onNode(ctx, node.network, passes...))
		}
	}
	if !found {
		errs = append(errs, fmt.Errorf("there is no pass %q", only))
	}
	return errors.Join(errs...)
}

// The networks of pods, as NETWORK names them.
const (
	embedded       = "embedded"            // berth's own bridge
	plugins        = "cni"                 // the reference plugins bridge, host-local and portmap
	withoutPortmap = "cni-without-portmap" // the same but portmap: host ports are berth's
)

// newLab makes a node of that network. Plugins change the host's network, so
// theirs is one of their own.
func newLab(network string) (*lab.Lab, error) {
	o := lab.Options{Mirrors: []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io", "docker.io"}}
	if selinux.Enabled() {
		o.Config = "[selinux]\nenable = true\n" // whose specs are there on such a host
	}
	var more []lab.Plugin
	switch network {
	case embedded:
		return lab.New(o)
	case plugins:
		more = append(more, lab.Portmap())
	case withoutPortmap:
	default:
		return nil, fmt.Errorf("NETWORK %q is none of %s, %s and %s", network, embedded, plugins, withoutPortmap)
	}
	o.Network, o.OwnNet = "cni", true
	l, err := lab.New(o)
	if err != nil {
		return nil, err
	}
	return l, l.SetNetwork("10.conflist", l.BridgeList("1.0.0", more...))
}

// onNode runs passes on a node of its own.
func onNode(ctx context.Context, network string, passes ...pass) (err error) {
	l, err := newLab(network)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if l.Running() {
			err = errors.Join(err, l.RemoveAll(end))
		}
		if log := l.DaemonLog(); log != "" {
			_ = os.WriteFile(filepath.Join(l.Clone, "hack/.cache/critest-berthd.log"), []byte(log), 0o644)
		}
		err = errors.Join(err, l.Close(end))
	}()
	if err := l.StartRegistry(ctx); err != nil {
		return err
	}
	if err := pushImages(ctx, l); err != nil {
		return err
	}
	if err := l.Start(ctx); err != nil {
		return err
	}
	var errs []error
	for _, p := range passes {
		errs = append(errs, specs(ctx, l, p))
	}
	return errors.Join(errs...)
}

// pass is one run of critest.
type pass struct {
	name string   // "" for the first
	args []string // flags beyond those of every pass
	all  bool     // of all specs, so that each that is skipped needs a reason
	runs int      // how many must pass; 0: any number
	of   int      // how many there must be at least
}

// chosen is the pass that the user's environment describes.
func chosen() (pass, error) {
	var p pass
	for flag, name := range map[string]string{"-ginkgo.focus": "FOCUS", "-ginkgo.skip": "SKIP"} {
		if v := os.Getenv(name); v != "" {
			p.args = append(p.args, flag, v)
		}
	}
	if v := os.Getenv("FLAGS"); v != "" {
		p.args = append(p.args, strings.Fields(v)...)
	}
	if v := os.Getenv("RUNS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			return p, fmt.Errorf("cannot read RUNS: %w", err)
		}
		p.runs = n
	}
	return p, nil
}

// allSpecs is how many specs there are, on a host without SELinux.
const allSpecs = 122

// The passes over all specs: one after the other, and four at a time.
var (
	inTurn     = pass{all: true, of: allSpecs}
	sideBySide = pass{name: "parallel", args: []string{"-parallel", "4"}, all: true, of: allSpecs}
)

// streamingSpecs is how many specs of streaming there are.
const streamingSpecs = 5

// overWebSocket is a pass over the specs of streaming.
func overWebSocket(verb string) pass {
	return pass{name: "websocket-" + verb, args: []string{"-ginkgo.focus", `\[k8s\.io\] Streaming`, "-websocket-" + verb}, runs: streamingSpecs}
}

// networkingSpecs is how many specs of networking there are.
const networkingSpecs = 4

// networking is a pass over the specs of networking.
func networking(network string) pass {
	return pass{name: "networking-" + network, args: []string{"-ginkgo.focus", `\[k8s\.io\] Networking`}, runs: networkingSpecs}
}

// What build makes, below the clone. Each is there as a whole or not at all, so
// that a run in a guest and one on the machine do not disturb each other.
const (
	critestBinary = "hack/.cache/critest"
	suidBinary    = "hack/.cache/critest-nnp"    // the program of the image nonewprivs
	digestFile    = "hack/.cache/critest-digest" // of the image that critest pulls by digest
)

// build compiles critest with the digest of our stand-in for the pinned one,
// the program of an image, and ginkgo, which critest looks for on PATH when
// specs are to run side by side. Go's own cache makes a second build quick.
func build(ctx context.Context, clone string) error {
	tools, cache := filepath.Join(clone, "hack/tools"), filepath.Join(clone, "hack/.cache")
	lock, err := os.Create(filepath.Join(cache, "critest.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("cannot lock %s: %w", lock.Name(), err)
	}
	if err := compileSetuid(ctx, filepath.Join(clone, suidBinary)); err != nil {
		return err
	}
	img, err := bare(clone, pulledByDigest)
	if err != nil {
		return err
	}
	hash, err := img.Digest()
	if err != nil {
		return err
	}
	digest := hash.String()
	dir, err := moduleDir(ctx, tools)
	if err != nil {
		return err
	}
	// A build overlay must not reach into the module cache, hence a copy.
	patched := filepath.Join(cache, "cri-tools")
	if err := errors.Join(os.RemoveAll(patched), os.CopyFS(patched, os.DirFS(dir))); err != nil {
		return err
	}
	consts := filepath.Join(patched, "pkg/validate/consts.go")
	text, err := os.ReadFile(consts)
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), pinnedDigest) {
		return fmt.Errorf("%s no longer has the digest %s: adapt hack/critest", consts, pinnedDigest)
	}
	// The module cache is read-only, and so is its copy.
	text = []byte(strings.ReplaceAll(string(text), pinnedDigest, digest))
	if err := errors.Join(os.Remove(consts), os.WriteFile(consts, text, 0o644)); err != nil {
		return err
	}
	mod, err := os.ReadFile(filepath.Join(tools, "go.mod"))
	if err != nil {
		return err
	}
	sum, err := os.ReadFile(filepath.Join(tools, "go.sum"))
	if err != nil {
		return err
	}
	modfile := filepath.Join(cache, "critest.mod")
	mod = fmt.Appendf(mod, "\nreplace %s => %s\n", module, patched)
	if err := errors.Join(os.WriteFile(modfile, mod, 0o644), os.WriteFile(filepath.Join(cache, "critest.sum"), sum, 0o644)); err != nil {
		return err
	}
	fmt.Println("building critest (minutes the first time)")
	if _, err := goTool(ctx, tools, "test", "-c", "-mod=mod", "-modfile", modfile, "-o", filepath.Join(clone, critestBinary+".new"), module+"/cmd/critest"); err != nil {
		return fmt.Errorf("cannot build critest: %w", err)
	}
	if err := os.Rename(filepath.Join(clone, critestBinary+".new"), filepath.Join(clone, critestBinary)); err != nil {
		return err
	}
	if _, err := goTool(ctx, tools, "build", "-buildvcs=false", "-o", filepath.Join(cache, "ginkgo"), runner); err != nil {
		return fmt.Errorf("cannot build ginkgo: %w", err)
	}
	return atomicfile.Write(filepath.Join(clone, digestFile), []byte(digest), 0o644)
}

// moduleDir is where Go keeps the pinned module, which it fetches if need be.
func moduleDir(ctx context.Context, tools string) (string, error) {
	if _, err := goTool(ctx, tools, "mod", "download", module); err != nil {
		return "", fmt.Errorf("cannot download %s: %w", module, err)
	}
	return goTool(ctx, tools, "list", "-m", "-f", "{{.Dir}}", module)
}

func goTool(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// specs runs the binary, shows what it prints, and judges what it reports.
func specs(ctx context.Context, l *lab.Lab, p pass) error {
	base := filepath.Join(l.Clone, "hack/.cache/critest")
	if p.name != "" {
		base += "-" + p.name
		fmt.Printf("\n=== %s\n", p.name)
	}
	log, err := os.Create(base + ".log")
	if err != nil {
		return err
	}
	defer log.Close()
	report := base + ".json"
	if err := os.RemoveAll(report); err != nil {
		return err
	}
	args := []string{"-runtime-endpoint", "unix://" + l.Socket, "-image-endpoint", "unix://" + l.Socket,
		"-ginkgo.no-color", "-ginkgo.json-report", report}
	args = append(args, p.args...)
	cmd := exec.CommandContext(ctx, filepath.Join(l.Clone, critestBinary), args...)
	cmd.Dir = l.Dir
	// The directories that critest makes and leaves go with the node.
	temporary := filepath.Join(l.Dir, "tmp")
	if err := os.MkdirAll(temporary, 0o755); err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "TMPDIR="+temporary, "PATH="+filepath.Join(l.Clone, "hack/.cache")+":"+os.Getenv("PATH"))
	// Of what it starts, ginkgo and its children, none outlives an interrupt.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	begin := time.Now()
	cmd.Stdout = io.MultiWriter(os.Stdout, log)
	cmd.Stderr = cmd.Stdout
	runErr := l.Inside(cmd.Start)
	if runErr == nil {
		runErr = cmd.Wait()
	}
	all, err := readReport(report)
	if err != nil {
		return fmt.Errorf("critest did not finish, see %s: %w", log.Name(), errors.Join(runErr, err))
	}
	text, err := judge(all, allowed, p)
	fmt.Printf("\n%s  in %.0fs\n", text, time.Since(begin).Seconds())
	if err != nil {
		return fmt.Errorf("%w (see %s)", err, log.Name())
	}
	return nil
}
