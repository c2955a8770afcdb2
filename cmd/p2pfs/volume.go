package main

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// The rights to a volume.
const (
	readRight   = "read"
	verifyRight = "verify"
	writeRight  = "write"
)

// rightWords says what a right allows.
var rightWords = map[string]string{
	readRight:   "read it",
	verifyRight: "check and repair it, and read nothing of it",
	writeRight:  "read and write it",
}

func volumeCommand(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "volume",
		Short: "Make, share, list and prune volumes: trees that change under a name",
		Long: `A volume is a tree that changes. Every home has one of its own, mine; others are made,
and shared by links that give the right to read, to verify or to write them. The name
of a volume is this home's: others may call the same volume something else.

What is in a volume is NAME:PATH wherever a SOURCE is asked for, and for put, rm, mv
and mkdir. Each of those leaves a snapshot: NAME@N:PATH is how it was, with N from
'p2pfs volume log'. Nothing goes for good until it is pruned.`,
		Example: `  p2pfs volume create docs
  p2pfs put report.pdf docs:2026
  p2pfs ls docs:2026
  p2pfs volume add LINK docs    # on another home`,
		Annotations:           exits(),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef(c.CommandPath()+" --help lists the commands", "unknown command %q for %q", args[0], c.CommandPath())
			}
			return c.Help()
		},
	}
	c.AddCommand(volumeCreateCommand(a), volumeListCommand(a), volumeLinkCommand(a), volumeAddCommand(a),
		volumeLogCommand(a), volumePruneCommand(a), volumeDropCommand(a))
	return c
}

// checkVolume refuses what cannot be the name of a volume.
func checkVolume(name string) error {
	if strings.HasPrefix(name, "p2pfs:") { // which is a right, and not for messages
		return usagef("'p2pfs volume list' has the names", "a link, where the name of a volume is wanted")
	}
	err := volume.CheckVolumeName(name)
	if err == nil {
		return nil
	}
	hint := "'p2pfs volume list' has the names"
	if bare := strings.TrimSuffix(name, ":"); volume.CheckVolumeName(bare) == nil {
		hint = "the name is " + bare + ", without the colon"
	}
	return usagef(hint, "%w", err)
}

// withVolume has f work with the home's node, after a look at the name of a
// volume that a command was given. Errors say what the command was about.
func (a *app) withVolume(c *cobra.Command, name string, f func(context.Context, control.API) error) error {
	err := checkVolume(name)
	if err == nil {
		err = a.withNode(c.Context(), f)
	}
	return about(nameOf(c)+" "+showSource(name), err)
}

func volumeCreateCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "create NAME",
		Short: "Make a volume, and print a link to read it",
		Long: `create makes an empty volume, and prints the link with which others read it, now and
later. NAME is small letters and digits, then also . _ and -.

The right to write it is in this home only. 'p2pfs volume link NAME --write' prints
that as a link: keep a copy, for with it an empty machine has all of the volume again,
and without it nobody ever changes the volume if this home is lost.`,
		Example: `  p2pfs volume create docs
  p2pfs volume create docs && p2pfs volume link docs --write`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NoPeers, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withVolume(c, args[0], func(ctx context.Context, api control.API) error {
				return a.volumeCreate(ctx, api, args[0])
			})
		},
	}
}

// createLine is what volume create prints with --json.
type createLine struct {
	node.VolumeInfo
	Link string `json:"link"`
}

func (a *app) volumeCreate(ctx context.Context, api control.API, name string) error {
	info, err := api.VolumeCreate(ctx, name)
	if err != nil {
		return err
	}
	link, err := api.VolumeLink(ctx, name, readRight)
	if err != nil {
		return &node.Error{Code: node.CodeOf(err), Hint: "the volume is made; 'p2pfs volume link " + name + "' prints its link", Err: err}
	}
	if a.json {
		return a.printJSON(createLine{VolumeInfo: info, Link: link})
	}
	if err := a.print("%s", link); err != nil {
		return err
	}
	a.say("volume %s is made; the link lets others read it", name)
	a.say("keep a copy of what 'p2pfs volume link %s --write' prints: the right to write is nowhere else", name)
	return nil
}

func volumeLinkCommand(a *app) *cobra.Command {
	var verify, write bool
	c := &cobra.Command{
		Use:   "link NAME [--write|--verify]",
		Short: "Print a link to a volume",
		Long: `link prints a link to a volume as it is now and will be: one to read it, with --verify
one to check and repair it, which lets nothing be read, and with --write one to write
it. A link gives the rights below it too, and none above. No right that was given is
ever taken back: who should not have it any more needs a new volume, of the others.

'p2pfs link NAME:' prints one to the volume as it is now, which does not change.`,
		Example: `  p2pfs volume link docs
  p2pfs volume link docs --write >docs.link    # to be kept safe`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.NotFound, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			right := readRight
			switch {
			case write:
				right = writeRight
			case verify:
				right = verifyRight
			}
			return a.withVolume(c, args[0], func(ctx context.Context, api control.API) error {
				text, err := api.VolumeLink(ctx, args[0], right)
				if err != nil {
					return err
				}
				return a.printLink(text)
			})
		},
	}
	c.Flags().BoolVar(&verify, "verify", false, "one that gives the right to check and repair, not to read")
	c.Flags().BoolVar(&write, "write", false, "one that gives all rights")
	c.MarkFlagsMutuallyExclusive("verify", "write")
	return c
}

func volumeAddCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "add LINK NAME",
		Short: "Add a volume of others, or of a lost home, by its link",
		Long: `add gives this home the right that a link to a volume has, and the volume a name here.
With a write link this home takes over the volume's packs: it renews them, moves them
to more redundancy as the network grows, and may delete them. Packs of which nobody is
found now are counted, and the exit status is 3: the same again tries them again.`,
		Example:               `  p2pfs volume add LINK docs`,
		Args:                  arguments(2, 2),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			what := nameOf(c) + " " + showSource(args[0]) + " " + showSource(args[1])
			err := checkVolumeLink(args[0])
			if err == nil {
				err = checkVolume(args[1])
			}
			if err == nil {
				err = a.withNode(c.Context(), func(ctx context.Context, api control.API) error {
					res, err := api.VolumeAdd(ctx, args[0], args[1])
					if err != nil {
						return err
					}
					return a.volumeAdded(res)
				})
			}
			return about(what, err)
		},
	}
}

// checkVolumeLink refuses what is no link to a volume.
func checkVolumeLink(text string) error {
	link, err := volume.ParseLink(text)
	if err != nil {
		return &node.Error{Code: node.CodeOf(err), Hint: "usage: p2pfs volume add LINK NAME", Err: err}
	}
	switch link.Kind {
	case volume.KindVolumeRead, volume.KindVolumeVerify, volume.KindVolumeWrite:
		return nil
	}
	return refusedf("'p2pfs volume link' prints links to volumes", "a link to %s, not to a volume", link.Kind)
}

func (a *app) volumeAdded(res node.AddResult) error {
	if a.json {
		if err := a.printJSON(res); err != nil {
			return err
		}
	} else {
		a.say("volume %s is added: this home may %s", res.Name, rightWords[res.Right])
		if res.Number == 0 {
			a.say("nothing of what is in it has been found yet")
		}
		if res.Right == writeRight {
			a.say("taken over: %s, which this home may renew, delete and grow", count(res.Packs, "pack"))
		}
		if res.Lost > 0 {
			a.warn("of %s nobody was found: add it again when more peers are online", count(res.Lost, "pack"))
		}
	}
	if res.Lost > 0 {
		return quietError(node.Partial)
	}
	return nil
}

func volumeDropCommand(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "drop NAME [--delete]",
		Short: "Forget a volume, or delete it for all",
		Long: `drop makes this home forget a volume and the right to it. What is in it stays where it
is, for all who have a link. It prints the link with the right that this home had:
with it 'p2pfs volume add' has the volume back.

--delete deletes the volume for everybody: its heads, and all packs that nothing
else of this home refers to. It takes the right to write, and there is no way back.
The home's own volume, mine, cannot be dropped.`,
		Example: `  p2pfs volume drop docs
  p2pfs volume drop docs --delete`,
		Args:                  arguments(1, 1),
		Annotations:           exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withVolume(c, args[0], func(ctx context.Context, api control.API) error {
				if all {
					return a.volumeDelete(ctx, api, args[0])
				}
				return a.volumeDrop(ctx, api, args[0])
			})
		},
	}
	c.Flags().BoolVar(&all, "delete", false, "delete what is in it, for everybody")
	return c
}

// dropLine is what volume drop prints with --json.
type dropLine struct {
	Link string `json:"link"`
}

// volumeDrop forgets a volume, and prints the way back.
func (a *app) volumeDrop(ctx context.Context, api control.API, name string) error {
	all, err := api.Volumes(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(v node.VolumeInfo) bool { return v.Name == name })
	if i < 0 {
		return &node.Error{Code: node.NotFound, Hint: "'p2pfs volume list' has the names", Err: errors.New("this home has no such volume")}
	}
	link, err := api.VolumeLink(ctx, name, all[i].Right) // nobody here knows it any more afterwards
	if err != nil {
		return err
	}
	if _, err := api.VolumeDrop(ctx, name, false); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(dropLine{Link: link})
	}
	if err := a.print("%s", link); err != nil {
		return err
	}
	a.say("volume %s is forgotten here, what is in it stays; with the link 'p2pfs volume add LINK %s' has it back", name, name)
	return nil
}

// volumeDelete deletes a volume.
func (a *app) volumeDelete(ctx context.Context, api control.API, name string) error {
	res, err := api.VolumeDrop(ctx, name, true)
	if err != nil {
		return err
	}
	if !a.json && !res.Partial {
		a.say("volume %s is deleted: %s, %s", name, count(res.Dropped, "pack"), formatSize(res.Bytes))
	}
	return a.endPrune(res, "drop it again")
}

// endPrune prints what was pruned with --json, and tells of packs of which no
// holder could be told.
func (a *app) endPrune(res node.PruneResult, again string) error {
	if a.json {
		if err := a.printJSON(res); err != nil {
			return err
		}
	}
	if !res.Partial {
		return nil
	}
	a.warn("no holder could be told of %s: %s when more of them are online", count(res.Untold, "pack"), again)
	return quietError(node.Partial)
}

func volumeListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the volumes that this home has a right to",
		Long: `list lists the volumes that this home has a right to, with what it knows of them: the
number and time of the newest head that it has seen, and how many files that has, and
how much they hold. Nobody is asked.`,
		Example: `  p2pfs volume list
  p2pfs volume list --json`,
		Args:        arguments(0, 0),
		Annotations: exits(),
		RunE: func(c *cobra.Command, _ []string) error {
			return about(nameOf(c), a.withNode(c.Context(), func(ctx context.Context, api control.API) error {
				all, err := api.Volumes(ctx)
				if err != nil {
					return err
				}
				return a.printVolumes(all)
			}))
		},
	}
}

func (a *app) printVolumes(all []node.VolumeInfo) error {
	if a.json {
		if all == nil {
			all = []node.VolumeInfo{}
		}
		return a.printJSON(all)
	}
	t := a.table()
	t.row("NAME", "RIGHT", "HEAD", "TIME", "FILES", "SIZE")
	for _, v := range all {
		head, files, size := "-", "unknown", "unknown"
		if v.Number > 0 {
			head = strconv.FormatUint(v.Number, 10)
		}
		if v.Tips > 1 {
			head += ", " + strconv.Itoa(v.Tips) + " to merge"
		}
		if v.Files >= 0 {
			files = strconv.FormatInt(v.Files, 10)
		}
		if v.Bytes >= 0 {
			size = formatSize(v.Bytes)
		}
		t.row(v.Name, v.Right, head, headTime(v.Time), files, size)
	}
	return t.end()
}

// headTime gives the time of a head for people.
func headTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}
