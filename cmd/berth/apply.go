package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func applyVerb(c *cli) *cobra.Command {
	var files []string
	var dry bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Run the pods of a Kubernetes manifest, or bring them up to date",
		Long: "Run the pods of a manifest: v1 Pods, as YAML or JSON, one or several documents. A field that is not\n" +
			"honoured is named with its line, and nothing is done then. A pod that runs and asks for the same is\n" +
			"left alone; one that differs is removed, with what its emptyDirs hold, and made anew. Restart policies\n" +
			"hold over a restart of the daemon and a reboot. Images are pulled first, with docker's credentials.",
		Example: examples("berth apply -f pod.yaml", "berth inspect --output pod web | berth apply -f -"),
	}
	manifestFlag(cmd, &files)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell what would be done")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		return c.eachManifest(files, func(name, text string) error {
			pods, err := c.apply(ctx, cl, name, text, dry)
			if err != nil || c.structured() {
				return errors.Join(err, c.showPods(pods))
			}
			for _, p := range pods {
				line := fmt.Sprintf("pod %s/%s %s", p.Namespace, p.Name, p.Change)
				if dry {
					line = fmt.Sprintf("pod %s/%s would be %s", p.Namespace, p.Name, p.Change)
				}
				if len(p.Differs) > 0 {
					line += "; it differed in " + strings.Join(p.Differs, ", ")
				}
				fmt.Fprintln(c.out, line)
			}
			return nil
		})
	})
}

func deleteVerb(c *cli) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "delete -f FILE",
		Short: "End and remove the pods of a Kubernetes manifest",
		Long: "End and remove the pods that a manifest names, and what their emptyDirs hold. Containers have\n" +
			"terminationGracePeriodSeconds to end. A pod that is not there is no failure.",
		Example: examples("berth delete -f pod.yaml", "cat pod.yaml | berth delete -f -"),
	}
	manifestFlag(cmd, &files)
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		return c.eachManifest(files, func(name, text string) error {
			pods, err := cl.admin.Delete(ctx, &api.ManifestRequest{Text: text})
			if err != nil {
				return cannotHonour(err, "delete the pods of %s", name)
			}
			if c.structured() {
				return c.showPods(pods)
			}
			for _, p := range pods {
				fmt.Fprintf(c.out, "pod %s/%s deleted\n", p.Namespace, p.Name)
			}
			return nil
		})
	})
}

func (c *cli) showPods(pods []api.ManifestPod) error {
	if len(pods) == 0 {
		return nil
	}
	return c.show(pods)
}

func manifestFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVarP(files, "filename", "f", nil, "the manifest; - is stdin. May be repeated")
	_ = cmd.MarkFlagRequired("filename") // the flag is there
	_ = cmd.MarkFlagFilename("filename", "yaml", "yml", "json")
}

// eachManifest calls do with each file and its text, in their order, and stops
// at the first failure: what follows may build on it.
func (c *cli) eachManifest(files []string, do func(name, text string) error) error {
	for _, name := range files {
		text, err := c.manifest(name)
		if err != nil {
			return err
		}
		if name == "-" {
			name = "the manifest on stdin"
		}
		if err := do(name, text); err != nil {
			return err
		}
	}
	return nil
}

// maxManifest is more than the daemon reads.
const maxManifest = 2 << 20

func (c *cli) manifest(name string) (string, error) {
	in := c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", &problem{what: "cannot read the manifest " + name, why: err.Error(), do: "check the path given to -f"}
		}
		defer func() { _ = f.Close() }()
		in = f
	} else if f, ok := c.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return "", &problem{what: "cannot read a manifest from the terminal", why: "one is expected on stdin", do: "name a file: berth apply -f pod.yaml"}
	}
	b, err := io.ReadAll(io.LimitReader(in, maxManifest))
	if err != nil {
		return "", &problem{what: "cannot read the manifest " + name, why: err.Error(), do: "check the path given to -f"}
	}
	return string(b), nil
}

// apply has the daemon look first, so that nothing is pulled for a manifest that
// cannot be honoured.
func (c *cli) apply(ctx context.Context, cl *client, name, text string, dry bool) ([]api.ManifestPod, error) {
	pods, err := cl.admin.Apply(ctx, &api.ManifestRequest{Text: text, DryRun: true})
	if err != nil || dry {
		return pods, cannotHonour(err, "apply %s", name)
	}
	policies := map[string]string{"Always": "always", "IfNotPresent": "missing", "Never": "never"}
	pulled := map[api.ManifestImage]bool{}
	for _, p := range pods {
		if p.Change == "unchanged" {
			continue
		}
		for _, i := range p.Images {
			if pulled[i] {
				continue
			}
			pulled[i] = true
			if _, err := c.ensureImage(ctx, cl, i.Ref, policies[i.PullPolicy], false); err != nil {
				return nil, err
			}
		}
	}
	pods, err = cl.admin.Apply(ctx, &api.ManifestRequest{Text: text})
	return pods, cannotHonour(err, "apply %s", name)
}

func cannotHonour(err error, format string, args ...any) error {
	return cannot(advised(err, codes.InvalidArgument, "change what it names, or leave it out"), format, args...)
}

// podManifest prints a manifest of the pod that is called name, or of that of a
// container.
func (c *cli) podManifest(ctx context.Context, cl *client, inv *inventory, name string) error {
	o, err := inv.find(name)
	if err != nil {
		return err
	}
	if o.pod == nil {
		return &problem{what: "cannot make a manifest of " + o.String(), why: "its pod is gone", do: "see what there is with: berth pods"}
	}
	m, err := cl.admin.Manifest(ctx, o.pod.Id)
	if err != nil {
		return cannot(err, "make a manifest of %s", o)
	}
	for _, lost := range m.Lost {
		fmt.Fprintf(c.err, "berth: the manifest of %s does not say: %s\n", o, lost)
	}
	_, err = fmt.Fprint(c.out, m.Text)
	return err
}
