package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
)

// shortID is how many characters of an id people are shown.
const shortID = 12

// short cuts an id or a digest for a listing.
func short(id string, full bool) string {
	if full {
		return id
	}
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(shortID, len(id))]
}

// table prints rows under a header in columns.
func table(w io.Writer, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(header, "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	return tw.Flush()
}

// ago says how long ago t was.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return units.HumanDuration(now.Sub(t)) + " ago"
}

// size in the units that docker's listings have.
func size(n uint64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// ellipsis cuts s to n characters.
func ellipsis(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// familiar shortens a full reference the way people write it.
func familiar(ref string) string {
	rest, ok := strings.CutPrefix(ref, "docker.io/")
	if !ok {
		return ref
	}
	if name, ok := strings.CutPrefix(rest, "library/"); ok && !strings.Contains(name, "/") {
		return name
	}
	return rest
}

// noTag stands for the tag of what has none.
const noTag = "<none>"

// splitTag divides a reference into repository and tag.
func splitTag(ref string) (repo, tag string) {
	repo, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
		return repo[:i], repo[i+1:]
	}
	return repo, noTag
}

func nanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
