package imageservice

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/build"
	"github.com/berth-runtime/berth/imageservice/manifest"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
	"github.com/berth-runtime/berth/runtime/sys/mount"
)

// chrooted runs commands of builds on their root file systems without a
// sandbox: the real one is runtime/pod's, and is tested with the daemon.
type chrooted struct {
	s *Service
	t *testing.T

	mu    sync.Mutex
	ran   []build.Process
	begin func(build.Process) // called before each, if set
}

func (r *chrooted) Run(ctx context.Context, p build.Process, done func(context.Context, string) error) (code int, err error) {
	r.mu.Lock()
	id := fmt.Sprintf("run%d-%d", len(r.ran), time.Now().UnixNano())
	r.ran = append(r.ran, p)
	begin := r.begin
	r.mu.Unlock()
	if begin != nil {
		begin(p)
	}
	if err := r.s.Prepare(ctx, id, p.Root); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.s.Discard(context.Background(), id)) }()
	root := filepath.Join(r.t.TempDir(), "root")
	if err := r.s.Mount(ctx, id, root, nil, ""); err != nil {
		return 0, err
	}
	var mounts []string
	unmount := func() (err error) {
		for _, m := range slices.Backward(mounts) {
			err = errors.Join(err, mount.Unmount(m))
		}
		mounts = nil
		return errors.Join(err, r.s.Unmount(context.Background(), root))
	}
	defer func() { err = errors.Join(err, unmount()) }()
	for _, dir := range []string{"dev", "proc", "etc"} { // as the runtime makes its mount points
		_ = os.MkdirAll(filepath.Join(root, dir), 0o755)
	}
	for _, m := range p.Mounts {
		at := filepath.Join(root, m.Target)
		if err := mountPoint(m.Source, at); err != nil {
			return 0, err
		}
		var flags uintptr
		if m.ReadOnly {
			flags = unix.MS_RDONLY
		}
		if err := mount.Bind(m.Source, at, flags); err != nil {
			return 0, err
		}
		mounts = append(mounts, at)
	}
	cmd := exec.CommandContext(ctx, p.Args[0], p.Args[1:]...)
	if !strings.Contains(p.Args[0], "/") {
		cmd.Path, cmd.Err = "/bin/"+p.Args[0], nil
	}
	cmd.Env, cmd.Dir = p.Env, p.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	p.Output(false, out.Bytes())
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err == nil {
		err = done(ctx, id)
	}
	return 0, err
}

func mountPoint(source, at string) error {
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	if st.IsDir() {
		return os.MkdirAll(at, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(at, os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	return f.Close()
}

// builds is a store with what builds need.
type builds struct {
	*Service
	t      *testing.T
	runner *chrooted
	output bytes.Buffer
	mu     sync.Mutex
	events []build.Event
}

func newBuilds(t *testing.T) *builds {
	t.Helper()
	return buildsIn(t, openStore(t))
}

func buildsIn(t *testing.T, s *Service) *builds {
	return &builds{Service: s, t: t, runner: &chrooted{s: s, t: t}}
}

// tarOf is a context of files by name; a name that ends with / is a directory,
// and a content that begins with -> a link.
func tarOf(t *testing.T, files map[string]string, at time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o644, ModTime: at, Uid: 1234, Gid: 1234}
		content := files[name]
		switch to, link := strings.CutPrefix(content, "->"); {
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Mode, content = tar.TypeDir, 0o755, ""
		case link:
			h.Typeflag, h.Linkname, content = tar.TypeSymlink, to, ""
		default:
			h.Size = int64(len(content))
		}
		if strings.HasSuffix(name, ".sh") || strings.HasSuffix(name, "busybox") {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// request is a build of a Dockerfile with a context of files.
func (b *builds) request(dockerfile string, files map[string]string) BuildRequest {
	b.t.Helper()
	context := tarOf(b.t, files, time.Now())
	return BuildRequest{Request: build.Request{
		Dockerfile: []byte(dockerfile),
		Context:    contextOf(context),
		Progress: func(e build.Event) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.output.Write(e.Output)
			e.Output = nil
			b.events = append(b.events, e)
		},
	}}
}

func contextOf(tar []byte) func(context.Context) (io.Reader, error) {
	return func(context.Context) (io.Reader, error) { return bytes.NewReader(tar), nil }
}

func (b *builds) try(r BuildRequest) (BuildResult, error) {
	return b.Build(b.t.Context(), r, b.runner)
}

func (b *builds) make(dockerfile string, files map[string]string, change ...func(*BuildRequest)) BuildResult {
	b.t.Helper()
	r := b.request(dockerfile, files)
	for _, f := range change {
		f(&r)
	}
	out, err := b.try(r)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.output.String())
	}
	return out
}

// refuses fails the test unless the build fails with that kind and words.
func (b *builds) refuses(dockerfile string, files map[string]string, kind errkind.Kind, words ...string) {
	b.t.Helper()
	_, err := b.try(b.request(dockerfile, files))
	if !errkind.Is(err, kind) {
		b.t.Errorf("%q: %v (%v), want %v", dockerfile, err, errkind.Of(err), kind)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			b.t.Errorf("%q: the error %q does not say %q", dockerfile, err, w)
		}
	}
	sound(b.t, b.Service)
}

// tree lists an image's files: mode, owner, name, and content or target.
func (b *builds) tree(id string) map[string]string {
	b.t.Helper()
	root := mountImage(b.t, b.Service, "look"+digest.FromString(id + time.Now().String()).Encoded()[:12], id)
	out := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
		switch {
		case d.Type()&os.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			text = "->" + to
		case d.Type().IsRegular() && st.Size < 4096:
			text += " " + read(b.t, path)
		}
		out[strings.TrimPrefix(path, root)] = text
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// has fails the test for files that are not as they should be.
func (b *builds) has(id string, want map[string]string) {
	b.t.Helper()
	got := b.tree(id)
	for name, w := range want {
		g, ok := got[name]
		if w == "" && ok || w != "" && g != w {
			b.t.Errorf("%s is %q, want %q", name, g, w)
		}
	}
}

// config is an image's configuration as it is.
func (b *builds) config(id string) string {
	b.t.Helper()
	text, err := b.blobs.ReadFile(digest.Digest(id), manifest.MaxBytes)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// shell is a base image with busybox, made by a build.
func (b *builds) shell() string {
	b.t.Helper()
	program, err := os.ReadFile("/usr/bin/busybox")
	if err != nil {
		b.t.Skip("this machine has no busybox (busybox-static)")
	}
	file := "FROM scratch\nCOPY busybox /bin/busybox\nCOPY passwd group /etc/\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n"
	b.make(file, map[string]string{
		"busybox": string(program), "passwd": "root:x:0:0::/root:/bin/sh\nuser:x:1000:1001::/:/bin/sh\n", "group": "root:x:0:\nstaff:x:50:\n",
	}, func(r *BuildRequest) { r.Tags = []string{"shell:1"} })
	return "shell:1"
}

// What COPY, ADD and WORKDIR write is what docker's would be.
func TestBuildCopies(t *testing.T) {
	b := newBuilds(t)
	archive := string(tarOf(t, map[string]string{"in/": "", "in/file": "packed", "in/link": "->file"}, time.Unix(1e9, 0)))
	files := map[string]string{
		"a.txt": "a", "b.txt": "b", "dir/": "", "dir/x": "x", "dir/sub/y": "y", "run.sh": "#!", "link": "->a.txt", "dir/link": "->/etc/shadow", "archive.tar": archive,
	}
	for _, c := range []struct {
		name, file string
		want       map[string]string
	}{
		{"a file by its new name", "COPY a.txt /new", map[string]string{"/new": "644 0:0 a"}},
		{"a file into a directory", "COPY a.txt /new/", map[string]string{"/new/a.txt": "644 0:0 a", "/new": "755 0:0"}},
		{"files by a pattern", "COPY *.txt /t/", map[string]string{"/t/a.txt": "644 0:0 a", "/t/b.txt": "644 0:0 b"}},
		{"what is in a directory", "COPY dir /d", map[string]string{"/d/x": "644 0:0 x", "/d/sub/y": "644 0:0 y", "/d/dir": ""}},
		{"all", "COPY . /all/", map[string]string{"/all/dir/sub/y": "644 0:0 y", "/all/run.sh": "755 0:0 #!"}},
		{"a link at the top is followed", "COPY link /l", map[string]string{"/l": "644 0:0 a"}},
		{"links below stay", "COPY dir /d", map[string]string{"/d/link": "->/etc/shadow"}},
		{"owner and mode", "COPY --chown=5:6 --chmod=0700 dir /d/", map[string]string{"/d/x": "700 5:6 x", "/d/sub": "700 5:6"}},
		{"relative to the working directory", "WORKDIR /w/deep\nCOPY a.txt ./", map[string]string{"/w/deep/a.txt": "644 0:0 a", "/w/deep": "755 0:0"}},
		{"heredocs", "COPY <<one <<two /h/\nfirst\none\nsecond\ntwo\n", map[string]string{"/h/one": "644 0:0 first\n", "/h/two": "644 0:0 second\n"}},
		{"variables in heredocs", "ARG X=val\nCOPY <<f /h/\n$X ${X}\nf\n", map[string]string{"/h/f": "644 0:0 val val\n"}},
		{"quoted heredocs", "ARG X=val\nCOPY <<\"f\" /h/\n$X\nf\n", map[string]string{"/h/f": "644 0:0 $X\n"}},
		{"parents", "COPY --parents dir/sub/y /p/", map[string]string{"/p/dir/sub/y": "644 0:0 y"}},
		{"parents from a pivot", "COPY --parents ./dir/./sub/y /p/", map[string]string{"/p/sub/y": "644 0:0 y"}},
		{"exclude", "COPY --exclude=*.txt --exclude=dir/sub . /e/", map[string]string{"/e/a.txt": "", "/e/run.sh": "755 0:0 #!", "/e/dir/x": "644 0:0 x", "/e/dir/sub": ""}},
		{"an archive", "ADD archive.tar /x", map[string]string{"/x/in/file": "644 1234:1234 packed", "/x/in/link": "->file"}},
		{"an archive as it is", "ADD --unpack=false archive.tar /x/", map[string]string{"/x/in": ""}},
		{"COPY unpacks nothing", "COPY archive.tar /x/", map[string]string{"/x/in": ""}},
		{"over what is there", "COPY a.txt /f\nCOPY b.txt /f", map[string]string{"/f": "644 0:0 b"}},
		{"through links of the image", "ADD links.tar /\nCOPY a.txt /lib/", map[string]string{"/usr/lib/a.txt": "644 0:0 a", "/lib": "->usr/lib"}},
		{"from a stage, with its owners", "COPY --chown=7:8 a.txt /f\nFROM scratch\nCOPY --from=0 /f /g", map[string]string{"/g": "644 7:8 a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := buildsIn(t, b.Service)
			all := maps.Clone(files)
			all["links.tar"] = string(tarOf(t, map[string]string{"lib": "->usr/lib", "usr/lib/": ""}, time.Unix(1e9, 0)))
			out := b.make("FROM scratch\n"+c.file+"\n", all)
			b.has(out.ID, c.want)
		})
	}
	sound(t, b.Service)
}

// The configuration is what the instructions say, and what they reset.
func TestBuildConfigures(t *testing.T) {
	b := newBuilds(t)
	out := b.make(`ARG GLOBAL=g
FROM scratch AS base
LABEL a=1 "b c"="d e"
ENV A=1 B="x y" C=$A
ENV D=${A}${MISSING:-none}
EXPOSE 80 53/udp 8000-8001
VOLUME ["/data", "/more"]
USER 10:20
STOPSIGNAL SIGINT
SHELL ["/bin/ash", "-c"]
HEALTHCHECK --interval=5s --retries=2 CMD check me
CMD ["old"]
ONBUILD LABEL triggered=yes
MAINTAINER somebody
FROM base
ARG GLOBAL
LABEL global=$GLOBAL
ENTRYPOINT run it
`, nil, func(r *BuildRequest) { r.Labels = map[string]string{"given": "too"}; r.Tags = []string{"c:1"} })
	config := b.config(out.ID)
	for _, part := range []string{
		`"a":"1"`, `"b c":"d e"`, `"B=x y"`, `"C="`, `"D=1none"`, `"80/tcp":{}`, `"53/udp":{}`, `"8001/tcp":{}`, `"/data":{}`, `"User":"10:20"`,
		`"StopSignal":"SIGINT"`, `"Shell":["/bin/ash","-c"]`, `"Healthcheck":{"Test":["CMD-SHELL","check me"],"Interval":5000000000,"Retries":2}`,
		`"Entrypoint":["/bin/ash","-c","run it"]`, `"triggered":"yes"`, `"global":"g"`, `"given":"too"`, `"author":"somebody"`,
		`"created":"1980-01-01T00:00:00Z"`, `"empty_layer":true`, `"architecture":`,
	} {
		if !strings.Contains(config, part) {
			t.Errorf("the configuration lacks %s:\n%s", part, config)
		}
	}
	for _, part := range []string{`"Cmd"`, `"OnBuild"`} { // reset by ENTRYPOINT, used up by FROM
		if strings.Contains(config, part) {
			t.Errorf("the configuration has %s:\n%s", part, config)
		}
	}
	image, err := b.Status(t.Context(), "c:1")
	if err != nil || image.ID != out.ID || len(image.Layers) != 0 {
		t.Errorf("the tag leads to %+v, %v", image, err)
	}
	history, err := b.History(t.Context(), "c:1")
	if err != nil || len(history) < 15 {
		t.Errorf("the history is %v, %v", history, err)
	}
}

// Commands see what they are promised, and their layers have what they changed
// and nothing of what was mounted.
func TestBuildRuns(t *testing.T) {
	b := newBuilds(t)
	base := b.shell()
	files := map[string]string{"in/file": "from the context", "in/deep/more": "more"}
	for _, c := range []struct {
		name, file string
		want       map[string]string
		output     string
	}{
		{"the shell form", "RUN echo hello > /f", map[string]string{"/f": "644 0:0 hello\n"}, ""},
		{"the exec form", `RUN ["touch", "/g"]`, map[string]string{"/g": "644 0:0 "}, ""},
		{"its own shell", "SHELL [\"/bin/sh\", \"-xc\"]\nRUN echo loud", nil, "+ echo loud"},
		{"a heredoc", "RUN <<EOF\nset -e\necho one > /f\necho two >> /f\nEOF", map[string]string{"/f": "644 0:0 one\ntwo\n"}, ""},
		{"a heredoc with a command", "RUN cat > /f <<EOF\ntext\nEOF", map[string]string{"/f": "644 0:0 text\n"}, ""},
		{"a script", "RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"from awk\" > \"/f\" }\nEOF", map[string]string{"/f": "644 0:0 from awk\n", "/dev/berth-heredoc": ""}, ""},
		{"arguments and variables", "ARG A=1\nARG B\nENV A=2 C=3\nRUN echo $A $B $C > /f", map[string]string{"/f": "644 0:0 2 given 3\n"}, ""},
		{"deletions", "RUN rm /etc/group && mkdir /new", map[string]string{"/etc/group": "", "/new": "755 0:0"}, ""},
		{"a bind of the context", "RUN --mount=type=bind,source=in,target=/mnt/x cat /mnt/x/file > /f && ! touch /mnt/x/no", map[string]string{"/f": "644 0:0 from the context", "/mnt": ""}, ""},
		{"a bind that may be written", "RUN --mount=type=bind,source=in,target=/x,rw rm /x/file && touch /done", map[string]string{"/done": "644 0:0 ", "/x": ""}, ""},
		{"a bind of a file", "RUN --mount=source=in/file,target=/x cat /x > /f", map[string]string{"/f": "644 0:0 from the context", "/x": ""}, ""},
		{"a bind of a stage", "RUN --mount=from=other,source=/made,target=/o cat /o/by > /f && ! touch /o/no", map[string]string{"/f": "644 0:0 other\n", "/o": ""}, ""},
		{"a bind of a stage that may be written", "RUN --mount=from=other,source=/made,target=/o,rw echo mine > /o/by && cat /o/by > /f", map[string]string{"/f": "644 0:0 mine\n", "/o": ""}, ""},
		{"memory", "RUN --mount=type=tmpfs,target=/tm,size=1m echo x > /tm/f && ! dd if=/dev/zero of=/tm/big bs=1M count=2", map[string]string{"/tm": ""}, ""},
		{"a secret", "RUN --mount=type=secret,id=key,target=/run/key,uid=5,mode=0440 stat -c '%a %u' /run/key > /f && wc -c < /run/key >> /f", map[string]string{"/f": "644 0:0 440 5\n6\n", "/run/key": "", "/run": ""}, ""},
		{"a secret that is not given", "RUN --mount=type=secret,id=none test ! -e /run/secrets/none", map[string]string{"/run": ""}, ""},
		{"a working directory", "WORKDIR /a\nWORKDIR b\nRUN pwd > f", map[string]string{"/a/b/f": "644 0:0 /a/b\n"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := buildsIn(t, b.Service)
			out := b.make("FROM "+base+" AS other\nRUN mkdir /made && echo other > /made/by\nFROM "+base+"\n"+c.file+"\n", files, func(r *BuildRequest) {
				r.Args = map[string]string{"B": "given"}
				r.Secrets = map[string][]byte{"key": []byte("secret")}
			})
			b.has(out.ID, c.want)
			if !strings.Contains(b.output.String(), c.output) {
				t.Errorf("it printed %q", b.output.String())
			}
		})
	}
	sound(t, b.Service)
	if left, _ := os.ReadDir(b.buildsDir()); len(left) > 0 {
		t.Errorf("builds left %v", left)
	}
}

// A cache mount is kept between builds, and pruned.
func TestBuildCacheMounts(t *testing.T) {
	b := newBuilds(t)
	base := b.shell()
	file := "FROM " + base + "\nRUN --mount=type=cache,target=/c echo $N >> /c/log && cat /c/log > /f\n"
	for n, want := range []string{"1\n", "1\n2\n"} {
		out := b.make("ARG N\n"+strings.Replace(file, "RUN", fmt.Sprintf("ENV N=%d\nRUN", n+1), 1), nil)
		b.has(out.ID, map[string]string{"/f": "644 0:0 " + want, "/c": ""})
	}
	other := b.make(strings.Replace(file, "target=/c", "target=/c,id=../../l", 1), nil)
	b.has(other.ID, map[string]string{"/f": "644 0:0 \n"})
	if _, err := b.Prune(t.Context(), PruneUntagged); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(b.cachesDir()); len(left) > 0 {
		t.Errorf("caches are left: %v", left)
	}
	sound(t, b.Service)
}

// The second build of the same thing does nothing; what a step depends on makes
// it run again, and nothing else does.
func TestBuildCache(t *testing.T) {
	root := t.TempDir()
	needRoot(t)
	b := buildsIn(t, openAt(t, root))
	base := b.shell()
	file := `FROM ` + base + ` AS one
ENV E=1
ARG A=a
COPY f /f
RUN --mount=type=secret,id=s cat /f > /g; echo $A $HTTP_PROXY > /h
FROM ` + base + `
COPY --from=one /g /g
WORKDIR /w
RUN true; echo done > /w/done
`
	plain := map[string]string{"f": "content", "other": "ignored"}
	given := func(r *BuildRequest) {
		r.Secrets = map[string][]byte{"s": []byte("one")}
		r.Args = map[string]string{"HTTP_PROXY": "http://one.example"}
	}
	first := b.make(file, plain, given)
	if first.Commands != 2 || first.Layers < 4 || first.Cached != 0 {
		t.Errorf("the first build: %+v", first)
	}
	if config := b.config(first.ID); strings.Contains(config, "one.example") {
		t.Errorf("the proxy is in the history:\n%s", config)
	}
	second := func(what string, runs int, file string, files map[string]string, change ...func(*BuildRequest)) {
		t.Helper()
		out := b.make(file, files, append([]func(*BuildRequest){given}, change...)...)
		if out.Commands != runs || runs == 0 && (out.ID != first.ID || out.Layers != 0) {
			t.Errorf("%s: %+v, want %d commands", what, out, runs)
		}
	}
	second("nothing changed", 0, file, plain)
	second("another secret", 0, file, plain, func(r *BuildRequest) { r.Secrets = map[string][]byte{"s": []byte("two")} })
	second("another proxy", 0, file, plain, func(r *BuildRequest) { r.Args = map[string]string{"HTTP_PROXY": "http://two.example"} })
	second("a file that nobody copies", 0, file, map[string]string{"f": "content", "other": "changed"})
	second("comments", 0, "# words\n"+file, plain)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = buildsIn(t, openAt(t, root)) // the cache outlives the daemon
	second("after a restart", 0, file, plain)
	second("another content", 2, file, map[string]string{"f": "Content"})
	second("another argument", 1, file, plain, func(r *BuildRequest) { r.Args = map[string]string{"A": "b"} })
	second("another variable above", 1, strings.Replace(file, "E=1", "E=2", 1), plain)
	again := b.make(file, plain, given, func(r *BuildRequest) { r.NoCache = true })
	if again.ID != first.ID || again.Commands != 2 || again.Layers != 0 { // its layers are those that are here
		t.Errorf("without the cache: %+v, want id %s", again, first.ID)
	}
	// Full parent identity: the same instruction on another base (CVE-2024-24557).
	b.make("FROM "+base+"\nRUN echo base > /marker\n", nil, func(r *BuildRequest) { r.Tags = []string{"evil:1"} })
	out := b.make("FROM evil:1\nWORKDIR /w\nRUN true; echo done > /w/done\n", nil)
	if out.Commands != 1 {
		t.Errorf("a step on another base came from the cache: %+v", out)
	}
	if _, err := b.Prune(t.Context(), PruneUntagged); err != nil {
		t.Fatal(err)
	}
	second("after a prune", 2, file, plain)
	sound(t, b.Service)
}

// SOURCE_DATE_EPOCH is the time of all that is written; without it the base's.
func TestBuildTimes(t *testing.T) {
	b := newBuilds(t)
	base := b.shell()
	file := "FROM " + base + "\nCOPY f /f\nRUN touch /g && touch -d @5 /old && mkdir -p /etc/new && ln -s f /l\n"
	at := time.Unix(1234567890, 0).UTC()
	out := b.make(file, map[string]string{"f": "x"}, func(r *BuildRequest) { r.Epoch = &at })
	root := mountImage(t, b.Service, "times", out.ID)
	for name, want := range map[string]int64{"f": at.Unix(), "g": at.Unix(), "etc": at.Unix(), "etc/new": at.Unix(), "old": 5, "l": at.Unix()} {
		if got := stat(t, filepath.Join(root, name)).Mtim.Sec; got != want {
			t.Errorf("%s has the time %d, want %d", name, got, want)
		}
	}
	if !strings.Contains(b.config(out.ID), `"created":"2009-02-13T23:31:30Z"`) {
		t.Errorf("the image was created otherwise: %s", b.config(out.ID))
	}
	next := b.make("FROM x:1\nCOPY f /h\n", map[string]string{"f": "x"}, func(r *BuildRequest) {
		r.Tags = []string{"x:2"}
		if err := b.Tag(t.Context(), out.ID, "x:1"); err != nil {
			t.Fatal(err)
		}
	})
	if got := stat(t, filepath.Join(mountImage(t, b.Service, "times2", next.ID), "h")).Mtim.Sec; got != at.Unix() {
		t.Errorf("on that image files have the time %d, want %d", got, at.Unix())
	}
}

// Independent stages run side by side, and those that nobody needs not at all.
func TestBuildStagesSideBySide(t *testing.T) {
	b := newBuilds(t)
	base := b.shell()
	both := make(chan struct{}, 2)
	b.runner.begin = func(p build.Process) {
		if !strings.Contains(strings.Join(p.Args, " "), "meet") {
			return
		}
		both <- struct{}{}
		for len(both) < 2 { // each waits for the other
			time.Sleep(time.Millisecond)
		}
	}
	out := b.make(`FROM `+base+` AS left
RUN echo meet > /left
FROM `+base+` AS right
RUN echo meet > /right
FROM `+base+` AS nobody
RUN exit 1
FROM scratch
COPY --from=left /left /
COPY --from=right /right /
`, nil)
	b.has(out.ID, map[string]string{"/left": "644 0:0 meet\n", "/right": "644 0:0 meet\n"})
	one := b.make("FROM "+base+" AS one\nRUN touch /one\nFROM one AS two\nRUN exit 1\n", nil, func(r *BuildRequest) { r.Target = "one" })
	b.has(one.ID, map[string]string{"/one": "644 0:0 "})
}

// ADD fetches what an URL names, once its checksum is right.
func TestBuildAddsFromURLs(t *testing.T) {
	b := newBuilds(t)
	gets := 0
	var mu sync.Mutex
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		gets++
		if r.URL.Path == "/absent" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "downloaded")
	}))
	defer srv.Close()
	sum := digest.FromString("downloaded").String()
	file := "FROM scratch\nADD --checksum=" + sum + " " + srv.URL + "/file.txt /d/\n"
	out := b.make(file, nil)
	b.has(out.ID, map[string]string{"/d/file.txt": "600 0:0 downloaded"})
	if again := b.make(file, nil); again.ID != out.ID || gets != 1 {
		t.Errorf("the second build fetched again: %+v, %d requests", again, gets)
	}
	plain := b.make("FROM scratch\nADD --chmod=644 "+srv.URL+"/file.txt?token=abc /f\n", nil)
	b.has(plain.ID, map[string]string{"/f": "644 0:0 downloaded"})
	b.refuses("FROM scratch\nADD --checksum=sha256:"+strings.Repeat("0", 64)+" "+srv.URL+"/x /\n", nil, errkind.DataLoss, "Dockerfile:2", sum)
	b.refuses("FROM scratch\nADD "+srv.URL+"/absent /\n", nil, errkind.Unavailable, "Dockerfile:2", "404")
}

// What cannot be built is refused with its line, before anything starts.
func TestBuildRefuses(t *testing.T) {
	b := newBuilds(t)
	base := b.shell()
	ran := len(b.runner.ran)
	before := "FROM " + base + "\nRUN touch /ran\n"
	for _, c := range []struct {
		file  string
		kind  errkind.Kind
		words []string
	}{
		{"", errkind.InvalidArgument, []string{"Dockerfile"}},
		{"RUN true\n", errkind.InvalidArgument, []string{"Dockerfile:1"}},
		{before + "NONSENSE x\n", errkind.InvalidArgument, []string{"Dockerfile:3", "NONSENSE"}},
		{"# syntax=evil.example/frontend:1\n" + before, errkind.Unimplemented, []string{"Dockerfile:1", "evil.example/frontend:1"}},
		{"# syntax=docker/dockerfile:2\n" + before, errkind.Unimplemented, []string{"Dockerfile:1"}},
		{before + "ADD https://example.com/x.git /x\n", errkind.Unimplemented, []string{"Dockerfile:3", "git"}},
		{before + "ADD git@example.com:x /x\n", errkind.Unimplemented, []string{"Dockerfile:3", "git"}},
		{before + "ADD https://example.com/x.git#main:--upload-pack=evil /x\n", errkind.Unimplemented, []string{"Dockerfile:3"}},
		{before + "ADD --keep-git-dir=true x /x\n", errkind.Unimplemented, []string{"Dockerfile:3"}},
		{before + "RUN --mount=type=ssh true\n", errkind.Unimplemented, []string{"Dockerfile:3", "ssh"}},
		{before + "RUN --security=insecure true\n", errkind.Unimplemented, []string{"Dockerfile:3", "insecure"}},
		{before + "RUN --mount=type=secret,id=x,env=X true\n", errkind.Unimplemented, []string{"Dockerfile:3", "env"}},
		{before + "RUN --mount=type=cache,from=x,target=/c true\n", errkind.Unimplemented, []string{"Dockerfile:3"}},
		{before + "RUN --mount=type=bind,from=$X,target=/c true\n", errkind.InvalidArgument, []string{"Dockerfile:3"}},
		{before + "COPY --chmod=u+x f /\n", errkind.Unimplemented, []string{"Dockerfile:3", "u+x"}},
		{before + "COPY --from=$X f /\n", errkind.InvalidArgument, []string{"Dockerfile:3"}},
		{before + "ONBUILD ADD https://example.com/x.git /x\n", errkind.Unimplemented, []string{"Dockerfile:3"}},
		{before + "ONBUILD ONBUILD RUN true\n", errkind.InvalidArgument, []string{"Dockerfile:3"}},
		{"FROM --platform=linux/riscv64 " + base + "\n", errkind.Unimplemented, []string{"Dockerfile:1", "riscv64"}},
		{"FROM $MISSING\n", errkind.InvalidArgument, []string{"Dockerfile:1"}},
	} {
		b.refuses(c.file, map[string]string{"f": "x"}, c.kind, c.words...)
	}
	r := b.request(before, nil)
	r.Target = "absent"
	if _, err := b.try(r); !errkind.Is(err, errkind.NotFound) {
		t.Errorf("an absent target: %v", err)
	}
	r = b.request(before, nil)
	r.Platform = build.Platform{OS: "linux", Architecture: "riscv64"}
	if _, err := b.try(r); !errkind.Is(err, errkind.Unimplemented) {
		t.Errorf("another platform: %v", err)
	}
	r = b.request(before, nil)
	r.Tags = []string{"UPPER:1"}
	if _, err := b.try(r); !errkind.Is(err, errkind.InvalidArgument) {
		t.Errorf("a bad tag: %v", err)
	}
	if n := len(b.runner.ran); n != ran {
		t.Errorf("%d commands ran before the refusals", n-ran)
	}
	// These are known only on the way.
	b.refuses("FROM "+base+"\nRUN exit 7\n", nil, errkind.FailedPrecondition, "Dockerfile:2", "7")
	b.refuses("FROM "+base+"\nCOPY absent /\n", nil, errkind.NotFound, "Dockerfile:2", "absent", ".dockerignore")
	b.refuses("FROM "+base+"\nCOPY *.absent /\n", nil, errkind.NotFound, "Dockerfile:2")
	b.refuses("FROM "+base+"\nCOPY --from=0 /x /\n", nil, errkind.InvalidArgument, "Dockerfile:2")
	b.refuses("FROM "+base+"\nCOPY f /etc\nCOPY f /etc/passwd/x\n", map[string]string{"f": "x"}, errkind.InvalidArgument, "Dockerfile:3")
	b.refuses("FROM "+base+"\nCOPY --chown=nosuch f /\n", map[string]string{"f": "x"}, errkind.InvalidArgument, "Dockerfile:2", "nosuch")
	b.refuses("FROM "+base+"\nCOPY a b /dir\n", map[string]string{"a": "x", "b": "y"}, errkind.InvalidArgument, "Dockerfile:2")
	b.refuses("FROM "+base+"\nRUN --mount=type=secret,id=needed,required true\n", nil, errkind.FailedPrecondition, "Dockerfile:2", "needed")
	b.refuses("FROM 127.0.0.1:1/none:1\n", nil, errkind.Unavailable, "Dockerfile:1")
}

// A base that is not here is fetched, with what the caller has for its registry;
// a beginning of an id is none.
func TestBuildPullsBases(t *testing.T) {
	b := newBuilds(t)
	host := startRegistry(t)
	push(t, host+"/base:1", makeImage(t, gzLayer(t, file("from-registry", "x"))))
	asked := ""
	out := b.make("FROM "+host+"/base:1\nCOPY f /f\n", map[string]string{"f": "y"}, func(r *BuildRequest) {
		r.Auth = func(_ context.Context, ref string) (*Auth, error) { asked = ref; return nil, nil }
	})
	b.has(out.ID, map[string]string{"/from-registry": "644 0:0 x", "/f": "644 0:0 y"})
	if asked != host+"/base:1" {
		t.Errorf("credentials were asked for %q", asked)
	}
	b.has(b.make("FROM "+out.ID+"\nENV A=1\n", nil).ID, map[string]string{"/f": "644 0:0 y"})
	copied := b.make("FROM scratch\nCOPY --from="+host+"/base:1 /from-registry /c\n", nil)
	b.has(copied.ID, map[string]string{"/c": "644 0:0 x"})
	if _, err := b.Status(t.Context(), strings.TrimPrefix(out.ID, "sha256:")[:12]); err != nil {
		t.Fatal(err)
	}
	_, err := b.exactly(strings.TrimPrefix(out.ID, "sha256:")[:12])
	if !errkind.Is(err, errkind.NotFound) {
		t.Errorf("a beginning of an id is a base: %v", err)
	}
}

// The cache keeps no more than its limit.
func TestBuildCacheIsBounded(t *testing.T) {
	b := newBuilds(t)
	b.cfg.BuildCache = 1 << 20
	big := strings.Repeat("0123456789abcdef", 64<<10/16)
	for n := range 40 {
		out := b.make("FROM scratch\nCOPY f /f\n", map[string]string{"f": fmt.Sprint(n) + big})
		if err := b.Remove(t.Context(), out.ID); err != nil {
			t.Fatal(err)
		}
	}
	b.make("FROM scratch\nENV A=1\n", nil)
	if n := len(b.state.Builds); n == 0 || n > 17 {
		t.Errorf("the cache has %d steps of 64 KiB, and 1 MiB is the limit", n)
	}
	sound(t, b.Service)
}
