//go:build !linux

package main

import (
	"os"

	"github.com/p2pfs/p2pfs/volume"
)

// xattrsOf gives none: only on Linux do we know what they mean.
func xattrsOf(string) ([]volume.Xattr, error) { return nil, nil }

func setXattr(*os.File, volume.Xattr) error { return nil }
