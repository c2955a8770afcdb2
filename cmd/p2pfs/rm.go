package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

func rmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm SOURCE",
		Short: "Take something out of a volume, or delete what was put from this home",
		Long: `rm NAME:PATH takes a file, or a directory with all that is below it, out of a volume.
The volume's past keeps it: NAME@N:PATH, as 'p2pfs volume log' has N. What it takes
in space goes with the snapshots that have it, by 'p2pfs volume prune'.

rm LINK deletes what a link leads to, if it was put from this home, for good: the
volume mine forgets it, its past too, and holders drop the packs that nothing else put
from here refers to, and give the space back within minutes. Holders that are away
hear of it from the others when they return. There is no way back, though the same
put again gives the same link.`,
		Example: `  p2pfs rm docs:2026/draft.txt
  p2pfs rm LINK
  p2pfs rm --json LINK`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("rm "+showSource(args[0]), a.remove(c.Context(), args[0]))
		},
	}
}

func (a *app) remove(ctx context.Context, text string) error {
	s, err := parseSource(text)
	if err == nil {
		err = checkRemove(s)
	}
	if err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		res, err := api.Remove(ctx, text)
		if err != nil {
			return err
		}
		if a.json {
			if err := a.printJSON(res); err != nil {
				return err
			}
		} else if s.place.Volume != "" {
			a.say("removed %s; its space is given back when no snapshot has it: 'p2pfs volume prune %s'", show(text), s.place.Volume)
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

// checkRemove refuses what is not for rm to remove.
func checkRemove(s source) error {
	switch s.link.Kind {
	case volume.KindVerify:
		return refusedf("", "a verify link lets nothing be removed")
	case volume.KindVolumeRead, volume.KindVolumeVerify, volume.KindVolumeWrite:
		return refusedf("NAME:PATH removes something from a volume, 'p2pfs volume drop NAME --delete' all of it", "a volume is not removed by its link")
	}
	if s.place.Volume != "" && s.place.Path == "" {
		return usagef("'p2pfs volume drop "+s.place.Volume+" --delete' deletes a volume", "it is all of a volume")
	}
	return checkChange(s.place)
}
