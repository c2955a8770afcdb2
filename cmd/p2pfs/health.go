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

// shownPacks is how many packs health shows to people without -v: enough to
// see what is wrong, and short enough to be read.
const shownPacks = 10

func healthCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "health [SOURCE]",
		Short: "Say which packs are how safe, worst first",
		Long: `health says how many further losses packs survive, worst first, and which repairs
are under way: of the packs of SOURCE, for which a verify link is enough, or else
of those that this node holds shards of.

Of SOURCE a sample of each shard is asked for: it counts as live where its holder
gives a block of it that verifies, and as unknown where the holder cannot be asked.
'p2pfs stat' asks holders what they say they have; this is what they show.

Without SOURCE nobody is asked: it is what the node has seen. Shards of holders that
answer, and have failed no sample, count as live; unknown are those of them that have
given none yet. How old the oldest sample is, is shown in either case.`,
		Example: `  p2pfs health
  p2pfs health LINK
  p2pfs health docs:
  p2pfs health --json LINK`,
		Args:                  arguments(0, 1),
		Annotations:           exits(node.NotFound, node.Short, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			what, source := "health", ""
			if len(args) > 0 {
				source = args[0]
				what += " " + showSource(source)
				if err := checkSource(source); err != nil {
					return about(what, err)
				}
			}
			return about(what, a.withNode(c.Context(), func(ctx context.Context, api control.API) error {
				h, err := api.Health(ctx, source)
				if err != nil {
					return err
				}
				return a.printHealth(h)
			}))
		},
	}
}

func (a *app) printHealth(h node.Health) error {
	if a.json {
		if h.Levels == nil {
			h.Levels = []node.HealthLevel{}
		}
		if h.Worst == nil {
			h.Worst = []node.PackHealth{}
		}
		return a.printJSON(h)
	}
	of := map[string]string{"node": "what this node holds", "file": "a file", "tree": "a tree", "volume": "a volume", "verify": "what a verify link covers"}[h.Kind]
	if of == "" {
		of = h.Kind
	}
	t := a.table()
	t.row("health of", of)
	t.row("packs", fmt.Sprintf("%d, %s", h.Packs, formatSize(h.Bytes)))
	if h.Packs > 0 {
		t.row("survives", known(h.Survives, h.Unknown))
		t.row("worst pack", fmt.Sprintf("%d live of %d, %d needed, %s", h.Live, h.N, h.K, unknownShards(h.Unknown)))
		t.row("oldest sample", age(h.Verified))
	}
	t.row("repairs", fmt.Sprintf("%d under way", h.Repairs))
	if h.Unplaced > 0 {
		t.row("unplaced", count(h.Unplaced, "pack")+" in want of peers with space")
	}
	if err := t.end(); err != nil || h.Packs == 0 {
		return err
	}

	fmt.Fprintln(a.stdout)
	t = a.table()
	t.row("PACKS", "SURVIVE")
	for _, l := range h.Levels {
		words := further(l.Survives)
		if l.Survives < 0 {
			words = fmt.Sprintf("none, as far as is known: %s needed", count(-l.Survives, "more shard"))
		}
		t.row(strconv.Itoa(l.Packs), words)
	}
	if err := t.end(); err != nil {
		return err
	}
	return a.printPacks(h.Worst)
}

// printPacks lists the packs of which something is to be said.
func (a *app) printPacks(worst []node.PackHealth) error {
	var list []node.PackHealth
	for _, p := range worst {
		if a.verbose || p.Live < p.N || p.Repair != "" {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil
	}
	more := 0
	if !a.verbose && len(list) > shownPacks {
		more = len(list) - shownPacks
		list = list[:shownPacks]
	}
	fmt.Fprintln(a.stdout)
	t := a.table()
	t.row("PACK", "LIVE", "NEEDED", "UNKNOWN", "SURVIVES", "OLDEST SAMPLE", "REPAIR")
	for _, p := range list {
		id := p.ID
		if !a.verbose {
			id = id[:min(len(id), 8)]
		}
		t.row(id, fmt.Sprintf("%d of %d", p.Live, p.N), strconv.Itoa(p.K), strconv.Itoa(p.Unknown), known(p.Survives, p.Unknown), age(p.Verified), orDash(p.Repair))
	}
	if err := t.end(); err != nil {
		return err
	}
	if more > 0 {
		a.say("%d more below n; -v shows up to 100, and whole IDs", more)
	}
	return nil
}

// known is further where some shards are neither known to be there nor to be
// gone: what they could make up for is not lost.
func known(survives, unknown int) string {
	if survives < 0 && survives+unknown >= 0 {
		return "unknown: " + count(-survives, "more shard") + " to be verified"
	}
	return further(survives)
}

// further says in words how many further losses are survived.
func further(n int) string {
	switch {
	case n < 0:
		return "not restorable now: " + count(-n, "more shard") + " needed"
	case n == 0:
		return "no further loss"
	case n == 1:
		return "any 1 further loss"
	}
	return fmt.Sprintf("any %d further losses", n)
}

func unknownShards(n int) string {
	if n == 0 {
		return "none unknown"
	}
	return fmt.Sprintf("%d unknown", n)
}

// age says how long ago something was verified.
func age(t time.Time) string {
	if t.IsZero() {
		return "none yet"
	}
	return formatDuration(max(0, time.Since(t))) + " ago"
}
