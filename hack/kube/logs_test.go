//go:build kube

package kube

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLogs reads what a container said in every way that kubectl has.
func TestLogs(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.run("p", `
  containers:
  - {name: c, image: $BOX, command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; done; echo to stderr >&2; printf unfinished; trap 'exit 0' TERM; while [ ! -e /more ]; do sleep 0.1; done; echo; echo more; while :; do sleep 0.2; done"]}
  - {name: other, image: $BOX, command: [sh, -c, "echo other; trap 'exit 0' TERM; while :; do sleep 0.2; done"]}
`)
	s.ready("p")
	s.eventually(func() error {
		// Between the two streams there is no order.
		got := s.logs("p", "-c", "c")
		if strings.Replace(got+"\n", "to stderr\n", "", 1) != "line 1\nline 2\nline 3\nline 4\nline 5\n" || !strings.Contains(got, "to stderr") {
			return fmt.Errorf("the log is %q", got)
		}
		return nil
	})
	if got := s.logs("p", "-c", "c", "--limit-bytes", "9"); len(got) != 9 {
		t.Errorf("nine bytes: %q", got)
	}
	if got := s.logs("p", "-c", "other"); got != "other" {
		t.Errorf("the other container said %q", got)
	}
	stamp, rest, _ := strings.Cut(s.logs("p", "-c", "other", "--timestamps"), " ")
	if _, err := time.Parse(time.RFC3339Nano, stamp); err != nil || rest != "other" {
		t.Errorf("with time: %q %q, %v", stamp, rest, err)
	}
	said := s.follow("p", "-c", "c", "--tail", "1")
	s.kubectl("exec", "p", "-c", "c", "--", "touch", "/more")
	s.eventually(func() error {
		if got := s.logs("p", "-c", "c", "--tail", "2"); !strings.HasSuffix(got, "unfinished\nmore") {
			return fmt.Errorf("the end of the log is %q", got)
		}
		return nil
	})
	s.kubectl("delete", "pod", "p")
	if got := said(); !strings.HasSuffix(got, "more\n") {
		t.Errorf("who followed saw %q", got)
	}
}

// TestLogRotation writes more than the kubelet lets a file grow to: it rotates
// and compresses, and no line is lost or torn between the files.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const lines = 4000 // of 50 bytes with what CRI adds: two rotations
	s.run("p", fmt.Sprintf(`
  containers:
  - {name: c, image: $BOX, command: [sh, -c, "trap 'exit 0' TERM; i=0; while [ $i -lt %d ]; do echo $i ............; i=$((i+1)); [ $((i %% 20)) -ne 0 ] || sleep 0.05; done; echo end; touch /end; while :; do sleep 0.2; done"]}
`, lines))
	p := s.ready("p")
	dir := filepath.Join("/var/log/pods", s.ns+"_p_"+p.Metadata.UID, "c")
	// The last line may be in a file that is rotated already, where kubectl does
	// not look.
	s.eventually(func() error {
		_, err := s.tryKubectl("", "exec", "p", "--", "test", "-e", "/end")
		return err
	})
	var numbers []int
	s.eventually(func() (err error) {
		numbers, err = rotated(dir)
		if err == nil && (len(numbers) == 0 || numbers[len(numbers)-1] != lines-1) {
			err = fmt.Errorf("%d lines in %s, and not the last", len(numbers), dir) // rotated meanwhile
		}
		return err
	})
	for i := 1; i < len(numbers); i++ {
		if numbers[i] != numbers[i-1]+1 {
			t.Errorf("after line %d comes line %d", numbers[i-1], numbers[i])
		}
	}
	// What was said before the rotation is read no more, what comes after is.
	s.exec("p", "echo after >/proc/1/fd/1")
	s.eventually(func() error {
		if got := s.logs("p", "--tail", "1"); got != "after" {
			return fmt.Errorf("the log ends with %q", got)
		}
		return nil
	})
}

// rotated gives the numbers of the lines in all files of a log, or why it is no
// moment to read them: none is rotated yet, or one is being compressed.
func rotated(dir string) ([]int, error) {
	files, err := filepath.Glob(filepath.Join(dir, "0.log*"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files) // the current one is first, the others are named by time
	if len(files) < 2 || len(files) > 3 {
		return nil, fmt.Errorf("the files of the log are %q", files)
	}
	var numbers []int
	for _, file := range append(files[1:], files[0]) {
		if strings.HasSuffix(file, ".tmp") {
			return nil, fmt.Errorf("%s is being written", file)
		}
		text, err := readLog(file)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) == 5 && fields[4] == "............" {
				n, err := strconv.Atoi(fields[3])
				if err != nil {
					return nil, fmt.Errorf("%s has the line %q", file, line)
				}
				numbers = append(numbers, n)
			} else if len(fields) != 4 || fields[3] != "end" {
				return nil, fmt.Errorf("%s has the line %q", file, line)
			}
		}
	}
	return numbers, nil
}

func readLog(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return "", err
		}
	}
	data, err := io.ReadAll(r)
	return string(data), err
}
