//go:build unix

package main

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	noFollow    = syscall.O_NOFOLLOW
	removesOpen = true // what is open can be removed
)

// lockFile locks an open file until closeLocked, also against others that this
// process has open.
func lockFile(f *os.File) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB) }); err != nil {
		return err
	}
	if errors.Is(ferr, unix.EWOULDBLOCK) {
		return errLocked
	}
	return ferr
}

// closeLocked closes a file that lockFile has locked. A process that is being
// started has a copy of it for a moment, which would keep the lock.
func closeLocked(f *os.File) error {
	var ferr error
	if c, err := f.SyscallConn(); err == nil {
		ferr = c.Control(func(fd uintptr) { _ = unix.Flock(int(fd), unix.LOCK_UN) })
	}
	return errors.Join(ferr, f.Close())
}

// ours tells whether a file or directory is this user's, a file under no other
// name: in a directory like /tmp others can put something under ours.
func ours(i fs.FileInfo) bool {
	s, ok := i.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Geteuid() && (i.IsDir() || s.Nlink == 1)
}
