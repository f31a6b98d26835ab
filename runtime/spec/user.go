package spec

import "io"

// ResolveUser decides the identity of the first process.
func ResolveUser(sec *Security, imageUser string, passwd, group io.Reader) (User, error) {
	panic("unfinished")
}
