package repair

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
)

// Level says how many packs survive how many further losses.
type Level struct {
	Survives int // live − k′; negative: not restorable now
	Packs    int
}

// PackSummary is how a pack is, as a review saw it.
type PackSummary struct {
	ID       pack.ID
	K, M     int
	Live     int       // distinct shards on distinct peers that are there, and of which samples have been seen
	Counted  int       // those that count where repair is decided
	Verified time.Time // when the oldest sample was taken that Live rests on
	Unknown  int       // shards whose holders are there, and have not shown a sample yet
	Repair   Work
}

// Survives is how many further losses the pack survives.
func (p *PackSummary) Survives() int { return p.Live - p.K }

// Work is what is to be done about a pack.
type Work string

// The kinds of work.
const (
	Nothing  Work = ""
	Pending  Work = "due"      // repair is due
	Hurry    Work = "urgent"   // it is due at once
	Running  Work = "running"  // it is being done here
	Unplaced Work = "unplaced" // too few peers take the shards that are missing
	Lost     Work = "lost"     // fewer than k′ shards are left
)

// Summary is what the last review saw of all packs held here.
type Summary struct {
	At       time.Time
	Packs    int
	Bytes    int64   // of the shards held here
	Levels   []Level // worst first
	Worst    []PackSummary
	Due      int
	Unplaced int
	Lost     int
	Away     int // co-holders that do not answer, within the grace and beyond
	Peers    int // co-holders
}

// worstListed is how many packs a summary lists.
const worstListed = 100

// Summary gives what the last review saw.
func (k *Keeper) Summary() Summary {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.summary
}

// Dirty is signaled when something has changed that a review should look at.
func (k *Keeper) Dirty() <-chan struct{} { return k.dirty }

// Changed tells that something has changed that the keeper does not see by
// itself, as that a pack was deleted: all are reviewed soon.
func (k *Keeper) Changed() { k.touch() }

// Review looks at every pack held here and notes what is to be done.
func (k *Keeper) Review(ctx context.Context) error {
	select {
	case <-k.dirty:
	default:
	}
	r := review{k: k, now: k.Clock.Now(), packs: make(map[string]int), levels: make(map[int]int),
		due: make(map[pack.ID]*due), twins: make(map[pack.ID]bool), doubles: make(map[pack.ID]bool), asks: make(map[string][]pack.ID)}
	for p, err := range k.Shelf.Walk(ctx, pack.ID{}) {
		if err != nil {
			return err
		}
		r.look(p)
	}
	if err := k.prune(r.stale); err != nil && !errors.Is(err, store.ErrClosed) {
		k.Log.Warn("holders not written down", "err", err)
	}
	r.end()
	return nil
}

// review is one Review.
type review struct {
	k       *Keeper
	now     time.Time
	sum     Summary
	packs   map[string]int // shared with each peer
	levels  map[int]int
	due     map[pack.ID]*due
	twins   map[pack.ID]bool
	doubles map[pack.ID]bool
	rotten  []pack.ID
	unseen  []unseen
	stale   []pack.ID            // with entries that say nothing any more
	asks    map[string][]pack.ID // never heard to hold what a list says
}

// sights says how present the holders of a pack are, this peer among them.
// mu is held.
func (k *Keeper) sights(p store.Pack, now time.Time) []Sight {
	own := p.Held[0]
	seen := make([]Sight, 0, len(p.Holders)+1)
	for _, h := range p.Held {
		if h.Deleted || h.Provisional || h.Number != own.Number {
			continue
		}
		s := Sight{Shard: h.Shard, Peer: k.Self, Presence: Present}
		if h.Damaged {
			s.Presence = Gone
		}
		seen = append(seen, s)
	}
	for _, h := range p.Holders {
		if h.Peer == k.Self {
			continue
		}
		s := Sight{Shard: h.Shard, Peer: h.Peer, Presence: k.presence(h.Peer, now)}
		if h.Failed != 0 {
			s.Presence = Gone
		}
		seen = append(seen, s)
	}
	return seen
}

// confirmed tells whether a pack is one to care for.
func confirmed(p store.Pack) bool {
	return len(p.Held) > 0 && !p.Held[0].Deleted && !p.Held[0].Provisional
}

// look takes in one pack.
func (r *review) look(p store.Pack) {
	if !confirmed(p) {
		return
	}
	k, own := r.k, p.Held[0]
	r.sum.Packs++
	for _, h := range p.Held {
		r.sum.Bytes += h.Bytes
		if h.Damaged && h.Number == own.Number {
			r.rotten = append(r.rotten, p.ID)
		}
	}
	k.mu.Lock()
	seen := k.sights(p, r.now)
	k.mu.Unlock()
	v := k.verdict(p.ID, own.Coded, own.M, seen)
	for _, h := range p.Holders {
		if h.Peer == k.Self {
			continue
		}
		r.packs[h.Peer]++
		switch {
		case h.Heard == 0:
			r.asks[h.Peer] = append(r.asks[h.Peer], p.ID)
		case h.Verified == 0 && h.Failed == 0 && len(r.unseen) < maxQueue:
			r.unseen = append(r.unseen, unseen{p.ID, h.Peer})
		}
	}
	r.spare(p, seen, v)
	s := PackSummary{ID: p.ID, K: own.Coded, M: own.M, Live: v.Live, Counted: v.Counted, Repair: Nothing}
	s.sample(p, seen, k.Self)
	r.levels[s.Survives()]++
	switch {
	case v.Lost:
		s.Repair = Lost
		r.sum.Lost++
	case v.Due:
		s.Repair = Pending
		if v.Urgent {
			s.Repair = Hurry
		}
	}
	if v.Due && len(v.Missing) > 0 {
		rank := 0
		for _, x := range seen {
			if x.Presence == Present && x.Peer != k.Self && k.Dir.Compare(p.ID, x.Peer, k.Self) < 0 {
				rank++
			}
		}
		if d := r.keep(p.ID, &due{since: r.now, verdict: v, rank: rank}); d != nil && d.noPlace && !v.Lost {
			s.Repair = Unplaced
			r.sum.Unplaced++
		}
		r.sum.Due++
	}
	r.note(s)
}

// keep puts a pack among those due, which is bounded: where there are too many
// the next review finds the rest.
func (r *review) keep(id pack.ID, d *due) *due {
	k := r.k
	k.mu.Lock()
	if old := k.due[id]; old != nil {
		d.since, d.urgent, d.next, d.tries, d.noPlace = old.since, old.urgent, old.next, old.tries, old.noPlace
	}
	k.mu.Unlock()
	switch {
	case !d.verdict.Urgent:
		d.urgent = time.Time{}
	case d.urgent.IsZero():
		d.urgent = r.now
	}
	if len(r.due) < maxQueue {
		r.due[id] = d
	}
	return d
}

// sample counts as live only those shards of which a sample has been seen.
// Seen are the sights of p: those of the holders stand in the order of its list.
func (s *PackSummary) sample(p store.Pack, seen []Sight, self string) {
	shown := slices.Clone(seen)
	verified := make([]int64, len(seen))
	i := slices.IndexFunc(seen, func(x Sight) bool { return x.Peer != self })
	doubt := false
	for _, h := range p.Holders {
		if h.Peer == self {
			continue
		}
		if verified[i] = h.Verified; h.Verified == 0 {
			doubt = doubt || shown[i].Presence == Present
			shown[i].Presence = Gone
		}
		i++
	}
	oldest, live := int64(0), 0
	for _, at := range match(s.K+s.M, shown, Present) {
		if at < 0 {
			continue
		}
		live++
		if v := verified[at]; v != 0 && (oldest == 0 || v < oldest) {
			oldest = v
		}
	}
	if doubt {
		s.Live, s.Unknown = live, s.Live-live
	}
	if oldest != 0 {
		s.Verified = time.UnixMilli(oldest)
	}
}

// note lists a pack among the worst, if it is.
func (r *review) note(s PackSummary) {
	if s.Repair == Nothing && len(r.sum.Worst) >= worstListed && s.Survives() >= r.sum.Worst[len(r.sum.Worst)-1].Survives() {
		return
	}
	at, _ := slices.BinarySearchFunc(r.sum.Worst, s, func(a, b PackSummary) int {
		if c := a.Survives() - b.Survives(); c != 0 {
			return c
		}
		return compareIDs(a.ID, b.ID)
	})
	r.sum.Worst = slices.Insert(r.sum.Worst, at, s)
	if len(r.sum.Worst) > worstListed {
		r.sum.Worst = r.sum.Worst[:worstListed]
	}
}

// spare looks for what is held twice, and for entries that say nothing. Seen are
// the sights of p: those of the holders stand in the order of its list.
func (r *review) spare(p store.Pack, seen []Sight, v Verdict) {
	k, n := r.k, p.Held[0].Coded+p.Held[0].M
	own := p.Held[0]
	closer := func(s Sight) bool {
		return s.Shard == own.Shard && s.Presence == Present && k.Dir.Compare(p.ID, s.Peer, k.Self) < 0
	}
	if !own.Damaged && len(r.twins) < maxQueue && v.Live > 0 && slices.ContainsFunc(seen, closer) {
		without := slices.DeleteFunc(slices.Clone(seen), func(s Sight) bool { return s.Peer == k.Self && s.Shard == own.Shard })
		if len(without) < len(seen) && matched(match(n, without, Present)) == v.Live {
			r.twins[p.ID] = true
		}
	}
	if v.Live < present(seen) && len(r.doubles) < maxQueue {
		r.doubles[p.ID] = true
	}
	at := slices.IndexFunc(seen, func(s Sight) bool { return s.Peer != k.Self })
	for _, h := range p.Holders {
		if h.Peer == k.Self {
			continue
		}
		here := seen[at].Presence >= Absent
		if at++; h.Failed != 0 || here {
			continue
		}
		// Of a peer that has been gone for long nothing is to be known any
		// more. Until then it is looked for: where the network fell in two,
		// each half has all shards again, and nobody would ever ask across.
		away := k.gone(h.Peer, r.now)
		if h.Heard == 0 && away > forgetUnheard || away > forgetAfter || v.Counted == n && away > forgetWhole {
			r.stale = append(r.stale, p.ID)
			return
		}
	}
}

// forgetAfter is how long a holder that is gone stays on the list of a pack
// that lacks shards.
const forgetAfter = 90 * 24 * time.Hour

// forgetWhole is how long it stays on that of one that lacks none.
const forgetWhole = 30 * 24 * time.Hour

// forgetUnheard is how long one stays that was listed, by a put or a repair, and
// has not said by itself that it holds the shard.
const forgetUnheard = 24 * time.Hour

// gone tells for how long a peer has been gone; 0: it is not.
func (k *Keeper) gone(p string, now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.peers[p]
	if w == nil || k.presence(p, now) != Gone {
		return 0
	}
	if w.away.IsZero() {
		return now.Sub(w.mute)
	}
	return now.Sub(w.away)
}

// prune removes from lists of holders the entries that are gone, where their
// shards are held by others. One that failed an audit stays: it is not to be
// given the shard again.
func (k *Keeper) prune(ids []pack.ID) error {
	now := k.Clock.Now()
	for part := range slices.Chunk(ids, 256) {
		err := k.Shelf.UpdateHolders(part, func(p store.Pack) []store.Holder {
			if !confirmed(p) {
				return nil
			}
			out := []store.Holder{}
			for _, h := range p.Holders {
				away := k.gone(h.Peer, now)
				if h.Peer != k.Self && h.Failed == 0 && (away > forgetWhole || h.Heard == 0 && away > forgetUnheard) {
					continue
				}
				out = append(out, h)
			}
			if len(out) == len(p.Holders) {
				return nil
			}
			return out
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// present counts the holders that are there.
func present(seen []Sight) (n int) {
	for _, s := range seen {
		if s.Presence == Present {
			n++
		}
	}
	return n
}

// since notes since when packs are among those now.
func since(noted map[pack.ID]time.Time, packs map[pack.ID]bool, now time.Time) {
	for id := range noted {
		if !packs[id] {
			delete(noted, id)
		}
	}
	for id := range packs {
		if _, ok := noted[id]; !ok {
			noted[id] = now
		}
	}
}

// end makes what was found what is to be done.
func (r *review) end() {
	k := r.k
	for s, n := range r.levels {
		r.sum.Levels = append(r.sum.Levels, Level{s, n})
	}
	slices.SortFunc(r.sum.Levels, func(a, b Level) int { return a.Survives - b.Survives })
	r.sum.At = r.now
	for p, ids := range r.asks {
		k.later(p, ids)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for p, w := range k.peers {
		w.packs = r.packs[p]
		if w.packs == 0 && len(w.ask) == 0 && w.silent == 0 {
			delete(k.peers, p)
		}
	}
	for p, n := range r.packs {
		w := k.peer(p)
		if w == nil {
			continue
		}
		w.packs = n
		r.sum.Peers++
		if !w.away.IsZero() || !w.mute.IsZero() {
			r.sum.Away++
		}
	}
	for i := range r.sum.Worst {
		if s := &r.sum.Worst[i]; k.busy[s.ID] {
			s.Repair = Running
		}
	}
	// In random order: else all holders would ask the same peers at a time.
	k.Rand.Shuffle(len(r.unseen), func(i, j int) { r.unseen[i], r.unseen[j] = r.unseen[j], r.unseen[i] })
	k.due, k.rotten, k.unseen = r.due, r.rotten, r.unseen
	since(k.twins, r.twins, r.now)
	since(k.doubles, r.doubles, r.now)
	k.summary = r.sum
}
