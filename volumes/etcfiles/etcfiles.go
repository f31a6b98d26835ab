// Package etcfiles writes the files of /etc that the runtime owns.
package etcfiles

import "net/netip"

// DNS is the content of resolv.conf.
type DNS struct {
	Servers, Searches, Options []string
}

// Files are the contents to write.
type Files struct {
	Hostname          string
	ResolvConf, Hosts []byte
}

// Write puts hostname, resolv.conf and hosts into dir.
func Write(dir string, f Files) error { panic("unfinished") }

// ResolvConf renders d, or copies host when d is nil.
func ResolvConf(d *DNS, host []byte) ([]byte, error) { panic("unfinished") }

// Hosts renders /etc/hosts.
func Hosts(hostname string, addrs []netip.Addr) ([]byte, error) { panic("unfinished") }
