// Package etcfiles writes the files of /etc that the runtime owns: hostname,
// hosts and resolv.conf, once for each pod, before its first container.
//
// They are bound into containers one by one, so a later Write is seen only by
// containers that come after it, and hosts, whose names come and go with other
// pods, is rewritten in its place. Every value is checked against what its
// place in a line can hold: a newline in a search domain must not become a
// name server.
package etcfiles

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/runtime/sys/atomicfile"
	"github.com/berth-runtime/berth/runtime/sys/errkind"
)

// maxResolvConf bounds the rendered file in bytes.
const maxResolvConf = 64 << 10

// DNS is the content of resolv.conf.
type DNS struct {
	Servers, Searches, Options []string
}

// Files are the contents to write.
type Files struct {
	Hostname          string
	ResolvConf, Hosts []byte
}

// Write puts hostname, resolv.conf and hosts into dir, which exists.
func Write(dir string, f Files) error {
	if err := checkHostname(f.Hostname); err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"hostname":    []byte(f.Hostname + "\n"),
		"resolv.conf": f.ResolvConf,
		"hosts":       f.Hosts,
	} {
		// No container outlives the boot, so neither need its files.
		if err := atomicfile.WriteVolatile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("cannot write the pod's %s: %w", name, err)
		}
	}
	return nil
}

// ResolvConf renders d, exactly: an empty d is an empty file.
func ResolvConf(d DNS) ([]byte, error) {
	var b bytes.Buffer
	if err := line(&b, "search", d.Searches); err != nil {
		return nil, err
	}
	for _, s := range d.Servers {
		addr, err := netip.ParseAddr(s)
		if err != nil || !isWord(addr.Zone()) && addr.Zone() != "" {
			return nil, errkind.New(errkind.InvalidArgument, "name server %q is not an IP address", s)
		}
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if err := line(&b, "options", d.Options); err != nil {
		return nil, err
	}
	if b.Len() > maxResolvConf {
		return nil, errkind.New(errkind.InvalidArgument, "resolv.conf would have %d bytes, at most %d are possible", b.Len(), maxResolvConf)
	}
	return b.Bytes(), nil
}

func line(b *bytes.Buffer, keyword string, words []string) error {
	for _, w := range words {
		if !isWord(w) {
			return errkind.New(errkind.InvalidArgument, "%q is no word for the line %q of resolv.conf", w, keyword)
		}
	}
	if len(words) > 0 {
		fmt.Fprintf(b, "%s %s\n", keyword, strings.Join(words, " "))
	}
	return nil
}

// isWord tells whether s is printable ASCII without blanks.
func isWord(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// Host is a line of /etc/hosts.
type Host struct {
	Address netip.Addr
	Names   []string
}

// maxHosts bounds the rendered file in bytes.
const maxHosts = 1 << 20

// Hosts renders /etc/hosts: the loopback names, at each of addrs hostname, and
// then more. A pod whose addresses are not known gets no line for hostname.
func Hosts(hostname string, addrs []netip.Addr, more []Host) ([]byte, error) {
	if err := checkHostname(hostname); err != nil {
		return nil, err
	}
	b := bytes.NewBufferString("127.0.0.1\tlocalhost\n" +
		"::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\n" +
		"ff02::1\tip6-allnodes\n" +
		"ff02::2\tip6-allrouters\n")
	for _, a := range addrs {
		if a.IsValid() && hostname != "" {
			fmt.Fprintf(b, "%s\t%s\n", a.WithZone(""), hostname)
		}
	}
	for _, h := range more {
		if !h.Address.IsValid() || len(h.Names) == 0 {
			return nil, errkind.New(errkind.InvalidArgument, "a line of /etc/hosts needs an address and a name: got %v and %q", h.Address, h.Names)
		}
		for _, n := range h.Names {
			if n == "" || len(n) > maxName || strings.Trim(n, letters) != "" {
				return nil, errkind.New(errkind.InvalidArgument, "%.80q is no name for /etc/hosts: at most %d letters, digits, dots, dashes and _", n, maxName)
			}
		}
		fmt.Fprintf(b, "%s\t%s\n", h.Address.WithZone(""), strings.Join(h.Names, " "))
	}
	if b.Len() > maxHosts {
		return nil, errkind.New(errkind.InvalidArgument, "/etc/hosts would have %d bytes, at most %d are possible", b.Len(), maxHosts)
	}
	return b.Bytes(), nil
}

// RewriteHosts gives the hosts file in dir another content, which containers
// that have it see: it stays the file that it is. Who reads it at that moment may
// find the new content with the rest of a longer old one. The file is the pod's,
// which may have written to it; what it wrote is lost.
func RewriteHosts(dir string, hosts []byte) error {
	f, err := os.OpenFile(filepath.Join(dir, "hosts"), os.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil {
		_, err = f.WriteAt(hosts, 0)
		err = errors.Join(err, f.Truncate(int64(len(hosts))), f.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot write the pod's hosts: %w", err)
	}
	return nil
}

// letters are those of a host name, maxName is the most of one (RFC 1035).
const (
	letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
	maxName = 253
)

// checkHostname refuses what sethostname or a line of /etc/hosts cannot hold.
// The kernel's HOST_NAME_MAX is 64.
func checkHostname(s string) error {
	if len(s) > 64 || strings.Trim(s, letters) != "" {
		return errkind.New(errkind.InvalidArgument, "%.80q is no host name: at most 64 letters, digits, dots and dashes", s)
	}
	return nil
}
