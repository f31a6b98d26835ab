package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

const page = "This page lies in the third layer of an image.\n"

// story is the node and what the chapters hand on to the next ones.
type story struct {
	*lab.Lab
	port   int
	url    string
	ref    string // of the image
	volume string
	layers map[string]string // directory of a layer: hash of all that is in it
	told   bool              // the lab is closed
}

func (s *story) node(ctx context.Context) error {
	begin := time.Now()
	if err := s.Start(ctx); err != nil {
		return err
	}
	say("berthd %d answers on %s after %s", s.Pid(), s.Socket, since(begin))
	say("bridge %s, subnets %s, cgroup %s: all its own", s.Bridge, s.Subnets, s.CgroupParent)
	return nil
}

func (s *story) image(ctx context.Context) error {
	if err := s.StartRegistry(ctx); err != nil {
		return err
	}
	img, err := demoImage()
	if err != nil {
		return err
	}
	s.ref = s.Registry + "/demo/web:1"
	digest, err := testimage.Push(ctx, s.ref, img)
	if err != nil {
		return err
	}
	say("docker-registry serves on %s; pushed demo/web:1, manifest %s", s.Registry, short(digest.String()))
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for n, l := range layers {
		d, _ := l.Digest()
		id, _ := l.DiffID()
		size, _ := l.Size()
		kind, _ := l.MediaType()
		say("  layer %d: blob %s, %7d bytes of %s, diff id %s", n+1, short(d.String()), size, kind[strings.LastIndex(string(kind), "+")+1:], short(id.String()))
	}
	begin := time.Now()
	if _, err := s.Berth(ctx, "pull", "-q", s.ref); err != nil {
		return err
	}
	say("berth pull %s took %s", s.ref, since(begin))
	return s.showImage(ctx, img)
}

// showImage compares what the node has with what was pushed.
func (s *story) showImage(ctx context.Context, img v1.Image) error {
	want, err := img.ConfigName()
	if err != nil {
		return err
	}
	got, err := s.Admin().InspectImage(ctx, s.ref)
	if err != nil {
		return err
	}
	if got.ID != want.String() {
		return fmt.Errorf("pushed image %s, the node has %s", want, got.ID)
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	for n, l := range got.Layers {
		if l.DiffID != file.RootFS.DiffIDs[n].String() {
			return fmt.Errorf("layer %d was pushed as %s, the node has %s", n+1, file.RootFS.DiffIDs[n], l.DiffID)
		}
	}
	out, err := s.Berth(ctx, "images")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		say("  %s", line)
	}
	say("image id and %d layers on the node are those that were pushed, by digest", len(got.Layers))
	return nil
}

func (s *story) serve(ctx context.Context) error {
	s.volume = filepath.Join(s.Dir, "volume")
	if err := os.Mkdir(s.volume, 0o755); err != nil {
		return err
	}
	begin := time.Now()
	if err := s.runWeb(ctx, "web"); err != nil {
		return err
	}
	started := since(begin)
	if err := s.fetch(ctx, "/", page); err != nil {
		return err
	}
	say("berth run -d --name web -p %d:80 -v volume:/www/data took %s, first page after %s", s.port, started, since(begin))
	say("GET %s/ -> %q", s.url, strings.TrimSpace(page))
	return s.fetch(ctx, "/data/visits", "web was here\n")
}

func (s *story) runWeb(ctx context.Context, name string, more ...string) error {
	args := append([]string{"run", "-d", "--name", name, "-p", fmt.Sprintf("%d:80", s.port),
		"-v", s.volume + ":/www/data", "-e", "NAME=" + name}, more...)
	_, err := s.Berth(ctx, append(args, s.ref)...)
	return err
}

func (s *story) crash(ctx context.Context) error {
	stop := make(chan struct{})
	type count struct{ good, bad int }
	counted := make(chan count)
	go func() {
		var c count
		for {
			select {
			case <-stop:
				counted <- c
				return
			default:
			}
			if body, err := s.get(ctx, "/"); err == nil && body == page {
				c.good++
			} else {
				c.bad++
			}
		}
	}()
	pid := s.Pid()
	s.Kill()
	say("kill -9 %d: berthd is dead, the pod goes on serving", pid)
	err := s.fetch(ctx, "/", page)
	if err == nil {
		time.Sleep(300 * time.Millisecond) // let some requests fall into the gap
		begin := time.Now()
		if err = s.Start(ctx); err == nil {
			say("berthd %d is back and has adopted the pod, %s after its start", s.Pid(), since(begin))
		}
	}
	close(stop)
	c := <-counted
	if err != nil {
		return err
	}
	if c.bad > 0 {
		return fmt.Errorf("%d of %d requests failed meanwhile", c.bad, c.bad+c.good)
	}
	if err := s.fetch(ctx, "/", page); err != nil {
		return err
	}
	say("%d requests before, during and after: none failed", c.good+1)
	out, err := s.Berth(ctx, "ps")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		say("  %s", line)
	}
	return nil
}

func (s *story) share(ctx context.Context) error {
	if _, err := s.Berth(ctx, "run", "-d", "--name", "twin", s.ref); err != nil {
		return err
	}
	web, err := s.overlay(ctx, "web")
	if err != nil {
		return err
	}
	twin, err := s.overlay(ctx, "twin")
	if err != nil {
		return err
	}
	if !slices.Equal(web.lower, twin.lower) {
		return fmt.Errorf("web is made of %q, twin of %q", web.lower, twin.lower)
	}
	if web.upper == twin.upper {
		return fmt.Errorf("both write to %s", web.upper)
	}
	for n, dir := range web.lower {
		say("  both read   layer %d  %s", len(web.lower)-n, s.inDir(dir))
	}
	say("  web writes  %s", s.inDir(web.upper))
	say("  twin writes %s", s.inDir(twin.upper))
	s.layers = map[string]string{}
	for _, dir := range web.lower {
		if s.layers[dir], err = hashTree(dir); err != nil {
			return err
		}
	}
	if _, err := s.Berth(ctx, "exec", "web", "sh", "-c", "echo mine > /only-here; rm /srv/readme"); err != nil {
		return err
	}
	if _, err := s.Berth(ctx, "exec", "twin", "sh", "-c", "test ! -e /only-here && test -e /srv/readme"); err != nil {
		return fmt.Errorf("twin sees what web wrote: %w", err)
	}
	say("web wrote /only-here and removed /srv/readme; twin sees neither")
	return nil
}

func (s *story) renew(ctx context.Context) error {
	if _, err := s.Berth(ctx, "rm", "-f", "web"); err != nil {
		return err
	}
	if _, err := s.get(ctx, "/"); err == nil {
		return fmt.Errorf("%s still answers", s.url)
	}
	say("berth rm -f web: gone, and the port is free")
	if err := s.runWeb(ctx, "web-again"); err != nil {
		return err
	}
	if err := s.fetch(ctx, "/data/visits", "web was here\nweb-again was here\n"); err != nil {
		return fmt.Errorf("the volume: %w", err)
	}
	if _, err := s.Berth(ctx, "exec", "web-again", "sh", "-c", "test ! -e /only-here && test -e /srv/readme"); err != nil {
		return fmt.Errorf("the writable layer is not fresh: %w", err)
	}
	say("berth run ... web-again on the same volume: its data is there (2 visits), the writable layer is fresh")
	return nil
}

func (s *story) unchanged(ctx context.Context) error {
	for dir, before := range s.layers {
		after, err := hashTree(dir)
		if err != nil {
			return err
		}
		if after != before {
			return fmt.Errorf("layer %s was %s and is %s", dir, before, after)
		}
	}
	say("SHA-256 over names, modes, owners and contents of all %d layers: unchanged", len(s.layers))
	problems, err := s.Admin().Check(ctx)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return fmt.Errorf("berth check: %+v", problems)
	}
	say("berth check: records, mounts, namespaces, cgroups, interfaces, rules, processes and files agree")
	return nil
}

func (s *story) clean(ctx context.Context) error {
	before := len(s.Residue())
	if err := s.RemoveAll(ctx); err != nil {
		return err
	}
	if left := s.OfPods(); len(left) > 0 {
		return fmt.Errorf("removed pods left %q", left)
	}
	say("all pods and images removed: of pods no mount, cgroup, interface or process is left (there were %d things)", before)
	if err := s.Close(ctx); err != nil {
		return err
	}
	s.told = true
	if left := s.Residue(); len(left) > 0 {
		return fmt.Errorf("left behind: %q", left)
	}
	say("daemon, shim, registry, bridge, rules, cgroup %s and %s: gone", s.CgroupParent, s.Dir)
	return nil
}

// demoImage has three layers: programs, a start script in zstd, the page.
func demoImage() (v1.Image, error) {
	base, err := testimage.Busybox()
	if err != nil {
		return nil, err
	}
	return testimage.Image{
		Layers: []testimage.Layer{
			base,
			{Zstd: true, Files: []testimage.File{
				{Path: "/srv/readme", Data: "of the second layer\n"},
				{Path: "/srv/start", Mode: 0o755, Data: "#!/bin/sh\nmkdir -p /www/data\necho \"$NAME was here\" >> /www/data/visits\nexec httpd -f -p 80 -h /www\n"},
			}},
			{Files: []testimage.File{{Path: "/www/index.html", Data: page}}},
		},
		Config: v1.Config{Entrypoint: []string{"/srv/start"}, Env: []string{"PATH=/bin"}, WorkingDir: "/www"},
	}.Build()
}

// fetch waits for path to answer and wants exactly body.
func (s *story) fetch(ctx context.Context, path, body string) error {
	var got string
	err := lab.Eventually(ctx, 20*time.Second, func() (err error) {
		got, err = s.get(ctx, path)
		return err
	})
	if err == nil && got != body {
		err = fmt.Errorf("%s%s says %q, want %q", s.url, path, got, body)
	}
	return err
}

func (s *story) get(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+path, nil)
	if err != nil {
		return "", err
	}
	req.Close = true // a new connection each time: the rules are what is shown
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s%s: %s", s.url, path, resp.Status)
	}
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// inDir shortens a path for reading.
func (s *story) inDir(path string) string {
	if rel, err := filepath.Rel(s.Dir, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

// short is the first 12 characters of a digest, as listings have them.
func short(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(12, len(hex))]
}
