// Package soak holds the long runs: what only shows after thousands of calls,
// hundreds of megabytes or several kills. Its tests are behind the build tag
// soak and run by `make soak`, each on a node of its own.
package soak
