package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func rmiVerb(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rmi IMAGE...",
		Short:   "Remove images; of an image that has more names, the one given",
		Example: examples("berth rmi nginx:1.29", "berth rmi 9f3c2a1b"),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also an image that containers use, which go on, or one of several names by its id")
	return refusing(c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		inv, err := cl.look(ctx)
		if err != nil {
			return err
		}
		return c.each(args, func(ref string) error {
			img, err := cl.findImage(ctx, ref)
			if err != nil {
				return err
			}
			if done, err := cl.untagOnly(ctx, ref, img, force); done || err != nil {
				if done {
					fmt.Fprintf(c.out, "Untagged %s\n", ref)
				}
				return err
			}
			if users := inv.named(img.Containers); len(users) > 0 && !force {
				return &problem{
					what: "cannot remove the image " + ref,
					why:  "it is used by " + strings.Join(users, ", "),
					do:   "remove these first (berth rm), or insist with berth rmi -f",
				}
			}
			if _, err := cl.image.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: ref}}); err != nil {
				return cannot(err, "remove the image %s", ref)
			}
			fmt.Fprintln(c.out, ref)
			return nil
		})
	}),
		refusedFlag{name: "no-prune", bool: true, why: "layers that nobody uses any more are freed before the answer", do: "leave it out"},
		refusedFlag{name: "platform", why: "an image here is of one platform", do: "leave it out"})
}

// untagOnly does what docker does with an image of several names: removing it
// by one of them takes that name, and by its id is refused unless forced.
func (cl *client) untagOnly(ctx context.Context, ref string, img *api.Image, force bool) (done bool, err error) {
	if len(img.Tags) < 2 {
		return false, nil
	}
	switch err := cl.admin.Untag(ctx, ref); {
	case err == nil:
		return true, nil
	case status.Code(err) != codes.NotFound && status.Code(err) != codes.InvalidArgument:
		return false, cannot(err, "remove the image %s", ref)
	case force:
		return false, nil
	}
	// It was found by something that is no tag: its id, or a digest.
	return false, &problem{
		what: "cannot remove the image " + ref,
		why:  "it has several names: " + strings.Join(img.Tags, ", "),
		do:   "remove it by these names, or insist with berth rmi -f",
	}
}

// findImage returns the image that ref names.
func (cl *client) findImage(ctx context.Context, ref string) (*api.Image, error) {
	img, err := cl.admin.InspectImage(ctx, ref)
	if status.Code(err) == codes.NotFound {
		return nil, &problem{what: "cannot find the image " + ref, why: "no image here has this name or id", do: "see what there is with: berth images"}
	}
	return img, cannot(err, "find the image %s", ref)
}

// named gives the names of the containers that have these ids.
func (inv *inventory) named(ids []string) []string {
	var names []string
	for _, o := range inv.allContainers() {
		if slices.Contains(ids, o.id()) {
			names = append(names, o.String())
		}
	}
	slices.Sort(names)
	return names
}
