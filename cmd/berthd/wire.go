package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/cri"
	"github.com/berth-runtime/berth/cri/admin"
	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/cri/journal"
	"github.com/berth-runtime/berth/cri/metrics"
	"github.com/berth-runtime/berth/cri/operations"
	"github.com/berth-runtime/berth/cri/stream"
	"github.com/berth-runtime/berth/imageservice"
	"github.com/berth-runtime/berth/imageservice/verifier"
	"github.com/berth-runtime/berth/runtime/local"
	"github.com/berth-runtime/berth/runtime/pod"
	"github.com/berth-runtime/berth/runtime/state"
	"github.com/berth-runtime/berth/volumes"
	"github.com/berth-runtime/berth/volumes/named"
)

// daemon is every object that lives as long as the process.
type daemon struct {
	pods    *pod.Table
	local   *local.Service // looks after local pods once they are recovered
	all     *cri.Server    // the view of berth.sock
	kubelet *cri.Server    // the view of kubelet.sock
	admin   *admin.Server
	network nodeNetwork
	plugins plugins        // of NRI; started once the pods are recovered
	streams *stream.Server // what the URLs of both views lead to
	metrics *metrics.Metrics
	traces  traces
	last    *operations.Recorder // of calls
	close   func() error         // ends the daemon's part; containers and shims go on
}

// build makes every object, once, and connects them. Nothing runs yet: the
// caller recovers and then opens the sockets.
func build(ctx context.Context, cfg config) (*daemon, error) {
	bootID, err := state.BootID()
	if err != nil {
		return nil, err
	}
	driver := cgroupDriver(cfg.Cgroup.Driver)
	counts := metrics.New(version)
	spans, err := buildTraces(ctx, cfg.Tracing)
	if err != nil {
		return nil, err
	}
	happened, last := journal.New(), operations.New(cri.Reads)
	imageRoot := filepath.Join(cfg.Root, "images")
	labels, err := buildLabels(cfg.SELinux)
	if err != nil {
		return nil, err
	}
	images, err := imageservice.Open(ctx, imageservice.Config{
		Root:            imageRoot,
		DefaultRegistry: cfg.Image.DefaultRegistry,
		CertsDirs:       cfg.Image.CertsDirs,
		Proxies:         cfg.Image.Proxies,
		Pinned:          cfg.Image.Pinned,
		KeepBlobs:       cfg.Image.KeepBlobs,
		NoTarSplit:      !cfg.Image.TarSplit,
		BuildCache:      cfg.Image.BuildCacheGiB << 30,
		Verifiers:       verifier.Programs{Dir: cfg.Image.VerifiersDir},
		Observer:        counts,
		Observe:         rememberSteps(spans, last),
		Happened:        happened.Image,
		BootID:          bootID,
		SetGCPercent:    debug.SetGCPercent,

		MaxParallelLayers: cfg.Image.ParallelLayers,
		Ranges: imageservice.Ranges{
			Parallel: cfg.Image.ParallelRanges, Size: cfg.Image.RangeMiB << 20, From: cfg.Image.RangesFromMiB << 20,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot open the image store: %w", err)
	}
	net, err := buildNetwork(ctx, cfg)
	if err != nil {
		return nil, errors.Join(err, images.Close())
	}
	hooks, err := buildPlugins(ctx, cfg)
	if err != nil {
		net.close()
		return nil, errors.Join(err, images.Close())
	}
	kept, err := named.Open(filepath.Join(cfg.Root, "named"))
	if err != nil {
		net.close()
		return nil, errors.Join(fmt.Errorf("cannot open the volumes: %w", err), images.Close())
	}
	pods, err := pod.New(pod.Config{
		Root:          cfg.Root,
		State:         cfg.State,
		NetnsDir:      cfg.NetnsDir,
		CgroupParent:  cfg.Cgroup.Parent,
		SystemdCgroup: driver == driverSystemd,
		BootID:        bootID,
		InitPath:      besideSelf(cfg.Shim.InitPath, "berth-init"),
		Shim: pod.ShimConfig{
			Group:   pod.ShimGroup(cfg.Shim.Group),
			Binary:  besideSelf(cfg.Shim.Path, "berth-shim"),
			LogFile: filepath.Join(cfg.State, "shim.log"),
			Place:   shimScope(ctx, cfg.State),
		},
		Images:  podImages{Service: images, root: imageRoot},
		Volumes: podVolumes{Resolver: volumes.Resolver{Strict: cfg.Volumes.Strict}, named: kept},
		Network: net,

		Handlers: cfg.handlers(),
		CDI:      cfg.CDI.Dirs,
		AppArmor: defaultAppArmor(ctx),
		SELinux:  labels,
		Hooks:    hooks.forPods(),

		Checkpoint: pod.CheckpointConfig{CRIU: cfg.Checkpoint.program(), Key: cfg.Checkpoint.Key, Diffs: images},

		Observe: observeSteps(counts, spans, last),
		Exited:  counts.Exited,
		Righted: counts.Righted,
	})
	if err != nil {
		net.close()
		return nil, errors.Join(fmt.Errorf("cannot open the records of pods: %w", err), images.Close())
	}

	counts.Watch(pods, images)
	userns := sync.OnceValue(func() bool {
		err := images.ProbeUserNamespaces()
		if err != nil {
			klog.FromContext(ctx).Info("Pods cannot have user namespaces here", "why", err)
		}
		return err == nil
	})
	streams := stream.New(pods, cfg.Stream.forServer())
	view := func(v pod.View) *cri.Server {
		return cri.New(cri.Config{
			View:              v,
			Pods:              pods,
			Images:            images,
			Streams:           streams,
			RuntimeName:       "berth",
			Version:           version,
			CgroupDriver:      driver,
			Handlers:          slices.Sorted(maps.Keys(cfg.Handlers)),
			RecursiveReadOnly: volumes.ProbeRRO(),
			UserNamespaces:    userns,
			NetworkStatus:     func(ctx context.Context) error { return net.status(ctx, v == pod.ViewKubelet) },
			NetworkInfo:       net.info,
			SetPodCIDR:        net.setPodCIDR,
			ConfigJSON:        func() string { return statusConfig(cfg, driver) },
		})
	}
	locals := local.New(local.Config{
		Pods: pods, Tell: func(e local.Event) { happened.Add(localEvent(e)) },
		Root: cfg.Root, State: cfg.State, LogRoot: pods.LogRoot(),
	})
	following, endJournal := context.WithCancel(context.WithoutCancel(ctx))
	go happened.Follow(following, pods.Subscribe)
	return &daemon{
		// Pods first: what they do uses the others.
		close: func() error {
			locals.Close()
			endJournal()
			pods.Close()
			hooks.stop()
			net.close()
			return images.Close()
		},
		pods:    pods,
		network: net,
		local:   locals,
		plugins: hooks,
		streams: streams,
		metrics: counts,
		traces:  spans,
		last:    last,
		all:     view(pod.ViewAll),
		kubelet: view(pod.ViewKubelet),
		admin: admin.New(admin.Config{
			Pods:   pods,
			Images: images,
			Runner: buildRunner{pods},
			Local:  locals,
			Named:  kept,
			Steps:  stepNames(),
			Events: happened.Read,

			Doctor: func(ctx context.Context, registries []string) ([]api.Finding, error) {
				return diagnosis(ctx, net.Network, registries)
			},
			Settings:   cfg.origins,
			Networks:   networks{cfg.Network, net, pods},
			Operations: last.List,

			Checked: counts.Checked,
			Info: func(ctx context.Context) api.Info {
				return api.Info{
					Version: version, Root: cfg.Root, State: cfg.State, LogRoot: pods.LogRoot(), ShimGroup: cfg.Shim.Group,
					Pids: api.Pids{Daemon: os.Getpid(), Shims: shimPids(ctx, cfg.State)}, BootID: bootID, CgroupDriver: driver,
				}
			},
		}),
	}, nil
}

const (
	driverSystemd  = "systemd"
	driverCgroupfs = "cgroupfs"
)

// cgroupDriver is the configured driver, else the one that fits the machine
// (sd_booted(3)).
func cgroupDriver(configured string) string {
	if configured != "" {
		return configured
	}
	if st, err := os.Stat("/run/systemd/system"); err == nil && st.IsDir() {
		return driverSystemd
	}
	return driverCgroupfs
}

// besideSelf is the configured path, else that of name beside our own binary,
// so that a build runs from where it was made.
func besideSelf(configured, name string) string {
	if configured != "" {
		return configured
	}
	self, err := os.Executable()
	if err != nil {
		return name // found on PATH or reported when it is needed
	}
	return filepath.Join(filepath.Dir(self), name)
}

// statusConfig is the configuration as verbose status shows it.
func statusConfig(cfg config, driver string) string {
	b, err := json.Marshal(map[string]any{
		"rootDir":       cfg.Root,
		"stateDir":      cfg.State,
		"netnsDir":      cfg.NetnsDir,
		"cgroupDriver":  driver,
		"shimGroup":     cfg.Shim.Group,
		"networkMode":   cfg.Network.Mode,
		"networkBridge": cfg.Network.Bridge,
	})
	if err != nil {
		return "{}"
	}
	return string(b)
}
