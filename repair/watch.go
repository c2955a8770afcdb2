package repair

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

// muteReads is how many reads one after the other a peer that answers probes
// may leave unanswered before it counts as absent.
const muteReads = 3

func encodePeer(p string) string          { return hex.EncodeToString([]byte(p)) }
func decodePeer(s string) (string, error) { b, err := hex.DecodeString(s); return string(b), err }
func compareIDs(a, b pack.ID) int         { return bytes.Compare(a[:], b[:]) }
func sortedIDs(m map[pack.ID]struct{}) (ids []pack.ID) {
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareIDs)
	return ids
}

// Watch probes every co-holder that has not been asked for the length of a
// probe period, one question each, and asks those that came back, or of which
// something new is known, what they hold of the packs shared with them.
func (k *Keeper) Watch(ctx context.Context) {
	now := k.Clock.Now()
	k.markGone()
	var probe []string
	k.mu.Lock()
	for p, w := range k.peers {
		// A tenth early: a step that runs once a period is not to miss every
		// other one.
		if (w.packs > 0 || len(w.ask) > 0) && now.Sub(w.asked) >= w.pause(k.Probe)-k.Probe/10 {
			probe = append(probe, p)
			w.asked = now
		}
	}
	k.mu.Unlock()
	slices.Sort(probe)
	k.each(ctx, len(probe), func(i int) { k.probe(ctx, probe[i]) })
	k.sync(ctx)
	k.markGone()
	k.reread(ctx)
}

// pause is how long a peer is left in peace between two probes: one that has
// been away for long is asked less and less often, for when it comes back it
// asks by itself.
func (w *watched) pause(probe time.Duration) time.Duration {
	if w.away.IsZero() {
		return probe
	}
	return min(max(probe, w.asked.Sub(w.away)/4), awayPauses*probe)
}

// awayPauses is how many probe periods a peer that is away is left in peace at
// most.
const awayPauses = 16

// probe asks one peer whether it is there, once more where it is not: a
// connection that broke is no absence.
func (k *Keeper) probe(ctx context.Context, p string) {
	k.mu.Lock()
	w := k.peers[p]
	away := w != nil && !w.away.IsZero()
	k.mu.Unlock()
	ask := func() (wire.Facts, error) {
		k.Stats.Probes.Add(1)
		f, err := k.Net.Facts(ctx, p)
		if _, refused := errors.AsType[*wire.Refusal](err); refused {
			err = nil // it is there, whatever it thinks of us
		}
		return f, err
	}
	f, err := ask()
	if err != nil && !away && ctx.Err() == nil {
		f, err = ask()
	}
	if ctx.Err() != nil {
		return
	}
	now := k.Clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	if w = k.peers[p]; w == nil {
		return
	}
	if err != nil {
		if w.away.IsZero() {
			w.away = now
			k.Log.Info("peer suspected: it does not answer", "peer", k.name(p), "packs", w.packs)
			k.touch()
		}
		return
	}
	switch {
	case !w.away.IsZero():
		if !w.heard.IsZero() || w.gone {
			k.Log.Info("peer returned", "peer", k.name(p), "away", now.Sub(w.away).Round(time.Second))
		}
		w.sync = true
		k.touch()
	case w.heard.IsZero(), f.Boot != w.facts.Boot, f.Shards < w.facts.Shards:
		w.sync = true
	}
	w.facts, w.heard, w.away = f, now, time.Time{}
	if w.mute.IsZero() {
		w.gone = false
	}
}

// markGone says which peers have been away for longer than the grace.
func (k *Keeper) markGone() {
	now := k.Clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, w := range k.peers {
		if !w.gone && k.presence(p, now) == Gone {
			w.gone = true
			if w.packs > 0 {
				k.Log.Warn("peer gone: its shards count as lost", "peer", k.name(p), "packs", w.packs, "grace", k.Grace)
			}
			k.touch()
		}
		if w.gone && w.packs == 0 && len(w.ask) == 0 {
			delete(k.peers, p)
		}
	}
}

// sync asks peers for what they hold: all that is shared with those that came
// back, single packs of others.
func (k *Keeper) sync(ctx context.Context) {
	batches := make(map[string][]pack.ID)
	all := make(map[string]bool)
	k.mu.Lock()
	for p, w := range k.peers {
		if !w.away.IsZero() || w.heard.IsZero() {
			continue
		}
		if w.sync {
			all[p] = true
			w.sync = false
		}
		if len(w.ask) > 0 {
			batches[p] = sortedIDs(w.ask)
			w.ask = nil
		}
	}
	k.mu.Unlock()
	if len(all) > 0 {
		for p, err := range k.Shelf.Walk(ctx, pack.ID{}) {
			if err != nil {
				break
			}
			if len(p.Held) == 0 || p.Held[0].Deleted || p.Held[0].Provisional {
				continue
			}
			for _, h := range p.Holders {
				if b := batches[h.Peer]; all[h.Peer] && (len(b) == 0 || b[len(b)-1] != p.ID) {
					batches[h.Peer] = append(b, p.ID)
				}
			}
		}
	}
	peers := make([]string, 0, len(batches))
	for p := range batches {
		peers = append(peers, p)
	}
	slices.Sort(peers)
	k.each(ctx, len(peers), func(i int) {
		for ids := range slices.Chunk(batches[peers[i]], wire.MaxIDs) {
			hs, err := k.Net.Have(ctx, peers[i], ids)
			if err != nil || len(hs) != len(ids) {
				k.later(peers[i], ids)
				return
			}
			k.learn(ctx, peers[i], ids, hs)
		}
	})
}

// later has a peer asked for packs another time.
func (k *Keeper) later(p string, ids []pack.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.peer(p)
	if w == nil {
		return
	}
	if w.ask == nil {
		w.ask = make(map[pack.ID]struct{})
	}
	for _, id := range ids {
		if len(w.ask) < maxAsk {
			w.ask[id] = struct{}{}
		}
	}
}

// learn takes in what a peer says that it holds of packs of which a shard is
// held here.
func (k *Keeper) learn(ctx context.Context, from string, ids []pack.ID, hs []wire.Holding) {
	said := make(map[pack.ID]wire.Holding, len(ids))
	for i, id := range ids {
		said[id] = hs[i]
	}
	now := ms(k.Clock.Now())
	var states, pushes, recoded, proofs []pack.ID
	changed := false
	err := k.Shelf.UpdateHolders(ids, func(p store.Pack) []store.Holder {
		h, own := said[p.ID], p.Held[0]
		if own.Deleted {
			return nil
		}
		same := h.Held && h.K == own.Coded && h.M == own.M
		switch {
		case h.Deleted && h.Number > own.Number, same && h.Number > own.Number && !h.Provisional:
			states = append(states, p.ID)
		case h.Held && !h.Provisional && h.Number > own.Number:
			recoded = append(recoded, p.ID)
			return nil
		case same && h.Number < own.Number && !own.Provisional:
			pushes = append(pushes, p.ID)
		}
		out, moved := sighted(p.Holders, from, h, same, now)
		changed = changed || moved
		if !h.Damaged && slices.ContainsFunc(out, func(x store.Holder) bool { return x.Peer == from && x.Failed == now }) {
			proofs = append(proofs, p.ID)
		}
		return out
	})
	if err != nil {
		k.Log.Warn("holders not written down", "peer", k.name(from), "err", err)
	}
	for _, id := range states {
		k.fetchState(ctx, from, id)
	}
	for _, id := range proofs {
		p, err := k.Shelf.Pack(id)
		if at := slices.IndexFunc(p.Holders, func(h store.Holder) bool { return h.Peer == from }); err == nil && at >= 0 {
			k.audit(ctx, p, p.Holders[at])
		}
	}
	for _, id := range pushes {
		if m, err := k.Shelf.Manifest(id); err == nil {
			_ = k.Net.SetState(ctx, from, &m.State) // it asks us, too, when it can
		}
	}
	if len(recoded) > 0 {
		k.mu.Lock()
		for _, id := range recoded {
			if len(k.newer) < maxQueue {
				k.newer[id] = from
			}
		}
		k.mu.Unlock()
	}
	if changed || len(states)+len(recoded) > 0 {
		k.touch()
	}
}

// sighted changes a list of holders by what one of them says; changed tells
// whether another number of shards counts now. Where nothing worth writing
// down has changed, which a later time alone is not, it gives nil.
//
// One that never proved to have the shard that it claimed, and now claims
// another, counts when it has proven that, and so does one that failed.
func sighted(hs []store.Holder, from string, h wire.Holding, same bool, now int64) (out []store.Holder, changed bool) {
	const worth = int64(6 * time.Hour / time.Millisecond)
	found, write, doubt := false, false, false
	out = make([]store.Holder, 0, len(hs)+1)
	for _, x := range hs {
		if x.Peer != from {
			out = append(out, x)
			continue
		}
		if !same || h.Provisional && x.Heard != 0 || x.Shard != h.Shard && !h.Provisional {
			changed, write = true, true // it has it no more
			doubt = doubt || same && (x.Failed != 0 || x.Verified == 0)
			continue
		}
		if h.Provisional { // the list came before the peer had it: ask again
			out = append(out, x)
			continue
		}
		found = true
		if h.Damaged && x.Failed == 0 {
			x.Failed, changed, write = now, true, true
		} else if now-x.Heard >= worth {
			write = true
			x.Heard = now
		}
		out = append(out, x)
	}
	if same && !h.Provisional && !found {
		x := store.Holder{Peer: from, Shard: h.Shard, Heard: now}
		if h.Damaged || doubt {
			x.Failed = now
		}
		out, changed, write = append(out, x), true, true
	}
	if !write {
		return nil, false
	}
	slices.SortStableFunc(out, func(a, b store.Holder) int { return cmp.Compare(a.Shard, b.Shard) })
	return out, changed
}

// fetchState takes over a newer state that a peer knows.
func (k *Keeper) fetchState(ctx context.Context, from string, id pack.ID) {
	st, err := k.Net.State(ctx, from, id)
	if err == nil {
		_, err = k.Shelf.SetState(st)
	}
	switch {
	case err == nil:
		k.Log.Info("new state of a pack", "pack", id, "deleted", st.Deleted, "from", k.name(from))
	case errors.Is(err, store.ErrCoding):
		k.mu.Lock()
		if len(k.newer) < maxQueue {
			k.newer[id] = from
		}
		k.mu.Unlock()
	case ctx.Err() == nil && !errors.Is(err, store.ErrOld) && !errors.Is(err, store.ErrNotFound):
		k.Log.Info("newer state of a pack not taken", "pack", id, "from", k.name(from), "err", err)
	}
}

// Told learns from a peer who holds a pack, after the shelf has taken the list
// if that peer may give it. What others say of others is only a reason to ask
// those; but who gives a list that it is not on holds the pack no more.
func (k *Keeper) Told(from string, p wire.PackHolders) {
	list := make(map[wire.Holder]bool, len(p.Holders))
	self := from == k.Self
	for _, h := range p.Holders {
		list[h] = true
		self = self || h.Peer == from
	}
	known, err := k.Shelf.Pack(p.ID)
	if err != nil || len(known.Held) == 0 || known.Held[0].Deleted || known.Held[0].Number != p.Number {
		return
	}
	if !self {
		err := k.Shelf.UpdateHolders([]pack.ID{p.ID}, func(p store.Pack) []store.Holder {
			out := slices.DeleteFunc(slices.Clone(p.Holders), func(h store.Holder) bool { return h.Peer == from })
			if len(out) == len(p.Holders) {
				return nil
			}
			return append([]store.Holder{}, out...)
		})
		if err != nil {
			k.Log.Warn("holders not written down", "pack", p.ID, "err", err)
		}
		k.touch()
	}
	for h := range list {
		if h.Peer == k.Self || slices.ContainsFunc(known.Holders, func(x store.Holder) bool {
			return x.Peer == h.Peer && x.Shard == h.Shard && x.Heard != 0
		}) {
			continue
		}
		k.later(h.Peer, []pack.ID{p.ID})
	}
}

// Asked notes that a peer has asked about packs: one that is not known to hold
// a pack asks because it does, perhaps, and is asked in its turn.
func (k *Keeper) Asked(from string, ids []pack.ID) {
	if from == k.Self {
		return
	}
	k.mu.Lock()
	if w := k.peers[from]; w != nil && !w.away.IsZero() {
		w.asked = time.Time{} // it is back: to be probed next
	}
	k.mu.Unlock()
	var ask []pack.ID
	for _, id := range ids[:min(len(ids), maxAsk)] {
		p, err := k.Shelf.Pack(id)
		if err != nil || len(p.Held) == 0 || p.Held[0].Deleted || p.Held[0].Provisional {
			continue
		}
		if !slices.ContainsFunc(p.Holders, func(h store.Holder) bool { return h.Peer == from }) {
			ask = append(ask, id)
		}
	}
	if len(ask) > 0 {
		k.later(from, ask)
	}
}

// reread reads a block from peers that left a read unanswered.
func (k *Keeper) reread(ctx context.Context) {
	type retry struct {
		peer string
		id   pack.ID
	}
	var again []retry
	k.mu.Lock()
	for p, w := range k.peers {
		if w.silent > 0 && w.away.IsZero() {
			again = append(again, retry{p, w.reread})
		}
	}
	k.mu.Unlock()
	slices.SortFunc(again, func(a, b retry) int { return cmp.Compare(a.peer, b.peer) })
	k.each(ctx, len(again), func(i int) {
		p, err := k.Shelf.Pack(again[i].id)
		at := slices.IndexFunc(p.Holders, func(h store.Holder) bool { return h.Peer == again[i].peer })
		if err != nil || at < 0 {
			k.answered(again[i].peer)
			return
		}
		k.audit(ctx, p, p.Holders[at])
	})
}

// answered notes that a peer gives out blocks.
func (k *Keeper) answered(p string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.peers[p]; w != nil && w.silent > 0 {
		if !w.mute.IsZero() {
			k.Log.Info("peer gives out blocks again", "peer", k.name(p))
			k.touch()
		}
		w.silent, w.mute = 0, time.Time{}
		w.gone = w.gone && !w.away.IsZero()
	}
}

// unanswered notes that a peer left a read unanswered.
func (k *Keeper) unanswered(p string, id pack.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.peers[p]
	if w == nil || !w.away.IsZero() {
		return
	}
	w.silent++
	w.reread = id
	if w.silent >= muteReads && w.mute.IsZero() {
		w.mute = k.Clock.Now()
		k.Log.Warn("peer answers probes and gives out no blocks", "peer", k.name(p))
		k.touch()
	}
}

// rows reads count blocks of a shard from a holder, this peer itself perhaps,
// and gives those that check to take. It returns an error where the holder did
// not answer, and bad where it gave something that it should not have.
func (k *Keeper) rows(ctx context.Context, m *pack.Manifest, g erasure.Geometry, peer string, shard, row, count int, take func(row int, b []byte)) (bad, err error) {
	id := m.ID()
	check := func(r int, b []byte, err error) {
		if err == nil {
			err = m.VerifyBlock(shard, r, b)
		}
		if err != nil {
			bad = cmp.Or(bad, err)
			return
		}
		take(r, b)
	}
	if peer == k.Self {
		buf := make([]byte, 0, g.BlockSize)
		for r := row; r < row+count; r++ {
			b, err := k.Shelf.ReadCoded(id, m.State.K, m.State.M, shard, r, buf)
			check(r, b, err)
		}
		return bad, ctx.Err()
	}
	q := wire.ReadRequest{ID: id, K: g.K, M: g.M, Shard: shard, Row: row, Count: count}
	err = k.Net.Read(ctx, peer, q, g, check)
	no, err := refused(err)
	return cmp.Or(bad, no), err
}
