package stats

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// Pressure is how tasks have waited for each resource; nil where the kernel
// does not tell: on v1, and where it was built or booted without.
type Pressure struct{ CPU, Memory, IO *Stall }

// Stall is the time in which some of the tasks waited, and that in which all
// that could work did.
type Stall struct{ Some, Full Waited }

// Waited is a time since the cgroup was made, and its share of the last 10, 60
// and 300 seconds in percent.
type Waited struct {
	Total                time.Duration
	Avg10, Avg60, Avg300 float64
}

// stall reads lines of "some avg10=0.00 avg60=0.00 avg300=0.00 total=N", N in
// microseconds.
func (b *scratch) stall(f file) (*Stall, error) {
	text, err := b.text(f)
	if err != nil || len(text) == 0 {
		return nil, err
	}
	s := new(Stall)
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		to := map[string]*Waited{"some": &s.Some, "full": &s.Full}[string(fields[0])]
		if to == nil {
			return nil, fmt.Errorf("%s: line %q tells neither of some nor of all tasks", f.name, line)
		}
		for _, field := range fields[1:] {
			key, value, _ := bytes.Cut(field, []byte("="))
			if err := to.set(string(key), string(value)); err != nil {
				return nil, fmt.Errorf("%s: line %q: %w", f.name, line, err)
			}
		}
	}
	return s, nil
}

// set takes one field; those of later kernels are left.
func (w *Waited) set(key, value string) (err error) {
	switch key {
	case "total":
		var micros int64
		micros, err = strconv.ParseInt(value, 10, 64)
		w.Total = time.Duration(micros) * time.Microsecond
	case "avg10":
		w.Avg10, err = strconv.ParseFloat(value, 64)
	case "avg60":
		w.Avg60, err = strconv.ParseFloat(value, 64)
	case "avg300":
		w.Avg300, err = strconv.ParseFloat(value, 64)
	}
	return err
}
