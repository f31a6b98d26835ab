package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func saveVerb(c *cli) *cobra.Command {
	var output, format string
	cmd := &cobra.Command{
		Use:     "save IMAGE...",
		Short:   "Write images into an archive, from which load takes them again",
		Example: examples("berth save -o nginx.tar nginx:1.29", "berth save --format oci nginx | ssh other berth load"),
	}
	// The global --output has no short form, so -o is free for docker's.
	cmd.Flags().StringVarP(&output, "file", "o", "", "the file to write (stdout if none is given)")
	cmd.Flags().StringVar(&format, "format", "docker", "docker, which OCI's tools can read too, or oci, which is compressed and can hold artifacts")
	return c.verb(cmd, cobra.MinimumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		r := &api.SaveRequest{Images: args, Format: format}
		if output != "" {
			return saveFile(output, func(w io.Writer) error {
				return cannot(cl.admin.Save(ctx, r, w), "save to %s", output)
			})
		}
		if f, ok := c.out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return &problem{what: "cannot save to the terminal", why: "an archive is no text", do: "name a file: berth save -o image.tar IMAGE"}
		}
		return cannot(cl.admin.Save(ctx, r, c.out), "save %s", args[0])
	})
}

// saveFile makes a file of what fill writes, whole or not at all.
func saveFile(name string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-")
	if err != nil {
		return &problem{what: "cannot save to " + name, why: err.Error(), do: "check the path given to -o"}
	}
	err = errors.Join(fill(f), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return cannot(err, "save to %s", name)
	}
	return nil
}
