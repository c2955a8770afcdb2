package repair

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

// Audit has another peer prove that it has a random kilobyte of a random block
// of its shard of a pack: of one of which no such sample was ever taken, if
// there is one, else of a random one.
func (k *Keeper) Audit(ctx context.Context) {
	if k.Off.Audit {
		return
	}
	for range 8 { // a peer that is away cannot be audited
		if p, h, ok := k.fresh(); ok {
			k.audit(ctx, p, h)
			return
		}
		p, ok := k.pick(ctx)
		if !ok {
			return
		}
		var others []store.Holder
		k.mu.Lock()
		for _, h := range p.Holders {
			if h.Peer != k.Self && k.presence(h.Peer, k.Clock.Now()) == Present {
				others = append(others, h)
			}
		}
		k.mu.Unlock()
		if len(others) > 0 {
			k.audit(ctx, p, others[k.random(len(others))])
			return
		}
	}
}

// pick gives the packs one after the other, from a random place on: drawn at
// random, as the next from a random place, one that lies close behind another
// would hardly ever come, and at none of its holders, for they share both.
func (k *Keeper) pick(ctx context.Context) (store.Pack, bool) {
	k.mu.Lock()
	from := k.audited
	if from.IsZero() {
		for i := 0; i < len(from); i += 8 {
			binary.BigEndian.PutUint64(from[i:], k.Rand.Uint64())
		}
	}
	k.mu.Unlock()
	for _, start := range []pack.ID{from, {}} {
		for p, err := range k.Shelf.Walk(ctx, start) {
			if err != nil {
				return store.Pack{}, false
			}
			if confirmed(p) && len(p.Holders) > 0 {
				k.mu.Lock()
				k.audited = after(p.ID)
				k.mu.Unlock()
				return p, true
			}
		}
	}
	return store.Pack{}, false
}

// fresh gives a holder of which no sample of a pack was ever taken, of those
// that the last review found.
func (k *Keeper) fresh() (store.Pack, store.Holder, bool) {
	for {
		k.mu.Lock()
		if len(k.unseen) == 0 {
			k.mu.Unlock()
			return store.Pack{}, store.Holder{}, false
		}
		u := k.unseen[len(k.unseen)-1]
		k.unseen = k.unseen[:len(k.unseen)-1]
		present := k.presence(u.peer, k.Clock.Now()) == Present
		k.mu.Unlock()
		p, err := k.Shelf.Pack(u.id)
		if err != nil || !confirmed(p) || !present {
			continue
		}
		for _, h := range p.Holders {
			if h.Peer == u.peer && h.Verified == 0 && h.Failed == 0 {
				return p, h, true
			}
		}
	}
}

// sample has a holder, this peer itself perhaps, prove that it has a random
// part of its shard. It returns an error where the holder did not answer, and
// bad where it gave something that it should not have.
func (k *Keeper) sample(ctx context.Context, m *pack.Manifest, g erasure.Geometry, peer string, shard int) (bad, err error) {
	row := k.random(g.ShardRows(shard))
	if peer == k.Self {
		return k.rows(ctx, m, g, peer, shard, row, 1, func(int, []byte) {})
	}
	size := g.CellLen(shard, row)
	off := k.random(size)
	proof, err := k.Net.Prove(ctx, peer, wire.ProveRequest{ID: m.ID(), K: g.K, M: g.M, Shard: shard, Row: row, Off: off})
	if err != nil {
		return refused(err)
	}
	k.Stats.AuditBytesRead.Add(int64(len(proof)))
	if _, err := digest.VerifyProof(m.BlockHash(shard, row), size, off, proof); err != nil {
		return fmt.Errorf("shard %d, row %d: %w: %w", shard, row, pack.ErrCorrupt, err), nil
	}
	return nil, nil
}

// refused tells an answer, which is bad, from silence and from a peer that is
// busy.
func refused(err error) (bad, silence error) {
	if r, ok := errors.AsType[*wire.Refusal](err); ok && r.Code != wire.Busy {
		return err, nil
	}
	return nil, err
}

// audit takes a sample of the shard of one holder. It tells whether that gave
// what it should.
func (k *Keeper) audit(ctx context.Context, p store.Pack, h store.Holder) bool {
	m, err := k.Shelf.Manifest(p.ID)
	if err != nil {
		return false
	}
	g := m.Geometry()
	if h.Shard >= g.N() {
		return false
	}
	s := Sight{Shard: h.Shard, Peer: h.Peer}
	k.Stats.Audits.Add(1)
	bad, err := k.sample(ctx, m, g, h.Peer, h.Shard)
	switch {
	case ctx.Err() != nil || errors.Is(err, wire.ErrBusy):
	case err != nil:
		k.unanswered(h.Peer, p.ID)
	case bad != nil:
		k.Stats.AuditsFailed.Add(1)
		k.answered(h.Peer)
		k.fault(p.ID, s, bad)
	default:
		k.verified(p.ID, s)
		return true
	}
	return false
}

// firstSamples is the pause between samples of shards of which none was ever
// taken: what was stored just now is seen to be there soon, at a cost to its
// holders that nobody notices.
const firstSamples = 50 * time.Millisecond

// AuditPause is how long to wait between two audits: each shard of the packs
// held here is to be audited by one of the n holders every AuditEvery.
func (k *Keeper) AuditPause() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.unseen) > 0 {
		return firstSamples
	}
	return max(k.AuditEvery/time.Duration(max(k.summary.Packs, 1)), 100*time.Millisecond)
}

// Scrub reads the shards held here of the next pack over, and waits as long as
// that takes at the rate of scrubbing. What is found to be damaged is rebuilt.
func (k *Keeper) Scrub(ctx context.Context) {
	k.mu.Lock()
	from := k.scrub
	k.mu.Unlock()
	var p store.Pack
	found := false
	for q, err := range k.Shelf.Walk(ctx, from) {
		if err != nil {
			return
		}
		if confirmed(q) {
			p, found = q, true
			break
		}
	}
	k.mu.Lock()
	k.scrub = after(p.ID)
	if !found {
		k.scrub = pack.ID{}
	}
	k.mu.Unlock()
	if !found {
		return
	}
	m, err := k.Shelf.Manifest(p.ID)
	if err != nil {
		k.Log.Error("manifest of a pack held here cannot be read", "pack", p.ID, "err", err)
		return
	}
	g := m.Geometry()
	buf := make([]byte, 0, g.BlockSize)
	for _, h := range p.Held {
		if h.Deleted || h.Damaged || h.Number != m.State.Number || h.Shard >= g.N() {
			continue
		}
		for r := range g.ShardRows(h.Shard) {
			b, err := k.Shelf.ReadCoded(p.ID, m.State.K, m.State.M, h.Shard, r, buf)
			if err != nil {
				if errors.Is(err, store.ErrCorrupt) {
					k.Log.Warn("damaged shard found by scrubbing", "pack", p.ID, "shard", h.Shard, "row", r)
					k.touch()
				}
				break
			}
			k.Stats.ScrubBytesRead.Add(int64(len(b)))
			if sleep(ctx, k.Clock, time.Duration(len(b))*time.Second/scrubRate) != nil {
				return
			}
		}
	}
}

// after is the ID that follows, the first after the last.
func after(id pack.ID) pack.ID {
	for i := len(id) - 1; i >= 0; i-- {
		if id[i]++; id[i] != 0 {
			break
		}
	}
	return id
}

// Tidy does what a review found beside repairs: it rebuilds damaged shards
// held here, gives up those that others hold too, and those of states that
// newer ones have replaced.
func (k *Keeper) Tidy(ctx context.Context) {
	now := k.Clock.Now()
	k.mu.Lock()
	rotten := k.rotten
	k.rotten = nil
	var twins, newer, doubles []pack.ID
	for id, since := range k.doubles {
		if now.Sub(since) >= k.Grace+k.turn(false) {
			doubles = append(doubles, id)
		}
	}
	for id, since := range k.twins {
		if now.Sub(since) >= k.Grace {
			twins = append(twins, id)
		}
	}
	for id := range k.newer {
		newer = append(newer, id)
	}
	k.mu.Unlock()
	slices.SortFunc(twins, compareIDs)
	slices.SortFunc(newer, compareIDs)
	for _, id := range rotten {
		if ctx.Err() == nil {
			k.restoreOwn(ctx, id)
		}
	}
	for _, id := range twins {
		if ctx.Err() == nil {
			k.dropTwin(ctx, id)
		}
	}
	for _, id := range newer {
		if ctx.Err() == nil {
			k.succeed(ctx, id)
		}
	}
	slices.SortFunc(doubles, compareIDs)
	for _, id := range doubles {
		if ctx.Err() == nil {
			k.introduce(ctx, id)
		}
	}
}

// restoreOwn rebuilds a damaged shard held here.
func (k *Keeper) restoreOwn(ctx context.Context, id pack.ID) {
	if k.Off.Repair {
		return
	}
	m, err := k.Shelf.Manifest(id)
	if err != nil {
		return
	}
	p, newer, err := k.refresh(ctx, id)
	if err != nil || newer {
		return
	}
	j := job{k: k, m: m, id: id, g: m.Geometry()}
	k.mu.Lock()
	j.seen = k.sights(p, k.Clock.Now())
	k.mu.Unlock()
	rows, err := j.gather(ctx)
	for _, h := range p.Held {
		if !h.Damaged || h.Number != m.State.Number || err != nil {
			continue
		}
		var cells [][]byte
		if cells, err = j.shard(rows, h.Shard); err == nil {
			err = k.Shelf.Keep(ctx, m, h.Shard, append(j.holders(), wire.Holder{Peer: k.Self, Shard: h.Shard}), func(r int) []byte { return cells[r] })
		}
		if err == nil {
			k.Stats.Rebuilt.Add(1)
			k.Log.Info("damaged shard rebuilt", "pack", id, "shard", h.Shard)
		}
	}
	if err != nil && ctx.Err() == nil {
		k.Log.Warn("damaged shard not rebuilt", "pack", id, "err", err)
	}
	k.touch()
}

// introduce tells the holders of a pack of each other: two of them have the
// same shard and have not found out, as when the network was in two halves that
// restored it each.
func (k *Keeper) introduce(ctx context.Context, id pack.ID) {
	now := k.Clock.Now()
	p, err := k.Shelf.Pack(id)
	if err != nil || !confirmed(p) {
		return
	}
	m, err := k.Shelf.Manifest(id)
	if err != nil {
		return
	}
	k.mu.Lock()
	seen := k.sights(p, now)
	rank := 0
	for _, s := range seen {
		if s.Presence == Present && s.Peer != k.Self && k.Dir.Compare(id, s.Peer, k.Self) < 0 {
			rank++
		}
	}
	began, ok := k.doubles[id]
	mine := ok && now.Sub(began) >= k.Grace+time.Duration(1+rank)*k.turn(false)
	if mine {
		k.doubles[id] = now
	}
	k.mu.Unlock()
	if mine {
		j := job{k: k, m: m, id: id, seen: seen}
		j.tell(ctx)
	}
}

// dropTwin gives up a shard that a closer peer holds too, if that one proves
// it now.
func (k *Keeper) dropTwin(ctx context.Context, id pack.ID) {
	p, err := k.Shelf.Pack(id)
	if err != nil || !confirmed(p) || k.Off.Repair {
		return
	}
	own := p.Held[0]
	for _, h := range p.Holders {
		if h.Shard != own.Shard || h.Peer == k.Self || h.Failed != 0 || k.Dir.Compare(id, h.Peer, k.Self) >= 0 {
			continue
		}
		if !k.audit(ctx, p, h) {
			continue
		}
		// As it is now, with the other proven: nothing may be lost by it.
		if p, err = k.Shelf.Pack(id); err != nil || !confirmed(p) || p.Held[0].Shard != own.Shard {
			return
		}
		k.mu.Lock()
		seen := k.sights(p, k.Clock.Now())
		k.mu.Unlock()
		n := own.Coded + own.M
		without := slices.DeleteFunc(slices.Clone(seen), func(s Sight) bool { return s.Peer == k.Self && s.Shard == own.Shard })
		if len(Match(n, without, Present)) < len(Match(n, seen, Present)) {
			return
		}
		m, err := k.Shelf.Manifest(id)
		if err != nil {
			return
		}
		if err := k.Shelf.Drop(id, own.Shard); err != nil {
			k.Log.Warn("surplus shard not dropped", "pack", id, "shard", own.Shard, "err", err)
			return
		}
		k.Stats.Dropped.Add(1)
		k.Log.Info("surplus shard dropped", "pack", id, "shard", own.Shard, "kept_by", k.name(h.Peer))
		j := job{k: k, m: m, id: id, seen: without}
		j.tell(ctx)
		return
	}
}

// succeed gives up the shards held here of a state that a newer one, coded
// otherwise, has replaced: when all shards of that are durable.
func (k *Keeper) succeed(ctx context.Context, id pack.ID) {
	k.mu.Lock()
	from := k.newer[id]
	k.mu.Unlock()
	done := func() {
		k.mu.Lock()
		delete(k.newer, id)
		k.mu.Unlock()
	}
	p, err := k.Shelf.Pack(id)
	if err != nil || len(p.Held) == 0 || p.Held[0].Deleted {
		done()
		return
	}
	m, err := k.Net.Manifest(ctx, from, id)
	if err != nil || m.State.Number <= p.Held[0].Number {
		if err == nil || ctx.Err() == nil {
			done() // it was only claimed, or the peer is gone: another will say it again
		}
		return
	}
	g := m.Geometry()
	near, err := k.Dir.Closest(ctx, id, max(width, g.N()))
	if err != nil {
		return
	}
	if !slices.Contains(near, from) {
		near = append(near, from)
	}
	for q, err := range k.Dir.Holders(ctx, id) {
		if err == nil && len(near) < 8*width && !slices.Contains(near, q) {
			near = append(near, q)
		}
	}
	var seen []Sight
	held := make([]wire.Holding, len(near))
	k.each(ctx, len(near), func(i int) {
		if near[i] == k.Self {
			return
		}
		if hs, err := k.Net.Have(ctx, near[i], []pack.ID{id}); err == nil && len(hs) == 1 {
			held[i] = hs[0]
		}
	})
	for i, h := range held {
		if h.Held && !h.Provisional && !h.Damaged && h.Number >= m.State.Number && h.K == g.K && h.M == g.M {
			seen = append(seen, Sight{h.Shard, near[i], Present})
		}
	}
	if ctx.Err() != nil || len(Match(g.N(), seen, Present)) < g.N() {
		return // looked at again with the next review
	}
	for _, h := range p.Held {
		if h.Deleted || h.Number >= m.State.Number {
			continue
		}
		if err := k.Shelf.Drop(id, h.Shard); err != nil {
			k.Log.Warn("shard of an older state not dropped", "pack", id, "shard", h.Shard, "err", err)
			return
		}
		k.Stats.Dropped.Add(1)
		k.Log.Info("shard of an older state dropped", "pack", id, "shard", h.Shard, "now", m.State.Scheme())
	}
	done()
}
