package main

import (
	"net"
	"os"

	"k8s.io/klog/v2"
)

// notify tells the service manager what the daemon is about to do, if one
// asked to be told (sd_notify(3)): "READY=1" or "STOPPING=1". A manager that
// cannot be reached is its own trouble.
func notify(logger klog.Logger, state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	// A leading @ means an abstract address, to systemd and to package net.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path})
	if err == nil {
		_, err = c.Write([]byte(state))
		_ = c.Close()
	}
	if err != nil {
		logger.Error(err, "Cannot tell the service manager", "state", state)
	}
}
