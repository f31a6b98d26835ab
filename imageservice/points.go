package imageservice

import (
	"context"
	"time"

	"github.com/berth-runtime/berth/runtime/sys/fail"
)

// verb is a change of the store. The crash test kills the daemon before and
// after each of its steps.
type verb string

// The verbs.
const (
	verbOpen     verb = "image-open"
	verbPull     verb = "image-pull" // and whatever else installs
	verbRemove   verb = "image-remove"
	verbSnapshot verb = "snapshot-make"
	verbDiscard  verb = "snapshot-remove"
	verbBuild    verb = "build"
)

// step does one step between its two failpoints.
func (v verb) step(name string, do func() error) error {
	fail.Hit(string(v) + "/" + name + "/before")
	if err := do(); err != nil {
		return err
	}
	fail.Hit(string(v) + "/" + name + "/after")
	return nil
}

// step does one step of a verb and tells the observers of it. Steps of a layer
// that several pulls wait for are told in the context of the first.
func (s *Service) step(ctx context.Context, v verb, name string, do func() error) error {
	begin := time.Now()
	ended := func(error) {}
	if s.cfg.Observe != nil {
		_, ended = s.cfg.Observe(ctx, string(v), name)
	}
	err := v.step(name, do)
	s.cfg.Observer.Stepped(string(v), name, time.Since(begin), err)
	ended(err)
	return err
}

// StepNames lists the failpoints of every verb, for the crash test. A step
// that is not here is not tested; one that is here and does not happen fails
// the test.
func StepNames() []string {
	var names []string
	for _, t := range []struct {
		verb  verb
		steps []string
	}{
		{verbOpen, []string{"rows", "rubbish"}},
		{verbPull, []string{
			"resolve", "blobs", "claim", "directory", "part", "receive", "unpack", "rename",
			"settle", "keep", "drop-parts", "sync", "commit", "drop-old-parts",
		}},
		{verbRemove, []string{"rows", "blobs", "layers"}},
		{verbSnapshot, []string{"rows", "directories"}},
		{verbDiscard, []string{"directories", "rows", "layers"}},
		{verbBuild, []string{"workspace", "rows", "used", "clear"}},
	} {
		for _, step := range t.steps {
			name := string(t.verb) + "/" + step
			names = append(names, name+"/before", name+"/after")
		}
	}
	return names
}
