package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/berth-runtime/berth/hack/lab"
	"github.com/berth-runtime/berth/hack/testimage"
)

// effectiveUID is the program of the image nonewprivs.
const effectiveUID = `#include <stdio.h>
#include <unistd.h>
int main(void) { printf("Effective uid: %d\n", geteuid()); return 0; }
`

// pulledByDigest is the content of the image that critest names by its digest.
const pulledByDigest = "test-image-digest"

// pushImages writes stand-ins for all images that critest names, under the
// paths by which mirrors are asked for them.
func pushImages(ctx context.Context, l *lab.Lab) error {
	images, err := standIns(l.Clone)
	if err != nil {
		return err
	}
	for path, img := range images {
		if _, err := testimage.Push(ctx, l.Registry+"/"+path, img); err != nil {
			return err
		}
	}
	for _, path := range []string{"k8s-staging-cri-tools/test-image-tag:test", "k8s-staging-cri-tools/test-image-tag:all"} {
		img, err := bare(l.Clone, path)
		if err != nil {
			return err
		}
		if _, err := testimage.PushIndex(ctx, l.Registry+"/"+path, map[string]v1.Image{"amd64": img}); err != nil {
			return err
		}
	}
	img, err := bare(l.Clone, pulledByDigest)
	if err != nil {
		return err
	}
	digest, err := testimage.Push(ctx, l.Registry+"/k8s-staging-cri-tools/test-image-digest:latest", img)
	if err != nil {
		return err
	}
	built, err := os.ReadFile(filepath.Join(l.Clone, digestFile))
	if err != nil {
		return err
	}
	if string(built) != digest.String() {
		return fmt.Errorf("critest was built to pull %s, and the image is %s now: build it again", built, digest)
	}
	return nil
}

func standIns(clone string) (map[string]v1.Image, error) {
	const e2e, staging = "e2e-test-images/", "k8s-staging-cri-tools/"
	suid, err := os.ReadFile(filepath.Join(clone, suidBinary))
	if err != nil {
		return nil, err
	}
	images := map[string]v1.Image{}
	for path, recipe := range map[string]struct {
		config v1.Config
		files  []testimage.File
	}{
		e2e + "busybox:1.29-2":                     {v1.Config{Cmd: []string{"sh"}}, nil},
		e2e + "nginx:1.14-2":                       {v1.Config{Cmd: []string{"/bin/nginx", "master process"}}, server("nginx", 80)},
		e2e + "httpd:2.4.39-4":                     {v1.Config{Cmd: []string{"/bin/start"}}, server("start", 80)},
		e2e + "nonewprivs:1.3":                     {v1.Config{Cmd: []string{"/nnp"}}, []testimage.File{{Path: "/nnp", Mode: 0o4755, Data: string(suid)}}},
		staging + "hostnet-nginx-amd64":            {v1.Config{Cmd: []string{"/bin/start"}}, server("start", 12003)},
		staging + "test-image-user-uid":            {v1.Config{User: "1002"}, nil},
		staging + "test-image-user-username":       {v1.Config{User: "www-data"}, nil},
		staging + "test-image-user-uid-group":      {v1.Config{User: "1003:1004"}, nil},
		staging + "test-image-user-username-group": {v1.Config{User: "www-data:1004"}, nil},
		staging + "test-image-predefined-group":    {v1.Config{User: "1000"}, nil},
	} {
		base, err := testimage.PlainBusybox(filepath.Join(clone, "hack/.cache/busybox"))
		if err != nil {
			return nil, err
		}
		recipe.config.Env = []string{"PATH=/bin"}
		// Each is an image of its own, with a config digest of its own.
		files := append([]testimage.File{{Path: "/etc/image", Data: path + "\n"}}, recipe.files...)
		images[path], err = testimage.Image{Layers: []testimage.Layer{base, {Files: files}}, Config: recipe.config, Docker: true}.Build()
		if err != nil {
			return nil, fmt.Errorf("cannot make %s: %w", path, err)
		}
	}
	for path, content := range map[string]string{
		staging + "test-image-latest":   "latest",
		staging + "test-image-1:latest": "1", staging + "test-image-2:latest": "2", staging + "test-image-3:latest": "3",
		staging + "test-image-tags:1": "tags", staging + "test-image-tags:2": "tags", staging + "test-image-tags:3": "tags",
		"pause:3.9": "pause",
	} {
		if images[path], err = bare(clone, content); err != nil {
			return nil, err
		}
	}
	return images, nil
}

// bare is an image with a program that only waits, told apart by content.
func bare(clone, content string) (v1.Image, error) {
	pause, err := os.ReadFile(filepath.Join(clone, "bin/berth-init"))
	if err != nil {
		return nil, err
	}
	return testimage.Image{
		Layers: []testimage.Layer{{Files: []testimage.File{
			{Path: "/content", Data: content},
			{Path: "/pause", Mode: 0o755, Data: string(pause)},
		}}},
		Config: v1.Config{User: "1000", Cmd: []string{"/pause"}},
	}.Build()
}

// server is a web server by the name of the program /bin/NAME. A script's
// process has the script's name, and the specs look for the name, for the text
// "master process" among the arguments and for the file with the process id.
func server(name string, port int) []testimage.File {
	return []testimage.File{
		{Path: "/bin/" + name, Mode: 0o755, Data: fmt.Sprintf("#!/bin/sh\n"+
			"trap exit TERM\necho $$ >/var/run/%s.pid\necho httpd starts\nhttpd -f -v -p %d -h /www &\nwait\n", name, port)},
		{Path: "/www/index.html", Data: "Welcome to nginx!\n"},
	}
}

// compileSetuid makes the program of the image nonewprivs.
func compileSetuid(ctx context.Context, binary string) error {
	cmd := exec.CommandContext(ctx, "gcc", "-static", "-Os", "-s", "-x", "c", "-o", binary+".new", "-")
	cmd.Stdin = strings.NewReader(effectiveUID)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot compile %s: %w: %s", binary, err, out)
	}
	return os.Rename(binary+".new", binary)
}
