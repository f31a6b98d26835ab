package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/sys/apparmor"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// teardown is `berthd teardown`, for who takes berth off a node: it ends and
// removes every pod, and then what a node keeps without any: shims, the bridge
// and its rules, mounts, cgroups, the state directory. Images and volumes stay
// below root. It does so by the verbs of the daemon, whose place it takes.
func teardown(ctx context.Context, args []string, out io.Writer) error {
	f := newFlags("berthd teardown", out)
	if help, err := f.parse(args); help || err != nil {
		return err
	}
	cfg, err := f.load()
	if err == nil {
		err = cfg.validate()
	}
	if err != nil {
		return err
	}
	ctx = klog.NewContext(ctx, setUpProcess(cfg))
	if err := endPods(ctx, cfg); err != nil {
		return fmt.Errorf("cannot take berth down: %w", err)
	}
	return errors.Join(unmountBelow(cfg.State), unmountBelow(filepath.Join(cfg.Root, "images")),
		unmountEmpty(cfg.NetnsDir), removeParent(ctx, cfg.Cgroup), apparmor.UnloadDefault(), os.RemoveAll(cfg.State))
}

// endPods removes all pods, the shims with them, and then the network.
func endPods(ctx context.Context, cfg config) (err error) {
	for _, dir := range []string{cfg.Root, cfg.State} {
		lock, err := lockDir(dir)
		if err != nil {
			return fmt.Errorf("%w: stop it first: systemctl stop berthd", err)
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
	var all []error
	for _, p := range d.pods.Pods(pod.ViewAll, pod.PodFilter{}) {
		err := d.pods.Stop(ctx, pod.ViewAll, p.ID)
		if err == nil {
			err = d.pods.Remove(ctx, pod.ViewAll, p.ID)
		}
		all = append(all, err)
	}
	if net, ok := d.network.Network.(interface{ Teardown() error }); ok && errors.Join(all...) == nil {
		all = append(all, net.Teardown())
	}
	return errors.Join(all...)
}

// unmountBelow unmounts dir and all below it, the last mounted first.
func unmountBelow(dir string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var all []error
	for _, m := range slices.Backward(table) {
		if within(m.Target, dir) {
			all = append(all, mount.Unmount(m.Target))
		}
	}
	return errors.Join(all...)
}

// unmountEmpty unmounts dir, which others use too, if nothing is mounted below it.
func unmountEmpty(dir string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	mounted := false
	for _, m := range table {
		if m.Target != dir && within(m.Target, dir) {
			return nil
		}
		mounted = mounted || m.Target == dir
	}
	if !mounted {
		return nil
	}
	return mount.Unmount(dir)
}
