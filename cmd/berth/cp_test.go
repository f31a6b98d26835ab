package main

import "testing"

func TestSplitCopyArg(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string][2]string{
		"web:/etc": {"web", "/etc"}, "web:etc/x:y": {"web", "etc/x:y"}, "default/web/web:/a": {"default/web/web", "/a"}, "web:": {"web", ""},
		"/abs:x": {"", "/abs:x"}, "./a:b": {"", "./a:b"}, "../a:b": {"", "../a:b"}, "plain": {"", "plain"}, "-": {"", "-"}, ":x": {"", ":x"},
	} {
		if container, p := splitCopyArg(arg); [2]string{container, p} != want {
			t.Errorf("%q: %q %q", arg, container, p)
		}
	}
}

// docker's table of what becomes of source and destination.
func TestDestination(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		src             string
		isDir           bool
		dst             string
		there, dstIsDir bool
		dir, as         string
		mkdir, refused  bool
	}{
		{src: "/a/file", dst: "/d/new", dir: "/d", as: "new"},
		{src: "/a/file", dst: "/d/new/", refused: true},
		{src: "/a/file", dst: "/d/old", there: true, dir: "/d", as: "old"},
		{src: "/a/file", dst: "/d", there: true, dstIsDir: true, dir: "/d", as: "file"},
		{src: "/a/tree", isDir: true, dst: "/d/new", dir: "/d/new", as: ".", mkdir: true},
		{src: "/a/tree", isDir: true, dst: "/d/file", there: true, refused: true},
		{src: "/a/tree", isDir: true, dst: "/d", there: true, dstIsDir: true, dir: "/d", as: "tree"},
		{src: "/a/tree/.", isDir: true, dst: "/d", there: true, dstIsDir: true, dir: "/d", as: "."},
		{src: "/a/tree/.", isDir: true, dst: "/d/new", dir: "/d/new", as: ".", mkdir: true},
		{src: "file", dst: "new", dir: ".", as: "new"},
	} {
		dir, as, mkdir, err := destination(tc.src, tc.isDir, tc.dst, tc.there, tc.dstIsDir)
		if (err != nil) != tc.refused || dir != tc.dir || as != tc.as || mkdir != tc.mkdir {
			t.Errorf("%+v: %q %q %v, %v", tc, dir, as, mkdir, err)
		}
	}
}
