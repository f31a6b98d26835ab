package build

// Limits bound what the authors of a file and a context control.
type Limits struct {
	File       int64 // bytes of the Dockerfile
	Lines      int   // of it
	Stages     int
	Steps      int   // instructions of all stages, with those of ONBUILD
	Args       int   // --build-arg, --label and --secret each
	Value      int   // bytes of one of those, or of a variable after expansion
	Context    int64 // bytes of files in the context
	Entries    int   // files and directories in the context, or in an archive
	Download   int64 // bytes of a file from an URL, and of files in an archive
	Layer      int   // files and directories that one COPY or ADD writes
	Depth      int   // of directories in each other
	OutputLine int   // bytes of the shown name of a step
}

// orDefault fills in what is 0 by what is far above every honest build.
func (l Limits) orDefault() Limits {
	d := Limits{
		File: 1 << 20, Lines: 20_000, Stages: 200, Steps: 2000, Args: 1000, Value: 256 << 10,
		Context: 64 << 30, Entries: 1_000_000, Download: 16 << 30, Layer: 2_000_000, Depth: 128, OutputLine: 200,
	}
	for _, f := range []struct{ have, want *int }{
		{&l.Lines, &d.Lines}, {&l.Stages, &d.Stages}, {&l.Steps, &d.Steps}, {&l.Args, &d.Args}, {&l.Value, &d.Value},
		{&l.Entries, &d.Entries}, {&l.Layer, &d.Layer}, {&l.Depth, &d.Depth}, {&l.OutputLine, &d.OutputLine},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	for _, f := range []struct{ have, want *int64 }{{&l.File, &d.File}, {&l.Context, &d.Context}, {&l.Download, &d.Download}} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	return l
}
