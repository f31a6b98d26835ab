package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func imagesVerb(c *cli) *cobra.Command {
	var quiet, full bool
	cmd := &cobra.Command{
		Use:     "images",
		Short:   "List images",
		Example: examples("berth images", "berth images -q --no-trunc"),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not shorten anything")
	return c.verb(cmd, cobra.NoArgs, func(ctx context.Context, cl *client, _ []string) error {
		list, err := cl.admin.Images(ctx)
		if err != nil {
			return cannot(err, "list the images")
		}
		if quiet {
			for _, img := range list {
				fmt.Fprintln(c.out, short(img.ID, full))
			}
			return nil
		}
		var rows []imageRow
		for _, img := range list {
			rows = append(rows, imageRows(img, full || c.output == "json")...)
		}
		return c.printImages(rows)
	})
}

// imageRow is one line of images; an image has one for each of its tags.
type imageRow struct {
	Repository string    `json:"repository"`
	Tag        string    `json:"tag"`
	ID         string    `json:"id"`
	Created    time.Time `json:"created,omitzero"`
	Size       uint64    `json:"size"`
}

func imageRows(img api.Image, full bool) []imageRow {
	row := imageRow{Repository: "<none>", Tag: "<none>", ID: short(img.ID, full), Created: img.Created, Size: img.Size}
	refs := img.Tags
	if len(refs) == 0 {
		refs = img.Digests[:min(1, len(img.Digests))]
	}
	if len(refs) == 0 {
		return []imageRow{row}
	}
	var rows []imageRow
	for _, ref := range refs {
		row.Repository, row.Tag = splitTag(ref)
		if !full {
			row.Repository = familiar(row.Repository)
		}
		rows = append(rows, row)
	}
	return rows
}

func (c *cli) printImages(rows []imageRow) error {
	slices.SortFunc(rows, func(a, b imageRow) int {
		return strings.Compare(a.Repository+"\x00"+a.Tag+a.ID, b.Repository+"\x00"+b.Tag+b.ID)
	})
	if c.output == "json" {
		return c.json(append([]imageRow{}, rows...))
	}
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, []string{r.Repository, r.Tag, r.ID, ago(c.now(), r.Created), size(r.Size)})
	}
	return table(c.out, []string{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}, lines)
}
