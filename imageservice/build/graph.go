package build

import (
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// findName gives the stage before number before that a base name means: a base
// is a stage by its name only, never by its number.
func (f *file) findName(name string, before int) (int, bool) {
	return instructions.HasStage(f.stages[:before], name)
}

// needed lists the stages that target needs, it too.
func (b *builder) needed(target int) []int {
	seen := map[int]bool{}
	todo := []int{target}
	for len(todo) > 0 {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[n] {
			continue
		}
		seen[n] = true
		if from := b.stages[n].from; from >= 0 {
			todo = append(todo, from)
		}
		for _, c := range b.file.stages[n].Commands {
			todo = append(todo, b.file.sources(n, c)...)
		}
	}
	var all []int
	for n := range seen {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

// sources lists the stages from which an instruction of stage n copies.
func (f *file) sources(n int, c instructions.Command) (from []int) {
	switch c := c.(type) {
	case *instructions.CopyCommand:
		if i, ok := f.find(c.From, n); ok && c.From != "" {
			from = append(from, i)
		}
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(c) {
			if i, ok := f.find(m.From, n); ok && m.From != "" {
				from = append(from, i)
			}
		}
	}
	return from
}
