package main

import (
	"context"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func versionVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the versions of this command and of the daemon",
		Example: examples("berth version", "berth version --output json"),
	}
	cmd.Flags().StringVarP(&c.format, "format", "f", "", "docker's form of the answer: json, or a template")
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		daemon, err := c.daemonVersion(cmd.Context())
		if err != nil && c.structured() {
			return err
		}
		if c.structured() {
			return c.show(map[string]string{
				"client": ownVersion(), "go": runtime.Version(),
				"daemon": daemon.RuntimeName + " " + daemon.RuntimeVersion, "cri": daemon.RuntimeApiVersion,
			})
		}
		// Our own version is worth something without the daemon's.
		rows := [][]string{}
		if err == nil {
			rows = append(rows,
				[]string{"Daemon:", daemon.RuntimeName + " " + daemon.RuntimeVersion},
				[]string{"CRI:", daemon.RuntimeApiVersion})
		}
		if terr := table(c.out, []string{"Client:", ownVersion() + " (" + runtime.Version() + ")"}, rows); terr != nil {
			return terr
		}
		return err
	}
	return cmd
}

func (c *cli) daemonVersion(ctx context.Context) (*criv1.VersionResponse, error) {
	cl, err := connect(ctx, c.socket)
	if err != nil {
		return nil, err
	}
	defer cl.close()
	v, err := cl.runtime.Version(ctx, &criv1.VersionRequest{Version: "v1"})
	return v, cannot(err, "read the daemon's version")
}

// version is set by the linker.
var version string

// ownVersion is what the build recorded.
func ownVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
