package cnitest

import (
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// hang waits until it is killed, with a child that holds its output open.
func hang() {
	child := exec.Command("sleep", "1000")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	_ = child.Start()
	for {
		time.Sleep(time.Hour)
	}
}

// leaveBehind starts a process that is to live on, as some plugins do, and that
// carelessly holds the plugin's output open.
func leaveBehind() error {
	child := exec.Command("sleep", "1000")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	child.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	return child.Start()
}
