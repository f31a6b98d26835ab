package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func networkGroup(c *cli) *cobra.Command {
	return c.group(&cobra.Command{
		Use:     "network",
		Short:   "Look after networks",
		Example: examples("berth network create blue", "berth network check"),
	},
		networkCreateVerb(c), networkListVerb(c), networkInspectVerb(c), networkRemoveVerb(c), networkPruneVerb(c), networkCheckVerb(c))
}

func networkCreateVerb(c *cli) *cobra.Command {
	var r api.CreateNetworkRequest
	var labels []string
	var driver string
	cmd := &cobra.Command{
		Use:   "create [flags] NAME",
		Short: "Make a network whose containers find each other by name",
		Long: "Make a network: a bridge of its own. Its containers find each other by name, reach the host and\n" +
			"the world, and are reached from elsewhere, other networks among it, by published ports only.",
		Example: examples("berth network create blue", "berth network create --internal --subnet 10.9.0.0/24 --subnet fd00:9::/64 db"),
	}
	f := cmd.Flags()
	f.StringArrayVar(&r.Subnets, "subnet", nil, "where its addresses come from: one IPv4 subnet, then at most one of IPv6 (chosen if none is given)")
	f.BoolVar(&r.Internal, "internal", false, "its containers reach the host and each other only")
	f.BoolVar(&r.Isolated, "isolate", false, "its containers reach each other by published ports only")
	f.IntVar(&r.MTU, "mtu", 0, "largest packet in bytes (that of the way out if none is given)")
	f.StringArrayVar(&labels, "label", nil, "set a label: NAME=VALUE")
	f.StringVarP(&driver, "driver", "d", "bridge", "there is one: bridge")
	return c.verb(cmd, cobra.ExactArgs(1), func(ctx context.Context, cl *client, args []string) error {
		r.Name = args[0]
		if driver != "bridge" {
			return &problem{what: "cannot make the network " + r.Name, why: fmt.Sprintf("there is no driver %q", driver), do: "leave out --driver; networks of other kinds come from plugins of CNI, by a file in /etc/cni/net.d"}
		}
		var err error
		if r.Labels, err = parseLabels(labels); err != nil {
			return err
		}
		n, err := cl.admin.CreateNetwork(ctx, &r)
		if err != nil {
			err = advised(err, codes.AlreadyExists, "choose another name, or see it with: berth network inspect "+r.Name)
			err = advised(err, codes.FailedPrecondition, "choose another subnet: --subnet")
			return cannot(err, "make the network %s", r.Name)
		}
		_, err = fmt.Fprintln(c.out, n.Name)
		return err
	})
}

// networkRow is a network as it is listed.
type networkRow struct{ api.Network }

// docker are the names that templates for docker use.
func (r networkRow) docker() map[string]any {
	return map[string]any{"Driver": r.Kind, "ID": r.Name, "Scope": "local", "Internal": r.Internal, "CreatedAt": r.Created.Format(time.RFC3339)}
}

func (c *cli) listNetworks(ctx context.Context, cl *client) ([]networkRow, error) {
	list, err := cl.admin.Networks(ctx)
	if err != nil {
		return nil, cannot(err, "list the networks")
	}
	rows := []networkRow{}
	for _, n := range list.Networks {
		rows = append(rows, networkRow{n})
	}
	return rows, nil
}

func networkListVerb(c *cli) *cobra.Command {
	var quiet bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List networks",
		Long: "List networks: the usual one, which is that of berth's own bridge or of plugins of CNI, the host's\n" +
			"own, none, and those that were made. Filters are name=, driver= and label=NAME[=VALUE].",
		Example: examples("berth network ls", "berth network ls -q --filter driver=bridge"),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "only those that fit KEY=VALUE")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		fits, err := parseNetworkFilters(filters)
		if err != nil {
			return err
		}
		rows, err := c.listNetworks(ctx, cl)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(r networkRow) bool { return !fits(r.Network) })
		if quiet {
			for _, r := range rows {
				fmt.Fprintln(c.out, r.Name)
			}
			return nil
		}
		if c.structured() {
			return c.show(rows)
		}
		var lines [][]string
		for _, r := range rows {
			lines = append(lines, []string{r.Name, r.Kind, strings.Join(r.Subnets, ", "), fmt.Sprint(len(r.Pods)), networkNotes(r.Network)})
		}
		return table(c.out, []string{"NAME", "DRIVER", "SUBNETS", "PODS", "NOTES"}, lines)
	})
}

func networkNotes(n api.Network) string {
	var notes []string
	for note, is := range map[string]bool{"usual": n.Usual, "internal": n.Internal, "isolated": n.Isolated} {
		if is {
			notes = append(notes, note)
		}
	}
	slices.Sort(notes)
	return strings.Join(notes, ", ")
}

func parseNetworkFilters(texts []string) (func(api.Network) bool, error) {
	var all []func(api.Network) bool
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		label, want, valued := strings.Cut(value, "=")
		known := map[string]func(api.Network) bool{
			"name": func(n api.Network) bool {
				ok, _ := path.Match(value, n.Name)
				return ok || strings.Contains(n.Name, value)
			},
			"driver": func(n api.Network) bool { return n.Kind == value },
			"label":  func(n api.Network) bool { have, ok := n.Labels[label]; return ok && (!valued || have == want) },
		}
		if known[key] == nil || !ok || value == "" {
			return nil, &problem{what: "cannot filter by " + text, why: "it is not KEY=VALUE with a key that networks have", do: "choose name=, driver= or label="}
		}
		all = append(all, known[key])
	}
	return func(n api.Network) bool {
		return !slices.ContainsFunc(all, func(fits func(api.Network) bool) bool { return !fits(n) })
	}, nil
}

func networkInspectVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect NETWORK...",
		Short:   "Show everything about networks, with their pods, as JSON",
		Example: examples("berth network inspect blue", "berth network inspect --format '{{.Subnets}}' bridge"),
	}
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		all, err := c.listNetworks(ctx, cl)
		if err != nil {
			return err
		}
		rows := []networkRow{}
		err = c.each(args, func(name string) error {
			i := slices.IndexFunc(all, func(r networkRow) bool { return r.Name == name })
			if i < 0 {
				return noSuchNetwork(name)
			}
			rows = append(rows, all[i])
			return nil
		})
		return errors.Join(c.show(rows), err)
	})
}

func noSuchNetwork(name string) error {
	return &problem{what: "cannot find the network " + name, why: "no network has this name", do: "see what there is with: berth network ls"}
}

func networkRemoveVerb(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm NETWORK...",
		Aliases: []string{"remove"},
		Short:   "Remove networks that no pod is on",
		Example: examples("berth network rm blue", "berth network rm $(berth network ls -q --filter label=test)"),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "one that is not there is removed")
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		return c.each(args, func(name string) error {
			if slices.Contains([]string{usualNetwork, hostNetwork, noNetwork}, name) {
				return &problem{what: "cannot remove the network " + name, why: "it is there always", do: "name one that was made: berth network ls"}
			}
			err := cl.admin.RemoveNetwork(ctx, name)
			switch {
			case status.Code(err) == codes.NotFound && !force:
				return noSuchNetwork(name)
			case err != nil && status.Code(err) != codes.NotFound:
				return cannot(advised(err, codes.FailedPrecondition, "end its containers first: berth rm -f CONTAINER; see them with: berth network inspect "+name), "remove network %s", name)
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	})
}

func networkPruneVerb(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove the networks that no pod is on",
		Example: examples("berth network prune", "berth network prune --force"),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		if err := c.confirm("the networks that no pod is on", force); err != nil {
			return err
		}
		rows, err := c.listNetworks(ctx, cl)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if r.Created.IsZero() || len(r.Pods) > 0 {
				continue
			}
			err := cl.admin.RemoveNetwork(ctx, r.Name)
			switch status.Code(err) {
			case codes.OK:
				fmt.Fprintln(c.out, r.Name)
			case codes.NotFound, codes.FailedPrecondition: // it went, or got a pod, meanwhile
			default:
				return cannot(err, "remove network %s", r.Name)
			}
		}
		return nil
	})
}

func networkCheckVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look at what of this host is in the way of its networks",
		Long: "Look at what of this host is in the way of its networks: forwarding, br_netfilter, nftables, other\n" +
			"firewalls, routes, name servers, and processes that listen on ports which lead to containers.\n" +
			"It changes nothing. The exit code is 0 if all is well, 1 with warnings, 2 if something fails.\n" +
			"berth check compares the rules and interfaces themselves with the records.",
		Example: examples("berth network check", "berth network check --output json"),
	}
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		found, err := cl.admin.ExamineNetwork(ctx)
		if err != nil {
			return cannot(err, "look at the network")
		}
		if err := c.printFindings(found); err != nil {
			return err
		}
		if code := severity(found); code > 0 {
			return exitCode(code)
		}
		return nil
	})
}
