package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func commitVerb(c *cli) *cobra.Command {
	r := &api.CommitRequest{}
	var noPause bool
	cmd := &cobra.Command{
		Use:   "commit [flags] CONTAINER [NAME[:TAG]]",
		Short: "Make an image of what a container is now",
		Long: "Make an image of what a container is now: the layers of its image, what it has changed as one\n" +
			"more, and what it was made with (command, environment, working directory, labels). What is on\n" +
			"volumes is not part of it. The kubelet can run the image a moment later.",
		Example: examples("berth commit web web:patched", "berth commit -m 'with data' --change 'CMD [\"serve\"]' job"),
	}
	f := cmd.Flags()
	f.StringVarP(&r.Author, "author", "a", "", "who made it: 'Name <mail>'")
	f.StringVarP(&r.Comment, "message", "m", "", "what for; it is part of the image's history")
	f.StringArrayVarP(&r.Changes, "change", "c", nil, "alter the configuration by an instruction of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE,\nHEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR")
	f.BoolVarP(&r.Pause, "pause", "p", true, "let it stand still meanwhile")
	f.BoolVar(&noPause, "no-pause", false, "do not, and risk files that are half written")
	return c.verb(cmd, cobra.RangeArgs(1, 2), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		o, err := inv.findContainer(args[0])
		if err != nil {
			return err
		}
		r.Container, r.Tags, r.Pause = o.id(), args[1:], r.Pause && !noPause
		id, err := cl.admin.Commit(ctx, r)
		if err != nil {
			return cannot(err, "make an image of %s", o)
		}
		_, err = fmt.Fprintln(c.out, id)
		return err
	})
}

func pauseVerb(c *cli) *cobra.Command {
	return c.pausing("pause", "Let all processes of containers stand still",
		"Let all processes of containers stand still until berth unpause. A stop lets them go on to their\nend. No command can be run in one meanwhile.", (*api.Client).Pause)
}

func unpauseVerb(c *cli) *cobra.Command {
	return c.pausing("unpause", "Let paused containers go on", "Let paused containers go on.", (*api.Client).Unpause)
}

func (c *cli) pausing(verb, short, long string, do func(*api.Client, context.Context, string) error) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: verb + " CONTAINER...", Short: short, Long: long,
		Example: examples("berth "+verb+" web", "berth "+verb+" $(berth ps -q --filter label=batch)"),
	}
	cmd.Flags().BoolVar(&force, "force", false, "also what the kubelet looks after")
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		return c.each(args, func(name string) error {
			o, err := inv.findContainer(name)
			if err != nil {
				return err
			}
			if err := o.guard(verb, force); err != nil {
				return err
			}
			if err := do(cl.admin, ctx, o.id()); err != nil {
				return cannot(err, "%s %s", verb, o)
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	})
}
