// Package example holds node tests as somebody else may write them, with package
// lab and the clients of CRI alone, and example.sh the same as a script with
// hack/lab.sh. Both run two nodes beside each other. `make test-e2e` runs them.
package example
