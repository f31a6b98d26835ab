package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func infoVerb(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "info",
		Short:   "Show the daemon: where it keeps things and how it is",
		Example: examples("berth info", "berth info --output json"),
	}
	cmd.Flags().StringVarP(&c.format, "format", "f", "", "docker's form of the answer: json, or a template")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		info, err := cl.admin.Info(ctx)
		if err != nil {
			return cannot(err, "read what the daemon says of itself")
		}
		st, err := cl.runtime.Status(ctx, &criv1.StatusRequest{})
		if err != nil {
			return cannot(err, "read the daemon's status")
		}
		conditions := map[string]string{}
		for _, cond := range st.GetStatus().GetConditions() {
			text := "yes"
			if !cond.Status {
				text = strings.TrimSuffix("no: "+cond.Reason+" "+cond.Message, " ")
			}
			conditions[cond.Type] = text
		}
		if c.structured() {
			return c.show(struct {
				*api.Info
				Conditions map[string]string `json:"conditions"`
			}{info, conditions})
		}
		return c.printInfo(info, conditions)
	})
}

func (c *cli) printInfo(info *api.Info, conditions map[string]string) error {
	var shims []string
	for _, pid := range info.Pids.Shims {
		shims = append(shims, fmt.Sprint(pid))
	}
	rows := [][]string{
		{"Runtime ready:", conditions[criv1.RuntimeReady]},
		{"Network ready:", conditions[criv1.NetworkReady]},
		{"Root:", info.Root},
		{"State:", info.State},
		{"Logs:", info.LogRoot},
		{"Cgroup driver:", info.CgroupDriver},
		{"Shim per:", info.ShimGroup},
		{"Daemon's pid:", fmt.Sprint(info.Pids.Daemon)},
		{"Shims' pids:", strings.Join(shims, " ")},
		{"Boot id:", info.BootID},
	}
	return table(c.out, []string{"Version:", info.Version}, rows)
}
