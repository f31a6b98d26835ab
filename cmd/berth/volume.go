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

func volumeGroup(c *cli) *cobra.Command {
	return c.group(&cobra.Command{
		Use:     "volume",
		Short:   "Look after named volumes",
		Example: examples("berth volume create data", "berth volume ls"),
	},
		volumeCreateVerb(c), volumeListVerb(c), volumeInspectVerb(c), volumeRemoveVerb(c), volumePruneVerb(c))
}

// anonymousLabel is on volumes that nobody has named.
const anonymousLabel = ownPrefix + "anonymous"

func volumeCreateVerb(c *cli) *cobra.Command {
	var labels, options []string
	var driver string
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a named volume",
		Long: "Make a named volume, a directory that outlives the containers that mount it. berth run -v\n" +
			"NAME:/path makes one that is not there. An empty volume is filled with what the image has at\n" +
			"the path when a container is made that mounts it, unless nocopy is given.",
		Example: examples("berth volume create data", "berth volume create --label team=blue cache"),
	}
	cmd.Flags().StringArrayVar(&labels, "label", nil, "set a label: NAME=VALUE")
	cmd.Flags().StringVarP(&driver, "driver", "d", "local", "there is one: local")
	cmd.Flags().StringArrayVarP(&options, "opt", "o", nil, "not supported: there are no options")
	_ = cmd.Flags().MarkHidden("opt") // it is there
	return c.verb(cmd, cobra.MaximumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		name := "volume-" + randomUID()[:12]
		own, err := parseLabels(labels)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			name = args[0]
		} else {
			own[anonymousLabel] = "true"
		}
		switch {
		case driver != "local":
			return &problem{what: "cannot make the volume " + name, why: fmt.Sprintf("there is no driver %q: volumes are directories of this node", driver), do: "mount the storage on the host and use -v /path:/path"}
		case len(options) > 0:
			return &problem{what: "cannot make the volume " + name, why: "volumes are directories of this node and have no options", do: "for memory use --tmpfs, for a file system of its own mount it on the host and use -v /path:/path"}
		}
		v, err := cl.admin.CreateVolume(ctx, &api.CreateVolumeRequest{Name: name, Labels: own})
		if err != nil {
			return cannot(err, "make the volume %s", name)
		}
		_, err = fmt.Fprintln(c.out, v.Name)
		return err
	})
}

// volumeRow is a volume as it is listed.
type volumeRow struct {
	Name    string            `json:"name"`
	Path    string            `json:"path"`
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Bytes   *uint64           `json:"bytes,omitempty"`
	Users   []string          `json:"users"` // containers that mount it

	createdAgo string
}

// docker are the names that templates for docker use.
func (r volumeRow) docker() map[string]any {
	return map[string]any{"Driver": "local", "Scope": "local", "Mountpoint": r.Path, "CreatedAt": r.Created.Format(time.RFC3339)}
}

func (c *cli) volumeRow(v api.Volume) volumeRow {
	return volumeRow{Name: v.Name, Path: v.Path, Created: v.Created, Labels: v.Labels, Bytes: v.Bytes, Users: append([]string{}, v.Users...), createdAgo: ago(c.now(), v.Created)}
}

func volumeListVerb(c *cli) *cobra.Command {
	var quiet bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List named volumes",
		Long:    "List named volumes. Filters are name=, label=NAME[=VALUE] and dangling=true or false, which\nis whether no container mounts it.",
		Example: examples("berth volume ls", "berth volume ls -q --filter dangling=true"),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "only those that fit KEY=VALUE")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		fits, err := parseVolumeFilters(filters)
		if err != nil {
			return err
		}
		list, err := cl.admin.Volumes(ctx, false)
		if err != nil {
			return cannot(err, "list the volumes")
		}
		rows := []volumeRow{}
		for _, v := range list {
			if fits(v) {
				rows = append(rows, c.volumeRow(v))
			}
		}
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
			lines = append(lines, []string{r.Name, r.createdAgo, strings.Join(r.Users, ", ")})
		}
		return table(c.out, []string{"VOLUME NAME", "CREATED", "MOUNTED BY"}, lines)
	})
}

func parseVolumeFilters(texts []string) (func(api.Volume) bool, error) {
	var all []func(api.Volume) bool
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		label, want, valued := strings.Cut(value, "=")
		known := map[string]func(api.Volume) bool{
			"name": func(v api.Volume) bool {
				ok, _ := path.Match(value, v.Name)
				return ok || strings.Contains(v.Name, value)
			},
			"label":    func(v api.Volume) bool { have, ok := v.Labels[label]; return ok && (!valued || have == want) },
			"dangling": func(v api.Volume) bool { return (len(v.Users) == 0) == (value == "true" || value == "1") },
		}
		if known[key] == nil || !ok || value == "" {
			return nil, &problem{what: "cannot filter by " + text, why: "it is not KEY=VALUE with a key that volumes have", do: "choose name=, label= or dangling=true"}
		}
		all = append(all, known[key])
	}
	return func(v api.Volume) bool {
		return !slices.ContainsFunc(all, func(fits func(api.Volume) bool) bool { return !fits(v) })
	}, nil
}

// findVolume gives one of the volumes.
func findVolume(list []api.Volume, name string) (api.Volume, error) {
	i := slices.IndexFunc(list, func(v api.Volume) bool { return v.Name == name })
	if i < 0 {
		return api.Volume{}, &problem{what: "cannot find the volume " + name, why: "no volume has this name", do: "see what there is with: berth volume ls"}
	}
	return list[i], nil
}

func volumeInspectVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "inspect VOLUME...",
		Short:   "Show everything about named volumes, as JSON",
		Example: examples("berth volume inspect data", "berth volume inspect --format '{{.Mountpoint}}' data"),
	}
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		list, err := cl.admin.Volumes(ctx, false)
		if err != nil {
			return cannot(err, "list the volumes")
		}
		rows := []volumeRow{}
		err = c.each(args, func(name string) error {
			v, err := findVolume(list, name)
			if err == nil {
				rows = append(rows, c.volumeRow(v))
			}
			return err
		})
		return errors.Join(c.show(rows), err)
	})
}

func volumeRemoveVerb(c *cli) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm VOLUME...",
		Aliases: []string{"remove"},
		Short:   "Remove named volumes with what they hold",
		Long:    "Remove named volumes with what they hold. One that a container mounts, running or not, stays.",
		Example: examples("berth volume rm data", "berth volume rm $(berth volume ls -q --filter dangling=true)"),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "one that is not there is removed")
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		return c.each(args, func(name string) error {
			err := cl.admin.RemoveVolume(ctx, name)
			if status.Code(err) == codes.NotFound && !force {
				_, err = findVolume(nil, name)
			}
			if err != nil && status.Code(err) != codes.NotFound {
				err = advised(err, codes.FailedPrecondition, "remove the container first: berth rm CONTAINER")
				return cannot(err, "remove volume %s", name)
			}
			fmt.Fprintln(c.out, name)
			return nil
		})
	})
}

func volumePruneVerb(c *cli) *cobra.Command {
	var all, force bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Remove volumes that no container mounts",
		Long:    "Remove volumes that nobody has named and no container mounts; with --all named ones too.",
		Example: examples("berth volume prune", "berth volume prune --all --filter label=scratch"),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that have a name of their own")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().StringArrayVar(&filters, "filter", nil, "only those that fit KEY=VALUE")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		fits, err := parseVolumeFilters(filters)
		if err != nil {
			return err
		}
		if err := c.confirm("volumes that no container mounts, with what they hold", force); err != nil {
			return err
		}
		freed, err := c.pruneVolumes(ctx, cl, all, fits)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(c.out, "%s came free\n", size(freed))
		return err
	})
}
