package main

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

const (
	noFollow    = 0
	removesOpen = false // what is open cannot be removed
)

// lockFile locks an open file until closeLocked, also against others that this
// process has open.
func lockFile(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	// A byte far behind its end: others can read what it holds.
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{OffsetHigh: 1 << 30})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return errLocked
	}
	return err
}

// closeLocked closes a file that lockFile has locked.
func closeLocked(f *os.File) error { return f.Close() }

// ours tells whether a file or directory is this user's: it is where others
// cannot write, or they were let in.
func ours(fs.FileInfo) bool { return true }
