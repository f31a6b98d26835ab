package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// TestStamps is of the form of times and of a clock that is set back.
func TestStamps(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	s := w.Stream(Stdout)
	write(t, s, "one\n")
	ahead := time.Date(time.Now().Year()+1, 2, 3, 4, 5, 6, 7000, time.UTC)
	w.last = ahead
	write(t, s, "two\n")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stdout F one$`).MatchString(lines[0]) {
		t.Errorf("an entry is %q", lines[0])
	}
	if want := ahead.Format("2006-01-02T15:04:05") + ".000007001Z stdout F two"; lines[1] != want {
		t.Errorf("after the clock was set back: %q, want %q", lines[1], want)
	}
	// A later writer of the file must not go back either.
	later, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = later.Close() }()
	if !later.last.Equal(w.last) {
		t.Errorf("a later writer goes on at %s, want %s", later.last, w.last)
	}
	w.last = time.Time{}
	write(t, s, "three\n")
	// With the clock that does not jump readers cannot compare.
	if w.last != w.last.Round(0) {
		t.Error("times are compared by the monotonic clock")
	}
}

// TestBoundedLine writes a line without an end in small parts.
func TestBoundedLine(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	s := w.Stream(Stdout)
	for range 10_000 {
		write(t, s, strings.Repeat("x", 1000))
		if cap(s.rest) > 2*(MaxContent+1000) {
			t.Fatalf("the begun line holds %d bytes", cap(s.rest))
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	sum := 0
	for _, e := range entries(t, path) {
		sum += strings.Count(e, "x")
	}
	if sum != 10_000_000 {
		t.Errorf("%d bytes are logged", sum)
	}
}

// TestHostilePlaces is of what a pod may put in the place of its log.
func TestHostilePlaces(t *testing.T) {
	t.Parallel()
	for name, plant := range map[string]func(path, victim string) error{
		"link to a file":       func(path, victim string) error { return os.Symlink(victim, path) },
		"link to nothing":      func(path, victim string) error { return os.Symlink(victim+"2", path) },
		"FIFO that nobody has": func(path, _ string) error { return unix.Mkfifo(path, 0o600) },
		"directory":            func(path, _ string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, path := open1(t)
			write(t, w.Stream(Stdout), "before\n")
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("host\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path, path+".1"); err != nil {
				t.Fatal(err)
			}
			if err := plant(path, victim); err != nil {
				t.Fatal(err)
			}
			if err := w.Reopen(); err == nil {
				t.Error("Reopen took it")
			}
			if _, err := Open(path); err == nil {
				t.Error("Open took it")
			}
			write(t, w.Stream(Stdout), "after\n")
			if got := entries(t, path+".1"); len(got) != 2 {
				t.Errorf("the file in use has %q", got)
			}
			if b, _ := os.ReadFile(victim); string(b) != "host\n" {
				t.Errorf("the host's file has %q", b)
			}
			if _, err := os.Lstat(victim + "2"); err == nil {
				t.Error("a file was made where a link points")
			}
		})
	}
}

// TestReopenOfClosed must not make a file that nobody would remove.
func TestReopenOfClosed(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); !errkind.Is(err, errkind.FailedPrecondition) {
		t.Errorf("Reopen: %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it made a file")
	}
}

// TestRotationUnderLoad rotates at full speed from both streams; every third
// rotation is taken back, as the kubelet does when it hears of no success.
func TestRotationUnderLoad(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	const lines = 20_000
	var writers sync.WaitGroup
	over := make(chan struct{})
	for _, name := range []Stream{Stdout, Stderr} {
		writers.Go(func() {
			s := w.Stream(name)
			for i := range lines {
				_, _ = fmt.Fprintf(s, "%s %d\n", name, i)
			}
		})
	}
	go func() {
		writers.Wait()
		close(over)
	}()
	rotations := 0
	for running := true; running; {
		select {
		case <-over:
			running = false
		default:
		}
		rotated := fmt.Sprintf("%s.%06d", path, rotations)
		if err := os.Rename(path, rotated); err != nil {
			t.Fatal(err)
		}
		if err := w.Reopen(); err != nil {
			t.Fatal(err)
		}
		if rotations++; rotations%3 == 0 {
			if err := os.Rename(rotated, path); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if rotations < 10 {
		t.Logf("only %d rotations", rotations)
	}
	next := map[Stream]int{}
	err := Follow(t.Context(), path, Options{Tail: -1}, func(l Line) error {
		if want := fmt.Sprintf("%s %d", l.Stream, next[l.Stream]); string(l.Content) != want {
			return fmt.Errorf("got %q, want %q", l.Content, want)
		}
		next[l.Stream]++
		return nil
	}, nil)
	if err != nil || next[Stdout] != lines || next[Stderr] != lines {
		t.Errorf("read back %v: %v", next, err)
	}
}

// TestRotationTakenBack is of what was written between a reopening and the
// renaming back, with nothing written until the next rotation or the end.
func TestRotationTakenBack(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(w *Writer, path string) error{
		"then closed": func(w *Writer, _ string) error { return w.Close() },
		"then rotated": func(w *Writer, path string) error {
			return errors.Join(os.Rename(path, path+".2"), w.Reopen(), os.Rename(path+".2", path))
		},
		"then written": func(w *Writer, _ string) error {
			_, err := w.Stream(Stdout).Write([]byte("more\n"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, path := open1(t)
			s := w.Stream(Stdout)
			write(t, s, "one\n")
			if err := errors.Join(os.Rename(path, path+".1"), w.Reopen()); err != nil {
				t.Fatal(err)
			}
			write(t, s, "two\n")
			if err := errors.Join(os.Rename(path+".1", path), end(w, path)); err != nil {
				t.Fatal(err)
			}
			got := strings.Join(entries(t, path), ",")
			if want := "stdout F one,stdout F two"; !strings.HasPrefix(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// TestRemovedLog is of a log that somebody removed: it is not brought back.
func TestRemovedLog(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	s := w.Stream(Stdout)
	write(t, s, "one\n")
	if err := errors.Join(os.Rename(path, path+".1"), w.Reopen()); err != nil {
		t.Fatal(err)
	}
	write(t, s, "two\n")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, s, "three\n")
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	write(t, s, "four\n")
	if got := strings.Join(entries(t, path), ","); got != "stdout F one,stdout F four" {
		t.Errorf("got %q", got)
	}
}

// TestTornByOthers is of a file that a killed writer has left within an entry.
func TestTornByOthers(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte("2026-01-02T03:04:05.000000006Z stdout F to"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	write(t, w.Stream(Stdout), "new\n")
	if got := strings.Join(entries(t, path), ","); got != "stdout F to,stdout F new" {
		t.Errorf("got %q", got)
	}
}

// TestFullDisk fills a file system, goes on writing, and makes room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "0.log")
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	s := w.Stream(Stdout)
	line := strings.Repeat("x", 58) + "\n"
	batch := []byte(strings.Repeat(line, 41))
	lost, said := 0, 0
	const batches = 20
	for range batches {
		n, err := s.Write(batch)
		if n != len(batch) {
			t.Fatalf("consumed %d bytes", n)
		}
		if err != nil {
			said++
			if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "output is lost until") {
				t.Errorf("a full disk: %v", err)
			}
		}
	}
	if said != 1 {
		t.Errorf("the loss was said %d times", said)
	}
	kept := entries(t, path)
	for _, e := range kept {
		if e != "stdout F "+line[:58] {
			t.Fatalf("a torn entry: %q", e)
		}
	}
	lost = batches*41 - len(kept)
	if lost == 0 {
		t.Fatal("the disk was not full")
	}
	if err := w.Reopen(); err != nil {
		t.Errorf("Reopen on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	_, err = s.Write(batch)
	if want := fmt.Sprintf("%d bytes of output in %d entries since ", lost*58, lost); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("after the loss: %v, want %q", err, want)
	}
	if got := entries(t, path); len(got) != len(kept)+41 {
		t.Errorf("%d entries after %d, want 41 more", len(got), len(kept))
	}
	write(t, s, "the end\n")
}

// TestReadOnly is of a file system that turns read-only between rotations.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	// The writer's file stays writable through the other mount, as a file that
	// was open before does for a kernel that only refuses new ones.
	dir, view := t.TempDir(), t.TempDir()
	if err := unix.Mount(dir, view, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(view, unix.MNT_DETACH) })
	w, err := Open(filepath.Join(dir, "0.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	if err := unix.Mount("", view, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	w.path = filepath.Join(view, "0.log")
	if err := w.Reopen(); !errors.Is(err, unix.EROFS) {
		t.Errorf("Reopen: %v", err)
	}
	write(t, w.Stream(Stdout), "kept\n")
	if got := entries(t, w.path); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func BenchmarkWrite(b *testing.B) {
	for name, length := range map[string]int{"80 bytes": 80, "16 KiB": MaxContent} {
		b.Run(name, func(b *testing.B) {
			w, err := Open(filepath.Join(b.TempDir(), "0.log"))
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = w.Close() }()
			s := w.Stream(Stdout)
			line := append(bytes.Repeat([]byte("x"), length-1), '\n')
			text := bytes.Repeat(line, 64<<10/length)
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := s.Write(text); err != nil {
					b.Fatal(err)
				}
				if st, err := w.f.Stat(); err == nil && st.Size() > 256<<20 {
					_ = w.f.Truncate(0)
				}
			}
		})
	}
}
