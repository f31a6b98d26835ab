package imageservice

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/imageservice/build"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// host is a directory that no build may read or write, with a file in it.
func host(t *testing.T) (dir string, untouched func()) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("the host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, func() {
		t.Helper()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || read(t, filepath.Join(dir, "file")) != "the host's" {
			t.Errorf("the host's directory has %v, %v", entries, err)
		}
	}
}

// T-BUILD: links in a context lead nowhere but into the context
// (CVE-2020-10696, CVE-2024-1753, GHSA-vp35-85q5-9f25).
func TestBUILDContextsDoNotLeadOut(t *testing.T) {
	b := newBuilds(t)
	dir, untouched := host(t)
	files := map[string]string{
		"abs": "->" + dir, "up": "->../../../../../../../../.." + dir, "file": "->" + dir + "/file", "self": "->self", "etc/passwd": "of the context",
		"root": "->/", "d/": "", "d/out": "->" + dir,
	}
	for _, source := range []string{"abs/file", "up/file", "file", "abs", "self", "../../.." + dir + "/file", dir + "/file", "d/out/file", "abs/*"} {
		_, err := b.try(b.request("FROM scratch\nCOPY "+source+" /x/\n", files))
		if k := errkind.Of(err); k != errkind.NotFound && k != errkind.InvalidArgument {
			t.Errorf("COPY %s: %v", source, err)
		}
		_, err = b.try(b.request("FROM scratch\nRUN --mount=source="+source+",target=/x true\n", files))
		if k := errkind.Of(err); k != errkind.NotFound && k != errkind.InvalidArgument {
			t.Errorf("RUN --mount=source=%s: %v", source, err)
		}
	}
	b.has(b.make("FROM scratch\nCOPY root/etc/passwd /p\n", files).ID, map[string]string{"/p": "644 0:0 of the context"})
	b.has(b.make("FROM scratch\nCOPY d /d\n", files).ID, map[string]string{"/d/out": "->" + dir})
	untouched()
	sound(t, b.Service)
}

// T-BUILD: a tar that is a context has no way out either, and what it says of
// owners, attributes and devices is not believed.
func TestBUILDContextTars(t *testing.T) {
	b := newBuilds(t)
	dir, untouched := host(t)
	pack := func(headers ...tar.Header) []byte {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, h := range headers {
			if h.Typeflag == tar.TypeReg {
				h.Size = 4
			}
			h.Mode |= 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				_, _ = w.Write([]byte("evil"))
			}
		}
		_ = w.Close()
		return out.Bytes()
	}
	reg, link := byte(tar.TypeReg), byte(tar.TypeSymlink)
	for name, c := range map[string]struct {
		tar  []byte
		kind errkind.Kind
	}{
		"a name that climbs":    {pack(tar.Header{Name: "../../f", Typeflag: reg}), errkind.InvalidArgument},
		"a climb in the middle": {pack(tar.Header{Name: "a/../../f", Typeflag: reg}), errkind.InvalidArgument},
		"a hard link out":       {pack(tar.Header{Name: "f", Typeflag: tar.TypeLink, Linkname: dir + "/file"}), errkind.InvalidArgument},
		"a name that is long":   {pack(tar.Header{Name: strings.Repeat("n", 300), Typeflag: reg}), errkind.InvalidArgument},
		"a marker of deletion":  {pack(tar.Header{Name: ".wh.etc", Typeflag: reg}), errkind.InvalidArgument},
		"no tar":                {bytes.Repeat([]byte("no tar "), 500), errkind.InvalidArgument},
		"cut":                   {pack(tar.Header{Name: "f", Typeflag: reg})[:514], errkind.InvalidArgument},
		"below a link":          {pack(tar.Header{Name: "l", Typeflag: link, Linkname: dir}, tar.Header{Name: "l/new", Typeflag: reg}), errkind.Unknown},
		"devices":               {pack(tar.Header{Name: "dev", Typeflag: tar.TypeBlock, Devmajor: 8}, tar.Header{Name: "p", Typeflag: tar.TypeFifo}, tar.Header{Name: "f", Typeflag: reg}), errkind.Unknown},
		"attributes": {pack(tar.Header{Name: "f", Typeflag: reg, Uid: 7, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "x", "SCHILY.xattr.trusted.overlay.opaque": "y"}}), errkind.Unknown},
	} {
		r := b.request("FROM scratch\nCOPY . /x/\n", nil)
		r.Context = contextOf(c.tar)
		out, err := b.try(r)
		if errkind.Of(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		root := mountImage(t, b.Service, "c"+fmt.Sprint(time.Now().UnixNano()), out.ID)
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if path == root {
				return err // which has overlayfs' own
			}
			st := stat(t, path)
			if d.Type()&^(fs.ModeDir|fs.ModeSymlink) != 0 || st.Uid != 0 {
				t.Errorf("%s: the image has %s, %v of %d", name, path, d.Type(), st.Uid)
			}
			if n, _ := unix.Llistxattr(path, nil); n > 0 {
				t.Errorf("%s: %s has attributes", name, path)
			}
			return err
		})
	}
	untouched()
	sound(t, b.Service)
}

// T-BUILD: links of an image lead nowhere but into the image, on all ways in
// which a build reads it or writes to it (CVE-2021-3602, CVE-2024-9407,
// CVE-2024-11218, CVE-2026-55686).
func TestBUILDImagesDoNotLeadOut(t *testing.T) {
	b := newBuilds(t)
	b.shell()
	dir, untouched := host(t)
	b.make("FROM shell:1\nCOPY . /\n", map[string]string{
		"abs": "->" + dir, "up": "->../../../../../../../.." + dir, "file": "->" + dir + "/file", "w": "->" + dir, "loop": "->loop", "proc-root": "->/proc/1/root" + dir,
	}, func(r *BuildRequest) { r.Tags = []string{"evil:1"} })
	context := map[string]string{"new": "written", "tree/new": "written", "a.tar": string(tarOf(t, map[string]string{"new": "written"}, time.Unix(1, 0)))}
	for file, want := range map[string]map[string]string{
		"COPY new /abs/":                           {dir + "/new": "644 0:0 written"},
		"COPY new /up/":                            {dir + "/new": "644 0:0 written"},
		"COPY new /file":                           {dir + "/file": "644 0:0 written"},
		"COPY tree /abs":                           {dir + "/new": "644 0:0 written"},
		"COPY new /proc-root/":                     {"/proc/1/root" + dir + "/new": "644 0:0 written"},
		"COPY new /abs/../../../../../../etc/new":  {"/etc/new": "644 0:0 written"},
		"ADD a.tar /abs/":                          {dir + "/new": "644 1234:1234 written"},
		"WORKDIR /w/made\nCOPY new .":              {dir + "/made/new": "644 0:0 written"},
		"WORKDIR /abs\nRUN echo run > new":         {dir + "/new": "644 0:0 run\n"},
		"RUN mkdir -p " + dir + "\nCOPY new /abs/": {dir + "/new": "644 0:0 written"},
	} {
		out := b.make("FROM evil:1\n"+file+"\n", context)
		b.has(out.ID, want)
		untouched()
	}
	for _, file := range []string{
		"COPY --from=evil:1 /abs/file /x", "COPY --from=evil:1 /file /x", "COPY --from=evil:1 /up/* /x/", "COPY --from=evil:1 ../../../.." + dir + "/file /x",
		"COPY --from=evil:1 /loop /x", "COPY --from=evil:1 /proc-root/file /x",
		"RUN --mount=from=evil:1,source=/abs,target=/x true", "RUN --mount=from=evil:1,source=/file,target=/x true", "RUN --mount=from=evil:1,source=../../.." + dir + ",target=/x,rw true",
		"RUN --mount=target=/proc/x true", "RUN --mount=type=tmpfs,target=/ true", "RUN --mount=type=tmpfs,target=/a/../../x true", "COPY new /loop/x", "WORKDIR /loop/x",
	} {
		_, err := b.try(b.request("FROM evil:1\n"+file+"\n", context))
		if k := errkind.Of(err); k != errkind.NotFound && k != errkind.InvalidArgument {
			t.Errorf("%s: %v", file, err)
		}
		untouched()
	}
	sound(t, b.Service)
}

// T-BUILD: what a command leaves where something was mounted, and how it leaves
// it, changes nothing outside (CVE-2024-23652): what was a mount point is left
// out of the layer and never removed by its name.
func TestBUILDMountPointsAreNotRemovedByName(t *testing.T) {
	b := newBuilds(t)
	b.shell()
	dir, untouched := host(t)
	out := b.make("FROM shell:1\nRUN --mount=type=tmpfs,target=/m/x/y mkdir /m2 && ln -s "+dir+" /m2/x && rm -rf /m/x/z && touch /m/kept\n", nil)
	b.has(out.ID, map[string]string{"/m/x": "", "/m/kept": "644 0:0 ", "/m2/x": "->" + dir})
	full := b.make("FROM shell:1\nRUN --mount=type=tmpfs,target=/m/file true; mkdir -p /etc/hosts.d\n", nil)
	b.has(full.ID, map[string]string{"/m": "", "/etc/hosts.d": "755 0:0"})
	untouched()
	sound(t, b.Service)
}

// T-BUILD: secrets are in no layer, history, key, record, error or event, and on
// no disk; neither are passwords in URLs.
func TestBUILDSecretsStayNowhere(t *testing.T) {
	b := newBuilds(t)
	b.shell()
	const secret = "correct-horse-battery-staple"
	given := func(r *BuildRequest) { r.Secrets = map[string][]byte{"s": []byte(secret)} }
	b.make("FROM shell:1\nRUN --mount=type=secret,id=s,target=/run/s test $(wc -c < /run/s) = 28 && touch /ok\n", nil, given)
	r := b.request("FROM shell:1\nRUN --mount=type=secret,id=s exit 3\n", nil)
	given(&r)
	_, failed := b.try(r)
	_, url := b.try(b.request("FROM scratch\nADD https://user:"+secret+"@127.0.0.1:1/x /\n", nil))
	_, token := b.try(b.request("FROM scratch\nADD http://127.0.0.1:1/x?token="+secret+" /\n", nil))
	for _, err := range []error{failed, url, token} {
		if err == nil || strings.Contains(strings.SplitN(err.Error(), "ADD: ", 2)[len(strings.SplitN(err.Error(), "ADD: ", 2))-1], secret) {
			t.Errorf("the error is %v", err)
		}
	}
	for _, p := range b.runner.ran {
		if strings.Contains(fmt.Sprint(p.Args, p.Env, p.Title), secret) {
			t.Errorf("a command has the secret in its arguments or variables: %v", p)
		}
	}
	err := filepath.WalkDir(b.cfg.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%s has the secret", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// T-BUILD: the variables of the daemon are none of a command's (CVE-2021-3602).
func TestBUILDCommandsHaveNoVariablesOfTheDaemon(t *testing.T) {
	b := newBuilds(t)
	b.shell()
	t.Setenv("OF_THE_DAEMON", "x")
	b.make("FROM shell:1\nRUN test -z \"$OF_THE_DAEMON$HOME_OF_HOST\"\n", nil)
	last := b.runner.ran[len(b.runner.ran)-1]
	for _, e := range last.Env {
		if !strings.HasPrefix(e, "PATH=") {
			t.Errorf("the command has %s", e)
		}
	}
}

// T-BUILD: whatever the author of a file or a context can make large has a
// limit, and ten thousand times too much takes no memory.
func TestBUILDLimits(t *testing.T) {
	b := newBuilds(t)
	small := build.Limits{
		File: 4 << 10, Lines: 100, Stages: 10, Steps: 50, Args: 10, Value: 1 << 10, Context: 64 << 10, Entries: 100, Download: 64 << 10, Layer: 150, Depth: 20,
	}
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	w := tar.NewWriter(z)
	_ = w.WriteHeader(&tar.Header{Name: "zeros", Size: 640 << 20, Mode: 0o644})
	_, _ = io.Copy(w, io.LimitReader(zeros{}, 640<<20))
	_, _ = w.Close(), z.Close()
	var many bytes.Buffer
	w = tar.NewWriter(&many)
	for n := range 1_000_000 / 100 {
		_ = w.WriteHeader(&tar.Header{Name: fmt.Sprint("f", n), Mode: 0o644})
	}
	_ = w.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, io.LimitReader(zeros{}, 640<<20)) }))
	defer srv.Close()
	args := map[string]string{}
	for n := range 100_000 {
		args[fmt.Sprint("A", n)] = "x"
	}
	doubled := "FROM scratch\nENV A=0123456789abcdef\n" + strings.Repeat("ENV A=$A$A$A$A\n", 40)
	for name, c := range map[string]struct {
		file    string
		context []byte
		change  func(*BuildRequest)
	}{
		"bytes of the file":         {file: "FROM scratch\n#" + strings.Repeat("x", 40<<20)},
		"lines":                     {file: "FROM scratch\n" + strings.Repeat("\n", 1000)},
		"stages":                    {file: strings.Repeat("FROM scratch\n", 20)},
		"instructions":              {file: "FROM scratch\n" + strings.Repeat("ENV A=1\n", 60)},
		"a variable that doubles":   {file: doubled},
		"build arguments":           {file: "FROM scratch\n", change: func(r *BuildRequest) { r.Args = args }},
		"one build argument":        {file: "FROM scratch\n", change: func(r *BuildRequest) { r.Args = map[string]string{"A": strings.Repeat("x", 10<<20)} }},
		"secrets":                   {file: "FROM scratch\n", change: func(r *BuildRequest) { r.Secrets = map[string][]byte{"s": make([]byte, 40<<20)} }},
		"bytes of the context":      {file: "FROM scratch\nCOPY . /\n", context: bomb.Bytes()},
		"entries of the context":    {file: "FROM scratch\nCOPY . /\n", context: many.Bytes()},
		"an archive":                {file: "FROM scratch\nADD a.tgz /x/\n", context: tarOf(t, map[string]string{"a.tgz": bomb.String()[:min(bomb.Len(), 60<<10)]}, time.Now())},
		"entries of an archive":     {file: "FROM scratch\nADD a.tar /x/\n", context: tarOf(t, map[string]string{"a.tar": many.String()[:60<<10]}, time.Now())},
		"a download":                {file: "FROM scratch\nADD " + srv.URL + "/x /\n"},
		"directories in each other": {file: "FROM scratch\nCOPY . /\n", context: tarOf(t, map[string]string{strings.Repeat("d/", 10000) + "f": ""}, time.Now())},
		"directories of WORKDIR":    {file: "FROM scratch\nWORKDIR " + strings.Repeat("/d", 400) + "\n"},
		"files of one COPY":         {file: "FROM scratch\nCOPY a /a/\nCOPY a a /b/\nCOPY <<x /c/\n\nx\n" + "COPY a/ a/ /d/\n", context: tarOf(t, hundred("a/"), time.Now()), change: func(r *BuildRequest) { r.Limits.Layer = 50 }},
	} {
		r := b.request(c.file, nil)
		r.Limits = small
		if c.context != nil {
			r.Context = contextOf(c.context)
		}
		if c.change != nil {
			c.change(&r)
		}
		allocated(t, 256<<20, func() {
			if _, err := b.try(r); !errkind.Is(err, errkind.ResourceExhausted) {
				t.Errorf("%s: %.300v (%v)", name, err, errkind.Of(err))
			}
		})
	}
	sound(t, b.Service)
	if left, _ := os.ReadDir(b.buildsDir()); len(left) > 0 {
		t.Errorf("builds left %v", left)
	}
}

func hundred(dir string) map[string]string {
	out := map[string]string{}
	for n := range 80 {
		out[fmt.Sprint(dir, n)] = "x"
	}
	return out
}

// T-BUILD: commands of two builds have a locked cache one after the other, a
// private one each for itself, and what one does in a shared one, while the
// other is made, leads nobody out (CVE-2024-23651, CVE-2024-9675).
func TestBUILDCachesOfTwoBuilds(t *testing.T) {
	b := newBuilds(t)
	b.shell()
	dir, untouched := host(t)
	var inside, most atomic.Int32
	two := func(sharing string) {
		t.Helper()
		done := make(chan error, 2)
		for n := range 2 {
			go func() {
				r := b.request(fmt.Sprintf("FROM shell:1\nENV N=%d\nRUN --mount=type=cache,target=/c,id=%s,sharing=%s for i in 1 2 3 4 5; do rm -rf /c/l; ln -s %s /c/l; done; echo x >> /c/log\n", n, sharing, sharing, dir), nil)
				_, err := b.Build(t.Context(), r, counting{b.runner, &inside, &most})
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	two("locked")
	if n := most.Load(); n != 1 {
		t.Errorf("%d commands had a locked cache at a time", n)
	}
	two("shared")
	two("private")
	untouched()
	sound(t, b.Service)
}

// counting counts the commands that run at a time.
type counting struct {
	*chrooted
	inside, most *atomic.Int32
}

func (c counting) Run(ctx context.Context, p build.Process, done func(context.Context, string) error) (int, error) {
	n := c.inside.Add(1)
	for m := c.most.Load(); n > m && !c.most.CompareAndSwap(m, n); m = c.most.Load() {
	}
	time.Sleep(20 * time.Millisecond)
	defer c.inside.Add(-1)
	return c.chrooted.Run(ctx, p, done)
}

// T-BUILD: a build that is given up leaves nothing, however far it was.
func TestBUILDGivenUp(t *testing.T) {
	b := newBuilds(t)
	b.shell()
	for _, file := range []string{
		"FROM shell:1\nRUN sleep 100\n",
		"FROM shell:1\nRUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --mount=from=shell:1,source=/bin,target=/b,rw --mount=type=secret,id=s,target=/s sleep 100\n",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		b.runner.begin = func(build.Process) { time.AfterFunc(50*time.Millisecond, cancel) }
		r := b.request(file, nil)
		r.Secrets = map[string][]byte{"s": []byte("x")}
		if _, err := b.Build(ctx, r, b.runner); !errkind.Is(err, errkind.Canceled) {
			t.Errorf("the build ended with %v", err)
		}
		cancel()
		if left, _ := os.ReadDir(b.buildsDir()); len(left) > 0 {
			t.Errorf("the build left %v", left)
		}
		if s := b.Snapshots(t.Context()); len(s) > 0 {
			t.Errorf("the build left the snapshots %v", s)
		}
		if len(b.held) > 0 || len(b.served) > 0 || len(b.caches.users) > 0 {
			t.Errorf("the build left claims: %v %v %v", b.held, b.served, b.caches.users)
		}
		sound(t, b.Service)
	}
}
