package repair

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/wire"
)

// Left says what became of the shards of a peer that leaves.
type Left struct {
	Shards int   // that were to be handed over
	Handed int   // that another peer has now, or had already
	Bytes  int64 // that were sent
	Errs   []error
}

// Leaving tells whether this peer hands its shards over: it takes no more.
func (k *Keeper) Leaving() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.leaving
}

// Leave hands every shard held here over to another peer, as it is: nothing is
// decoded. progress is told how many of them are done. What could not be handed
// over stays; the first few reasons are in what it returns.
func (k *Keeper) Leave(ctx context.Context, progress func(done, total int, bytes int64)) (Left, error) {
	k.mu.Lock()
	k.leaving = true
	k.mu.Unlock()
	var ids []pack.ID
	for p, err := range k.Shelf.Walk(ctx, pack.ID{}) {
		if err != nil {
			k.stay()
			return Left{}, err
		}
		if confirmed(p) {
			ids = append(ids, p.ID)
		}
	}
	out := Left{Shards: len(ids)}
	var mu sync.Mutex
	done := 0
	for part := range slices.Chunk(ids, sendsAtOnce) {
		k.each(ctx, len(part), func(i int) {
			n, err := k.handOver(ctx, part[i])
			mu.Lock()
			defer mu.Unlock()
			done++
			out.Bytes += n
			if err == nil {
				out.Handed++
				k.Stats.HandedOver.Add(1)
			} else if len(out.Errs) < 8 {
				out.Errs = append(out.Errs, fmt.Errorf("pack %s: %w", part[i].Short(), err))
			}
			if progress != nil {
				progress(done, len(ids), out.Bytes)
			}
		})
		if err := ctx.Err(); err != nil {
			k.stay()
			return out, err
		}
	}
	return out, nil
}

// stay ends the leaving.
func (k *Keeper) stay() {
	k.mu.Lock()
	k.leaving = false
	k.mu.Unlock()
}

// handOver gives the shard held here of one pack to another peer, and gives it
// up.
func (k *Keeper) handOver(ctx context.Context, id pack.ID) (sent int64, err error) {
	m, err := k.Shelf.Manifest(id)
	if err != nil {
		return 0, err
	}
	p, newer, err := k.refresh(ctx, id)
	if err != nil || newer {
		return 0, err // a newer state has its own holders
	}
	own := p.Held[0]
	if own.Damaged {
		return 0, fmt.Errorf("the shard is damaged")
	}
	j := job{k: k, m: m, id: id, g: m.Geometry(), missing: []int{own.Shard}}
	k.mu.Lock()
	seen := k.sights(p, k.Clock.Now())
	k.mu.Unlock()
	twin := false
	for _, s := range seen {
		if s.Peer != k.Self {
			j.seen = append(j.seen, s)
			twin = twin || s.Shard == own.Shard && s.Presence == Present
		}
	}
	for _, h := range p.Holders {
		j.known = append(j.known, h.Peer)
	}
	if n := j.g.N(); !twin || len(Match(n, j.seen, Present)) < len(Match(n, seen, Present)) {
		places, err := j.places(ctx)
		if err != nil {
			return 0, err
		}
		if len(places) == 0 {
			return 0, errNoPlace
		}
		rows := make([][][]byte, j.g.Rows)
		for r := range j.g.ShardRows(own.Shard) {
			b, err := k.Shelf.ReadCoded(id, m.State.K, m.State.M, own.Shard, r, nil)
			if err != nil {
				return 0, err
			}
			rows[r] = make([][]byte, j.g.N())
			rows[r][own.Shard] = b
			sent += int64(len(b))
		}
		if err := j.send(ctx, rows, places); err != nil {
			return 0, err
		}
	} else {
		j.tell(ctx)
	}
	if err := k.Shelf.Drop(id, own.Shard); err != nil {
		return sent, err
	}
	return sent, nil
}

// Rebuild checks every shard of a pack now, reading all its blocks, and
// rebuilds what is missing up to n. No shard of it need be held here: m is its
// manifest, holders are those that may hold it, as they say. It returns how many
// shards are there whole and how many were rebuilt.
func (k *Keeper) Rebuild(ctx context.Context, m *pack.Manifest, holders []wire.Holder) (good, rebuilt int, err error) {
	j := job{k: k, m: m, id: m.ID(), g: m.Geometry()}
	j.seen = k.inspect(ctx, m, holders, true)
	for _, h := range holders {
		j.known = append(j.known, h.Peer)
	}
	with := Match(j.g.N(), j.seen, Present)
	for s := range j.g.N() {
		if _, ok := with[s]; !ok {
			j.missing = append(j.missing, s)
		}
	}
	good = len(with)
	if len(j.missing) == 0 || ctx.Err() != nil {
		return good, 0, ctx.Err()
	}
	if good < j.g.K {
		return good, 0, fmt.Errorf("pack %s: %d of %d needed shards are there", j.id.Short(), good, j.g.K)
	}
	k.Stats.Repairs.Add(1)
	defer k.Stats.Repairs.Add(-1)
	err = j.run(ctx)
	if err == nil && len(j.placed) < len(j.missing) {
		err = fmt.Errorf("pack %s: %w: %d of %d placed", j.id.Short(), errNoPlace, len(j.placed), len(j.missing))
	}
	return good, len(j.placed), err
}

// Inspect takes a sample of the shard of each of the holders,
// who may hold a pack as they say, and tells who has given what it should. No
// shard of the pack need be held here.
func (k *Keeper) Inspect(ctx context.Context, m *pack.Manifest, holders []wire.Holder) []Sight {
	return k.inspect(ctx, m, holders, false)
}

// inspect takes a sample, or reads all, of the shard of each of the holders.
func (k *Keeper) inspect(ctx context.Context, m *pack.Manifest, holders []wire.Holder, whole bool) []Sight {
	g := m.Geometry()
	seen := make([]Sight, len(holders))
	k.each(ctx, len(holders), func(i int) {
		h := holders[i]
		seen[i] = Sight{Shard: h.Shard, Peer: h.Peer, Presence: Absent}
		if h.Shard < 0 || h.Shard >= g.N() {
			seen[i].Presence = Gone
			return
		}
		var bad, err error
		want, got := 0, 0
		if whole {
			want = g.ShardRows(h.Shard)
			bad, err = k.rows(ctx, m, g, h.Peer, h.Shard, 0, want, func(int, []byte) { got++ })
		} else {
			bad, err = k.sample(ctx, m, g, h.Peer, h.Shard)
		}
		switch {
		case bad != nil:
			seen[i].Presence = Gone
			k.fault(m.ID(), seen[i], bad)
		case err == nil && got == want:
			seen[i].Presence = Present
		}
	})
	return seen
}
