package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func mkdirCommand(a *app) *cobra.Command {
	var parents bool
	c := &cobra.Command{
		Use:   "mkdir [-p] NAME:PATH",
		Short: "Make a directory in a volume",
		Long: `mkdir makes an empty directory in a volume. With -p it makes those above it too
where they are missing, and it is no error that there is one already. put makes the
directory that it puts into by itself.`,
		Example: `  p2pfs mkdir docs:2026
  p2pfs mkdir -p docs:2026/11/24`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("mkdir "+showSource(args[0]), a.mkdir(c.Context(), args[0], parents))
		},
	}
	c.Flags().BoolVarP(&parents, "parents", "p", false, "those above it too; it may be there already")
	return c
}

// mkdirLine is what mkdir prints with --json.
type mkdirLine struct {
	Path string `json:"path"`
}

func (a *app) mkdir(ctx context.Context, place string, parents bool) error {
	p, err := parseChange(place)
	if err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		if err := api.Mkdir(ctx, place, parents); err != nil || !a.json {
			return err
		}
		return a.printJSON(mkdirLine{Path: p.String()})
	})
}
