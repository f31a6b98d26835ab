package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxList bounds a configuration file, which is read into memory and goes into
// every pod's record.
const maxList = 1 << 20

// capabilities whose data make a plugin do something.
const (
	capPorts     = "portMappings"
	capBandwidth = "bandwidth"
	capIPs       = "ips"
	capMAC       = "mac"
)

// list is a configuration list as libcni has read it, from the file of that name.
type list struct {
	file string
	*libcni.NetworkConfigList
}

// loadDir reads the first limit networks of a directory, in the lexical order of
// the file names, as containerd does; 0: all of them. A directory without any,
// or that does not exist, is errkind.NotFound. A file that cannot be read hides
// those after it: to pass it over would put pods on another network.
func loadDir(dir string, limit int) ([]list, error) {
	files, err := libcni.ConfFiles(dir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration of networks: %w", err)
	}
	slices.Sort(files)
	var out []list
	for _, file := range files {
		if limit > 0 && len(out) == limit {
			break
		}
		l, err := loadFile(file)
		if err != nil {
			return nil, fmt.Errorf("cannot use %s: %w", file, err)
		}
		if slices.ContainsFunc(out, func(o list) bool { return o.Name == l.Name }) {
			return nil, errkind.New(errkind.InvalidArgument, "cannot use %s: a network %q is in a file before it", file, l.Name)
		}
		out = append(out, l)
	}
	if len(out) == 0 {
		return nil, errkind.New(errkind.NotFound, "there is no network configuration in %s yet; a cluster's network add-on puts it there", dir)
	}
	return out, nil
}

// loadFile reads a list, or a file with one plugin, which is a list of one.
func loadFile(file string) (list, error) {
	if st, err := os.Stat(file); err != nil {
		return list{}, err
	} else if st.Size() > maxList {
		return list{}, errkind.New(errkind.InvalidArgument, "it has %d bytes, more than %d", st.Size(), maxList)
	}
	if filepath.Ext(file) != ".conflist" {
		text, err := os.ReadFile(file) //nolint:gosec // a file of the administrator's
		if err != nil {
			return list{}, err
		}
		one, err := libcni.NetworkPluginConfFromBytes(text)
		if err != nil {
			return list{}, err
		}
		l, err := libcni.ConfListFromConf(one) //nolint:staticcheck // nodes have such files still, and other runtimes read them
		if err != nil {
			return list{}, err
		}
		return resolve(file, l)
	}
	l, err := libcni.NetworkConfFromFile(file)
	if err != nil {
		return list{}, err
	}
	return resolve(file, l)
}

// resolve checks a list and makes it one that stands alone: plugins may come
// from files beside it, which a record would not have.
func resolve(file string, l *libcni.NetworkConfigList) (list, error) {
	if err := utils.ValidateNetworkName(l.Name); err != nil {
		return list{}, err
	}
	if v := l.CNIVersion; v != "" {
		if newer, err := version.GreaterThan(v, version.Current()); err != nil || newer {
			return list{}, errkind.New(errkind.InvalidArgument, "its cniVersion %q is not one up to %s", v, version.Current())
		}
	}
	for _, p := range l.Plugins {
		for _, program := range []string{p.Network.Type, p.Network.IPAM.Type} {
			if err := checkProgram(program); err != nil {
				return list{}, err
			}
		}
	}
	out, err := withPlugins(l, l.Plugins)
	return list{file, out}, err
}

// checkProgram refuses the name of a plugin that would be looked for anywhere
// else than in the directories of plugins (CVE-2021-20206).
func checkProgram(name string) error {
	if strings.Contains(name, "/") || name == "." || name == ".." {
		return errkind.New(errkind.InvalidArgument, "the plugin type %q is a path: a plugin is named by its file name, and found in the directories of plugins", name)
	}
	return nil
}

// withPlugins is l with only those plugins, all in its own bytes.
func withPlugins(l *libcni.NetworkConfigList, plugins []*libcni.PluginConfig) (*libcni.NetworkConfigList, error) {
	raw := make([]json.RawMessage, 0, len(plugins))
	for _, p := range plugins {
		raw = append(raw, p.Bytes)
	}
	text, err := json.Marshal(map[string]any{
		"name": l.Name, "cniVersion": l.CNIVersion, "plugins": raw,
		"disableCheck": l.DisableCheck, "disableGC": l.DisableGC, "loadOnlyInlinedPlugins": true,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot encode network %q: %w", l.Name, err)
	}
	return libcni.NetworkConfFromBytes(text)
}

// parseList reads a list out of a record.
func parseList(text []byte) (*libcni.NetworkConfigList, error) {
	l, err := libcni.NetworkConfFromBytes(text)
	if err != nil {
		return nil, err
	}
	if len(l.Plugins) == 0 {
		return nil, errors.New("it names no plugin")
	}
	for _, p := range l.Plugins {
		if err := checkProgram(p.Network.Type); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// declares tells whether some plugin of l takes the data of a capability.
func declares(l *libcni.NetworkConfigList, capability string) bool {
	return slices.ContainsFunc(l.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[capability] })
}

// idle are the plugins that do nothing but to pass on the result before them as
// long as they get no data of a capability, with the keys of their configuration
// that cannot change that. Of both the sources say so: ADD returns prevResult
// first thing, and DEL has nothing to undo then.
var idle = map[string]struct {
	capability string
	keys       []string
}{
	"portmap": {capPorts, []string{"snat", "masqAll", "markMasqBit", "externalSetMarkChain", "conditionsV4", "conditionsV6", "backend"}},
	// Rates in the configuration itself would make it shape without being told.
	"bandwidth": {capBandwidth, nil},
}

// needed leaves out of l the plugins that have nothing to do for a pod with
// those data. A plugin is run where there is any doubt: unless it is one of idle
// by name, comes after another, declares the capability, gets no data for it, and
// its configuration has no key that is not known to be harmless. What is left out
// of a pod's ADD is left out of its DEL, since the record has the list as it is run.
func needed(l *libcni.NetworkConfigList, data map[string]json.RawMessage) (*libcni.NetworkConfigList, error) {
	var plugins []*libcni.PluginConfig
	for n, p := range l.Plugins {
		if n == 0 || !isIdle(p, data) {
			plugins = append(plugins, p)
		}
	}
	if len(plugins) == len(l.Plugins) {
		return l, nil
	}
	return withPlugins(l, plugins)
}

func isIdle(p *libcni.PluginConfig, data map[string]json.RawMessage) bool {
	known, ok := idle[p.Network.Type]
	if !ok || !p.Network.Capabilities[known.capability] || data[known.capability] != nil {
		return false
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(p.Bytes, &keys); err != nil {
		return false
	}
	harmless := append([]string{"type", "name", "cniVersion", "capabilities"}, known.keys...)
	for key := range maps.Keys(keys) {
		if !slices.Contains(harmless, key) {
			return false
		}
	}
	return true
}
