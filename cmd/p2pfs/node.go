package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func nodeCommand(a *app) *cobra.Command {
	var f flagSettings
	provisional := durationFlag(24 * time.Hour)
	c := &cobra.Command{
		Use:     "node [--zone Z] [--capacity SIZE] [--listen ADDR]... [--no-mdns] [--no-portmap] [--grace D] [--probe D] [--audit D] [--repair-rate SIZE] [--settle D] [--metrics ADDR] [--provisional D]",
		Aliases: []string{"daemon"},
		Short:   "Run the node of this home",
		Long: `node runs the node of this home in the foreground: it keeps shards for others and
does the work of the commands that are given on the same home. When it is ready
it prints one line, its peer ID and addresses; the log goes to stderr. SIGTERM or
^C ends it in order; after 'p2pfs leave' it ends by itself. Flags come before the
environment, that before config.toml.

For the packs it holds shards of, it asks the other holders whether they are there
(--probe), and now and then for a block of what they hold (--audit: how long it
takes until all have been asked once). What stays away for longer than --grace is
rebuilt on other peers, at once where little is left. In a real network these are
best left alone.`,
		Example: `  p2pfs node
  p2pfs --home /srv/p2pfs node --capacity 2TiB --listen :4017
  p2pfs node --repair-rate 5MB --metrics :4018`,
		Args:                  arguments(0, 0),
		Annotations:           exits(node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return about("node", a.node(c.Context(), &f, time.Duration(provisional)))
		},
	}
	f.addNode(c)
	c.Flags().Var(&provisional, "provisional", "how long shards of a put that gives no sign of life are kept")
	return c
}

// readyLine is what node prints with --json.
type readyLine struct {
	ID    string   `json:"id"`
	Addrs []string `json:"addrs"`
}

func (a *app) node(ctx context.Context, f *flagSettings, provisional time.Duration) error {
	if provisional <= 0 {
		return usagef("", "--provisional: must be some time")
	}
	h, err := a.openHome()
	if err != nil {
		return err
	}
	s, _, err := loadSettings(h, f)
	if err != nil {
		return err
	}
	log := a.logger(slog.LevelInfo)
	c := s.config()
	c.Version, c.ProvisionalTTL, c.Log = programVersion().String(), provisional, log
	n, err := node.Open(h, c)
	if err != nil {
		return err
	}
	// The home is locked now: a socket that is still there is a dead node's.
	ln, err := control.Listen(h.Socket())
	if err != nil {
		return errors.Join(err, n.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return control.Serve(ctx, ln, waiting{n, n.Ready()}, log) })
	g.Go(func() error {
		defer stop() // a node that has left ends all
		err := n.Run(ctx)
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	g.Go(func() error {
		select {
		case <-n.Ready():
			return a.ready(n)
		case <-ctx.Done():
			return nil
		}
	})
	return errors.Join(g.Wait(), n.Close())
}

// ready prints the one line of a node that is.
func (a *app) ready(n *node.Node) error {
	if a.json {
		return a.printJSON(readyLine{ID: n.ID(), Addrs: n.Addrs()})
	}
	return a.print("ready %s %s", n.ID(), strings.Join(n.Addrs(), " "))
}

// waiting is a node's API that lets those requests wait for peers that would
// fail on a node that has only just begun to look for them.
type waiting struct {
	control.API

	ready <-chan struct{}
}

func (w waiting) wait(ctx context.Context) error {
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w waiting) Put(ctx context.Context, q node.PutRequest, r io.Reader, progress func(node.Progress)) (node.PutResult, error) {
	if err := w.wait(ctx); err != nil {
		return node.PutResult{}, err
	}
	return w.API.Put(ctx, q, r, progress)
}

func (w waiting) Get(ctx context.Context, q node.GetRequest, begin func(node.FileInfo) (io.Writer, error), progress func(node.Progress)) error {
	if err := w.wait(ctx); err != nil {
		return err
	}
	return w.API.Get(ctx, q, begin, progress)
}

func (w waiting) Stat(ctx context.Context, source string) (node.Stat, error) {
	if err := w.wait(ctx); err != nil {
		return node.Stat{}, err
	}
	return w.API.Stat(ctx, source)
}

func (w waiting) Health(ctx context.Context, source string) (node.Health, error) {
	if err := w.wait(ctx); err != nil {
		return node.Health{}, err
	}
	return w.API.Health(ctx, source)
}

func (w waiting) Repair(ctx context.Context, source string, progress func(node.RepairProgress)) (node.RepairResult, error) {
	if err := w.wait(ctx); err != nil {
		return node.RepairResult{}, err
	}
	return w.API.Repair(ctx, source, progress)
}

func (w waiting) Leave(ctx context.Context, progress func(node.LeaveProgress)) (node.LeaveResult, error) {
	if err := w.wait(ctx); err != nil {
		return node.LeaveResult{}, err
	}
	return w.API.Leave(ctx, progress)
}

func (w waiting) Remove(ctx context.Context, source string) (node.RemoveResult, error) {
	if err := w.wait(ctx); err != nil {
		return node.RemoveResult{}, err
	}
	return w.API.Remove(ctx, source)
}

func (w waiting) Link(ctx context.Context, source string, verify bool) (string, error) {
	if err := w.wait(ctx); err != nil {
		return "", err
	}
	return w.API.Link(ctx, source, verify)
}
