package crilog

import (
	"bytes"
	"compress/gzip"
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
	if got := entries(t, path); len(got) != 3 || got[2] != "stdout F three" {
		t.Errorf("both: %q", got)
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

// rotatedLog is a log of the numbers from 0 to 29, of which the kubelet has
// compressed the first ten and rotated the next.
func rotatedLog(t *testing.T) string {
	t.Helper()
	w, path := open1(t)
	s := w.Stream(Stdout)
	for i := range 30 {
		write(t, s, fmt.Sprintf("%d\n", i))
		if i%10 != 9 || i == 29 {
			continue
		}
		rotated := fmt.Sprintf("%s.20260102-03040%d", path, i/10)
		if err := errors.Join(os.Rename(path, rotated), w.Reopen()); err != nil {
			t.Fatal(err)
		}
	}
	oldest := path + ".20260102-030400"
	b, err := os.ReadFile(oldest)
	if err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, _ = zw.Write(b)
	// With it what lies about while a file is compressed.
	if err := errors.Join(zw.Close(), os.Remove(oldest), os.WriteFile(oldest+".gz", z.Bytes(), 0o600),
		os.WriteFile(path+".20260102-030401.gz", z.Bytes()[:20], 0o600), os.WriteFile(path+".20260102-030401.gz.tmp", b, 0o600),
		os.WriteFile(path+".broken.gz", []byte("no gzip"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRotatedFilesAreRead(t *testing.T) {
	t.Parallel()
	path := rotatedLog(t)
	for _, follow := range []bool{false, true} {
		for tail, from := range map[int]int{-1: 0, 0: 30, 3: 27, 10: 20, 11: 19, 20: 10, 24: 6, 30: 0, 99: 0} {
			next := from
			err := Follow(t.Context(), path, Options{Tail: tail, Follow: follow}, func(l Line) error {
				if string(l.Content) != fmt.Sprint(next) {
					return fmt.Errorf("got %q, want %d", l.Content, next)
				}
				next++
				return nil
			}, func() bool { return true })
			if err != nil || next != 30 {
				t.Errorf("tail %d, follow %v: ended at %d, %v", tail, follow, next, err)
			}
		}
	}
	if err := Follow(t.Context(), path, Options{Tail: -1, Since: time.Now().Add(time.Hour)}, func(Line) error { return errors.New("emitted") }, nil); err != nil {
		t.Error(err)
	}
}

// following runs Follow and gives what it emits; end makes it end, and fails
// the test if more comes.
func following(t *testing.T, path string, o Options) (want func(string), end func()) {
	t.Helper()
	got, ended, stopped := make(chan string, 100), make(chan struct{}), make(chan error, 1)
	begun := make(chan struct{})
	var once sync.Once
	go func() {
		stopped <- Follow(t.Context(), path, o,
			func(l Line) error { got <- string(l.Content); return nil },
			func() bool {
				once.Do(func() { close(begun) })
				select {
				case <-ended:
					return true
				default:
					return false
				}
			})
	}()
	<-begun // it knows its place in the log
	want = func(text string) {
		t.Helper()
		select {
		case g := <-got:
			if g != text {
				t.Fatalf("got %q, want %q", g, text)
			}
		case err := <-stopped:
			t.Fatalf("ended before %q: %v", text, err)
		case <-time.After(20 * time.Second):
			t.Fatalf("%q never came", text)
		}
	}
	return want, func() {
		t.Helper()
		close(ended)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if len(got) > 0 {
			t.Errorf("got %q after the end", <-got)
		}
	}
}

// TestFollowTakenBack follows while a rotation is taken back of which the
// follower has seen the new file only.
func TestFollowTakenBack(t *testing.T) {
	t.Parallel()
	for _, tail := range []int{0, 1} {
		w, path := open1(t)
		s := w.Stream(Stdout)
		write(t, s, "1\n2\n")
		if err := errors.Join(os.Rename(path, path+".1"), w.Reopen()); err != nil {
			t.Fatal(err)
		}
		if tail > 0 {
			write(t, s, "3\n4\n")
		}
		want, end := following(t, path, Options{Follow: true, Tail: tail})
		if tail > 0 {
			want("4")
		}
		write(t, s, "5\n")
		want("5")
		if err := os.Rename(path+".1", path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * pollEvery) // it looks at the old file while it is as it was
		write(t, s, "6\n7\n")
		want("6")
		want("7")
		end()
	}
}

// TestFollowPlaces is of what a follower meets in the place of the log.
func TestFollowPlaces(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	s := w.Stream(Stdout)
	write(t, s, "1\n")
	// Renamed and not yet reopened.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	want, end := following(t, path, Options{Follow: true, Tail: -1})
	want("1")
	write(t, s, "2\n")
	want("2")
	if err := w.Reopen(); err != nil {
		t.Fatal(err)
	}
	write(t, s, "3\n")
	want("3")
	// An entry that its writer takes back, because the disk is full.
	size, err := w.f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.f.WriteString("2026-01-02T03:04:05Z stdout F tor"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * pollEvery)
	if err := w.f.Truncate(size.Size()); err != nil {
		t.Fatal(err)
	}
	write(t, s, "4\n")
	want("4")
	// A link of somebody else.
	if err := errors.Join(os.Rename(path, path+".2"), os.Symlink("/etc/passwd", path)); err != nil {
		t.Fatal(err)
	}
	write(t, s, "5\n")
	want("5")
	end()
	if err := Follow(t.Context(), path, Options{Tail: -1}, func(Line) error { return nil }, nil); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("of a link: %v", err)
	}
}

func TestUntil(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "0.log")
	start := time.Now().Add(time.Hour).UTC()
	var b strings.Builder
	for i := range 10 {
		fmt.Fprintf(&b, "%s stdout F %d\n", start.Add(time.Duration(i)*time.Minute).Format(time.RFC3339Nano), i)
	}
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, follow := range []bool{false, true} {
		n := 0
		o := Options{Tail: -1, Follow: follow, Since: start.Add(time.Minute), Until: start.Add(3 * time.Minute)}
		if err := Follow(t.Context(), path, o, func(Line) error { n++; return nil }, nil); err != nil || n != 3 {
			t.Errorf("follow %v: %d entries, %v; want those of three minutes", follow, n, err)
		}
	}
	// A moment that passes ends a follower too.
	if err := Follow(t.Context(), path, Options{Follow: true, Until: time.Now().Add(pollEvery)}, func(Line) error { return nil }, nil); err != nil {
		t.Error(err)
	}
}

// TestARotationTakenBackWhileItIsLookedFor is of a follower that has opened the
// new file of a rotation, which is then taken back: the old file, which it has
// not read, is not among the rotated ones any more.
func TestARotationTakenBackWhileItIsLookedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "0.log")
	entry := func(name string, minute int) {
		t.Helper()
		text := fmt.Sprintf("2026-01-02T03:%02d:05.000000000Z stdout F %d\n", minute, minute)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := follower{path: path, o: Options{Tail: -1}}
	defer f.close()
	entry(path, 1)
	if err := f.begin(); err != nil {
		t.Fatal(err)
	}
	entry(path+".2", 2)
	entry(path+".new", 3)
	if err := errors.Join(os.Rename(path, path+".1"), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	head, err := openSegment(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".2", path); err != nil {
		t.Fatal(err)
	}
	if f.next = f.upTo(head); len(f.next) != 0 {
		t.Errorf("goes on with %d files, the first from %v on", len(f.next), f.next[0].first)
	}
	if f.lookAhead(); len(f.next) != 1 || f.next[0].first.Minute() != 2 {
		t.Errorf("looking again it goes on with %v", f.next)
	}
}

// TestFollowManyRotations rotates much faster than the follower looks, and
// takes some rotations back.
func TestFollowManyRotations(t *testing.T) {
	t.Parallel()
	w, path := open1(t)
	const lines = 3000
	ended := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		defer close(ended)
		s := w.Stream(Stdout)
		for i := range lines {
			_, _ = fmt.Fprintf(s, "%d\n", i)
			if i%10 == 9 {
				rotated := fmt.Sprintf("%s.%06d", path, i)
				if err := errors.Join(os.Rename(path, rotated), w.Reopen()); err != nil {
					t.Error(err)
				}
				if i%70 == 69 {
					_, _ = fmt.Fprintf(s, "between %d\n", i)
					if err := os.Rename(rotated, path); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Millisecond)
			}
		}
	})
	next, between := 0, false
	err := Follow(t.Context(), path, Options{Tail: -1, Follow: true}, func(l Line) error {
		want := fmt.Sprint(next)
		if between {
			want = fmt.Sprintf("between %d", next-1)
		}
		if string(l.Content) != want {
			return fmt.Errorf("got %q, want %q", l.Content, want)
		}
		if between = !between && next%70 == 69; !strings.HasPrefix(want, "between") {
			next++
		}
		return nil
	}, func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	writer.Wait()
	if err != nil || next != lines {
		t.Errorf("ended at %d of %d: %v", next, lines, err)
	}
}
