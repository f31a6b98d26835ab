// Package testimage makes container images in memory, for demo, tests and
// benchmarks, from nothing but Debian's static busybox: no Dockerfile, no
// daemon, no download.
//
// The same inputs always give the same digests.
package testimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// File is one entry of a layer. Parents are made by themselves.
type File struct {
	Path string // absolute
	Mode int64  // permission bits with setuid and sticky; 0: 0644, of directories 0755
	UID  int
	GID  int
	Data string
	Link string // hard link to this path
	Sym  string // symbolic link with this target
	Dir  bool
}

// Layer is a list of files with its compression.
type Layer struct {
	Files []File
	Zstd  bool // else gzip
}

// Image is a recipe.
type Image struct {
	Layers []Layer
	Config v1.Config
	Docker bool // Docker's media types instead of OCI's
}

// made is the date of every file and image, so that digests repeat.
var made = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Build makes the image.
func (i Image) Build() (v1.Image, error) {
	img := v1.Image(empty.Image)
	if !i.Docker {
		img = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
	}
	for n, l := range i.Layers {
		layer, err := l.build(i.Docker)
		if err != nil {
			return nil, fmt.Errorf("cannot build layer %d: %w", n, err)
		}
		add := mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: made}, CreatedBy: "berth testimage"}}
		if img, err = mutate.Append(img, add); err != nil {
			return nil, fmt.Errorf("cannot append layer %d: %w", n, err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Architecture, file.OS = "amd64", "linux"
	file.Created = v1.Time{Time: made}
	file.Config = i.Config
	return mutate.ConfigFile(img, file)
}

func (l Layer) build(docker bool) (v1.Layer, error) {
	blob, err := l.Tar()
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }
	switch {
	case l.Zstd:
		return tarball.LayerFromOpener(open, tarball.WithCompression(compression.ZStd), tarball.WithMediaType(types.OCILayerZStd))
	case docker:
		return tarball.LayerFromOpener(open)
	default:
		return tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	}
}

// Tar is the layer uncompressed.
func (l Layer) Tar() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	seen := map[string]bool{"/": true}
	for _, f := range l.Files {
		if err := addParents(w, seen, path.Dir(f.Path)); err != nil {
			return nil, err
		}
		if f.Dir {
			seen[f.Path] = true
		}
		h := f.header()
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("cannot add %s: %w", f.Path, err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, f.Data); err != nil {
				return nil, fmt.Errorf("cannot add %s: %w", f.Path, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func (f File) header() *tar.Header {
	h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: f.Mode, Uid: f.UID, Gid: f.GID, ModTime: made, Format: tar.FormatPAX}
	switch {
	case f.Dir:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case f.Link != "":
		h.Typeflag, h.Linkname = tar.TypeLink, strings.TrimPrefix(f.Link, "/")
	case f.Sym != "":
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Sym
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(f.Data))
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if f.Dir {
			h.Mode = 0o755
		}
	}
	return h
}

func addParents(w *tar.Writer, seen map[string]bool, dir string) error {
	if seen[dir] {
		return nil
	}
	if err := addParents(w, seen, path.Dir(dir)); err != nil {
		return err
	}
	seen[dir] = true
	return w.WriteHeader(File{Path: dir, Dir: true}.header())
}

// BusyboxPath is where Debian's busybox-static puts its program.
const BusyboxPath = "/bin/busybox"

// applets of Debian's busybox that the images have. They are hard links: a
// spec of critest masks /bin/ls, which must not hide the shell.
var applets = strings.Fields(`[ ash awk base64 basename brctl cat chmod chown clear cp cut date dd df dirname dmesg dnsdomainname du echo
	env expr false find free grep gunzip gzip head hostname httpd id ifconfig ip kill ln logger ls md5sum mkdir mkfifo mknod
	mktemp more mount mv nc netstat nslookup nproc pidof ping printf ps pwd readlink realpath renice rm rmdir route sed seq sh
	sha256sum sleep sort stat stty sync tail tar tee telnet test time timeout top touch tr traceroute true tty umount
	uname uniq uptime vi watch wc wget which whoami xargs yes`)

// scripts stand in for programs that Debian's busybox lacks.
var scripts = map[string]string{
	"/bin/pgrep": "#!/bin/sh\npidof \"$1\" | tr ' ' '\\n' | grep .\n",
	"/bin/ipcs":  "#!/bin/sh\nawk 'NR > 1 { printf \"0x%08x %s %s %o %s %s\\n\", $1, $2, $8, $3, $4, $7 }' /proc/sysvipc/shm\n",
}

// Busybox is a layer with a shell and the usual small programs, and the users
// that tests ask for.
func Busybox() (Layer, error) {
	layer, err := busybox(BusyboxPath, applets)
	if err != nil {
		return Layer{}, fmt.Errorf("cannot read busybox (install busybox-static): %w", err)
	}
	for _, p := range slices.Sorted(maps.Keys(scripts)) {
		layer.Files = append(layer.Files, File{Path: p, Mode: 0o755, Data: scripts[p]})
	}
	return layer, nil
}

// PlainBusybox is Busybox with the program that hack/busybox.sh builds: what
// it runs are the files of the image, so that hiding one hides what it does.
func PlainBusybox(program string) (Layer, error) {
	layer, err := busybox(program, append(slices.Clone(applets), "ipcs", "pgrep"))
	if err != nil {
		return Layer{}, fmt.Errorf("cannot read busybox (run hack/busybox.sh): %w", err)
	}
	return layer, nil
}

func busybox(path string, applets []string) (Layer, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return Layer{}, err
	}
	files := []File{
		{Path: "/bin/busybox", Mode: 0o755, Data: string(program)},
		{Path: "/tmp", Dir: true, Mode: 0o1777},
		{Path: "/root", Dir: true, Mode: 0o700},
		{Path: "/var/run", Dir: true},
		{Path: "/etc/passwd", Data: "root:x:0:0:root:/root:/bin/sh\n" +
			"default-user:x:1000:1000::/home/default-user:/bin/sh\n" +
			"www-data:x:1002:1002:www-data:/var/www:/bin/sh\n" +
			"nobody:x:65534:65534:nobody:/:/bin/false\n"},
		{Path: "/etc/group", Data: "root:x:0:\ndefault-user:x:1000:\nwww-data:x:1004:\n" +
			"group-defined-in-image:x:50000:default-user\nnogroup:x:65534:\n"},
	}
	for _, a := range applets {
		files = append(files, File{Path: "/bin/" + a, Mode: 0o755, Link: "/bin/busybox"})
	}
	return Layer{Files: files}, nil
}

// Web is an image of three layers that serves page on port 80: the base, a
// zstd layer with the server's configuration, and the page.
func Web(page string) (v1.Image, error) {
	base, err := Busybox()
	if err != nil {
		return nil, err
	}
	return Image{
		Layers: []Layer{
			base,
			{Zstd: true, Files: []File{{Path: "/etc/httpd.conf", Data: "I:index.html\n"}, {Path: "/srv/readme", Data: "berth\n"}}},
			{Files: []File{{Path: "/www/index.html", Data: page}}},
		},
		Config: v1.Config{
			Entrypoint:   []string{"/bin/sh", "-c", "echo serving; exec httpd -f -p 80 -h /www"},
			Env:          []string{"PATH=/bin"},
			WorkingDir:   "/www",
			ExposedPorts: map[string]struct{}{"80/tcp": {}},
		},
	}.Build()
}

// Shell is an image of one layer whose command is a shell.
func Shell() (v1.Image, error) {
	base, err := Busybox()
	if err != nil {
		return nil, err
	}
	return Image{Layers: []Layer{base}, Config: v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}}.Build()
}

// Save writes img as a docker archive, as `docker save` does.
func Save(file, reference string, img v1.Image) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return fmt.Errorf("cannot save %s: %w", reference, err)
	}
	return tarball.WriteToFile(file, tag, img)
}
