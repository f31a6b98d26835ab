package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
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
		list, err := cl.image.ListImages(ctx, &criv1.ListImagesRequest{})
		if err != nil {
			return cannot(err, "list the images")
		}
		if quiet {
			for _, img := range list.Images {
				fmt.Fprintln(c.out, short(img.Id, full))
			}
			return nil
		}
		var rows []imageRow
		for _, img := range list.Images {
			// CRI does not tell when an image was made. An image that went
			// meanwhile, or cannot be read, is listed without it.
			var created time.Time
			if info, err := cl.admin.InspectImage(ctx, img.Id); err == nil {
				created = info.Created
			}
			rows = append(rows, imageRows(img, created, full || c.output == "json")...)
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

func imageRows(img *criv1.Image, created time.Time, full bool) []imageRow {
	row := imageRow{Repository: "<none>", Tag: "<none>", ID: short(img.Id, full), Created: created, Size: img.Size}
	refs := img.RepoTags
	if len(refs) == 0 {
		refs = img.RepoDigests[:min(1, len(img.RepoDigests))]
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
