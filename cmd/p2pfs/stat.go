package main

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func statCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "stat SOURCE",
		Short: "Say what a link or path leads to and how safe it is now",
		Long: `stat says what SOURCE leads to, and how safe it is: the holders of every
pack have to show a sample of what they have, and those that do are counted. A pack
needs any k of its n shards; the line "survives" is how many holders more may be
lost before the file is. 'p2pfs health' tells it pack by pack.`,
		Example: `  p2pfs stat LINK
  p2pfs stat --json LINK
  p2pfs stat docs:2026`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NotFound, node.Short, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("stat "+showSource(args[0]), a.stat(c.Context(), args[0]))
		},
	}
}

func (a *app) stat(ctx context.Context, source string) error {
	if err := checkSource(source); err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		s, err := api.Stat(ctx, source)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(s)
		}
		return a.printStat(s)
	})
}

func (a *app) printStat(s node.Stat) error {
	t := a.table()
	t.row("kind", s.Kind)
	if s.Kind == "file" || s.Kind == "tree" {
		if s.Name != "" {
			t.row("name", s.Name)
		}
		t.row("mode", fs.FileMode(s.Mode).Perm().String())
		t.row("modified", s.ModTime.Local().Format(time.RFC3339))
	}
	t.row("size", fmt.Sprintf("%s (%d bytes)", formatSize(s.Bytes), s.Bytes))
	t.row("packs", strconv.Itoa(s.Packs))
	unknown := ""
	if s.Unknown > 0 {
		unknown = fmt.Sprintf(", %d unknown", s.Unknown)
	}
	t.row("shards", fmt.Sprintf("%d live of %d, %d needed%s", s.Live, s.N, s.K, unknown))
	t.row("survives", further(s.Survives))
	if !s.Expires.IsZero() {
		t.row("expires", s.Expires.Local().Format(time.RFC3339))
	}
	return t.end()
}
