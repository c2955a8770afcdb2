package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func repairCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "repair SOURCE",
		Short: "Check every shard now, rebuild what is missing",
		Long: `repair asks for a sample of every shard of SOURCE now, rebuilds those that are
missing and places them on other peers, up to n of each pack, whether their repair
is due or not. A verify link is enough. Holders repair by themselves what gets
thin; this is for those who do not want to wait for them.`,
		Example: `  p2pfs repair LINK
  p2pfs repair docs:
  p2pfs repair --json LINK`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("repair "+showSource(args[0]), a.repair(c.Context(), args[0]))
		},
	}
}

func (a *app) repair(ctx context.Context, source string) error {
	if err := checkSource(source); err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		p := a.progressOf("repair", "packs")
		defer p.end()
		res, err := api.Repair(ctx, source, func(n node.RepairProgress) {
			p.update(node.Progress{Done: int64(n.Done), Total: int64(n.Total)})
		})
		if err != nil {
			return err
		}
		p.end()
		return a.repaired(res)
	})
}

// repaired tells of a repair that has ended. Of packs of which too little is
// left nothing could be repaired: that comes before what is partly done.
func (a *app) repaired(res node.RepairResult) error {
	if a.json {
		if err := a.printJSON(res); err != nil {
			return err
		}
	} else {
		a.say("checked %s of %s, rebuilt %d, moved %s in %s", count(res.Checked, "shard"), count(res.Packs, "pack"), res.Rebuilt,
			formatSize(res.Bytes), formatDuration(time.Duration(res.Seconds*float64(time.Second))))
		if res.Unplaced > 0 {
			a.warn("%s found no peer that takes them: more peers, or more space, are needed", count(res.Unplaced, "shard"))
		}
		if res.Lost > 0 {
			a.warn("of %s too few shards can be reached to restore them", count(res.Lost, "pack"))
		}
	}
	switch {
	case res.Lost > 0:
		return quietError(node.Short)
	case res.Partial, res.Unplaced > 0:
		return quietError(node.Partial)
	}
	return nil
}
