package main

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/cri"
)

// The names of the sockets in the state directory: one for people, which
// shows every pod, and the kubelet's, which shows the pods made through it.
const (
	berthSocket   = "berth.sock"
	kubeletSocket = "kubelet.sock"
)

// stopPatience is how long calls under way may take to end at a stop. Event
// streams never end by themselves, so it is always used up while one is open.
const stopPatience = 3 * time.Second

// serve is the daemon from its locks to its end. Everything is recovered
// before a socket opens, so who can connect sees the truth.
func serve(ctx context.Context, cfg config) (err error) {
	logger := setUpProcess(cfg)
	ctx = klog.NewContext(ctx, logger)
	for _, dir := range []string{cfg.Root, cfg.State} {
		lock, err := lockDir(dir)
		if err != nil {
			return err
		}
		defer func() { _ = lock.Close() }()
	}
	d, err := build(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close(), d.traces.close(ctx)) }()
	if err := d.pods.Recover(ctx); err != nil {
		return err
	}
	buildRunner{d.pods}.sweep(ctx)
	if err := d.plugins.start(d.pods); err != nil {
		return err
	}
	d.local.Begin(ctx)

	servers := map[string]*grpc.Server{berthSocket: d.berthServer(), kubeletSocket: d.kubeletServer()}
	failed := make(chan error, len(servers)+3)
	if err := d.streams.Listen(ctx); err != nil {
		return err
	}
	endReaders, err := serveReaders(ctx, cfg, d.metrics.Handler(), failed)
	if err != nil {
		return err
	}
	defer endReaders()
	listeners, err := listenIn(ctx, cfg.State, slices.Collect(maps.Keys(servers)))
	if err != nil {
		return err
	}
	for name, s := range servers {
		go func() { failed <- s.Serve(listeners[name]) }()
	}
	go func() { failed <- d.streams.Serve() }()
	notify(logger, "READY=1")
	go feedWatchdog(ctx, logger, filepath.Join(cfg.State, berthSocket))
	logger.Info("Ready", "version", version, "root", cfg.Root, "state", cfg.State)

	select {
	case <-ctx.Done():
		logger.Info("Stopping; containers go on")
	case err = <-failed:
	}
	notify(logger, "STOPPING=1")
	for _, s := range servers {
		stopServer(s)
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	d.streams.Close(patience)
	return err
}

// stopServer lets calls end, then ends them.
func stopServer(s *grpc.Server) {
	t := time.AfterFunc(stopPatience, s.Stop)
	defer t.Stop()
	s.GracefulStop()
}

// listenIn listens on sockets of dir by those names: on all, or on none.
func listenIn(ctx context.Context, dir string, names []string) (map[string]net.Listener, error) {
	listeners := make(map[string]net.Listener)
	for _, name := range names {
		ln, err := listen(ctx, filepath.Join(dir, name), socketMode)
		if err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
			return nil, err
		}
		listeners[name] = ln
	}
	return listeners, nil
}

// setUpProcess sets what the whole process has one of.
func setUpProcess(cfg config) klog.Logger {
	// The modes of what is made are chosen where it is made, not by who starts
	// the daemon: users of a namespace must pass some of the directories.
	unix.Umask(0o022)
	var level klog.Level
	_ = level.Set(strconv.Itoa(cfg.LogLevel)) // a number always parses
	if os.Getenv("GOGC") == "" {
		// The heap is a few megabytes and calls are few: memory at rest counts
		// for more than the time of the collector.
		debug.SetGCPercent(50)
	}
	return klog.Background()
}

// berthServer serves berth.sock: CRI over all pods, and the admin service.
func (d *daemon) berthServer() *grpc.Server {
	s := grpc.NewServer(cri.ServerOptions(d.metrics.Called, d.traces.calls(d.last))...)
	d.all.Register(s)
	d.admin.Register(s)
	return s
}

// kubeletServer serves kubelet.sock: CRI over the pods made through it.
func (d *daemon) kubeletServer() *grpc.Server {
	s := grpc.NewServer(cri.ServerOptions(d.metrics.Called, d.traces.calls(d.last))...)
	d.kubelet.Register(s)
	return s
}
