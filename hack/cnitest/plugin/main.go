// Command plugin is the plugin of package cnitest as a program of its own.
package main

import (
	"os"

	"github.com/berth-runtime/berth/hack/cnitest"
)

func main() { os.Exit(cnitest.Main()) }
