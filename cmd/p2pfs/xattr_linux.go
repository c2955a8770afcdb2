package main

import (
	"bytes"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/p2pfs/p2pfs/volume"
)

// xattrsOf reads the extended attributes of what is at path, itself, in the
// order of their names. Those that we may not read are none.
func xattrsOf(path string) ([]volume.Xattr, error) {
	list, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if err != nil || len(list) == 0 {
		return nil, xattrError(err)
	}
	var all []volume.Xattr
	for name := range bytes.SplitSeq(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(path, string(name), b) })
		if errors.Is(err, unix.ENODATA) || xattrError(err) == nil && err != nil {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, volume.Xattr{Name: name, Value: value})
	}
	slices.SortFunc(all, func(a, b volume.Xattr) int { return bytes.Compare(a.Name, b.Name) })
	return all, nil
}

// grow calls get with a buffer that is long enough.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		n, err = get(b)
		if errors.Is(err, unix.ERANGE) { // it has grown meanwhile
			continue
		}
		return b[:max(n, 0)], err
	}
}

// setXattr gives an attribute to what is open.
func setXattr(f *os.File, x volume.Xattr) error {
	err := withFD(f, func(fd int) error { return unix.Fsetxattr(fd, string(x.Name), x.Value, 0) })
	return xattrError(err)
}

// xattrError is nil for what is not an error here, as tar has it: file systems
// that keep no attributes, and those that only some may have.
func xattrError(err error) error {
	for _, e := range []error{unix.EPERM, unix.EACCES, unix.ENOTSUP, unix.EINVAL} {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
