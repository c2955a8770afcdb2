//go:build unix

package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

const (
	connRefused = syscall.ECONNREFUSED
	addrInUse   = syscall.EADDRINUSE
	oddSockets  = false // the file system calls a socket a socket
)

// listenPrivate listens on a socket that is this user's alone from its first
// moment on.
func listenPrivate(path string) (net.Listener, error) {
	old := syscall.Umask(0o077)
	ln, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// checkDir refuses a socket in a directory that is somebody else's, or that
// everybody can write to: they could have put a socket of their own there and be
// given files in the clear. A directory under /tmp is made by whoever comes first.
func checkDir(path string) error {
	dir := filepath.Dir(path)
	i, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket %s: %w", path, ErrNoNode)
	}
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if i.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("control socket: everybody can write to directory %s", dir)
	}
	owner, ok := ownerOf(i)
	if !ok || owner == os.Geteuid() {
		return nil
	}
	// Root's directories are no danger to a user, nor are a user's to root
	// (a volume of a container, say) but where everybody can make some.
	parent, err := os.Stat(filepath.Dir(dir))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if parent.Mode().Perm()&0o002 != 0 || owner != 0 && os.Geteuid() != 0 {
		return fmt.Errorf("control socket: directory %s belongs to somebody else", dir)
	}
	return nil
}

func ownerOf(i fs.FileInfo) (uid int, ok bool) {
	st, ok := i.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(st.Uid), true
}
