package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func stopVerb(c *cli) *cobra.Command {
	var grace int64
	var force bool
	cmd := &cobra.Command{
		Use:     "stop CONTAINER|POD...",
		Short:   "Stop containers or pods",
		Long:    "Stop containers or pods: the stop signal, and after the grace time the end.\nA pod that berth run made gives back its address and ports too. Their restart policies\nhold still until they are started again.",
		Example: examples("berth stop web", "berth stop -t 60 db"),
	}
	cmd.Flags().Int64VarP(&grace, "time", "t", 10, "seconds before it is killed (what --stop-timeout said if not given)")
	cmd.Flags().SetNormalizeFunc(timeoutIsTime)
	cmd.Flags().BoolVar(&force, "force", false, "also what the kubelet looks after")
	return refusing(c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		return c.each(args, func(name string) error {
			o, err := inv.find(name)
			if err != nil {
				return err
			}
			if err := o.guard("stop", force); err != nil {
				return err
			}
			if err := cl.stop(ctx, inv, o, grace, cmd.Flags().Changed("time")); err != nil {
				return err
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	}),
		refusedFlag{name: "signal", short: "s", why: "what ends a container is its own signal", do: "say it when it is made (--stop-signal), or send one: berth kill -s SIGNAL"})
}

// stop ends a container, or all of a pod with the same grace for each of its
// containers, which CRI's own StopPodSandbox would kill at once.
func (cl *client) stop(ctx context.Context, inv *inventory, o object, grace int64, given bool) error {
	targets := inv.of(o.id())
	if o.container != nil {
		targets = []*criv1.Container{o.container}
	}
	for _, t := range targets {
		// One that has ended hears it too: its policy may be about to restart it.
		if _, err := cl.runtime.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: t.Id, Timeout: graceOf(t, grace, given)}); err != nil {
			return cannot(err, "stop %s", object{container: t, pod: o.pod})
		}
	}
	if o.container != nil && (!o.ours() || len(inv.of(o.pod.Id)) != 1) {
		return nil
	}
	_, err := cl.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: o.pod.Id})
	return cannot(err, "stop %s", o)
}

// graceOf is how long a container has to end: what the flag says, else what was
// said when it was made.
func graceOf(c *criv1.Container, flag int64, given bool) int64 {
	if n, err := strconv.ParseInt(c.Annotations[stopTimeNote], 10, 64); err == nil && n >= 0 && !given {
		return n
	}
	return flag
}

// timeoutIsTime lets --timeout, as docker calls it of late, be --time.
func timeoutIsTime(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	if name == "timeout" {
		name = "time"
	}
	return pflag.NormalizedName(name)
}
