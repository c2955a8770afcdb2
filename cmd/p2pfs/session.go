package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

// whichHome is the home that --home, P2PFS_HOME or else the XDG places name,
// and where that came from.
func (a *app) whichHome() (node.Home, string, error) {
	dir, from := a.home, fromFlag
	if dir == "" {
		dir, from = os.Getenv("P2PFS_HOME"), fromEnv
	}
	if dir == "" {
		h, err := node.DefaultHome()
		return h, fromDefault, err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return node.Home{}, from, fmt.Errorf("--home %s: %w", dir, err)
	}
	return node.HomeAt(abs), from, nil
}

// openHome is the home, which must be there.
func (a *app) openHome() (node.Home, error) {
	h, _, err := a.whichHome()
	if err == nil && !h.Exists() {
		err = node.ErrNoHome(h)
	}
	return h, err
}

// running gives a client of the node that runs on the home; nil without an
// error where none does.
func running(h node.Home) (*control.Client, error) {
	c, err := control.Dial(h.Socket())
	if errors.Is(err, control.ErrNoNode) {
		return nil, nil
	}
	return c, err
}

// withNode has f work with the home's node: the one that runs, or else one
// started here, as a client that keeps nothing for others.
func (a *app) withNode(ctx context.Context, f func(context.Context, control.API) error) error {
	h, err := a.openHome()
	if err != nil {
		return err
	}
	c, err := running(h)
	if err != nil {
		return err
	}
	if c != nil {
		defer c.Close()
		return f(ctx, c)
	}
	s, _, err := loadSettings(h, nil)
	if err != nil {
		return err
	}
	cfg := s.config()
	cfg.Client, cfg.Version, cfg.Log = true, programVersion().String(), a.logger(slog.LevelWarn)
	cfg.Metrics = "" // of a node that stays
	n, err := node.Open(h, cfg)
	if err != nil {
		return err
	}
	defer n.Close()
	return runNode(ctx, n, func(ctx context.Context) error { return f(ctx, n) })
}

// runNode runs n while f works, from when it is ready on, and gives f's error
// or that of a node that ended by itself.
func runNode(ctx context.Context, n *node.Node, f func(context.Context) error) error {
	nodeCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		err := n.Run(nodeCtx)
		cancel() // f cannot go on without it
		ended <- err
	}()
	var err error
	select {
	case <-n.Ready():
		err = f(work)
	case <-work.Done():
		err = work.Err()
	}
	gone := work.Err() != nil && ctx.Err() == nil
	stop()
	if nodeErr := <-ended; gone && nodeErr != nil {
		return fmt.Errorf("the node ended: %w", nodeErr)
	}
	return err
}
