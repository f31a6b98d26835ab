package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func pruneVerb(c *cli) *cobra.Command {
	var all, force bool
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove images that have no name and that no container uses",
		Example: examples("berth prune", "berth prune --all"),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also images that have a name; pinned ones stay")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "docker's way not to be asked; here nobody is")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		res, err := cl.admin.Prune(ctx, &api.PruneRequest{All: all})
		if err != nil {
			return cannot(err, "prune images")
		}
		if c.structured() {
			return c.show(res)
		}
		c.sayPruned(res)
		_, err = fmt.Fprintf(c.out, "%s came free\n", size(res.Bytes))
		return err
	})
}

func (c *cli) sayPruned(res *api.PruneResult) {
	for _, u := range res.Images {
		fmt.Fprintf(c.out, "Deleted %s %s\n", short(u.ID, false), familiar(u.Name))
	}
}

// confirm asks a person, unless forced; where there is none it refuses.
func (c *cli) confirm(what string, force bool) error {
	if force {
		return nil
	}
	if _, ok := terminalOf(c.in); !ok {
		return &problem{what: "cannot ask whether to remove " + what, why: "stdin is no terminal", do: "say so with --force"}
	}
	fmt.Fprintf(c.err, "This removes %s. Go on? [y/N] ", what)
	line, err := bufio.NewReader(c.in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err != nil || answer != "y" && answer != "yes" {
		return &problem{what: "nothing was removed", why: "the answer was not yes", do: "answer with y, or say so with --force"}
	}
	return nil
}

func containerPruneVerb(c *cli) *cobra.Command {
	var force bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove the containers of berth run that have ended",
		Example: examples("berth container prune", "berth container prune --force --filter label=batch"),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only those that fit KEY=VALUE, as for berth ps")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		if err := c.confirm("the containers of berth run that have ended, with their writable layers and logs", force); err != nil {
			return err
		}
		return c.pruneContainers(ctx, cl, filters)
	})
}

// pruneContainers removes what has ended and is not about to be restarted. What
// others made is theirs to remove.
func (c *cli) pruneContainers(ctx context.Context, cl *client, filters []string) error {
	rows, err := c.listContainers(ctx, cl, &psFlags{all: true, full: true, filters: append(filters, "status=exited")})
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range rows {
		if !r.o.ours() {
			continue
		}
		inv, err := cl.look(ctx)
		if err == nil {
			err = cl.remove(ctx, inv, r.o, false)
		}
		if err == nil {
			fmt.Fprintf(c.out, "Deleted container %s\n", r.Name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func systemPruneVerb(c *cli) *cobra.Command {
	var all, withVolumes, force bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what is not used: ended containers, images, and volumes on request",
		Long: "Remove the containers of berth run that have ended, and then images that have no name and that\n" +
			"no container uses; with --all those that have a name too, with --volumes volumes that nobody has\n" +
			"named and no container mounts. What the kubelet looks after stays.",
		Example: examples("berth system prune", "berth system prune --all --volumes --force"),
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "also images that have a name; pinned ones stay")
	f.BoolVar(&withVolumes, "volumes", false, "also volumes that nobody has named")
	f.BoolVarP(&force, "force", "f", false, "do not ask")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		if err := c.confirm("ended containers, and images that nothing uses", force); err != nil {
			return err
		}
		if err := c.pruneContainers(ctx, cl, nil); err != nil {
			return err
		}
		res, err := cl.admin.Prune(ctx, &api.PruneRequest{All: all})
		if err != nil {
			return cannot(err, "prune images")
		}
		c.sayPruned(res)
		freed := res.Bytes
		if withVolumes {
			n, err := c.pruneVolumes(ctx, cl, false, func(api.Volume) bool { return true })
			if err != nil {
				return err
			}
			freed += n
		}
		_, err = fmt.Fprintf(c.out, "%s came free\n", size(freed))
		return err
	})
}

// pruneVolumes removes the volumes that no container mounts and says so of each.
func (c *cli) pruneVolumes(ctx context.Context, cl *client, all bool, fits func(api.Volume) bool) (freed uint64, err error) {
	list, err := cl.admin.Volumes(ctx, true)
	if err != nil {
		return 0, cannot(err, "list the volumes")
	}
	for _, v := range list {
		if len(v.Users) > 0 || !all && v.Labels[anonymousLabel] == "" || !fits(v) {
			continue
		}
		switch err := cl.admin.RemoveVolume(ctx, v.Name); status.Code(err) {
		case codes.OK:
			fmt.Fprintf(c.out, "Deleted volume %s\n", v.Name)
			freed += *v.Bytes
		case codes.NotFound, codes.FailedPrecondition: // somebody was faster
		default:
			return freed, cannot(err, "remove the volume %s", v.Name)
		}
	}
	return freed, nil
}
