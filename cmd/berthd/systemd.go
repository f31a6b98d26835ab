package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/runtime/sys/cgroup"
)

// notify tells the service manager what the daemon is about to do, if one
// asked to be told (sd_notify(3)): "READY=1", "WATCHDOG=1" or "STOPPING=1". A
// manager that cannot be reached is its own trouble.
func notify(logger klog.Logger, state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	// A leading @ means an abstract address, to systemd and to package net.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path})
	if err == nil {
		_, err = c.Write([]byte(state))
		_ = c.Close()
	}
	if err != nil {
		logger.Error(err, "Cannot tell the service manager", "state", state)
	}
}

// watchdogInterval is how often the service manager wants to hear that the
// daemon is well, and whether it wants to at all (sd_watchdog_enabled(3)).
func watchdogInterval() (time.Duration, bool) {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, false
	}
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0, false
	}
	return time.Duration(usec) * time.Microsecond, true
}

// feedWatchdog tells the service manager that the daemon is well, as long as it
// answers a call on its own socket: one that does not is ended, with its
// goroutines in the journal, and started again.
func feedWatchdog(ctx context.Context, logger klog.Logger, socket string) {
	within, wanted := watchdogInterval()
	if !wanted {
		return
	}
	tick := time.NewTicker(within / 3)
	defer tick.Stop()
	for {
		if err := answers(ctx, socket, within/3); err == nil {
			notify(logger, "WATCHDOG=1")
		} else if ctx.Err() == nil {
			logger.Error(err, "The daemon does not answer itself; its service manager will end it if that lasts", "within", within)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// answers makes the cheapest call there is, over a connection of its own: so a
// client that finds the daemon deaf is not alone.
func answers(ctx context.Context, socket string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = api.NewClient(conn).Steps(ctx)
	return err
}

// shimScope puts a shim into a unit of its own where systemd runs the machine:
// stopping, limits and memory of the daemon's unit do not concern it. One for
// which that cannot be done stays in the daemon's, which leaves it alone too.
func shimScope(ctx context.Context, state string) func(key string, pid int) error {
	if cgroupDriver("") != driverSystemd {
		return nil
	}
	return func(key string, pid int) error {
		// The pid keeps apart the shims of one group that follow each other, and
		// those of several daemons. The unit goes with its last process.
		name := fmt.Sprintf("berth-shim-%.12s-%d.scope", key, pid)
		if err := systemdJob(ctx, func(ctx context.Context, conn *systemd.Conn, done chan<- string) error {
			_, err := conn.StartTransientUnitContext(ctx, name, "fail", []systemd.Property{
				systemd.PropDescription("berth's shim, parent of the containers of " + filepath.Clean(state)),
				systemd.PropPids(uint32(pid)),
				systemd.PropSlice("system.slice"),
				// It has to outlive what else is stopped at a shutdown: containers
				// are told to end by their own units, and it reports their exits.
				property("DefaultDependencies", false),
				property("TasksMax", ^uint64(0)),
				property("CollectMode", "inactive-or-failed"),
			}, done)
			return err
		}); err != nil {
			return fmt.Errorf("cannot make the unit %s: %w", name, err)
		}
		return nil
	}
}

// removeParent takes the group away in which pods are that name none. systemd
// would keep the slice that it has made for them. One that somebody else's
// units are in stays.
func removeParent(ctx context.Context, cfg cgroupConfig) error {
	if cgroupDriver(cfg.Driver) != driverSystemd {
		return cgroup.Remove(cfg.Parent)
	}
	slice := filepath.Base(strings.TrimSuffix(cfg.Parent, ".slice")) + ".slice"
	if err := systemdJob(ctx, func(ctx context.Context, conn *systemd.Conn, done chan<- string) error {
		group, err := conn.GetUnitTypePropertyContext(ctx, slice, "Slice", "ControlGroup")
		if err != nil {
			return err
		}
		path, _ := group.Value.Value().(string)
		var others []string
		if path != "" { // it is there
			others, err = cgroup.List(path)
		}
		if err != nil || path == "" || len(others) > 0 {
			done <- jobDone
			return err
		}
		_, err = conn.StopUnitContext(ctx, slice, "fail", done)
		return err
	}); err != nil {
		return fmt.Errorf("cannot stop the unit %s: %w", slice, err)
	}
	return nil
}

const jobDone = "done" // what systemd says of a job that has succeeded

// systemdJob asks systemd for a job and waits until that is over.
func systemdJob(ctx context.Context, ask func(ctx context.Context, conn *systemd.Conn, done chan<- string) error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := systemd.NewWithContext(ctx)
	if err != nil {
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	defer conn.Close()
	done := make(chan string, 1)
	if err := ask(ctx, conn, done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != jobDone {
			return fmt.Errorf("systemd says of it: %s", result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func property(name string, value any) systemd.Property {
	return systemd.Property{Name: name, Value: godbus.MakeVariant(value)}
}
