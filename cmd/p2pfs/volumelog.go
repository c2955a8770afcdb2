package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func volumeLogCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "log NAME",
		Short: "List the heads of a volume, its present and its past",
		Long: `log lists the heads of a volume, the newest first: the number N with which
NAME@N:PATH is how it was, when it was written and by which peer. Where two have one
number, because two wrote at once, it is N-HASH. A snapshot stays until it is pruned;
a commit, as a mount makes them, goes by itself in a while.

People are shown the last 8 characters of peer IDs and the first 8 of hashes, with -v
and --json all of them.`,
		Example: `  p2pfs volume log docs
  p2pfs ls docs@7:2026`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NotFound, node.Short, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withVolume(c, args[0], func(ctx context.Context, api control.API) error {
				heads, err := api.VolumeLog(ctx, args[0])
				if err != nil {
					return err
				}
				return a.printLog(heads)
			})
		},
	}
}

// shownHash is how much of a hash people are shown: its first digits.
const shownHash = 8

func (a *app) printLog(heads []node.HeadInfo) error {
	if a.json {
		if heads == nil {
			heads = []node.HeadInfo{}
		}
		return a.printJSON(heads)
	}
	with := make(map[uint64]int) // heads that have a number
	for _, h := range heads {
		with[h.Number]++
	}
	t := a.table()
	t.row("HEAD", "TIME", "WRITER", "KIND")
	for _, h := range heads {
		head, writer, kind := strconv.FormatUint(h.Number, 10), shortPeer(h.Peer), "commit"
		switch {
		case a.verbose:
			head, writer = head+"-"+h.Hash, h.Peer
		case with[h.Number] > 1:
			head += "-" + h.Hash[:min(len(h.Hash), shownHash)]
		}
		if h.Snapshot {
			kind = "snapshot"
		}
		if h.Current {
			kind += ", current"
		}
		t.row(head, headTime(h.Time), orDash(writer), kind)
	}
	return t.end()
}
