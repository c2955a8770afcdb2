package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

// endWait bounds how long leave waits for a node that has left to end.
const endWait = 10 * time.Second

func leaveCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "leave",
		Short: "Hand every shard over, then end the node",
		Long: `leave has the node that runs on this home hand every shard it holds over to other
peers, then ends it: 'p2pfs node' exits with 0. Nothing gets thinner by it, and
nobody has to repair. What no other peer takes is said, and stays in the home: if
the node is started again, it holds that as before. Interrupted, the node goes on
with what it still has.`,
		Example: `  p2pfs leave
  p2pfs leave --json`,
		Args:                  arguments(0, 0),
		Annotations:           exits(node.Partial),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return about("leave", a.leave(c.Context()))
		},
	}
}

func (a *app) leave(ctx context.Context) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	c, err := running(h)
	if err != nil {
		return err
	}
	if c == nil {
		return &node.Error{
			Code: node.Failed,
			Hint: "start it with 'p2pfs node' and leave then: shards are handed over by a node that runs",
			Err:  fmt.Errorf("no node runs on home %s", show(h.Config)),
		}
	}
	defer c.Close()
	p := a.progressOf("leave", "shards")
	defer p.end()
	res, err := c.Leave(ctx, func(n node.LeaveProgress) {
		p.update(node.Progress{Done: int64(n.Done), Total: int64(n.Total)})
	})
	if err != nil {
		return err
	}
	p.end()
	if err := a.left(res); err != nil {
		return err
	}
	if err := nodeEnd(ctx, h); err != nil {
		return err
	}
	if res.Left > 0 {
		return quietError(node.Partial)
	}
	return nil
}

// left tells of a node that has left.
func (a *app) left(res node.LeaveResult) error {
	if a.json {
		return a.printJSON(res)
	}
	a.say("handed over %d of %s, %s", res.Handed, count(res.Shards, "shard"), formatSize(res.Bytes))
	if res.Left > 0 {
		a.warn("%s could not be handed over", count(res.Left, "shard"))
		for _, r := range res.Reasons {
			a.warn("%s", oneLine(r))
		}
	}
	return nil
}

// nodeEnd waits until no node answers on the home.
func nodeEnd(ctx context.Context, h node.Home) error {
	ctx, cancel := context.WithTimeout(ctx, endWait)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := control.Dial(h.Socket())
		if errors.Is(err, control.ErrNoNode) {
			return nil
		}
		if err == nil {
			_ = c.Close()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the shards are handed over, but the node has not ended: %w", context.Cause(ctx))
		}
	}
}
