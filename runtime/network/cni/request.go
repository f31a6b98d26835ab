package cni

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/berth-runtime/berth/runtime/network"
	"github.com/berth-runtime/berth/runtime/spec"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// The annotations by which users limit a pod's bandwidth, and the bounds that
// Kubernetes has for them.
const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
	minBandwidth      = 1_000                 // bits a second
	maxBandwidth      = 1_000_000_000_000_000 // bits a second
)

// podArgs are CNI_ARGS as both peers have them. With IgnoreUnknown plugins pass
// over the ones that they do not know.
func podArgs(r network.Request) [][2]string {
	return [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", r.Namespace},
		{"K8S_POD_NAME", r.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", r.PodID},
		{"K8S_POD_UID", r.UID},
	}
}

// checkArgs refuses what would say something else in CNI_ARGS, whose pairs are
// kept apart by semicolons.
func checkArgs(args [][2]string) error {
	for _, a := range args {
		if strings.ContainsAny(a[1], ";\x00") {
			return errkind.New(errkind.InvalidArgument, "%s %q has a semicolon, which CNI cannot pass to plugins", a[0], a[1])
		}
	}
	return nil
}

// The data of capabilities, in the form that the conventions of CNI give them.
type (
	portData struct {
		HostPort      int    `json:"hostPort"`
		ContainerPort int    `json:"containerPort"`
		Protocol      string `json:"protocol"`
		HostIP        string `json:"hostIP"`
	}
	bandwidthData struct {
		IngressRate  uint64 `json:"ingressRate,omitempty"` // bits a second
		IngressBurst uint64 `json:"ingressBurst,omitempty"`
		EgressRate   uint64 `json:"egressRate,omitempty"`
		EgressBurst  uint64 `json:"egressBurst,omitempty"`
	}
	dnsData struct {
		Servers  []string `json:"servers,omitempty"`
		Searches []string `json:"searches,omitempty"`
		Options  []string `json:"options,omitempty"`
	}
)

// published are the mappings that have a host port, each once.
func published(ports []spec.PortMapping) []spec.PortMapping {
	var out []spec.PortMapping
	for _, m := range ports {
		if m.HostPort != 0 && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

// capabilityData is what a pod has for the plugins that declare the capability,
// under the names that containerd uses. A pod that limits nothing, publishes
// nothing and so on has no such entry.
func capabilityData(r network.Request) (map[string]json.RawMessage, error) {
	all := map[string]any{}
	var ports []portData
	for _, m := range published(r.Ports) {
		ports = append(ports, portData{HostPort: int(m.HostPort), ContainerPort: int(m.ContainerPort), Protocol: m.Protocol, HostIP: m.HostIP})
	}
	if len(ports) > 0 {
		all[capPorts] = ports
	}
	bandwidth, err := bandwidthOf(r.Annotations)
	if err != nil {
		return nil, err
	}
	if bandwidth != (bandwidthData{}) {
		all[capBandwidth] = bandwidth
	}
	if len(r.IPs) > 0 {
		all[capIPs] = r.IPs
	}
	if r.MAC != "" {
		all[capMAC] = r.MAC
	}
	if d := r.DNS; d != nil {
		all["dns"] = dnsData{d.Servers, d.Searches, d.Options}
	}
	if r.CgroupParent != "" {
		all["cgroupPath"] = r.CgroupParent
	}
	if len(r.Annotations) > 0 {
		all["io.kubernetes.cri.pod-annotations"] = r.Annotations
	}
	out := make(map[string]json.RawMessage, len(all))
	for name, v := range all {
		if out[name], err = json.Marshal(v); err != nil {
			return nil, fmt.Errorf("cannot encode the %s of the pod: %w", name, err)
		}
	}
	return out, nil
}

func bandwidthOf(annotations map[string]string) (bandwidthData, error) {
	var b bandwidthData
	for name, at := range map[string]struct{ rate, burst *uint64 }{
		ingressAnnotation: {&b.IngressRate, &b.IngressBurst}, egressAnnotation: {&b.EgressRate, &b.EgressBurst},
	} {
		text, ok := annotations[name]
		if !ok {
			continue
		}
		rate, ok := parseQuantity(text)
		if !ok {
			return b, errkind.New(errkind.InvalidArgument, "annotation %s: %q is no quantity of bits a second such as 10M", name, text)
		}
		if rate < minBandwidth || rate > maxBandwidth {
			return b, errkind.New(errkind.InvalidArgument, "annotation %s: %s is not between 1k and 1P", name, text)
		}
		*at.rate, *at.burst = rate, math.MaxUint32 // the burst is containerd's
	}
	return b, nil
}

// parseQuantity reads a quantity of Kubernetes that is not negative, rounded up
// to a whole number: 1500, 1.5k, 2Mi, 1e6.
func parseQuantity(s string) (uint64, bool) {
	const longest = 64
	digits := strings.TrimLeft(s, "0123456789.")
	number := s[:len(s)-len(digits)]
	if number == "" || len(s) > longest || strings.Count(number, ".") > 1 || number == "." {
		return 0, false
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, false
	}
	if exponent := strings.TrimLeft(digits, "eE"); len(digits) > 1 && len(digits)-len(exponent) == 1 && strings.Trim(exponent, "0123456789") == "" {
		if len(exponent) > 2 {
			return 0, false // no quantity has more than 10^18
		}
		value, ok = new(big.Rat).SetString(number + digits)
		if !ok {
			return 0, false
		}
	} else {
		factor, ok := map[string]*big.Rat{"n": big.NewRat(1, 1e9), "u": big.NewRat(1, 1e6), "m": big.NewRat(1, 1e3), "": big.NewRat(1, 1),
			"k": big.NewRat(1e3, 1), "M": big.NewRat(1e6, 1), "G": big.NewRat(1e9, 1), "T": big.NewRat(1e12, 1), "P": big.NewRat(1e15, 1), "E": big.NewRat(1e18, 1),
			"Ki": big.NewRat(1<<10, 1), "Mi": big.NewRat(1<<20, 1), "Gi": big.NewRat(1<<30, 1), "Ti": big.NewRat(1<<40, 1), "Pi": big.NewRat(1<<50, 1), "Ei": big.NewRat(1<<60, 1),
		}[digits]
		if !ok {
			return 0, false
		}
		value.Mul(value, factor)
	}
	whole := new(big.Int).Quo(value.Num(), value.Denom())
	if !value.IsInt() {
		whole.Add(whole, big.NewInt(1))
	}
	return whole.Uint64(), whole.IsUint64()
}
