package main

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
)

func loadVerb(c *cli) *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:     "load",
		Short:   "Take images from an archive (docker save, or an OCI layout)",
		Example: examples("berth load -i image.tar", "docker save nginx | berth load"),
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "the archive, or the folder of an OCI layout (stdin if none is given)")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		archive, err := c.openArchive(input)
		if err != nil {
			return err
		}
		defer archive.Close()
		res, err := cl.admin.Load(ctx, archive)
		if err != nil {
			err = advised(err, codes.InvalidArgument, "make the archive anew with docker save, or give the folder of an OCI layout")
			return cannot(err, "load %s", orStdin(input))
		}
		if c.structured() {
			return c.show(res)
		}
		for _, tag := range res.Tags {
			fmt.Fprintf(c.out, "Loaded %s\n", familiar(tag))
		}
		for _, id := range res.IDs {
			fmt.Fprintf(c.out, "Loaded image %s\n", short(id, false))
		}
		return nil
	})
}

// openArchive opens a file, stdin, or a folder as a tar stream.
func (c *cli) openArchive(input string) (io.ReadCloser, error) {
	if input == "" {
		if f, ok := c.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			return nil, &problem{what: "cannot load from the terminal", why: "an archive is expected on stdin", do: "name a file: berth load -i image.tar"}
		}
		return io.NopCloser(c.in), nil
	}
	info, err := os.Stat(input)
	if err == nil && info.IsDir() {
		return tarOf(input), nil
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(input)
	}
	if err != nil {
		return nil, &problem{what: "cannot load " + input, why: err.Error(), do: "check the path given to -i"}
	}
	return f, nil
}

// tarOf streams a folder. Closing it early ends the packing.
func tarOf(dir string) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		tw := tar.NewWriter(w)
		err := tw.AddFS(os.DirFS(dir))
		if err == nil {
			err = tw.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

func orStdin(input string) string {
	if input == "" {
		return "the archive on stdin"
	}
	return input
}
