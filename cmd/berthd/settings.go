package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// settings lists cfg, key by key, and for each key the place that set it last.
func (f *flags) settings(cfg config) ([]api.Setting, error) {
	from := map[string]string{}
	files, err := f.files()
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot read configuration: %w", err)
		}
		places(file, data, from)
	}
	for _, o := range f.overrides(&cfg) {
		from[o.key] = "--" + o.flag
	}
	out := values(cfg)
	for i := range out {
		out[i].Origin = "default"
		if at, ok := from[out[i].Key]; ok {
			out[i].Origin = at
		}
	}
	return out, nil
}

var (
	tableLine = regexp.MustCompile(`^\[([a-zA-Z0-9_.-]+)\]$`)
	valueLine = regexp.MustCompile(`^# ([a-z0-9_]+) = (.*)$`)
	password  = regexp.MustCompile(`(//)[^/\s'"@]*@`)
)

// values are the keys of cfg with their values, as encodeConfig writes them.
// What a URL says of who asks is a secret.
func values(cfg config) []api.Setting {
	var out []api.Setting
	table := ""
	for line := range strings.Lines(string(encodeConfig(cfg))) {
		line = strings.TrimSpace(line)
		if m := tableLine.FindStringSubmatch(line); m != nil {
			table = m[1] + "."
		} else if m := valueLine.FindStringSubmatch(line); m != nil {
			out = append(out, api.Setting{Key: table + m[1], Value: password.ReplaceAllString(m[2], "$1***@")})
		}
	}
	return out
}

// places notes for each key of data where it is set, over what files before
// have set. data has been decoded already, so it is well formed.
func places(file string, data []byte, into map[string]string) {
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		key, line := keyOf(&p, e)
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key + "."
		case unstable.KeyValue:
			note(&p, e, table+key, fmt.Sprintf("%s:%d", file, line), into)
		}
	}
}

// note notes a key, and those of an inline table below it.
func note(p *unstable.Parser, e *unstable.Node, key, at string, into map[string]string) {
	// What holds it is set there too: a table that is one value to encodeConfig.
	for i := range key {
		if key[i] == '.' {
			into[key[:i]] = at
		}
	}
	into[key] = at
	if e.Value().Kind != unstable.InlineTable {
		return
	}
	below := e.Value().Children()
	for below.Next() {
		sub, _ := keyOf(p, below.Node())
		note(p, below.Node(), key+"."+sub, at, into)
	}
}

// keyOf is the key of a table or of a value, and the line on which it is.
func keyOf(p *unstable.Parser, e *unstable.Node) (key string, line int) {
	var parts []string
	for it := e.Key(); it.Next(); {
		if line == 0 {
			line = p.Shape(it.Node().Raw).Start.Line
		}
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, "."), line
}

// showConfig is `berthd config show`: the configuration as a daemon with these
// flags would have it, as JSON.
func showConfig(args []string, out io.Writer) error {
	f := newFlags("berthd config show", out)
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
	all, err := f.settings(cfg)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(api.ConfigResult{Settings: all})
}

// checkConfig is `berthd config check`: whether files could be used together,
// in their order; without any, those that the daemon would read.
func checkConfig(args []string, out io.Writer) error {
	f := newFlags("berthd config check", out)
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	f.Visit(func(o *flag.Flag) { f.given[o.Name] = true })
	files, err := f.Args(), error(nil)
	if len(files) == 0 {
		files, err = f.files()
	}
	cfg, all := defaultConfig(), []error{err}
	for _, file := range files {
		all = append(all, mergeFile(&cfg, file))
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	if err := cfg.validate(); err != nil {
		return err
	}
	if len(files) == 0 {
		files = []string{"the default configuration"}
	}
	for _, file := range files {
		fmt.Fprintf(out, "%s can be used\n", file)
	}
	return nil
}
