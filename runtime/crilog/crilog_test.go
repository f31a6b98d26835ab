package crilog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func open1(t *testing.T) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pod", "0.log")
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w, path
}

// entries reads a log as "stdout F content" lines.
func entries(t *testing.T, path string) (out []string) {
	t.Helper()
	err := Follow(t.Context(), path, Options{Tail: -1}, func(l Line) error {
		tag := "F"
		if l.Partial {
			tag = "P"
		}
		out = append(out, fmt.Sprintf("%s %s %s", l.Stream, tag, l.Content))
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func write(t *testing.T, s *Sink, text string) {
	t.Helper()
	if n, err := s.Write([]byte(text)); err != nil || n != len(text) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(text), err)
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	x, y := strings.Repeat("x", MaxContent), strings.Repeat("y", 10)
	for name, c := range map[string]struct {
		writes []string
		want   []string
	}{
		"lines":            {[]string{"a\nb\n"}, []string{"stdout F a", "stdout F b"}},
		"empty line":       {[]string{"\n"}, []string{"stdout F "}},
		"carriage returns": {[]string{"a\r\nb\rc\r", "\n"}, []string{"stdout F a", "stdout F b\rc"}},
		"joined":           {[]string{"a", "b", "c\nd"}, []string{"stdout F abc", "stdout P d"}},
		"exactly full":     {[]string{x, "\n"}, []string{"stdout F " + x}},
		"one more":         {[]string{x + "y\n"}, []string{"stdout P " + x, "stdout F y"}},
		"long, in pieces":  {[]string{x + y, x + y, "\n"}, []string{"stdout P " + x, "stdout P " + y + x[10:], "stdout F " + x[:10] + y}},
		"long, no end":     {[]string{x + x + y}, []string{"stdout P " + x, "stdout P " + x, "stdout P " + y}},
		"spaces":           {[]string{" a  b \n"}, []string{"stdout F  a  b "}},
		"not text":         {[]string{"\x00\xff\n"}, []string{"stdout F \x00\xff"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, path := open1(t)
			s := w.Stream(Stdout)
			for _, text := range c.writes {
				write(t, s, text)
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			got := entries(t, path)
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("got %.200q, want %.200q", got, c.want)
			}
		})
	}
}

// TestOwnership is of a caller that uses its buffer again.
func TestOwnership(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	s := w.Stream(Stdout)
	b := []byte("abc")
	_, _ = s.Write(b)
	copy(b, "XYZ")
	write(t, s, "\n")
	if got := entries(t, path); got[0] != "stdout F abc" {
		t.Errorf("got %q", got)
	}
}

func TestStreamsDoNotMix(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	var wg sync.WaitGroup
	for _, name := range []Stream{Stdout, Stderr} {
		wg.Go(func() {
			s := w.Stream(name)
			for i := range 1000 {
				_, _ = fmt.Fprintf(s, "%s %d", name, i)
				_, _ = s.Write([]byte("\n"))
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, e := range entries(t, path) {
		name, _, _ := strings.Cut(e, " ")
		if want := fmt.Sprintf("%s F %s %d", name, name, next[name]); e != want {
			t.Fatalf("got %q, want %q", e, want)
		}
		next[name]++
	}
	if next["stdout"] != 1000 || next["stderr"] != 1000 {
		t.Errorf("entries: %v", next)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	s := w.Stream(Stdout)
	write(t, s, "one\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, s, "two\nthr")
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	write(t, s, "ee\n")
	if got := entries(t, path+".1"); len(got) != 2 {
		t.Errorf("old: %q", got)
	}
	if got := entries(t, path); len(got) != 1 || got[0] != "stdout F three" {
		t.Errorf("new: %q", got)
	}
	// A failure keeps the file that is open.
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); err == nil {
		t.Error("Reopen without a directory")
	}
	write(t, s, "four\n")
}

// TestFull is of a disk that takes only a part of a write.
func TestFull(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("needs /dev/full")
	}
	w := &Writer{path: "/dev/full", f: full}
	defer func() { _ = w.Close() }()
	if _, err := w.Stream(Stdout).Write([]byte("a\n")); err == nil {
		t.Error("a full disk was not told of")
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	l, err := Parse([]byte("2024-05-06T07:08:09.123456789+02:00 stderr P:x:y a b\n"))
	if err != nil || l.Stream != Stderr || !l.Partial || string(l.Content) != "a b" || l.Time.Nanosecond() != 123456789 {
		t.Errorf("%+v, %v", l, err)
	}
	for _, bad := range []string{"", "x", "2024-05-06T07:08:09Z stdout F", "2024-05-06T07:08:09Z stdin F x", "2024-05-06T07:08:09Z stdout Q x", "today stdout F x"} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%q was parsed", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2024-05-06T07:08:09Z stdout F x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := Parse(b); err == nil && !bytes.Contains(b, l.Content) {
			t.Errorf("content %q is not of %q", l.Content, b)
		}
	})
}

func TestTailAndSince(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "0.log")
	var b strings.Builder
	start := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 5000 {
		fmt.Fprintf(&b, "%s stdout F %d\n", start.Add(time.Duration(i)*time.Second).Format(time.RFC3339Nano), i)
	}
	b.WriteString("rubbish\n")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want int
	}{
		{Options{Tail: -1}, 5000},
		{Options{Tail: 0}, 0},
		{Options{Tail: 11}, 10}, // and the rubbish
		{Options{Tail: 4001}, 4000},
		{Options{Tail: 9999}, 5000},
		{Options{Tail: -1, Since: start.Add(4990 * time.Second)}, 10},
	} {
		n := 0
		err := Follow(t.Context(), path, c.o, func(Line) error { n++; return nil }, nil)
		if err != nil || n != c.want {
			t.Errorf("%+v: %d entries, %v", c.o, n, err)
		}
	}
}

// TestFollow follows a log over torn entries and two rotations to its end.
func TestFollow(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	s := w.Stream(Stdout)
	write(t, s, "1\n")
	got := make(chan string)
	var over sync.WaitGroup
	var ended, stop = make(chan struct{}), make(chan struct{})
	over.Go(func() {
		err := Follow(t.Context(), path, Options{Follow: true, Tail: -1},
			func(l Line) error { got <- string(l.Content); return nil },
			func() bool {
				select {
				case <-ended:
					return true
				default:
					return false
				}
			})
		if err != nil {
			t.Error(err)
		}
		close(stop)
	})
	want := func(text string) {
		t.Helper()
		select {
		case g := <-got:
			if g != text {
				t.Fatalf("got %q, want %q", g, text)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%q never came", text)
		}
	}
	want("1")
	for i := range 2 {
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, i)); err != nil {
			t.Fatal(err)
		}
		write(t, s, fmt.Sprintf("old %d\n", i))
		if err := w.Reopen(); err != nil {
			t.Fatal(err)
		}
		write(t, s, fmt.Sprintf("new %d\n", i))
		want(fmt.Sprintf("old %d", i))
		want(fmt.Sprintf("new %d", i))
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	_, _ = f.WriteString("2024-05-06T07:08:09Z stdout F torn ")
	time.Sleep(2 * pollEvery)
	_, _ = f.WriteString("apart\n" + strings.Repeat("z", 100<<10) + "\n")
	want("torn apart")
	write(t, s, "last\n")
	close(ended)
	want("last")
	<-stop
	over.Wait()
}

func TestFollowEnds(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	write(t, w.Stream(Stdout), "1\n2\n")
	enough := errors.New("enough")
	err := Follow(t.Context(), path, Options{Tail: -1}, func(Line) error { return enough }, nil)
	if !errors.Is(err, enough) {
		t.Errorf("emit's error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = Follow(ctx, path, Options{Follow: true, Tail: -1}, func(Line) error { cancel(); return nil }, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func BenchmarkWrite(b *testing.B) {
	w, err := Open(filepath.Join(b.TempDir(), "0.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	s := w.Stream(Stdout)
	text := bytes.Repeat([]byte("a line of the usual length, which is about eighty bytes in most of the logs\n"), 64<<10/77)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := s.Write(text); err != nil {
			b.Fatal(err)
		}
	}
}
