// Command berth is the command line for people: docker's verbs on the node's
// own store.
//
// Model. A verb turns flags into CRI requests (and into requests of
// cri/admin for what CRI lacks), sends them over the daemon's socket and
// prints the answer. It holds no state of its own: what a later verb must
// know about a container travels in its labels and annotations.
//
// Law. One verb a file. The only way to the store is the socket; no domain
// package is imported. An object is named by its id, by any unique prefix of
// the id or by its name, the same way in every verb. A failure is told in
// three lines: what could not be done, why, and what to do about it. The exit
// code is the container's own where there is one, 127 or 126 if the program
// that it names is not there or cannot be executed, and 125 for the rest.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
