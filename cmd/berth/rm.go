package main

import (
	"cmp"
	"context"
	"fmt"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func rmVerb(c *cli) *cobra.Command {
	var force, volumes bool
	cmd := &cobra.Command{
		Use:     "rm CONTAINER|POD...",
		Short:   "Remove containers or pods",
		Long:    "Remove containers or pods. With the container of berth run goes its pod and its log.",
		Example: examples("berth rm web", "berth rm -f $(berth ps -aq)"),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also what runs, and what the kubelet looks after")
	cmd.Flags().BoolVarP(&volumes, "volumes", "v", false, "docker's word; the volumes without a name go always, those with one never")
	return refusing(c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		return c.each(args, func(name string) error {
			// Each time anew: removing a container may take its pod along.
			inv, err := cl.look(ctx)
			if err != nil {
				return err
			}
			o, err := inv.find(name)
			if err != nil {
				return err
			}
			if err := o.guard("rm", force); err != nil {
				return err
			}
			if err := cl.remove(ctx, inv, o, force); err != nil {
				return err
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	}),
		refusedFlag{name: "link", short: "l", bool: true, why: "there are no links", do: "leave it out"})
}

// remove takes away a container or a pod, and what berth run made along with
// it. Everything that it does may be done again after a failure.
func (cl *client) remove(ctx context.Context, inv *inventory, o object, force bool) error {
	inside := []*criv1.Container{o.container}
	if o.container == nil {
		inside = inv.of(o.pod.Id)
	}
	for _, ct := range inside {
		if ct.State != criv1.ContainerState_CONTAINER_RUNNING {
			continue
		}
		if !force {
			return &problem{
				what: fmt.Sprintf("cannot remove %s", o),
				why:  "it runs",
				do:   fmt.Sprintf("stop it first (berth stop %s), or insist with berth rm -f", o.name()),
			}
		}
		if _, err := cl.runtime.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: ct.Id}); err != nil {
			return cannot(err, "stop %s", o)
		}
	}
	if o.container != nil {
		if _, err := cl.runtime.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: o.id()}); err != nil {
			return cannot(err, "remove %s", o)
		}
		if !o.ours() || len(inv.of(o.pod.Id)) > 1 {
			return nil
		}
	}
	one := podOfOne{name: o.name(), pod: o.pod.Id}
	if o.ours() {
		info, err := cl.admin.Info(ctx)
		if err != nil {
			return cannot(err, "remove %s", o)
		}
		one.logs = logFolder{root: info.LogRoot, name: cmp.Or(o.pod.Labels[logFolderLabel], logFolderName(o.pod.Metadata))}
	}
	return one.finish(ctx, cl, true)
}
