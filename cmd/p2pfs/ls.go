package main

import (
	"bufio"
	"context"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

func lsCommand(a *app) *cobra.Command {
	var long, recursive bool
	c := &cobra.Command{
		Use:   "ls [-l] [-R] SOURCE",
		Short: "List what is in a tree or a volume",
		Long: `ls lists the names in the directory that SOURCE leads to, one a line: LINK,
LINK/PATH, or in a volume NAME:PATH, at its top NAME:, as it was NAME@N:PATH. -R lists
the paths of all that is below it. -l adds mode, size in bytes and time, and
where a symbolic link leads. The size of a directory is that of all files below it.
Of anything else than a directory it lists that itself.`,
		Example: `  p2pfs ls LINK
  p2pfs ls -l LINK/photos
  p2pfs ls -R --json LINK
  p2pfs ls mine:put`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NotFound, node.Short, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return about("ls "+showSource(args[0]), a.ls(c.Context(), args[0], long, recursive))
		},
	}
	c.Flags().BoolVarP(&long, "long", "l", false, "mode, size and time too")
	c.Flags().BoolVarP(&recursive, "recursive", "R", false, "all that is below it")
	return c
}

// lsLine is what ls prints for a name with --json.
type lsLine struct {
	Path    string    `json:"path"`
	RawPath []byte    `json:"raw_path,omitempty"` // where Path is not exact, for JSON is UTF-8
	Kind    string    `json:"kind"`
	Mode    uint32    `json:"mode"`
	Size    int64     `json:"size"`
	MTime   time.Time `json:"mtime"`
	Target  string    `json:"target,omitempty"`
}

// kindLetters are how modes begin.
var kindLetters = map[volume.EntryKind]byte{
	volume.FileEntry: '-', volume.DirEntry: 'd', volume.SymlinkEntry: 'l',
	volume.FifoEntry: 'p', volume.CharEntry: 'c', volume.BlockEntry: 'b',
}

func (a *app) ls(ctx context.Context, source string, long, recursive bool) error {
	if _, err := readSource(source); err != nil {
		return err
	}
	return a.withNode(ctx, func(ctx context.Context, api control.API) error {
		out := bufio.NewWriter(a.stdout)
		to := *a
		to.stdout = out
		err := api.List(ctx, source, recursive, func(i node.Item) error {
			return to.lsItem(i, long)
		})
		if ferr := out.Flush(); err == nil {
			err = ferr
		}
		return err
	})
}

func (a *app) lsItem(i node.Item, long bool) error {
	e, path := i.Entry, i.Path
	if path == "" {
		path = e.Name
	}
	size := e.Size
	if e.Kind == volume.DirEntry {
		size = e.Bytes
	}
	if a.json {
		l := lsLine{Path: path, Kind: node.KindName(e.Kind), Mode: e.Mode, Size: size, MTime: e.MTime.UTC(), Target: e.Target}
		if !utf8.ValidString(path) {
			l.RawPath = []byte(path)
		}
		if y := l.MTime.Year(); y < 0 || y > 9999 { // JSON has no such times
			l.MTime = time.Time{}
		}
		return a.printJSON(l)
	}
	if !long {
		return a.print("%s", show(path))
	}
	target := ""
	if e.Kind == volume.SymlinkEntry {
		target = " -> " + show(e.Target)
	}
	return a.print("%s %15d %s %s%s", lsMode(e.Kind, e.Mode), size, e.MTime.Local().Format("2006-01-02 15:04"), show(path), target)
}

// lsMode gives a mode as ls does.
func lsMode(kind volume.EntryKind, mode uint32) string {
	b := []byte("?rwxrwxrwx")
	if letter, ok := kindLetters[kind]; ok {
		b[0] = letter
	}
	for i := range 9 {
		if mode&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit uint32
		at  int
		set byte
	}{{0o4000, 3, 's'}, {0o2000, 6, 's'}, {0o1000, 9, 't'}} {
		if mode&s.bit == 0 {
			continue
		}
		if b[s.at] == '-' {
			s.set -= 'a' - 'A' // without the right to execute
		}
		b[s.at] = s.set
	}
	return string(b)
}
