package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func rmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm SOURCE",
		Short: "Delete what was put from this home",
		Long: `rm deletes what a link leads to, if it was put from this home: holders drop the
packs that nothing else put from here refers to, and give the space back within
minutes. Holders that are away hear of it from the others when they return. There
is no way back, though the same put again gives the same link.`,
		Example: `  p2pfs rm LINK
  p2pfs rm --json LINK`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("rm "+showSource(args[0]), a.remove(c.Context(), args[0]))
		},
	}
}

func (a *app) remove(ctx context.Context, source string) error {
	if err := checkSource(source); err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		res, err := api.Remove(ctx, source)
		if err != nil {
			return err
		}
		if a.json {
			if err := a.printJSON(res); err != nil {
				return err
			}
		} else {
			a.say("deleted %s, %s", count(res.Packs, "pack"), formatSize(res.Bytes))
			if res.Kept > 0 {
				them := "them"
				if res.Kept == 1 {
					them = "it"
				}
				a.say("%s kept: something else refers to %s", count(res.Kept, "pack"), them)
			}
		}
		if res.Partial {
			a.say("no holder could be told of %s: remove it again when more of them are online", count(res.Untold, "pack"))
			return quietError(node.Partial)
		}
		return nil
	})
}
