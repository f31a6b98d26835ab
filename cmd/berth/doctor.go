package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func doctorVerb(c *cli) *cobra.Command {
	var in api.DoctorRequest
	var config string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at what this node lacks, and how to mend it",
		Long: "Look at what this node lacks: features of the kernel, limits, disk, clock, and settings of the\n" +
			"kubelet that do not fit; with what mends it. It changes nothing. What the kernel can do is tried.\n" +
			"A daemon that runs looks itself, with its own rights and limits; without one berthd is executed.\n" +
			"The exit code is 0 if all is well, 1 with warnings, 2 if something fails.",
		Example: examples("berth doctor", "berth doctor --registry all --output json"),
	}
	cmd.Flags().StringArrayVar(&in.Registries, "registry", nil, "also try to reach the registry HOST; all: those that the configuration knows")
	cmd.Flags().StringVar(&config, "config", "", "configuration to look with where no daemon runs")
	return c.local(cmd, cobra.NoArgs, func(ctx context.Context, _ []string) error {
		found, err := c.diagnose(ctx, &in, config)
		if err != nil {
			return err
		}
		if err := c.printFindings(found); err != nil {
			return err
		}
		if code := severity(found); code > 0 {
			return exitCode(code)
		}
		return nil
	})
}

// severity is the exit code for what was found.
func severity(found []api.Finding) int {
	code := 0
	for _, f := range found {
		switch f.Verdict {
		case "ok":
		case "warn":
			code = max(code, 1)
		default:
			code = 2
		}
	}
	return code
}

// diagnose asks the daemon, or has the daemon's program look where none runs.
func (c *cli) diagnose(ctx context.Context, in *api.DoctorRequest, config string) ([]api.Finding, error) {
	cl, err := connect(ctx, c.socket)
	if err == nil {
		defer cl.close()
		r, err := cl.admin.Doctor(ctx, in)
		if err != nil {
			return nil, cannot(err, "look at the node")
		}
		return append([]api.Finding{{Check: "daemon", Verdict: "ok", Reason: "berthd answers at " + c.socket}}, r.Findings...), nil
	}
	if !absent(err) {
		return nil, err
	}
	args := []string{"doctor"}
	if config != "" {
		args = append(args, "--config", config)
	}
	for _, r := range in.Registries {
		args = append(args, "--registry", r)
	}
	var r api.DoctorResult
	if err := berthd(ctx, &r, args...); err != nil {
		return nil, err
	}
	down := api.Finding{Check: "daemon", Verdict: "warn", Reason: "berthd is not running: nobody answers at " + c.socket, Fix: "systemctl start berthd"}
	return append([]api.Finding{down}, r.Findings...), nil
}

// absent tells whether err says that no daemon runs.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// berthd executes the daemon's program for one of its commands that print
// JSON, and reads that into answer. It lies beside this one or on PATH.
func berthd(ctx context.Context, answer any, args ...string) error {
	what := "cannot execute berthd " + strings.Join(args, " ")
	program, err := exec.LookPath("berthd")
	if self, serr := os.Executable(); serr == nil {
		if beside := filepath.Join(filepath.Dir(self), "berthd"); isFile(beside) {
			program, err = beside, nil
		}
	}
	if err != nil {
		return &problem{what: what, why: "it is neither beside this program nor on PATH", do: "install it, or start the daemon"}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		why := strings.TrimSpace(strings.TrimPrefix(said.String(), "berthd: "))
		if why == "" {
			why = err.Error()
		}
		return &problem{what: what, why: strings.ReplaceAll(why, "\n", "; "), do: "repair what it names; berth config check looks at the configuration alone"}
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return &problem{what: what, why: "its answer cannot be read: " + err.Error(), do: "use a berth and a berthd of one version: berth version, berthd version"}
	}
	return nil
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

func (c *cli) printFindings(found []api.Finding) error {
	if c.structured() {
		return c.show(api.DoctorResult{Findings: found})
	}
	tw := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	counts := map[string]int{}
	for _, f := range found {
		counts[f.Verdict]++
		fmt.Fprintf(tw, "%s\t%s\t%s\n", f.Verdict, f.Check, f.Reason)
		if f.Fix != "" {
			fmt.Fprintf(tw, "\t\tfix: %s\n", f.Fix)
		}
	}
	fmt.Fprintf(tw, "\n%d ok, %d to be warned of, %d failed\n", counts["ok"], counts["warn"], len(found)-counts["ok"]-counts["warn"])
	return tw.Flush()
}
