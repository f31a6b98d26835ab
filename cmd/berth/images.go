package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-runtime/berth/cri/admin/api"
)

func imagesVerb(c *cli) *cobra.Command {
	var quiet, full, all, digests bool
	var filters []string
	cmd := &cobra.Command{
		Use:     "images [NAME[:TAG]]",
		Short:   "List images, or those of one name",
		Example: examples("berth images nginx", "berth images -q --no-trunc"),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids only")
	cmd.Flags().BoolVar(&full, "no-trunc", false, "do not shorten anything")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "docker's word for what is shown always")
	cmd.Flags().BoolVar(&digests, "digests", false, "show the digest that an image was pulled by")
	cmd.Flags().StringArrayVarP(&filters, "filter", "f", nil, "only those that fit KEY=VALUE: dangling=true, reference=NAME with * and ?, before= or since=IMAGE")
	return c.verb(cmd, cobra.MaximumNArgs(1), func(ctx context.Context, cl *client, args []string) error {
		list, err := cl.admin.Images(ctx)
		if err != nil {
			return cannot(err, "list the images")
		}
		if list, err = imagesThatFit(list, filters); err != nil {
			return err
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
		return c.printImages(rows, digests)
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
	Digest     string    `json:"digest,omitempty"` // of the manifest that it was pulled by
}

// docker are the names that templates for docker use.
func (r imageRow) docker() map[string]any {
	return map[string]any{"Size": size(r.Size), "CreatedAt": r.Created.Local().Format("2006-01-02 15:04:05 -0700 MST"), "CreatedSince": ago(time.Now(), r.Created)}
}

// imagesThatFit applies the filters.
func imagesThatFit(list []api.Image, filters []string) ([]api.Image, error) {
	for _, text := range filters {
		key, value, ok := strings.Cut(text, "=")
		at := slices.IndexFunc(list, func(i api.Image) bool {
			return len(imagesNamed([]api.Image{i}, value)) > 0 || value != "" && short(i.ID, false) == short(value, false)
		})
		var fits func(api.Image) bool
		switch {
		case !ok || value == "":
		case key == "dangling":
			fits = func(i api.Image) bool { return (len(i.Tags) == 0) == (value == "true" || value == "1") }
		case key == "reference":
			fits = func(i api.Image) bool {
				return slices.ContainsFunc(i.Tags, func(tag string) bool {
					repo, _ := splitTag(familiar(tag))
					return slices.ContainsFunc([]string{tag, familiar(tag), repo}, func(name string) bool { ok, _ := path.Match(value, name); return ok })
				})
			}
		case (key == "before" || key == "since") && at >= 0:
			then := list[at].Created
			fits = func(i api.Image) bool {
				return key == "before" && i.Created.Before(then) || key == "since" && i.Created.After(then)
			}
		}
		if fits == nil {
			return nil, &problem{what: "cannot filter by " + text, why: "it is not KEY=VALUE with a key that images have, or names no image", do: "choose dangling=true, reference=NAME, before=IMAGE or since=IMAGE"}
		}
		list = filter(list, fits)
	}
	return list, nil
}

func imageRows(img api.Image, full bool) []imageRow {
	row := imageRow{Repository: "<none>", Tag: noTag, ID: short(img.ID, full), Created: img.Created, Size: img.Size}
	if len(img.Digests) > 0 {
		_, row.Digest, _ = strings.Cut(img.Digests[0], "@")
	}
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

func (c *cli) printImages(rows []imageRow, digests bool) error {
	slices.SortFunc(rows, func(a, b imageRow) int {
		return strings.Compare(a.Repository+"\x00"+a.Tag+a.ID, b.Repository+"\x00"+b.Tag+b.ID)
	})
	if c.structured() {
		return c.show(append([]imageRow{}, rows...))
	}
	var lines [][]string
	header := []string{"REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"}
	if digests {
		header = slices.Insert(header, 2, "DIGEST")
	}
	for _, r := range rows {
		line := []string{r.Repository, r.Tag, r.ID, ago(c.now(), r.Created), size(r.Size)}
		if digests {
			line = slices.Insert(line, 2, r.Digest)
		}
		lines = append(lines, line)
	}
	return table(c.out, header, lines)
}
