package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/cri/admin/api"
)

// contextDir makes a folder of files; a content that begins with -> is a link.
func contextDir(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// packed gives the names that are sent of a context, with contents and targets.
func packed(t *testing.T, dir, dockerfile string) (map[string]string, error) {
	t.Helper()
	ignore, err := readIgnore(dir, dockerfile)
	if err != nil {
		return nil, err
	}
	r, err := packContext(dir, ignore)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	out := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || !h.ModTime.Equal(time.Unix(0, 0)) {
			t.Errorf("%s is of %d:%d %q at %v", h.Name, h.Uid, h.Gid, h.Uname, h.ModTime)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		out[h.Name] = string(text) + h.Linkname
	}
}

func TestContextIsWhatIsNotIgnored(t *testing.T) {
	t.Parallel()
	files := map[string]string{"a": "1", "b/c": "2", "b/d/e": "3", "node_modules/x/y": "4", "keep.log": "5", "drop.log": "6", "b/drop.log": "7"}
	for ignore, want := range map[string]string{
		"":                             "a b/ b/c b/d/ b/d/e b/drop.log drop.log keep.log node_modules/ node_modules/x/ node_modules/x/y",
		"node_modules\n*.log\n":        "a b/ b/c b/d/ b/d/e b/drop.log",
		"# words\n**/*.log\n!keep.log": "a b/ b/c b/d/ b/d/e keep.log node_modules/ node_modules/x/ node_modules/x/y",
		"*\n!b/d":                      "b/d/ b/d/e",
		"/b\n/node_modules/\n":         "a drop.log keep.log",
		"../b\nb/../a\n":               "b/ b/c b/d/ b/d/e b/drop.log drop.log keep.log node_modules/ node_modules/x/ node_modules/x/y",
	} {
		dir := contextDir(t, files)
		if ignore != "" {
			if err := os.WriteFile(filepath.Join(dir, ".dockerignore"), []byte(ignore+"\n.dockerignore\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := packed(t, dir, filepath.Join(dir, "Dockerfile"))
		if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); err != nil || names != want {
			t.Errorf("%q: %s (%v), want %s", ignore, names, err, want)
		}
	}
	// A file of its own beside the Dockerfile comes first.
	dir := contextDir(t, map[string]string{"a": "1", "b": "2", ".dockerignore": "a", "other.Dockerfile": "", "other.Dockerfile.dockerignore": "b\n.dockerignore\nother*"})
	got, err := packed(t, dir, filepath.Join(dir, "other.Dockerfile"))
	if names := strings.Join(slices.Sorted(maps.Keys(got)), " "); err != nil || names != "a" {
		t.Errorf("%s (%v)", names, err)
	}
}

// T-BUILD: nothing but the context is sent, whatever links and patterns are in
// it, and while somebody exchanges a folder of it for a link.
func TestBUILDContextStaysInItsFolder(t *testing.T) {
	t.Parallel()
	outside := contextDir(t, map[string]string{"secret": "of the host", "dir/f": "of the host"})
	dir := contextDir(t, map[string]string{
		"file": "->" + outside + "/secret", "dir": "->" + outside, "up": "->../../../../.." + outside, ".dockerignore": "!../../../../.." + outside + "/**\n!" + outside + "\n",
		"swapped/f": "of the context",
	})
	if l, err := net.Listen("unix", filepath.Join(dir, "s")); err == nil {
		defer func() { _ = l.Close() }()
	}
	got, err := packed(t, dir, "-")
	if err != nil || got["file"] != outside+"/secret" || got["dir"] != outside {
		t.Errorf("the context has %q, %v", got, err)
	}
	if _, ok := got["s"]; ok {
		t.Error("a socket was sent")
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			_ = os.Rename(filepath.Join(dir, "swapped"), filepath.Join(dir, "aside"))
			_ = os.Symlink(filepath.Join(outside, "dir"), filepath.Join(dir, "swapped"))
			_ = os.Remove(filepath.Join(dir, "swapped"))
			_ = os.Rename(filepath.Join(dir, "aside"), filepath.Join(dir, "swapped"))
		}
	}()
	for range 300 {
		got, _ := packed(t, dir, "-") // it may fail: what was listed is gone
		for name, text := range got {
			if strings.Contains(text, "of the host") {
				t.Errorf("%s of the host was sent: %q", name, text)
			}
		}
	}
	close(stop)
	<-done
	for name, text := range map[string]string{"too large": strings.Repeat("#", maxIgnore+1), "no pattern": "[a-"} {
		if _, err := packed(t, contextDir(t, map[string]string{".dockerignore": text}), "-"); err == nil {
			t.Errorf("a .dockerignore that is %s was taken", name)
		}
	}
}

func TestBuildRequests(t *testing.T) {
	t.Setenv("SET", "from here")
	t.Setenv("SOURCE_DATE_EPOCH", "")
	dir := contextDir(t, map[string]string{"Dockerfile": "FROM scratch\n", "other/Dockerfile": "FROM other\n", "token": "secret text"})
	c := &cli{in: strings.NewReader("FROM stdin\n")}
	req, open, err := c.buildRequest(&buildFlags{context: dir, args: []string{"A=1", "SET", "UNSET"}, labels: []string{"l=m"}, secrets: []string{"id=t,src=" + dir + "/token", "id=SET"}})
	if err != nil || open == nil || string(req.Dockerfile) != "FROM scratch\n" || req.Args["A"] != "1" || req.Args["SET"] != "from here" || len(req.Args) != 2 ||
		req.Labels["l"] != "m" || string(req.Secrets["t"]) != "secret text" || string(req.Secrets["SET"]) != "from here" || req.Epoch != nil {
		t.Errorf("the request is %+v, %v", req, err)
	}
	if req, _, err = c.buildRequest(&buildFlags{context: dir, file: "other/Dockerfile", args: []string{"SOURCE_DATE_EPOCH=7"}}); err != nil || string(req.Dockerfile) != "FROM other\n" || *req.Epoch != 7 {
		t.Errorf("with -f: %+v, %v", req, err)
	}
	if req, open, err = c.buildRequest(&buildFlags{context: "-"}); err != nil || open != nil || string(req.Dockerfile) != "FROM stdin\n" {
		t.Errorf("a Dockerfile on stdin: %+v, %v", req, err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	_ = w.WriteHeader(&tar.Header{Name: "Dockerfile"})
	_ = w.Close()
	c.in = &archive
	if req, open, err = c.buildRequest(&buildFlags{context: "-"}); err != nil || open == nil || req.Dockerfile != nil {
		t.Errorf("a tar on stdin: %+v, %v", req, err)
	}
	for name, b := range map[string]buildFlags{
		"an URL":            {context: "https://example.com/x.git"},
		"no folder":         {context: dir + "/token"},
		"no Dockerfile":     {context: dir + "/other", file: "absent"},
		"an empty argument": {context: dir, args: []string{"=x"}},
		"a secret of no id": {context: dir, secrets: []string{"src=" + dir + "/token"}},
		"two sources":       {context: dir, secrets: []string{"id=x,src=y,env=z"}},
		"another field":     {context: dir, secrets: []string{"id=x,mode=5"}},
		"an unset variable": {context: dir, secrets: []string{"id=x,env=UNSET"}},
		"a bad time":        {context: dir, args: []string{"SOURCE_DATE_EPOCH=yesterday"}},
		"stdin twice":       {context: "-", file: "-"},
	} {
		c.in = strings.NewReader("FROM x\n")
		_, _, err := c.buildRequest(&b)
		var p *problem
		if !errors.As(err, &p) || p.why == "" || p.do == "" || strings.Contains(err.Error(), "secret text") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What a command prints is shown whole, and steers no terminal.
func TestBuildOutputIsShown(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &plainBuild{w: &out, now: func() time.Time { return time.Time{} }, steps: map[int]*shownStep{}}
	p.event(api.BuildEvent{Kind: "begin", Step: 2, Name: "[one 1/1] RUN x"})
	p.output(api.Output{Step: 2, Data: []byte("half")})
	p.output(api.Output{Step: 2, Stderr: true, Data: []byte("\x1b[31mred\x1b[0m\n\x1b]0;title\a\n")})
	p.output(api.Output{Step: 2, Data: []byte(" a line\nrest")})
	p.event(api.BuildEvent{Kind: "failed", Step: 2, Text: "x"})
	want := "#2 [one 1/1] RUN x\n#2 0.0 red\n#2 0.0 ?]0;title?\n#2 0.0 half a line\n#2 0.0 rest\n#2 FAILED\n"
	if out.String() != want {
		t.Errorf("it shows\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	q := &quietBuild{w: &out}
	q.event(api.BuildEvent{Kind: "begin", Step: 1})
	q.output(api.Output{Step: 1, Data: []byte(strings.Repeat("line\n", 1000))})
	q.event(api.BuildEvent{Kind: "failed", Step: 1})
	if n := strings.Count(out.String(), "line\n"); n != maxTail {
		t.Errorf("%d lines are shown of a failure", n)
	}
}
