package main

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
)

func catCommand(a *app) *cobra.Command {
	var offset, length sizeFlag
	c := &cobra.Command{
		Use:   "cat SOURCE [--offset N] [--length N]",
		Short: "Write a file, or a part of it, to stdout",
		Long: `cat writes the bytes of a file to stdout. With --offset and --length it fetches
only the blocks that hold the range. A length that goes beyond the end of the file
gives what there is, an offset beyond it is an error. If the exit status is not 0, bytes are missing.`,
		Example: `  p2pfs cat LINK | tar -t
  p2pfs cat LINK --offset 1GiB --length 128KiB >part
  p2pfs cat docs:notes.txt`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NotFound, node.Short, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			q := node.GetRequest{Source: args[0], Offset: int64(offset), Length: -1}
			if c.Flags().Changed("length") {
				q.Length = int64(length)
			}
			return about("cat "+showSource(args[0]), a.cat(c.Context(), q))
		},
	}
	c.Flags().Var(&offset, "offset", "first byte to write, such as 4096 or 1GiB")
	c.Flags().Var(&length, "length", "bytes to write at most (default: to the end)")
	return c
}

func (a *app) cat(ctx context.Context, q node.GetRequest) error {
	if _, err := readSource(q.Source); err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		return api.Get(ctx, q, func(node.FileInfo) (io.Writer, error) { return a.stdout, nil }, nil)
	})
}
