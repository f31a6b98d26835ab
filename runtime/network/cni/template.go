package cni

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// templated is the file that a template becomes. What an add-on installs sorts
// before it or after it, as the add-on likes.
const templated = "10-berth-net.conflist"

// templateData is what a template can use; the names are containerd's, so that
// its templates serve.
type templateData struct {
	PodCIDR       string   // the first range
	PodCIDRRanges []string // all
	Routes        []string // the default routes of their families
}

// SetPodCIDR hears of the ranges of the node's pods, separated by commas, and
// writes the network configuration from the template if there is one and no
// other configuration. An empty text, or no template, is success.
func (n *Network) SetPodCIDR(ctx context.Context, cidrs string) error {
	if cidrs == "" {
		return nil
	}
	var data templateData
	families := map[bool]bool{}
	for _, c := range strings.Split(cidrs, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(c))
		if err != nil {
			return errkind.New(errkind.InvalidArgument, "cannot use pod CIDR %q: %q is no range of addresses", cidrs, c)
		}
		data.PodCIDRRanges = append(data.PodCIDRRanges, p.String())
		if families[p.Addr().Is6()] {
			continue
		}
		families[p.Addr().Is6()] = true
		route := "0.0.0.0/0"
		if p.Addr().Is6() {
			route = "::/0"
		}
		data.Routes = append(data.Routes, route)
	}
	data.PodCIDR = data.PodCIDRRanges[0]
	log := klog.FromContext(ctx)
	if n.cfg.ConfTemplate == "" {
		log.V(4).Info("No template of a network configuration is set; the cluster's network add-on brings one", "podCIDR", cidrs)
		return nil
	}
	d := n.dirs[0]
	if d.load() {
		n.changed(d)
	}
	if _, err := d.current(); err == nil {
		log.V(4).Info("There is a network configuration, so none is made of the template", "podCIDR", cidrs)
		return nil
	}
	text, err := template.New(filepath.Base(n.cfg.ConfTemplate)).ParseFiles(n.cfg.ConfTemplate)
	if err != nil {
		return fmt.Errorf("cannot read the template of the network configuration: %w", err)
	}
	var out bytes.Buffer
	if err := text.Execute(&out, data); err != nil {
		return fmt.Errorf("cannot fill in the template of the network configuration: %w", err)
	}
	if err := os.MkdirAll(d.path, 0o755); err != nil { //nolint:gosec // the mode that packages give it
		return fmt.Errorf("cannot make the directory of the network configuration: %w", err)
	}
	file := filepath.Join(d.path, templated)
	if err := atomicfile.Write(file, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("cannot write the network configuration: %w", err)
	}
	log.Info("Wrote the network configuration from the template", "file", file, "podCIDR", cidrs)
	if d.load() {
		n.changed(d)
	}
	_, err = d.current()
	return err
}
