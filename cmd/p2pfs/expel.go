package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func expelCommand(a *app) *cobra.Command {
	var withInvited bool
	c := &cobra.Command{
		Use:   "expel PEER [--with-invited]",
		Short: "Shut a peer out of the network",
		Long: `expel shuts a peer out of the network: no member will speak to it any more. Only
the founder's home can. PEER is a peer ID, or its last 8 characters as 'p2pfs
peers' prints them.`,
		Example: `  p2pfs expel 12D3KooWQYhTNQdmr3ArTeUHRYzFg94BKyTkoWBDWez9kSCVe2Xo
  p2pfs expel SCVe2Xoq --with-invited`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NotFound, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("expel "+show(args[0]), a.withNode(c.Context(), func(ctx context.Context, api control.API) error {
				if err := api.Expel(ctx, args[0], withInvited); err != nil {
					return err
				}
				a.say("peer %s is expelled", show(args[0]))
				return nil
			}))
		},
	}
	c.Flags().BoolVar(&withInvited, "with-invited", false, "and all that it let in, directly or through others")
	return c
}
