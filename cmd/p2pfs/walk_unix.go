//go:build unix

package main

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/p2pfs/p2pfs/volume"
)

// noBlock has a pipe that takes a file's place not wait for who writes to it.
const noBlock = syscall.O_NONBLOCK

// fillEntry adds what only Unix knows: owner, device, other names, holes.
func fillEntry(e *volume.Entry, info fs.FileInfo) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	e.UID, e.GID = st.Uid, st.Gid
	switch e.Kind {
	case volume.FileEntry:
		e.Inode = uint64(st.Ino)
		if uint64(st.Nlink) > 1 {
			e.Group = groupOf(uint64(st.Dev), uint64(st.Ino))
		}
		e.Sparse = int64(st.Blocks) < (e.Size+511)/512
	case volume.CharEntry, volume.BlockEntry:
		e.Device = linuxDevice(unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	}
}

// groupOf gives files with several names a number of their own, never 0. Inodes
// count up: with an odd factor of 64 bits devices are far apart.
func groupOf(dev, inode uint64) uint64 {
	return max(1, inode+dev*0x9e3779b97f4a7c15)
}

// linuxDevice gives the number of a device as Linux encodes it.
func linuxDevice(major, minor uint32) uint64 {
	a, b := uint64(major), uint64(minor)
	return b&0xff | a&0xfff<<8 | b&^0xff<<12 | a&^0xfff<<32
}
