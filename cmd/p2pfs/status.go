package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func statusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Describe this node",
		Long: `status describes the node of this home: its network, whether peers can reach it,
how much it keeps for others and has free, its traffic, and how its repairs and
audits go.`,
		Example: `  p2pfs status
  p2pfs status --json`,
		Args:        arguments(0, 0),
		Annotations: exits(),
		RunE: func(c *cobra.Command, _ []string) error {
			return about("status", a.withNode(c.Context(), func(ctx context.Context, api control.API) error {
				s, err := api.Status(ctx)
				if err != nil {
					return err
				}
				return a.printStatus(s)
			}))
		},
	}
}

func (a *app) printStatus(s node.Status) error {
	if s.Addrs == nil {
		s.Addrs = []string{}
	}
	if a.json {
		return a.printJSON(s)
	}
	network := fmt.Sprintf("%.8s, private", s.Network)
	switch {
	case s.Open:
		network = fmt.Sprintf("%.8s, open to everybody", s.Network)
	case s.Founder:
		network += ", founded here"
	}
	state := "running for " + formatDuration(time.Duration(s.Seconds*float64(time.Second)))
	if !s.Running {
		state = "not running: a client was started for this command"
	}
	capacity := "what the disk has"
	if s.CapacityBytes > 0 {
		capacity = formatSize(s.CapacityBytes)
	}
	t := a.table()
	t.row("peer", s.ID)
	t.row("node", state)
	t.row("version", s.Version)
	t.row("network", network)
	t.row("reachability", s.Reachability)
	for i, addr := range s.Addrs {
		label := ""
		if i == 0 {
			label = "addresses"
		}
		t.row(label, addr)
	}
	t.row("zone", orDash(s.Zone))
	t.row("peers", strconv.Itoa(s.Peers))
	t.row("shards", strconv.Itoa(s.Shards))
	t.row("held", formatSize(s.HeldBytes))
	t.row("capacity", capacity)
	t.row("free", formatSize(s.FreeBytes))
	t.row("sent", formatSize(s.SentBytes))
	t.row("received", formatSize(s.ReceivedBytes))
	repairs := fmt.Sprintf("%d under way, %d due, %d done", s.Repairs, s.Due, s.Repaired)
	if s.RepairFailed > 0 {
		repairs += fmt.Sprintf(", %d failed", s.RepairFailed)
	}
	if s.Unplaced > 0 {
		repairs += fmt.Sprintf(", %d in want of peers with space", s.Unplaced)
	}
	t.row("repairs", repairs)
	t.row("audits", fmt.Sprintf("%d, %d failed", s.Audits, s.AuditFailed))
	t.row("suspected", strconv.Itoa(s.Suspected)+" of the peers it shares packs with do not answer")
	return t.end()
}
