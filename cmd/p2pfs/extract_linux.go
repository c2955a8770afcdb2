package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/p2pfs/p2pfs/volume"
)

// syncsAll tells that syncAll makes all durable at once, which for many small
// files is far less work than one after the other.
const syncsAll = true

func syncAll(at *os.Root) error {
	return inRoot(at, unix.Syncfs)
}

// renameNew renames to a name that is free.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // the file system cannot do that
		return renameFree(from, to)
	}
	return err
}

// makeNode makes a pipe or a device.
func makeNode(at *os.Root, name string, e volume.Entry) error {
	kind := uint32(unix.S_IFIFO)
	switch e.Kind {
	case volume.CharEntry:
		kind = unix.S_IFCHR
	case volume.BlockEntry:
		kind = unix.S_IFBLK
	}
	return inRoot(at, func(fd int) error { return unix.Mknodat(fd, name, kind|0o600, int(e.Device)) })
}

// linkTime sets the time of a symbolic link itself.
func linkTime(at *os.Root, name string, mtime time.Time) error {
	ts, err := unix.TimeToTimespec(mtime)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, ts}
	return inRoot(at, func(fd int) error { return unix.UtimesNanoAt(fd, name, times, unix.AT_SYMLINK_NOFOLLOW) })
}

// inRoot calls f with the descriptor of a directory.
func inRoot(at *os.Root, f func(fd int) error) error {
	d, err := at.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	return withFD(d, f)
}

func withFD(file *os.File, f func(fd int) error) error {
	c, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
