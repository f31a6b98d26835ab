// Package shm mounts the /dev/shm of a pod.
package shm

// DefaultSize is the size of a pod's /dev/shm in bytes.
const DefaultSize = 64 << 20

// Mount mounts a tmpfs of size bytes at dir.
func Mount(dir string, size int64) error { panic("unfinished") }

// Unmount undoes Mount; a dir that is not mounted is success.
func Unmount(dir string) error { panic("unfinished") }
