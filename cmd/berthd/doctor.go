package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
	"github.com/berth-runtime/berth/imageservice/refs"
	"github.com/berth-runtime/berth/imageservice/registry"
	"github.com/berth-runtime/berth/imageservice/snapshot"
	"github.com/berth-runtime/berth/runtime/doctor"
	"github.com/berth-runtime/berth/runtime/network"
)

const (
	doctorPatience   = 5 * time.Minute  // for all checks
	registryPatience = 10 * time.Second // for one registry to answer
)

// diagnose is `berthd doctor`: it looks at the node as the daemon with these
// flags would find it, and prints what it finds as JSON, which `berth doctor`
// shows. It is a process of its own even while a daemon runs, so that no check
// can harm that one.
func diagnose(ctx context.Context, args []string, out io.Writer) error {
	f := newFlags("berthd doctor", out)
	var hosts []string
	f.Func("registry", "`host` of a registry to try to reach; \"all\" those of the configuration. May be repeated", func(h string) error {
		hosts = append(hosts, h)
		return nil
	})
	withNetwork := f.Bool("network", true, "look at the host's part of the network; a daemon that runs knows more and does so itself")
	if help, err := f.parse(args); help || err != nil {
		return err
	}
	cfg, err := f.load()
	if err == nil {
		err = cfg.validate()
	}
	found := []doctor.Finding{configFinding(f, err)}
	found = append(found, doctor.Run(ctx, doctorConfig(cfg, *withNetwork, hosts))...)
	return json.NewEncoder(out).Encode(map[string]any{"findings": found})
}

func configFinding(f *flags, err error) doctor.Finding {
	const name = "config"
	if err == nil {
		files, _ := f.files()
		if len(files) == 0 {
			return doctor.Finding{Check: name, Verdict: doctor.OK, Reason: "there is no configuration file; the defaults hold"}
		}
		return doctor.Finding{Check: name, Verdict: doctor.OK, Reason: strings.Join(files, ", ") + " can be used"}
	}
	return doctor.Finding{
		Check: name, Verdict: doctor.Fail, Reason: strings.ReplaceAll(err.Error(), "\n", "; "),
		Fix: "repair the file, then: berth config check && systemctl restart berthd",
	}
}

func doctorConfig(cfg config, withNetwork bool, hosts []string) doctor.Config {
	programs := []string{besideSelf(cfg.Shim.Path, "berth-shim"), besideSelf(cfg.Shim.InitPath, "berth-init")}
	if p := cfg.Checkpoint.program(); p != "" {
		if found, err := exec.LookPath(p); err == nil {
			p = found
		}
		programs = append(programs, p)
	}
	more := []doctor.Check{doctor.Attempt("storage.mapped", "layers can be mounted with mapped owners, for pods with user namespaces",
		doctor.Warn, "boot Linux 5.19 or newer, and keep root on ext4, xfs or btrfs",
		func(context.Context) error { return snapshot.ProbeMapped(existing(cfg.Root)) })}
	if withNetwork {
		more = append(more, doctor.Check{Name: "network", Look: func(ctx context.Context) []doctor.Finding {
			net, _, err := usualNetwork(ctx, cfg) // which reads, and makes nothing
			if err != nil {
				return []doctor.Finding{{Check: "network", Verdict: doctor.Fail, Reason: err.Error(), Fix: "change [network] of the configuration"}}
			}
			defer net.close()
			return examine(ctx, net.Network)
		}})
	}
	return doctor.Config{
		Root: cfg.Root, State: cfg.State,
		CgroupDriver: cgroupDriver(cfg.Cgroup.Driver), CgroupParent: cfg.Cgroup.Parent,
		Network: cfg.Network.Enabled, SELinux: cfg.SELinux.Enable,
		KubeletSocket: filepath.Join(cfg.State, kubeletSocket), EveryPod: filepath.Join(cfg.State, berthSocket),
		Programs: programs,
		More:     append(more, registryChecks(cfg, hosts)...),
	}
}

// existing is the nearest directory above path that is there.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// examine has a network look at what of the host is in its way.
func examine(ctx context.Context, net network.Network) []doctor.Finding {
	e, ok := net.(network.Examiner)
	if !ok {
		return nil
	}
	var out []doctor.Finding
	for _, f := range e.Examine(ctx) {
		out = append(out, doctor.Finding{Check: "network." + f.Name, Verdict: doctor.Verdict(f.Verdict), Reason: f.Why, Fix: f.Do})
	}
	return out
}

// registryChecks are for the hosts asked for. "all" stands for the default
// registry and those with a folder of their own.
func registryChecks(cfg config, hosts []string) []doctor.Check {
	if slices.Contains(hosts, "all") {
		hosts = slices.DeleteFunc(hosts, func(h string) bool { return h == "all" })
		hosts = append(hosts, cfg.Image.DefaultRegistry)
		for _, dir := range cfg.Image.CertsDirs {
			entries, _ := os.ReadDir(dir) // one that is absent has none
			for _, e := range entries {
				if e.IsDir() && !strings.HasPrefix(e.Name(), "_") {
					hosts = append(hosts, e.Name())
				}
			}
		}
	}
	slices.Sort(hosts)
	var out []doctor.Check
	for _, host := range slices.Compact(hosts) {
		out = append(out, doctor.Attempt("registry."+host, "a registry answers", doctor.Warn,
			"look at where it is looked for: berth registry explain "+host+"/x",
			func(ctx context.Context) error { return reach(ctx, cfg.Image, host) }))
	}
	return out
}

func reach(ctx context.Context, cfg imageConfig, host string) error {
	proxies, err := registry.ParseProxies(cfg.Proxies)
	if err != nil {
		return err
	}
	ref, err := refs.Parse(host+"/library/doctor", cfg.DefaultRegistry)
	if err != nil {
		return err
	}
	c := registry.New(registry.Config{CertsDirs: cfg.CertsDirs, Proxies: proxies, NoProgress: registryPatience, Retries: -1})
	return c.Reach(ctx, ref)
}

// diagnosis has a child of this process look at the node: it has our rights,
// limits and flags, and takes nothing of ours with it if a check goes wrong.
// What the network looks at it only reads, and it knows who has which port.
func diagnosis(ctx context.Context, net network.Network, registries []string) ([]api.Finding, error) {
	args := append([]string{"doctor", "--network=false"}, os.Args[1:]...)
	for _, r := range registries {
		args = append(args, "--registry", r)
	}
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "WATCHDOG_")
	})
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("cannot look at the node: %w", errors.Join(err, errors.New(strings.TrimSpace(said.String()))))
	}
	var r api.DoctorResult
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return nil, fmt.Errorf("cannot read what was found on the node: %w", err)
	}
	for _, f := range examine(ctx, net) {
		r.Findings = append(r.Findings, api.Finding{Check: f.Check, Verdict: string(f.Verdict), Reason: f.Reason, Fix: f.Fix})
	}
	return r.Findings, nil
}
