package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/node"
)

func joinCommand(a *app) *cobra.Command {
	var f flagSettings
	c := &cobra.Command{
		Use:   "join INVITE [--zone Z] [--capacity SIZE] [--listen ADDR]...",
		Short: "Make a home in the network of an invite",
		Long: `join makes a home in the network that an invite is for: it reaches a member,
shows the invite, and keeps the certificate that it gets. Any member will do;
the one that made the invite need not be there any more.`,
		Example: `  p2pfs join INVITE
  p2pfs join INVITE --zone cellar --capacity 2TiB --listen :4017`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NoPeers, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("join", a.join(c.Context(), args[0], &f))
		},
	}
	f.addHome(c)
	return c
}

func (a *app) join(ctx context.Context, invite string, f *flagSettings) error {
	h, _, err := a.whichHome()
	if err != nil {
		return err
	}
	_, lerr := os.Lstat(h.ConfigFile())
	ours := errors.Is(lerr, fs.ErrNotExist) && !h.Exists()
	h, s, err := a.newHome(ctx, f, false)
	if err != nil {
		return err
	}
	id, err := node.Join(ctx, h, invite, node.Config{Settings: s.node(), Log: a.logger(slog.LevelWarn)})
	if err != nil {
		if ours {
			_ = os.Remove(h.ConfigFile()) // join may be tried again, with other flags
		}
		return err
	}
	files := h.SecretFiles()
	if a.json {
		return a.printJSON(createdLine{Home: h.Config, ID: id, Backup: files})
	}
	a.say("home %s, peer %s", show(h.Config), id)
	a.backup(files)
	a.say("run the node with 'p2pfs node'")
	return nil
}
