package shim_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/berth-runtime/berth/runtime/shimrpc"
)

// BenchmarkCreate is create, start, and delete while it runs.
func BenchmarkCreate(b *testing.B) {
	l := newLab(b)
	cr := l.bundle("c", nil, "sleep", "1000")
	for b.Loop() {
		l.run(cr)
		if err := l.Delete(b.Context(), "c"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExec is from the request to the exit.
func BenchmarkExec(b *testing.B) {
	l := newLab(b)
	l.run(l.bundle("c", nil, "sleep", "1000"))
	for b.Loop() {
		p, err := l.Exec(b.Context(), "c", shimrpc.Exec{Args: []string{"/bin/true"}}, nil)
		if err != nil {
			b.Fatal(err)
		}
		if e, err := p.Wait(b.Context()); err != nil || e.Code != 0 {
			b.Fatal(e, err)
		}
		_ = p.Close()
	}
}

// BenchmarkMemory prints what the shim takes, empty and for each container.
func BenchmarkMemory(b *testing.B) {
	const n = 100
	l := newLab(b)
	for b.Loop() {
		empty := pss(b, l.pid)
		for i := range n {
			l.run(l.bundle(fmt.Sprintf("c%d", i), nil, "sleep", "1000"))
		}
		time.Sleep(4 * time.Second) // until the shim gives back what the starts took
		full := pss(b, l.pid)
		b.ReportMetric(float64(empty), "kB/empty")
		b.ReportMetric(float64(full-empty)/n, "kB/container")
		for i := range n {
			if err := l.Delete(b.Context(), fmt.Sprintf("c%d", i)); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// pss is the process's own memory in kB: shared text is not the container's.
func pss(b *testing.B, pid int) int {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		if f := bytes.Fields(line); string(f[0]) == "Pss:" {
			kb, err := strconv.Atoi(string(f[1]))
			if err != nil {
				b.Fatal(err)
			}
			return kb
		}
	}
	b.Fatal("no Pss")
	return 0
}
