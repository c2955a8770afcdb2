package main

import (
	"context"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

// keepOptions are the rules of a prune.
type keepOptions struct {
	last, hourly, daily, weekly, monthly, yearly countFlag
	within                                       durationFlag
	now                                          bool
}

func volumePruneCommand(a *app) *cobra.Command {
	var o keepOptions
	c := &cobra.Command{
		Use:   "prune NAME [--keep-last N] [--keep-daily N]... [--keep-within D] [--now]",
		Short: "Remove snapshots of a volume that no rule keeps, and what only they have",
		Long: `prune removes the snapshots of a volume that no rule keeps; the newest always stays.
--keep-daily 7 keeps the last snapshot of each of the newest 7 days that have one, in
this machine's time; the others are alike. --keep-last 3 keeps the newest 3,
--keep-within 30d all of the 30 days before the newest. Rules add up: what one of them
keeps stays.

Packs to which nothing refers any more are marked, and dropped after 48 hours: what
somebody else writes into the volume meanwhile may still need them. --now drops at
once those that are marked and those that this prune frees. Without a rule --now
removes no snapshot.`,
		Example: `  p2pfs volume prune docs --keep-daily 7 --keep-weekly 4 --keep-yearly 10
  p2pfs volume prune mine --keep-within 90d --now`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			q, err := o.request()
			if err != nil {
				return about(nameOf(c)+" "+showSource(args[0]), err)
			}
			return a.withVolume(c, args[0], func(ctx context.Context, api control.API) error {
				res, err := api.VolumePrune(ctx, args[0], q)
				if err != nil {
					return err
				}
				return a.pruned(res)
			})
		},
	}
	f := c.Flags()
	f.Var(&o.last, "keep-last", "keep the newest N snapshots")
	f.Var(&o.hourly, "keep-hourly", "keep the last of each of the newest N hours that have any")
	f.Var(&o.daily, "keep-daily", "keep the last of each of the newest N days that have any")
	f.Var(&o.weekly, "keep-weekly", "keep the last of each of the newest N weeks that have any")
	f.Var(&o.monthly, "keep-monthly", "keep the last of each of the newest N months that have any")
	f.Var(&o.yearly, "keep-yearly", "keep the last of each of the newest N years that have any")
	f.Var(&o.within, "keep-within", "keep all of that time before the newest, such as 30d")
	f.BoolVar(&o.now, "now", false, "drop what nothing refers to at once, not after 48 hours")
	return c
}

// countFlag is a flag that holds a number of things, one at least.
type countFlag int

func (f *countFlag) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > math.MaxInt32 {
		return errors.New("want a whole number, 1 or more")
	}
	*f = countFlag(n)
	return nil
}

func (f *countFlag) String() string {
	if *f == 0 {
		return ""
	}
	return strconv.Itoa(int(*f))
}

func (f *countFlag) Type() string { return "N" }

// request gives the rules as the node takes them. None at all would keep only
// the newest, which nobody means.
func (o *keepOptions) request() (node.PruneRequest, error) {
	q := node.PruneRequest{Now: o.now}
	q.Policy.Last, q.Policy.Hourly, q.Policy.Daily = int(o.last), int(o.hourly), int(o.daily)
	q.Policy.Weekly, q.Policy.Monthly, q.Policy.Yearly = int(o.weekly), int(o.monthly), int(o.yearly)
	q.Policy.Within = time.Duration(o.within)
	if q.Policy.Empty() && !q.Now {
		return q, usagef("say what is to stay, such as --keep-daily 7 --keep-within 30d; --now alone drops what was pruned before", "no rule says which snapshots stay")
	}
	return q, nil
}

// pruned tells of a prune that has ended.
func (a *app) pruned(res node.PruneResult) error {
	if !a.json {
		a.say("kept %s, removed %d", count(res.Kept, "snapshot"), res.Removed)
		if res.Dying > 0 {
			a.say("dying: %s to which nothing refers any more, gone in 48 hours", count(res.Dying, "pack"))
		}
		if res.Dropped > 0 {
			a.say("dropped %s, %s", count(res.Dropped, "pack"), formatSize(res.Bytes))
		}
	}
	return a.endPrune(res, "prune again")
}
