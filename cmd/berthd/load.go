package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// defaultConfigPath may be absent; a path given with --config may not.
const defaultConfigPath = "/etc/berth/config.toml"

// parseArgs reads flags and files. It returns nil and no error if only help
// was asked for.
func parseArgs(args []string, out io.Writer) (*config, error) {
	flags := flag.NewFlagSet("berthd", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprintf(out, "Usage: berthd [flags]\n       berthd config default | steps | version\n\nFlags override the configuration file.\n\n")
		flags.PrintDefaults()
	}
	var fromFlags config // only what the flags set
	path := flags.String("config", defaultConfigPath, "configuration `file`; conf.d/*.toml beside it is read after it")
	flags.StringVar(&fromFlags.Root, "root", "", "`directory` of what survives a reboot")
	flags.StringVar(&fromFlags.State, "state", "", "`directory` of what a reboot ends")
	flags.StringVar(&fromFlags.Cgroup.Parent, "cgroup-parent", "", "parent `cgroup` of pods that name none")
	flags.StringVar(&fromFlags.Cgroup.Driver, "cgroup-driver", "", "systemd or cgroupfs")
	flags.IntVar(&fromFlags.LogLevel, "log-level", 0, "`verbosity`, 0 to 5")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, fmt.Errorf("%q is not a command: see berthd --help", strings.Join(flags.Args(), " "))
	}
	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })

	cfg, err := loadConfig(*path, given["config"])
	if err != nil {
		return nil, err
	}
	for name, set := range map[string]func(){
		"root":          func() { cfg.Root = fromFlags.Root },
		"state":         func() { cfg.State = fromFlags.State },
		"cgroup-parent": func() { cfg.Cgroup.Parent = fromFlags.Cgroup.Parent },
		"cgroup-driver": func() { cfg.Cgroup.Driver = fromFlags.Cgroup.Driver },
		"log-level":     func() { cfg.LogLevel = fromFlags.LogLevel },
	} {
		if given[name] {
			set()
		}
	}
	return &cfg, cfg.validate()
}

// loadConfig reads the file at path and conf.d/*.toml beside it, in lexical
// order, over the defaults.
func loadConfig(path string, required bool) (config, error) {
	cfg := defaultConfig()
	dropIns, err := filepath.Glob(filepath.Join(filepath.Dir(path), "conf.d", "*.toml"))
	if err != nil {
		return cfg, fmt.Errorf("cannot look for drop-ins beside %s: %w", path, err)
	}
	for i, file := range append([]string{path}, dropIns...) {
		data, err := os.ReadFile(file)
		if i == 0 && !required && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return cfg, fmt.Errorf("cannot read configuration: %w", err)
		}
		if err := mergeConfig(&cfg, file, data); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// mergeConfig puts what data names into cfg. An error gives file and line of
// each place.
func mergeConfig(cfg *config, file string, data []byte) error {
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(cfg)
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var all []error
		for _, e := range unknown.Errors {
			row, _ := e.Position()
			all = append(all, fmt.Errorf("cannot read configuration: %s:%d: unknown key %s", file, row, strings.Join(e.Key(), ".")))
		}
		return errors.Join(all...)
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		row, col := bad.Position()
		return fmt.Errorf("cannot read configuration: %s:%d:%d: %s", file, row, col, strings.TrimPrefix(bad.Error(), "toml: "))
	}
	if err != nil {
		return fmt.Errorf("cannot read configuration: %s: %w", file, err)
	}
	return nil
}
