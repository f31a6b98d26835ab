package cni

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// Examine tells whether there is a configuration, whether its plugins are there,
// and what they say of themselves. wanted says whether pods need it.
func (n *Network) Examine(ctx context.Context, wanted bool) []network.Finding {
	d := n.dirs[0]
	n.readAgain(d)
	lists, err := d.current()
	if err != nil {
		verdict, do := network.OK, ""
		switch {
		case !errkind.Is(err, errkind.NotFound):
			verdict, do = network.Fail, "repair the file; it is read again by itself"
		case wanted:
			verdict, do = network.Fail, "install a network add-on, such as a cluster has, or set network.mode to \"bridge\""
		}
		return []network.Finding{{Name: "cni-config", Verdict: verdict, Why: err.Error(), Do: do}}
	}
	var names, missing []string
	for _, l := range lists {
		names = append(names, fmt.Sprintf("%s (%s)", l.Name, l.file))
		for _, p := range l.Plugins {
			for _, program := range []string{p.Network.Type, p.Network.IPAM.Type} {
				if program == "" || slices.Contains(missing, program) {
					continue
				}
				if _, err := n.exec.FindInPath(program, n.cfg.BinDirs); err != nil {
					missing = append(missing, program)
				}
			}
		}
	}
	out := []network.Finding{{Name: "cni-config", Verdict: network.OK, Why: "pods are attached to " + strings.Join(names, ", ")}}
	if len(missing) > 0 {
		return append(out, network.Finding{Name: "cni-plugins", Verdict: network.Fail,
			Why: fmt.Sprintf("plugins that it names are in none of %s: %s", strings.Join(n.cfg.BinDirs, ", "), strings.Join(missing, ", ")),
			Do:  "install them there, or say where they are in network.cni.bin_dirs"})
	}
	if err := n.askStatus(ctx, lists); err != nil {
		return append(out, network.Finding{Name: "cni-plugins", Verdict: network.Fail, Why: err.Error(), Do: "look at the network add-on: it has not set its network up, or has trouble"})
	}
	return append(out, network.Finding{Name: "cni-plugins", Verdict: network.OK, Why: "every plugin that it names is there"})
}
