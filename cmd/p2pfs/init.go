package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/node"
)

// inviteLife is how long an invite is good for unless said otherwise: long
// enough for a mail to be read, short enough for one that got lost.
const inviteLife = 7 * 24 * time.Hour

func initCommand(a *app) *cobra.Command {
	var f flagSettings
	var open bool
	c := &cobra.Command{
		Use:   "init [--open] [--zone Z] [--capacity SIZE] [--listen ADDR]...",
		Short: "Make a home and a new private network",
		Long: `init makes a home, with the keys and settings of a node, and a new network of
which it is the first member. It prints an invite, good for 7 days, with which
others join; 'p2pfs invite' makes more. Only who was invited gets in. With
--open the network has no key: whoever knows its ID may join, nobody can be
expelled, and its invite, which says where to find this node, does not expire.

It says which files to keep a copy of in a safe place: they are this node's
place in the network and the rights to what is stored from here.`,
		Example: `  p2pfs init
  p2pfs init --zone attic --capacity 500GiB --listen :4017
  p2pfs --home /srv/p2pfs init >invite.txt`,
		Args:                  arguments(0, 0),
		Annotations:           exits(),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return about("init", a.init(c.Context(), open, &f))
		},
	}
	c.Flags().BoolVar(&open, "open", false, "make a network that everybody may join who knows its ID")
	f.addHome(c)
	return c
}

// createdLine is what init and join print with --json.
type createdLine struct {
	Home    string   `json:"home"`
	ID      string   `json:"id"`
	Network string   `json:"network,omitempty"`
	Backup  []string `json:"backup"`
	Invite  string   `json:"invite,omitempty"`
}

func (a *app) init(ctx context.Context, open bool, f *flagSettings) error {
	h, s, err := a.newHome(ctx, f, true)
	if err != nil {
		return err
	}
	created, err := node.Init(h, open)
	if err != nil {
		return err
	}
	invite, err := node.MakeInvite(h, inviteLife, s.Listen)
	if err != nil {
		return fmt.Errorf("the home is made, an invite is not: %w", err)
	}
	if a.json {
		return a.printJSON(createdLine{Home: h.Config, ID: created.PeerID, Network: created.Network, Backup: created.Files, Invite: invite})
	}
	a.say("home %s, peer %s, network %.8s", show(h.Config), created.PeerID, created.Network)
	a.backup(created.Files)
	if open {
		a.say("run the node with 'p2pfs node'; others join, here or by other invites, with this one:")
	} else {
		a.say("run the node with 'p2pfs node'; others join with this invite, good for %s:", formatDuration(inviteLife))
	}
	return a.print("%s", invite)
}

// backup says which files of a new home to keep a copy of.
func (a *app) backup(files []string) {
	a.say("keep a copy of these files in a safe place:")
	for _, f := range files {
		a.say("  %s", show(f))
	}
}

// newHome gets the place ready where a home is to be made: it writes its
// config.toml, or takes the one that lies there. With fix, ports are chosen even
// where the flags leave them open.
func (a *app) newHome(ctx context.Context, f *flagSettings, fix bool) (node.Home, settings, error) {
	h, _, err := a.whichHome()
	if err != nil {
		return h, settings{}, err
	}
	if h.Exists() {
		return h, settings{}, &node.Error{
			Code: node.Failed,
			Hint: "use another --home, or remove this one if nothing in it is needed",
			Err:  fmt.Errorf("%s is a home already", show(h.Config)),
		}
	}
	s, from, err := loadSettings(h, f)
	if err != nil {
		return h, s, err
	}
	if _, err := os.Lstat(h.ConfigFile()); err == nil {
		for _, key := range []string{keyZone, keyCapacity, keyListen} {
			if from[key] == fromFlag {
				return h, s, usagef("write it there, or move that file away", "--%s: %s is there already and would not have it", key, show(h.ConfigFile()))
			}
		}
		return h, s, nil
	}
	if fix || from[keyListen] == fromDefault {
		if s.Listen, err = fixPorts(ctx, s.Listen); err != nil {
			return h, s, err
		}
		from[keyListen] = fromInit
	}
	return h, s, writeConfig(h.ConfigFile(), s, from)
}
