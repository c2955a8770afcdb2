//go:build !linux

package main

import (
	"fmt"
	"os"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

const syncsAll = false

func syncAll(*os.Root) error { return nil }

func renameNew(from, to string) error { return renameFree(from, to) }

func makeNode(*os.Root, string, volume.Entry) error {
	return fmt.Errorf("pipes and devices are made on Linux only: %w", node.ErrLeftOut)
}

// linkTime leaves the time as it is: os has nothing that sets it.
func linkTime(*os.Root, string, time.Time) error { return nil }
