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
		Use:     "images [NAME[:TAG]]",
		Short:   "List images, or those of one name",
		Example: examples("berth images nginx", "berth images -q --no-trunc"),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not shorten anything")
	return c.verb(cmd, cobra.MaximumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		list, err := cl.admin.Images(ctx)
		if err != nil {
			return cannot(err, "list the images")
		}
		if len(args) > 0 {
			list = imagesNamed(list, args[0])
		}
		if quiet {
			for _, img := range list {
				fmt.Fprintln(c.out, short(img.ID, full))
			}
			return nil
		}
		var rows []imageRow
		for _, img := range list {
			rows = append(rows, imageRows(img, full || c.structured())...)
		}
		return c.printImages(rows)
	})
}

// imagesNamed gives the images with only those of their names that are name,
// which is written in full or shortened and may have a tag.
func imagesNamed(list []api.Image, name string) []api.Image {
	repo, tag := splitTag(name)
	is := func(ref string) bool {
		r, t := splitTag(ref)
		return (r == repo || familiar(r) == repo) && (tag == noTag || t == tag)
	}
	var found []api.Image
	for _, img := range list {
		img.Tags, img.Digests = filter(img.Tags, is), filter(img.Digests, is)
		if len(img.Tags)+len(img.Digests) > 0 {
			found = append(found, img)
		}
	}
	return found
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
	row := imageRow{Repository: "<none>", Tag: noTag, ID: short(img.ID, full), Created: img.Created, Size: img.Size}
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
	if c.structured() {
		return c.show(append([]imageRow{}, rows...))
	}
	var lines [][]string
	for _, r := range rows {
		lines = append(lines, []string{r.Repository, r.Tag, r.ID, ago(c.now(), r.Created), size(r.Size)})
	}
	return table(c.out, []string{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}, lines)
}
