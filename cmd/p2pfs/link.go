package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func linkCommand(a *app) *cobra.Command {
	var verify bool
	c := &cobra.Command{
		Use:   "link SOURCE [--verify]",
		Short: "Print a link to something, or one that lets nothing be read",
		Long: `link prints a link to SOURCE. To what is in a volume it is one to that as it is now,
which does not change with the volume; 'p2pfs volume link' prints one that does. With
--verify it is one with which its packs can be
checked and repaired, and nothing can be read: to be given to who looks after the
data without seeing it.`,
		Example: `  p2pfs link docs:2026/report.pdf
  p2pfs link LINK --verify
  p2pfs health $(p2pfs link LINK --verify)`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NotFound, node.Short, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("link "+showSource(args[0]), a.link(c.Context(), args[0], verify))
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "one that gives the right to check and repair, not to read")
	return c
}

// linkLine is what link prints with --json.
type linkLine struct {
	Link string `json:"link"`
}

func (a *app) link(ctx context.Context, source string, verify bool) error {
	if err := checkSource(source); err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		text, err := api.Link(ctx, source, verify)
		if err != nil {
			return err
		}
		return a.printLink(text)
	})
}

func (a *app) printLink(text string) error {
	if a.json {
		return a.printJSON(linkLine{Link: text})
	}
	return a.print("%s", text)
}
