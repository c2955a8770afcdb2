package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

func mvCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "mv NAME:PATH NAME:PATH",
		Short: "Move or rename something in a volume",
		Long: `mv gives a file, or a directory with all that is below it, another path in the same
volume. Nothing is sent but what changes in directories. From one volume to another
it is get, put and rm, for each has keys of its own.`,
		Example: `  p2pfs mv docs:draft.txt docs:2026/report.txt
  p2pfs mv mine:put/2026-11-24/photos mine:photos`,
		Args:                  arguments(2, 2),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("mv "+showSource(args[0])+" "+showSource(args[1]), a.mv(c.Context(), args[0], args[1]))
		},
	}
}

// mvLine is what mv prints with --json.
type mvLine struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func (a *app) mv(ctx context.Context, from, to string) error {
	src, dst, err := parseMove(from, to)
	if err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		if err := api.Move(ctx, from, to); err != nil || !a.json {
			return err
		}
		return a.printJSON(mvLine{From: src.String(), To: dst.String()})
	})
}

func parseMove(from, to string) (src, dst volume.Place, err error) {
	if src, err = parseChange(from); err != nil {
		return src, dst, err
	}
	if dst, err = parseChange(to); err != nil {
		return src, dst, err
	}
	switch {
	case src.Volume != dst.Volume:
		err = usagef("get it, put it there, and rm it here", "%s and %s are two volumes", src.Volume, dst.Volume)
	case src.Path == "":
		err = usagef("", "%s is all of a volume, which cannot be moved", src)
	}
	return src, dst, err
}
