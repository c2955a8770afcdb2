package main

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func peersCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "List the known members of the network",
		Long: `peers lists the members of the network that this node knows: what they keep and
have free, how far they are, and who vouched for them. People are shown the last
8 characters of a peer ID, with -v and --json all of it.`,
		Example: `  p2pfs peers
  p2pfs peers --json`,
		Args:        arguments(0, 0),
		Annotations: exits(),
		RunE: func(c *cobra.Command, _ []string) error {
			return about("peers", a.withNode(c.Context(), func(ctx context.Context, api control.API) error {
				peers, err := api.Peers(ctx)
				if err != nil {
					return err
				}
				return a.printPeers(peers)
			}))
		},
	}
}

func (a *app) printPeers(peers []node.Peer) error {
	slices.SortFunc(peers, func(x, y node.Peer) int { return cmp.Compare(x.ID, y.ID) })
	if a.json {
		if peers == nil {
			peers = []node.Peer{}
		}
		return a.printJSON(peers)
	}
	id := shortPeer
	if a.verbose {
		id = func(s string) string { return s }
	}
	t := a.table()
	t.row("PEER", "STATE", "ZONE", "HELD", "FREE", "LATENCY", "SEEN", "VOUCHER", "ADDRESS")
	for _, p := range peers {
		state := "away"
		if p.Connected {
			state = "here"
		}
		held, free := formatSize(p.HeldBytes), formatSize(p.FreeBytes)
		if p.Client {
			held, free = "client", "-"
		}
		latency, seen, addr := "-", "-", "-"
		if p.LatencyMS > 0 {
			latency = strconv.FormatFloat(p.LatencyMS, 'f', 1, 64) + "ms"
		}
		switch {
		case p.Connected:
			seen = "now"
		case !p.LastSeen.IsZero():
			seen = formatDuration(max(0, time.Since(p.LastSeen))) + " ago"
		}
		if len(p.Addrs) > 0 {
			addr = p.Addrs[0]
		}
		t.row(id(p.ID), state, orDash(p.Zone), held, free, latency, seen, orDash(id(p.Voucher)), addr)
	}
	return t.end()
}

// shortPeerLen is how much of a peer ID people are shown: its end, for all
// begin alike.
const shortPeerLen = 8

func shortPeer(id string) string { return id[max(0, len(id)-shortPeerLen):] }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
