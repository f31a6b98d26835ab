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
	f := newFlags("berthd", out)
	if help, err := f.parse(args); help || err != nil {
		return nil, err
	}
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	if cfg.origins, err = f.settings(cfg); err != nil {
		return nil, err
	}
	return &cfg, cfg.validate()
}

// flags are those of the daemon, which the commands that look at its
// configuration take too. Some of those have more.
type flags struct {
	*flag.FlagSet
	path  string
	given map[string]bool
	only  config // only what the flags set
}

func newFlags(command string, out io.Writer) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(command, flag.ContinueOnError), given: map[string]bool{}}
	f.SetOutput(out)
	f.Usage = func() {
		fmt.Fprintf(out, "Usage: berthd [flags]\n"+
			"       berthd config default | show [flags] | check [FILE...]\n"+
			"       berthd doctor [flags] | steps | version\n"+
			"       berthd teardown [flags]    end all pods and take what berth has made out of the kernel\n\nFlags override the configuration file.\n\n")
		f.PrintDefaults()
	}
	f.StringVar(&f.path, "config", defaultConfigPath, "configuration `file`; conf.d/*.toml beside it is read after it")
	f.StringVar(&f.only.Root, "root", "", "`directory` of what survives a reboot")
	f.StringVar(&f.only.State, "state", "", "`directory` of what a reboot ends")
	f.StringVar(&f.only.Cgroup.Parent, "cgroup-parent", "", "parent `cgroup` of pods that name none")
	f.StringVar(&f.only.Cgroup.Driver, "cgroup-driver", "", "systemd or cgroupfs")
	f.IntVar(&f.only.LogLevel, "log-level", 0, "`verbosity`, 0 to 5")
	return f
}

// parse reads args, which are flags only. help tells that only that was asked for.
func (f *flags) parse(args []string) (help bool, err error) {
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	if f.NArg() > 0 {
		return false, fmt.Errorf("%q is not a command: see berthd --help", strings.Join(f.Args(), " "))
	}
	f.Visit(func(one *flag.Flag) { f.given[one.Name] = true })
	return false, nil
}

// load reads the files and puts the flags over them. What it returns beside an
// error is as far as it got.
func (f *flags) load() (config, error) {
	cfg := defaultConfig()
	files, err := f.files()
	for _, file := range files {
		if err == nil {
			err = mergeFile(&cfg, file)
		}
	}
	for _, o := range f.overrides(&cfg) {
		o.set()
	}
	return cfg, err
}

// An override is a flag that was given, the key that it sets, and how.
type override struct {
	flag, key string
	set       func()
}

func (f *flags) overrides(cfg *config) []override {
	var out []override
	for _, o := range []override{
		{"root", "root", func() { cfg.Root = f.only.Root }},
		{"state", "state", func() { cfg.State = f.only.State }},
		{"cgroup-parent", "cgroup.parent", func() { cfg.Cgroup.Parent = f.only.Cgroup.Parent }},
		{"cgroup-driver", "cgroup.driver", func() { cfg.Cgroup.Driver = f.only.Cgroup.Driver }},
		{"log-level", "log_level", func() { cfg.LogLevel = f.only.LogLevel }},
	} {
		if f.given[o.flag] {
			out = append(out, o)
		}
	}
	return out
}

// files are the configuration file, where it is there or was asked for, and
// conf.d/*.toml beside it, in lexical order.
func (f *flags) files() ([]string, error) {
	dropIns, err := filepath.Glob(filepath.Join(filepath.Dir(f.path), "conf.d", "*.toml"))
	if err != nil {
		return nil, fmt.Errorf("cannot look for drop-ins beside %s: %w", f.path, err)
	}
	if _, err := os.Stat(f.path); !f.given["config"] && errors.Is(err, fs.ErrNotExist) {
		return dropIns, nil
	}
	return append([]string{f.path}, dropIns...), nil
}

func mergeFile(cfg *config, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("cannot read configuration: %w", err)
	}
	return mergeConfig(cfg, file, data)
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
