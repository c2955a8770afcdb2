package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/volume"
)

// What two tips were before they parted is what they are to be compared with
// where they are merged. Where each of two writers has merged the same heads for
// itself, or where there are more than two, that is not one head of the history
// but several, none of which follows another: then it is what those are merged,
// by the same rules, as both of them have done it. (Git calls it the recursive
// strategy; with one of the several for a base, what was removed comes back.)

// mostJoined bounds how many merges it takes to find out what two tips were. With
// more the newest of what they have in common stands for all of it: what was
// removed may come back then, nothing is lost.
const mostJoined = 32

// lineage is which heads of a volume's history follow which.
type lineage struct {
	past    map[volume.HeadHash]volume.Past
	roots   map[volume.HeadHash][]pack.Ref // where its tree is: more than one where that was stored again
	parents map[volume.HeadHash]map[volume.HeadHash]bool
	sides   []map[volume.HeadHash]bool // what is in the history of each tip, with itself
	left    int                        // merges
}

// lineage gives that of all tips. Heads of one number with one root are one: those
// are two that merged the same.
func (w *view) lineage(ctx context.Context) (*lineage, error) {
	l := &lineage{
		past:    make(map[volume.HeadHash]volume.Past),
		roots:   make(map[volume.HeadHash][]pack.Ref),
		parents: make(map[volume.HeadHash]map[volume.HeadHash]bool),
		left:    mostJoined,
	}
	type state struct {
		number uint64
		pack   pack.ID
		off    uint32
	}
	stateOf := func(p volume.Past) state { return state{p.Number, p.Root.Pack, p.Root.Off} }
	same := make(map[volume.HeadHash]volume.HeadHash)
	first := make(map[state]volume.HeadHash)
	lists := make([][]volume.Past, len(w.heads))
	for i := range w.heads {
		past, err := w.history(ctx, i)
		if err != nil {
			return nil, err
		}
		lists[i] = append(slices.DeleteFunc(slices.Clone(past), func(p volume.Past) bool { return p.Pin }), w.pastOf(i))
		for _, p := range lists[i] {
			if h, ok := first[stateOf(p)]; !ok || bytesLess(p.Hash, h) {
				first[stateOf(p)] = p.Hash
			}
		}
	}
	for _, list := range lists {
		for _, p := range list {
			if _, ok := same[p.Hash]; !ok {
				same[p.Hash] = first[stateOf(p)]
			}
		}
	}
	for _, list := range lists {
		side := make(map[volume.HeadHash]bool)
		for _, p := range list {
			h := same[p.Hash]
			side[h] = true
			if l.parents[h] == nil {
				l.past[h], l.parents[h] = p, make(map[volume.HeadHash]bool)
			}
			if !slices.Contains(l.roots[h], p.Root) {
				l.roots[h] = append(l.roots[h], p.Root)
			}
			for _, q := range p.Parents {
				if up, ok := same[q]; ok {
					l.parents[h][up] = true
				}
			}
		}
		l.sides = append(l.sides, side)
	}
	return l, nil
}

func bytesLess(a, b volume.HeadHash) bool { return slices.Compare(a[:], b[:]) < 0 }

// upTo gives heads with all that they follow.
func (l *lineage) upTo(heads ...volume.HeadHash) map[volume.HeadHash]bool {
	all := make(map[volume.HeadHash]bool)
	for len(heads) > 0 {
		h := heads[len(heads)-1]
		heads = heads[:len(heads)-1]
		if all[h] {
			continue
		}
		all[h] = true
		heads = slices.AppendSeq(heads, maps.Keys(l.parents[h]))
	}
	return all
}

// newest gives those of the heads that no other of them follows, the highest
// number first.
func (l *lineage) newest(heads map[volume.HeadHash]bool) []volume.HeadHash {
	var up []volume.HeadHash
	for h := range heads {
		up = slices.AppendSeq(up, maps.Keys(l.parents[h]))
	}
	followed := l.upTo(up...)
	var out []volume.HeadHash
	for h := range heads {
		if !followed[h] {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b volume.HeadHash) int {
		return cmp.Or(cmp.Compare(l.past[b].Number, l.past[a].Number), slices.Compare(a[:], b[:]))
	})
	return out
}

func both(a, b map[volume.HeadHash]bool) map[volume.HeadHash]bool {
	out := make(map[volume.HeadHash]bool)
	for h := range a {
		if b[h] {
			out[h] = true
		}
	}
	return out
}

// base gives what the i-th tip and those before it were before they parted, nil
// where nothing is kept of that.
func (n *Node) base(ctx context.Context, w *view, i int) (*volume.File, error) {
	l, err := w.lineage(ctx)
	if err != nil {
		return nil, err
	}
	before := make(map[volume.HeadHash]bool)
	for _, side := range l.sides[:i] {
		maps.Copy(before, side)
	}
	return l.join(ctx, w, l.newest(both(before, l.sides[i])))
}

// join gives what heads are merged, none of which follows another.
func (l *lineage) join(ctx context.Context, w *view, heads []volume.HeadHash) (*volume.File, error) {
	if len(heads) == 0 {
		return nil, nil
	}
	open := func(h volume.HeadHash) (f *volume.File, err error) {
		for _, root := range l.roots[h] {
			if f, err = volume.OpenEntry(ctx, w.src, root); err == nil {
				return f, nil
			}
		}
		return nil, fmt.Errorf("head %d of %s: %w", l.past[h].Number, w.v, err)
	}
	root, err := open(heads[0])
	if err != nil || l.left < len(heads)-1 {
		return root, err
	}
	l.left -= len(heads) - 1
	src := w.src
	before := l.upTo(heads[0])
	for _, h := range heads[1:] {
		side := l.upTo(h)
		base, err := l.join(ctx, w, l.newest(both(before, side)))
		if err != nil {
			return nil, err
		}
		theirs, err := open(h)
		if err != nil {
			return nil, err
		}
		p := l.past[h]
		draft, _, err := volume.Merge(ctx, base, root, theirs, func(name string) string {
			return volume.ConflictName(name, shortText(p.Peer), p.Time)
		})
		if err != nil {
			return nil, err
		}
		if src, root, err = melt(ctx, src, draft); err != nil {
			return nil, err
		}
		maps.Copy(before, side)
	}
	return root, nil
}
