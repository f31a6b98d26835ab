package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func configVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or check the daemon's configuration",
		Long: "Show or check the daemon's configuration. It is read once, when the daemon starts: after a change,\n" +
			"systemctl restart berthd. Containers do not notice that.",
		Example: examples("berth config show --origin", "berth config check"),
	}
	return c.group(cmd, configShowVerb(c), configCheckVerb(c))
}

func configShowVerb(c *cli) *cobra.Command {
	var origin bool
	var config string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the configuration that the daemon runs with",
		Long: "Show the configuration that the daemon runs with, or would run with if it is down. Passwords\n" +
			"in URLs are left out.",
		Example: examples("berth config show", "berth config show --origin"),
	}
	cmd.Flags().BoolVar(&origin, "origin", false, "tell the file and line, or the flag, that sets each value")
	cmd.Flags().StringVar(&config, "config", "", "configuration to show where no daemon runs")
	return c.local(cmd, cobra.NoArgs, func(ctx context.Context, _ []string) error {
		all, err := c.settings(ctx, config)
		if err != nil {
			return err
		}
		if c.structured() {
			return c.show(api.ConfigResult{Settings: all})
		}
		tw := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
		for _, s := range all {
			fmt.Fprintf(tw, "%s = %s", s.Key, s.Value)
			if origin {
				fmt.Fprintf(tw, "\t# %s", s.Origin)
			}
			fmt.Fprintln(tw)
		}
		return tw.Flush()
	})
}

func (c *cli) settings(ctx context.Context, config string) ([]api.Setting, error) {
	cl, err := connect(ctx, c.socket)
	if err == nil {
		defer cl.close()
		all, err := cl.admin.Config(ctx)
		return all, cannot(err, "read the daemon's configuration")
	}
	if !absent(err) {
		return nil, err
	}
	args := []string{"config", "show"}
	if config != "" {
		args = append(args, "--config", config)
	}
	var r api.ConfigResult
	err = berthd(ctx, &r, args...)
	return r.Settings, err
}

func configCheckVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE...]",
		Short: "Check whether the daemon can use its configuration",
		Long: "Check whether the daemon could use its configuration, or these files in their order instead.\n" +
			"Each mistake is told with file and line.",
		Example: examples("berth config check", "berth config check /etc/berth/config.toml new.toml"),
	}
	return c.local(cmd, cobra.ArbitraryArgs, func(ctx context.Context, files []string) error {
		if err := berthd(ctx, nil, append([]string{"config", "check", "--"}, files...)...); err != nil {
			return err
		}
		_, err := fmt.Fprintln(c.out, "the configuration can be used")
		return err
	})
}
