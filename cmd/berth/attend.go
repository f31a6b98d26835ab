package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// patience is how long a foreground command waits for a daemon that went away:
// containers outlive it, and it is usually back within seconds.
const patience = 30 * time.Second

// attend shows a container's output and passes signals on to it until it has
// ended; the error is its exit code.
func (c *cli) attend(ctx context.Context, cl *client, id string, signals <-chan os.Signal) (result error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	logged := make(chan error, 1)
	go func() { logged <- c.follow(ctx, cl, &api.LogsRequest{Container: id, Follow: true}, logStyle{}) }()

	type ended struct {
		how *api.WaitResult
		err error
	}
	waited := make(chan ended, 1)
	go func() {
		how, err := wait(ctx, cl, id)
		waited <- ended{how, err}
	}()

	interrupts := 0
	for {
		select {
		case s := <-signals:
			if s == unix.SIGINT || s == unix.SIGTERM {
				if interrupts++; interrupts >= 3 {
					return nil, &problem{
						what: "cannot wait for container " + short(id, false) + " any longer",
						why:  "it goes on after three signals",
						do:   "end it with: berth stop " + short(id, false),
					}
				}
			}
			// A container that has just ended cannot take it, and need not.
			_ = cl.admin.Signal(ctx, id, unix.SignalName(s.(unix.Signal)))
		case end := <-waited:
			if end.err != nil {
				return nil, cannot(end.err, "wait for container %s", short(id, false))
			}
			if err := <-logged; err != nil {
				report(c.err, cannot(err, "show the end of the log of container %s", short(id, false)))
			}
			return c.outcome(id, end.how), nil
		}
	}
}

// outcome turns the end of a container into our own.
func (c *cli) outcome(id string, how *api.WaitResult) error {
	if how.OOM {
		fmt.Fprintf(c.err, "berth: container %s was killed because it ran out of memory\n", short(id, false))
	}
	if how.Error != "" {
		return &problem{
			what: "cannot run container " + short(id, false), why: how.Error,
			do: "check the command and the image: berth inspect " + short(id, false),
		}
	}
	if how.ExitCode == 0 {
		return nil
	}
	return exitCode(how.ExitCode)
}

// wait returns how a container ended, across restarts of the daemon.
func wait(ctx context.Context, cl *client, id string) (how *api.WaitResult, err error) {
	err = again(ctx, cl, func() error {
		how, err = cl.admin.Wait(ctx, id)
		return err
	})
	return how, err
}

// again calls do until it ends with anything but a daemon that went away, or
// the daemon stays away for too long.
func again(ctx context.Context, cl *client, do func() error) error {
	var away absence
	for {
		err := do()
		// A daemon that is told to end cancels its calls before it hangs up.
		if c := status.Code(err); c != codes.Unavailable && c != codes.Canceled || ctx.Err() != nil {
			return err
		}
		if away.tooLong(time.Now(), cl.met.Load()) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// absence is the time since a daemon was last there: one that has come back
// meanwhile, and had nothing to say, was not away for all of it.
type absence struct {
	since time.Time
	met   int64 // how often it had been reached by then
}

// tooLong is asked whenever a call has failed because nobody is there.
func (a *absence) tooLong(now time.Time, met int64) bool {
	if a.since.IsZero() || met != a.met {
		a.since, a.met = now, met
	}
	return now.Sub(a.since) > patience
}
