// Command berthd is the daemon: it reads its configuration, builds every
// object in one visible place (wire.go), recovers what a run before left, and
// then serves CRI and the admin service on two sockets.
//
// It may be killed at any instant. Containers, their logs and their exit codes
// do not depend on it; the next start finds them.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/volumes/named"
)

// version is set by the linker.
var version = "0.1.0"

func main() {
	// There is no reload: a hangup ends the daemon too, and its service manager
	// starts it with the configuration as it is then.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "berthd:", err)
		os.Exit(1)
	}
}

// run does what the arguments say: one of the commands that only print, or
// the daemon itself until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	switch strings.Join(args, " ") {
	case "config default":
		_, err := out.Write(sampleConfig())
		return err
	case "steps":
		_, err := fmt.Fprintln(out, strings.Join(stepNames(), "\n"))
		return err
	case "version":
		_, err := fmt.Fprintln(out, version)
		return err
	}
	switch {
	case len(args) > 0 && args[0] == "doctor":
		return diagnose(ctx, args[1:], out)
	case len(args) > 0 && args[0] == "teardown":
		return teardown(ctx, args[1:], out)
	case len(args) > 1 && args[0] == "config" && args[1] == "show":
		return showConfig(args[2:], out)
	case len(args) > 1 && args[0] == "config" && args[1] == "check":
		return checkConfig(args[2:], out)
	}
	cfg, err := parseArgs(args, out)
	if err != nil || cfg == nil {
		return err
	}
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Errorf("cannot run containers as user %d: mounts, namespaces and cgroups need root; run sudo berthd, or systemctl start berthd", uid)
	}
	return serve(ctx, *cfg)
}

// stepNames lists the failpoints of all domains.
func stepNames() []string {
	return slices.Concat(pod.StepNames(), imageservice.StepNames(), named.StepNames())
}
