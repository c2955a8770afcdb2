package control

import (
	"net"
	"syscall"
)

// Windows has error numbers of its own for sockets, which the names in syscall
// do not stand for.
const (
	connRefused = syscall.Errno(10061) // WSAECONNREFUSED
	addrInUse   = syscall.Errno(10048) // WSAEADDRINUSE
	oddSockets  = true                 // a socket is a reparse point of the file system
)

// listenPrivate relies on the directory: a home is its user's alone.
func listenPrivate(path string) (net.Listener, error) { return net.Listen("unix", path) }

func checkDir(string) error { return nil }
