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
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		v, err := cl.runtime.Version(ctx, &criv1.VersionRequest{Version: "v1"})
		if err != nil {
			return cannot(err, "read the daemon's version")
		}
		if c.output == "json" {
			return c.json(map[string]string{
				"client": ownVersion(), "go": runtime.Version(),
				"daemon": v.RuntimeName + " " + v.RuntimeVersion, "cri": v.RuntimeApiVersion,
			})
		}
		return table(c.out, []string{"Client:", ownVersion() + " (" + runtime.Version() + ")"}, [][]string{
			{"Daemon:", v.RuntimeName + " " + v.RuntimeVersion},
			{"CRI:", v.RuntimeApiVersion},
		})
	})
}

// ownVersion is what the build recorded.
func ownVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
