package repair

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// width is how many of the peers closest to a pack are asked about it, as
	// many as hold one at the largest automatic step.
	width = 20

	// maxWalk is how many peers are asked at most whether they take a shard,
	// for each that is missing.
	maxWalk = 16

	// sendsAtOnce is how many rebuilt shards are computed and sent side by
	// side: each is up to 4 MiB at 8+12, up to 32 MiB where k′ is 1.
	sendsAtOnce = 4

	// retryFirst and retryMost are the pauses after a repair that failed.
	retryFirst = 4 // probe periods
	retryMost  = 6 * time.Hour
)

// ErrBadState is wrapped where the parity that a pack's owner signed is not
// that of its data: nothing can be rebuilt from it.
var ErrBadState = errors.New("the pack's state is bad: its owner signed parity that disagrees with the data")

// turn is how long a peer waits for each that is closer to a pack before it
// repairs in its stead: such a one that is gone is not waited for, only one
// that is there and does nothing.
func (k *Keeper) turn(urgent bool) time.Duration {
	if urgent {
		return 4 * k.Probe
	}
	return max(4*k.Probe, k.Grace/4)
}

// mine tells whether it is this peer's turn to repair a pack. The turns of an
// urgent repair count from when it became urgent; the others go on meanwhile,
// for a pack may be urgent at night and only due by day.
func (k *Keeper) mine(d *due, now time.Time) bool {
	rank := time.Duration(d.rank)
	return now.Sub(d.since) >= rank*k.turn(false) || !d.urgent.IsZero() && now.Sub(d.urgent) >= rank*k.turn(true)
}

// Repair repairs the pack that is worst off of those whose turn it is here. It
// tells whether there was one.
func (k *Keeper) Repair(ctx context.Context) (did bool) {
	if ctx.Err() != nil {
		return false
	}
	now := k.Clock.Now()
	var id pack.ID
	var worst *due
	k.mu.Lock()
	if !k.leaving && !k.Off.Repair {
		for x, d := range k.due {
			if k.busy[x] || d.verdict.Lost || now.Before(d.next) || !k.mine(d, now) {
				continue
			}
			if worst == nil || before(x, d, id, worst) {
				id, worst = x, d
			}
		}
	}
	if worst != nil {
		k.busy[id] = true
	}
	k.mu.Unlock()
	if worst == nil {
		return false
	}
	k.Stats.Repairs.Add(1)
	err := k.repair(ctx, id)
	k.Stats.Repairs.Add(-1)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.busy, id)
	if d := k.due[id]; d != nil && ctx.Err() == nil {
		if err == nil {
			d.tries = 0
		}
		d.noPlace = errors.Is(err, errNoPlace)
		wait := k.retry(d.tries)
		if d.noPlace {
			wait = min(wait, k.turn(false)) // peers may have joined
		}
		d.tries++
		// After one that went well, too: the next review takes the pack off
		// the list, unless it sees it as due still, whatever the repair saw.
		d.next = k.Clock.Now().Add(wait)
	}
	k.touch()
	return true
}

// retry is the pause after so many repairs of a pack that failed one after the
// other.
func (k *Keeper) retry(tries int) time.Duration {
	wait := retryFirst * k.Probe
	for ; tries > 0 && wait < retryMost; tries-- {
		wait *= 2
	}
	return min(wait, retryMost)
}

// before says which of two packs is repaired first: the one that has fewer
// shards to lose.
func before(a pack.ID, x *due, b pack.ID, y *due) bool {
	left := func(d *due) int { return d.verdict.Live - len(d.verdict.Missing) }
	if l, m := left(x), left(y); l != m {
		return l < m
	}
	return compareIDs(a, b) < 0
}

// errNoPlace is wrapped where nobody takes what is missing.
var errNoPlace = errors.New("no peer takes a shard")

// errElsewhere is the error of a repair that meets another one of the same
// pack: what that one placed is looked at before more is done.
var errElsewhere = errors.New("it has just been given a shard of the pack: another repairs it")

// repair restores what a pack lacks.
func (k *Keeper) repair(ctx context.Context, id pack.ID) error {
	m, err := k.Shelf.Manifest(id)
	if err != nil {
		return err
	}
	p, newer, err := k.refresh(ctx, id)
	if err != nil || newer {
		return err
	}
	g := m.Geometry()
	k.mu.Lock()
	seen := k.sights(p, k.Clock.Now())
	k.mu.Unlock()
	v := k.verdict(id, g.K, g.M, seen)
	if !v.Due || len(v.Missing) == 0 {
		k.finished(id)
		return nil
	}
	if v.Live < g.K {
		return fmt.Errorf("%d of %d needed shards are there", v.Live, g.K)
	}
	if k.stale && !slices.ContainsFunc(p.Holders, func(h store.Holder) bool { return h.Heard >= ms(k.began) }) {
		return errors.New("this node was away for long, and nobody else holds the pack")
	}
	k.Log.Info("repair begun", "pack", id, "live", v.Live, "counted", v.Counted, "of", g.N(), "missing", len(v.Missing), "urgent", v.Urgent)
	begun := k.Clock.Now()
	j := job{k: k, m: m, id: id, g: g, seen: seen, missing: v.Missing}
	for _, h := range p.Holders {
		j.known = append(j.known, h.Peer)
	}
	err = j.run(ctx)
	took := k.Clock.Now().Sub(begun).Round(time.Millisecond)
	if err == nil && len(j.placed) < len(v.Missing) {
		err = fmt.Errorf("%w: %d of %d placed", errNoPlace, len(j.placed), len(v.Missing))
	}
	switch {
	case err == nil:
		k.finished(id)
		k.Stats.Repaired.Add(1)
		k.Log.Info("repair done", "pack", id, "rebuilt", len(j.placed), "took", took)
	case ctx.Err() != nil:
		k.unfinish(id)
	case errors.Is(err, errElsewhere):
		k.unfinish(id) // the other one may meet what this one has placed, and stop as well
		k.Log.Info("repair left to another", "pack", id, "rebuilt", len(j.placed), "why", err)
	case errors.Is(err, ErrBadState):
		k.Stats.RepairsFailed.Add(1)
		k.Log.Error("repair failed", "pack", id, "rebuilt", len(j.placed), "err", err)
	default:
		k.unfinish(id)
		k.Stats.RepairsFailed.Add(1)
		k.Log.Warn("repair failed", "pack", id, "rebuilt", len(j.placed), "took", took, "err", err)
	}
	return err
}

// verdict diagnoses a pack: one of which a repair was begun and not ended is
// due until it has all of its shards. Else it would stay just above the
// threshold, where nobody cares for it.
func (k *Keeper) verdict(id pack.ID, kk, m int, seen []Sight) Verdict {
	k.mu.Lock()
	begun := k.unfinished[id]
	k.mu.Unlock()
	if begun {
		return diagnose(kk, m, kk+m-1, seen)
	}
	return k.diagnose(kk, m, seen)
}

func (k *Keeper) unfinish(id pack.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.unfinished) < maxQueue {
		k.unfinished[id] = true
	}
}

func (k *Keeper) finished(id pack.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.unfinished, id)
}

// refresh asks all who may hold a pack of which a shard is held here what they
// have of it now. newer tells that the pack is no longer what it was: nothing
// is to be repaired of it.
func (k *Keeper) refresh(ctx context.Context, id pack.ID) (p store.Pack, newer bool, err error) {
	if p, err = k.Shelf.Pack(id); err != nil {
		return p, false, err
	}
	if !confirmed(p) {
		return p, true, nil
	}
	number, key := p.Held[0].Number, [2]int{p.Held[0].Coded, p.Held[0].M}
	ask := make([]string, 0, len(p.Holders)+width)
	now := k.Clock.Now()
	add := func(q string) {
		// Those that are away are asked by Watch, which waits for them.
		k.mu.Lock()
		w := k.peers[q]
		away := w != nil && !w.away.IsZero() && now.Sub(w.asked) < awayPauses*k.Probe
		k.mu.Unlock()
		if q != k.Self && !away && !slices.Contains(ask, q) {
			ask = append(ask, q)
		}
	}
	for _, h := range p.Holders {
		add(h.Peer)
	}
	near, err := k.Dir.Closest(ctx, id, width)
	if err != nil && ctx.Err() != nil {
		return p, false, err
	}
	for _, q := range near {
		add(q)
	}
	for q, err := range k.Dir.Holders(ctx, id) {
		if err != nil || len(ask) >= 8*width {
			break
		}
		add(q)
	}
	answers := make([]*wire.Holding, len(ask))
	k.each(ctx, len(ask), func(i int) {
		hs, err := k.Net.Have(ctx, ask[i], []pack.ID{id})
		if err == nil && len(hs) == 1 {
			answers[i] = &hs[0]
		}
		k.asked(ask[i], err)
	})
	for i, h := range answers {
		if h == nil {
			continue
		}
		if h.Held && !h.Provisional && h.Number > number && [2]int{h.K, h.M} != key {
			// Only what the owner has signed keeps from repairing.
			m, err := k.Net.Manifest(ctx, ask[i], id)
			newer = newer || err == nil && m.State.Number > number
		}
		k.learn(ctx, ask[i], []pack.ID{id}, []wire.Holding{*h})
	}
	if p, err = k.Shelf.Pack(id); err != nil {
		return p, false, err
	}
	return p, newer || !confirmed(p) || p.Held[0].Number != number, ctx.Err()
}

// asked notes whether a peer that was asked something is there.
func (k *Keeper) asked(p string, err error) {
	if _, refused := errors.AsType[*wire.Refusal](err); refused {
		err = nil
	}
	now := k.Clock.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.peers[p]
	switch {
	case w == nil && err != nil: // asked in vain, and not known to be a holder
		if w = k.peer(p); w != nil {
			w.away = now
		}
	case w == nil:
	case err == nil && !w.away.IsZero():
		w.away, w.sync, w.heard = time.Time{}, true, now
	case err == nil:
		w.heard = now
	case w.away.IsZero():
		w.away = now
	}
}

// job is the rebuilding of shards of one pack.
type job struct {
	k       *Keeper
	m       *pack.Manifest
	id      pack.ID
	g       erasure.Geometry
	seen    []Sight  // the holders; those present are read from
	known   []string // all who are known to hold a shard, or to have failed to: they get none
	missing []int

	placed []wire.Holder
}

// run reads k′ shards, computes the missing ones and places them. An error
// says why nothing could be placed; fewer may be placed than are missing.
func (j *job) run(ctx context.Context) error {
	places, err := j.places(ctx)
	if err != nil {
		return err
	}
	if len(places) == 0 {
		return fmt.Errorf("%w: %d asked for", errNoPlace, len(j.missing))
	}
	rows, err := j.gather(ctx)
	if err != nil {
		return err
	}
	return j.send(ctx, rows, places)
}

// places finds peers for the missing shards, as many as there are and then
// some, in order of preference.
func (j *job) places(ctx context.Context) ([]Candidate, error) {
	k := j.k
	taken := make(Crowd)
	skip := map[string]bool{k.Self: true}
	for _, p := range j.known {
		skip[p] = true
	}
	for _, s := range j.seen {
		if s.Presence >= Absent {
			skip[s.Peer] = true
			taken.Add(k.candidate(ctx, s.Peer), 1)
		}
	}
	// One that has been gone, or that has lost its shard and says so, is as
	// good as any other; one that failed is not, nor one that gives out no
	// blocks: it would be given the shard again by every review.
	for _, s := range j.seen {
		if s.Presence == Gone && s.Peer != k.Self && !k.failed(j.id, s.Peer) {
			delete(skip, s.Peer)
		}
	}
	need := uint64(j.g.ShardLen(0)) + pack.MaxManifest
	var found []Candidate
	var batch []string
	look := func() {
		ok := make([]*Candidate, len(batch))
		k.each(ctx, len(batch), func(i int) {
			f, err := k.facts(ctx, batch[i])
			if err == nil && f.Free >= need {
				ok[i] = &Candidate{batch[i], Zones(f.Zone, k.Net.Group(batch[i]))}
			}
		})
		for _, c := range ok {
			if c != nil {
				found = append(found, *c)
			}
		}
		batch = batch[:0]
	}
	asked := 0
	for p, err := range k.Dir.Walk(ctx, j.id) {
		if err != nil || asked >= maxWalk*max(len(j.missing), width) {
			break
		}
		if skip[p] || k.silent(p) {
			continue
		}
		skip[p] = true
		asked++
		if batch = append(batch, p); len(batch) >= width {
			if look(); len(found) >= 2*len(j.missing) {
				break
			}
		}
	}
	look()
	chosen, spare := Place(found, len(j.missing), j.g.M, taken)
	return append(chosen, spare...), ctx.Err()
}

// silent tells whether a peer answers probes and gives out no blocks.
func (k *Keeper) silent(p string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.peers[p]
	return w != nil && !w.mute.IsZero()
}

// failed tells whether a peer has failed an audit of a pack.
func (k *Keeper) failed(id pack.ID, peer string) bool {
	p, err := k.Shelf.Pack(id)
	return err == nil && slices.ContainsFunc(p.Holders, func(h store.Holder) bool { return h.Peer == peer && h.Failed != 0 })
}

// candidate gives a peer with its zones, as far as they are known.
func (k *Keeper) candidate(ctx context.Context, p string) Candidate {
	if p == k.Self {
		return Candidate{p, Zones(k.Zone, "")}
	}
	f, err := k.facts(ctx, p)
	if err != nil {
		return Candidate{Peer: p}
	}
	return Candidate{p, Zones(f.Zone, k.Net.Group(p))}
}

// facts gives what a peer says of itself, not older than a probe period.
func (k *Keeper) facts(ctx context.Context, p string) (wire.Facts, error) {
	now := k.Clock.Now()
	k.mu.Lock()
	if w := k.peers[p]; w != nil && !w.heard.IsZero() && w.away.IsZero() && now.Sub(w.heard) <= k.Probe && w.facts.Boot != 0 {
		f := w.facts
		k.mu.Unlock()
		return f, nil
	}
	k.mu.Unlock()
	return k.Net.Facts(ctx, p)
}

// gather reads k′ verified blocks of every row: rows by shard. It begins with
// k′ holders, this one among them, and asks others for what those do not give.
func (j *job) gather(ctx context.Context) ([][][]byte, error) {
	k, g := j.k, j.g
	rows := make([][][]byte, g.Rows)
	have := make([]int, g.Rows)
	for r := range rows {
		rows[r] = make([][]byte, g.N())
		for s := range g.K {
			if g.Block(s, r) < 0 {
				have[r]++ // known zeros
			}
		}
	}
	var mu sync.Mutex // guards rows, have
	sources := j.sources()
	var last error
	for len(sources) > 0 {
		lack := 0 // of the row that lacks most
		for r := range rows {
			lack = max(lack, g.K-have[r])
		}
		if lack <= 0 {
			break
		}
		n := min(lack, len(sources))
		part := sources[:n]
		sources = sources[n:]
		k.each(ctx, n, func(i int) {
			s := part[i]
			first, count := -1, 0 // the run of rows that want more
			mu.Lock()
			for r := range g.ShardRows(s.Shard) {
				if have[r] < g.K && rows[r][s.Shard] == nil {
					if first < 0 {
						first = r
					}
					count = r - first + 1
				}
			}
			mu.Unlock()
			if first < 0 {
				return
			}
			bad, err := k.rows(ctx, j.m, g, s.Peer, s.Shard, first, count, func(r int, b []byte) {
				if s.Peer != k.Self {
					k.Stats.RepairBytesRead.Add(int64(len(b)))
					_ = k.budget.wait(ctx, len(b)) // ctx is looked at below
				}
				mu.Lock()
				defer mu.Unlock()
				if rows[r][s.Shard] == nil && have[r] < g.K {
					rows[r][s.Shard] = slices.Clone(b)
					have[r]++
				}
			})
			if bad != nil {
				k.fault(j.id, s, bad)
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, wire.ErrBusy) {
				k.unanswered(s.Peer, j.id)
			} else if err == nil && bad == nil {
				k.verified(j.id, s)
			}
			if bad != nil || err != nil {
				mu.Lock()
				last = errors.Join(bad, err)
				mu.Unlock()
			}
		})
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	for r := range rows {
		if have[r] < g.K {
			return nil, fmt.Errorf("row %d: %d of %d blocks could be read: %w", r, have[r], g.K, errors.Join(last, &erasure.ShortError{Have: have[r], Need: g.K}))
		}
	}
	return rows, nil
}

// sources are the holders to read from, in order: one of every shard before
// the second of any, this peer itself first, then data before parity, which
// saves the coding.
func (j *job) sources() []Sight {
	var first, more []Sight
	var own []Sight
	had := make(map[int]bool)
	for _, s := range j.seen {
		if s.Presence != Present || s.Shard >= j.g.N() {
			continue
		}
		switch {
		case s.Peer == j.k.Self:
			own = append(own, s)
			had[s.Shard] = true
		}
	}
	for _, s := range j.seen {
		if s.Presence != Present || s.Peer == j.k.Self || s.Shard >= j.g.N() {
			continue
		}
		if had[s.Shard] {
			more = append(more, s)
			continue
		}
		had[s.Shard] = true
		first = append(first, s)
	}
	slices.SortStableFunc(first, func(a, b Sight) int { return a.Shard - b.Shard })
	return slices.Concat(own, first, more)
}

// shard computes one shard from gathered rows, all blocks checked.
func (j *job) shard(rows [][][]byte, s int) ([][]byte, error) {
	cells := make([][]byte, j.g.ShardRows(s))
	want := make([]bool, j.g.N())
	want[s] = true
	for r := range cells {
		if rows[r][s] != nil {
			cells[r] = rows[r][s]
			continue
		}
		row := slices.Clone(rows[r])
		if err := erasure.RestoreRow(j.g, r, row, want); err != nil {
			return nil, fmt.Errorf("shard %d, row %d: %w", s, r, err)
		}
		if err := j.m.VerifyBlock(s, r, row[s]); err != nil {
			return nil, fmt.Errorf("shard %d, row %d: %w: %w", s, r, ErrBadState, err)
		}
		cells[r] = row[s]
	}
	return cells, nil
}

// send places the missing shards and tells everybody.
func (j *job) send(ctx context.Context, rows [][][]byte, places []Candidate) error {
	k := j.k
	var mu sync.Mutex // guards places, placed, fatal, last
	var fatal, last error
	next := func() (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		if len(places) == 0 || fatal != nil {
			return "", false
		}
		p := places[0].Peer
		places = places[1:]
		return p, true
	}
	holders := j.holders()
	one := func(s int) {
		cells, err := j.shard(rows, s)
		if err != nil {
			mu.Lock()
			fatal = err
			mu.Unlock()
			return
		}
		for {
			to, ok := next()
			if !ok || ctx.Err() != nil {
				return
			}
			size := 0
			for _, c := range cells {
				size += len(c)
			}
			if k.budget.wait(ctx, size) != nil {
				return
			}
			mu.Lock()
			list := append(slices.Concat(holders, j.placed), wire.Holder{Peer: to, Shard: s})
			mu.Unlock()
			err := k.Net.Store(ctx, to, &wire.StoreRequest{Manifest: j.m, Shard: s, Holders: list}, func(r int) []byte { return cells[r] })
			mu.Lock()
			if err == nil {
				j.placed = append(j.placed, wire.Holder{Peer: to, Shard: s})
				k.Stats.Rebuilt.Add(1)
				k.Stats.RepairBytesSent.Add(int64(size))
				mu.Unlock()
				return
			}
			last = err
			switch {
			case errors.Is(err, wire.ErrOld):
				fatal = fmt.Errorf("%s knows a newer state: %w", k.name(to), err)
			case errors.Is(err, wire.ErrAnother):
				fatal = fmt.Errorf("%s: %w", k.name(to), errElsewhere)
			}
			stop := fatal != nil
			mu.Unlock()
			if stop {
				k.later(to, []pack.ID{j.id})
				return
			}
			k.Log.Info("shard not placed, trying another peer", "pack", j.id, "shard", s, "peer", k.name(to), "err", err)
		}
	}
	slots := min(sendsAtOnce, max(1, (32<<20)/max(1, j.g.ShardLen(0))))
	for part := range slices.Chunk(j.missing, slots) {
		k.each(ctx, len(part), func(i int) { one(part[i]) })
		if fatal != nil || ctx.Err() != nil {
			break
		}
	}
	if len(j.placed) > 0 {
		j.tell(context.WithoutCancel(ctx))
	}
	switch {
	case fatal != nil:
		return fatal
	case ctx.Err() != nil:
		return ctx.Err()
	case len(j.placed) == 0:
		return fmt.Errorf("%w: %w", errNoPlace, last)
	}
	return nil
}

// holders are those that keep their shards, as a list for others.
func (j *job) holders() []wire.Holder {
	var out []wire.Holder
	for _, s := range j.seen {
		if h := (wire.Holder{Peer: s.Peer, Shard: s.Shard}); s.Presence >= Absent && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// tell writes down who holds the pack now, and tells all of them.
func (j *job) tell(ctx context.Context) {
	k := j.k
	list := wire.PackHolders{ID: j.id, Number: j.m.State.Number, Holders: append(j.holders(), j.placed...)}
	now := ms(k.Clock.Now())
	err := k.Shelf.UpdateHolders([]pack.ID{j.id}, func(p store.Pack) []store.Holder {
		out := slices.Clone(p.Holders)
		for _, h := range j.placed {
			out = slices.DeleteFunc(out, func(x store.Holder) bool { return x.Peer == h.Peer })
			// It has acknowledged blocks that were checked on both sides.
			out = append(out, store.Holder{Peer: h.Peer, Shard: h.Shard, Heard: now})
		}
		return out
	})
	if err != nil {
		k.Log.Warn("holders not written down", "pack", j.id, "err", err)
	}
	var peers []string
	for _, h := range list.Holders {
		if h.Peer != k.Self && !slices.Contains(peers, h.Peer) {
			peers = append(peers, h.Peer)
		}
	}
	k.each(ctx, len(peers), func(i int) {
		if err := k.Net.Holders(ctx, peers[i], []wire.PackHolders{list}); err != nil {
			k.Log.Debug("list of holders not heard", "peer", k.name(peers[i]), "pack", j.id, "err", err)
		}
	})
}

// fault notes that a holder gave something else than its shard. That it has
// none is no fault, only a loss.
func (k *Keeper) fault(id pack.ID, s Sight, why error) {
	none := errors.Is(why, wire.ErrNotFound) || errors.Is(why, wire.ErrOtherCoding)
	if s.Peer == k.Self {
		k.touch() // the shelf has marked it
		return
	}
	now := ms(k.Clock.Now())
	err := k.Shelf.UpdateHolders([]pack.ID{id}, func(p store.Pack) []store.Holder {
		out := []store.Holder{}
		for _, h := range p.Holders {
			if h.Peer == s.Peer && h.Shard == s.Shard {
				if none {
					continue
				}
				h.Failed = now
			}
			out = append(out, h)
		}
		return out
	})
	if err != nil {
		k.Log.Warn("fault not written down", "peer", k.name(s.Peer), "pack", id, "err", err)
	}
	if none {
		k.later(s.Peer, []pack.ID{id}) // it may know why: the pack may have been deleted
		k.Log.Info("peer has a shard no more", "peer", k.name(s.Peer), "pack", id, "shard", s.Shard)
	} else {
		k.Log.Warn("peer failed: its shard counts as lost", "peer", k.name(s.Peer), "pack", id, "shard", s.Shard, "err", why)
	}
	k.touch()
}

// verified notes that a holder gave a block that checks.
func (k *Keeper) verified(id pack.ID, s Sight) {
	k.answered(s.Peer)
	if s.Peer == k.Self {
		return
	}
	now := ms(k.Clock.Now())
	healed := false
	err := k.Shelf.UpdateHolders([]pack.ID{id}, func(p store.Pack) []store.Holder {
		out := slices.Clone(p.Holders)
		for i := range out {
			if h := &out[i]; h.Peer == s.Peer && h.Shard == s.Shard {
				healed = h.Failed != 0
				h.Heard, h.Verified, h.Failed = now, now, 0
				return out
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrClosed) {
		k.Log.Warn("sample not written down", "peer", k.name(s.Peer), "pack", id, "err", err)
	}
	if healed {
		k.touch()
	}
}
