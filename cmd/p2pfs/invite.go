package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/node"
)

func inviteCommand(a *app) *cobra.Command {
	expires := durationFlag(inviteLife)
	c := &cobra.Command{
		Use:   "invite [--expires D]",
		Short: "Print an invite to this network",
		Long: `invite prints an invite with which others join this network, one line. Any
member can invite; its node need not run, but if it does, the invite has the
addresses at which peers see it. Whoever has the invite can join until it
expires, any number of times: send it to people, not to places.`,
		Example: `  p2pfs invite
  p2pfs invite --expires 2h`,
		Args:                  arguments(0, 0),
		Annotations:           exits(node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return about("invite", a.invite(c.Context(), time.Duration(expires)))
		},
	}
	c.Flags().Var(&expires, "expires", "how long it is good for, such as 2h or 30d")
	return c
}

func (a *app) invite(ctx context.Context, life time.Duration) error {
	if life <= 0 {
		return usagef("", "--expires: an invite must be good for some time")
	}
	h, err := a.openHome()
	if err != nil {
		return err
	}
	c, err := running(h)
	if err != nil {
		return err
	}
	var text string
	if c != nil {
		defer c.Close()
		text, err = c.Invite(ctx, life)
	} else {
		var s settings
		if s, _, err = loadSettings(h, nil); err == nil {
			text, err = node.MakeInvite(h, life, s.Listen)
		}
	}
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]string{"invite": text})
	}
	return a.print("%s", text)
}
