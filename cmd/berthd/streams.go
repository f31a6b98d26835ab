package main

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/berth-runtime/berth/cri/stream"
)

type streamConfig struct {
	Address     string   `toml:"address,commented" comment:"Where it listens. Without TLS this is an address of this machine only, since the\nkubelet is here and what passes is not encrypted. Port 0 is any free one."`
	TLSCert     string   `toml:"tls_cert,commented" comment:"Files in PEM of a certificate (with its chain) and its key: then streams are\nencrypted with TLS 1.2 or newer, and the URLs are https. The certificate must\nname the address, by an authority that the kubelet's machine trusts. The files\nare read again when they change. Empty: no TLS."`
	TLSKey      string   `toml:"tls_key,commented"`
	MaxSessions int      `toml:"max_sessions,commented" comment:"Sessions at a time; one more is refused. A port-forward is one, with as many as\n512 connections."`
	IdleTimeout duration `toml:"idle_timeout,commented" comment:"How long nothing may be said in a session before it is ended."`
}

func defaultStreams() streamConfig {
	return streamConfig{Address: "127.0.0.1:0", MaxSessions: stream.DefaultMaxSessions, IdleTimeout: duration(stream.DefaultIdleTimeout)}
}

// wrong names the key that cannot work, and why.
func (c *streamConfig) wrong() (key, why string) {
	at, err := netip.ParseAddrPort(c.Address)
	secure := c.TLSCert != ""
	switch {
	case secure != (c.TLSKey != ""):
		return "tls_key", "a certificate and its key go together"
	case secure && !filepath.IsAbs(c.TLSCert):
		return "tls_cert", fmt.Sprintf("%q is not an absolute path", c.TLSCert)
	case secure && !filepath.IsAbs(c.TLSKey):
		return "tls_key", fmt.Sprintf("%q is not an absolute path", c.TLSKey)
	case !secure && (err != nil || !at.Addr().IsLoopback()):
		return "address", fmt.Sprintf("%q is not a loopback address and a port, such as 127.0.0.1:0; others need tls_cert and tls_key", c.Address)
	case err != nil || at.Addr().IsUnspecified():
		return "address", fmt.Sprintf("%q is not an address, which the URLs have, and a port, such as 127.0.0.1:0", c.Address)
	case c.MaxSessions < 1 || c.MaxSessions > 1<<20:
		return "max_sessions", fmt.Sprintf("%d is not between 1 and %d", c.MaxSessions, 1<<20)
	case c.IdleTimeout < duration(time.Second):
		return "idle_timeout", fmt.Sprintf("%v is less than a second", time.Duration(c.IdleTimeout))
	}
	return "", ""
}

// forServer is what the server is made from.
func (c *streamConfig) forServer() stream.Config {
	return stream.Config{Address: c.Address, Cert: c.TLSCert, Key: c.TLSKey, MaxSessions: c.MaxSessions, IdleTimeout: time.Duration(c.IdleTimeout)}
}
