package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
)

// watched is a pack as the oracle sees it, which looks at all disks and asks
// nobody. What it counts has nothing of package repair in it but the
// thresholds.
type watched struct {
	*fixture

	w      *world
	order  []*peer  // all there ever were, the closest first; nil: to be sorted
	copies []*shard // on whatever disk

	stored    bool // it was put, and acknowledged
	putAt     time.Duration
	tombstone *pack.State
	deletedAt time.Duration

	base    int           // shards that were missing after the last repair
	losses  int           // copies destroyed since then
	due     time.Duration // for how long repair has been due and possible
	claimed time.Duration // for how long health has claimed more than there is
	lost    bool          // fewer than k distinct intact shards are anywhere
	spoiled bool          // the premise has failed
}

// good tells whether a copy counts: intact, on a peer that gives it out.
func (s *shard) good() bool { return !s.rotten && !s.peer.gone && !s.peer.lie.useless() }

// leaders is how many of the closest holders the oracle asks what they know:
// with the liars among them each is waited for in its turn.
const leaders = 3

// knows tells whether a peer that holds the pack knows that a copy is bad, or
// does not count on it.
func (x *watched) knows(p *peer, bad *shard) bool {
	if p == bad.peer {
		return bad.damaged
	}
	hs := p.disk.packs[x.id].holders
	i := slices.IndexFunc(hs, func(h store.Holder) bool { return h.Peer == bad.peer.id && h.Shard == bad.index })
	return i < 0 || hs[i].Failed != 0 || p.keeper.Presence(bad.peer.id) == repair.Gone
}

// holding gives the honest peers that are there and hold the pack, at most so
// many, the closest first.
func (x *watched) holding(most int) (ps []*peer) {
	for _, p := range x.w.closest(x.id) {
		if len(ps) < most && p.online() && p.lie == truth &&
			slices.ContainsFunc(x.copies, func(s *shard) bool { return s.peer == p }) {
			ps = append(ps, p)
		}
	}
	return ps
}

// counted is how many shards count, away for less than grace among them, to
// one of those that are to repair.
func (x *watched) counted(real int) int {
	if x.w.cfg.Liars == 0 && x.allGood() {
		return real
	}
	least := 256
	for _, p := range x.holding(leaders) {
		good := func(s *shard) bool { return s.good() || !s.peer.gone && s.peer.lie == truth && !x.knows(p, s) }
		least = min(least, x.live(x.w.cfg.Grace, good, x.believed(p)...))
	}
	return least
}

// believed gives the shards that liars claim and a peer has not seen through
// yet.
func (x *watched) believed(p *peer) (out []*shard) {
	for _, h := range p.disk.packs[x.id].holders {
		if q := x.w.byID[h.Peer]; q != nil && q.lie != truth && h.Failed == 0 && p.keeper.Presence(h.Peer) != repair.Gone {
			out = append(out, &shard{peer: q, index: h.Shard})
		}
	}
	return out
}

// intact counts the distinct intact shards on any disk.
func (x *watched) intact() int {
	var seen [256]bool
	n := 0
	for _, s := range x.copies {
		if s.good() && !seen[s.index] {
			seen[s.index] = true
			n++
		}
	}
	return n
}

// live counts distinct shards on distinct peers that are there or have been
// away for no longer than grace: a greatest matching, by augmenting paths. Of
// the copies those count that good says, and more.
func (x *watched) live(grace time.Duration, good func(*shard) bool, more ...*shard) int {
	var at []*peer       // the peers
	var by [256][]uint16 // by shard: which of them
	shards := 0
	for i, s := range slices.Concat(x.copies, more) {
		p := s.peer
		if i < len(x.copies) && !good(s) || !p.online() && (grace == 0 || x.w.t-p.since > grace) {
			continue
		}
		i := slices.Index(at, p)
		if i < 0 {
			i = len(at)
			at = append(at, p)
		}
		if len(by[s.index]) == 0 {
			shards++
		}
		by[s.index] = append(by[s.index], uint16(i))
	}
	owner := make([]int, len(at)) // shard + 1
	var seen []bool
	var assign func(shard int) bool
	assign = func(shard int) bool {
		for _, i := range by[shard] {
			if seen[i] {
				continue
			}
			seen[i] = true
			if owner[i] == 0 || assign(owner[i]-1) {
				owner[i] = shard + 1
				return true
			}
		}
		return false
	}
	n := 0
	for shard := range by {
		if len(by[shard]) == 0 {
			continue
		}
		seen = make([]bool, len(at))
		if assign(shard) {
			n++
		}
	}
	return min(n, shards)
}

// allGood tells whether no copy is a bad one.
func (x *watched) allGood() bool {
	for _, s := range x.copies {
		if !s.good() {
			return false
		}
	}
	return true
}

// undetected looks for copies that have been bad for long and nobody knows.
func (x *watched) undetected(every time.Duration) {
	for _, s := range x.copies {
		if s.good() || s.peer.gone || s.found || !s.peer.online() {
			continue
		}
		if s.found = slices.ContainsFunc(x.holding(256), func(p *peer) bool { return x.knows(p, s) }); s.found {
			continue
		}
		s.hidden += every
		r := &x.w.report
		r.MaxHidden = max(r.MaxHidden, s.hidden)
		if lim := x.w.cfg.Found; s.hidden > lim && s.hidden-every <= lim {
			r.Hidden = append(r.Hidden, fmt.Sprintf("%s %s %v: shard %d of peer %d (lie %d)", x.id.Short(), x.scheme, x.w.t, s.index, s.peer.n, s.peer.lie))
		}
	}
}

// changed hears that a copy came (+1) or went.
func (x *watched) changed(s *shard, by int) {
	if by < 0 && s.good() && !x.w.giving {
		x.losses++
		x.w.report.Destroyed += s.bytes()
	}
}

// rot damages a block of a copy.
func (x *watched) rot(s *shard, row int) {
	b := slices.Clone(s.cells[row])
	b[x.w.rng.IntN(len(b))] ^= 0x55
	s.cells[row] = b
	if !s.rotten {
		x.losses++
		x.w.report.Destroyed += s.bytes()
		s.rotten = true
	}
}

// report is what became of a world.
type report struct {
	seed    uint64
	Lost    []string // packs lost while the premise held
	Spoiled []string // packs of which the premise failed
	Late    []string // repairs that were not done in time
	Claims  []string // health that claimed more than there is, for too long
	Hidden  []string // bad copies that nobody found in time
	Undead  []string // packs that were deleted and came back

	Repairs    int           // that placed something
	Restored   int           // shards
	LostBytes  int64         // of the shards restored
	Moved      int64         // bytes of blocks read and sent for it
	Destroyed  int64         // bytes of the shards that were destroyed
	Bound      int64         // what that would be by (k + missing)/missing
	MaxDue     time.Duration // the longest that a repair has been due
	MaxHidden  time.Duration // the longest that a bad copy was not found, of time in which its peer was there
	MaxClaim   time.Duration
	Least      int // the least live − k that was seen
	Departed   int
	DiskDeaths int
	Rotten     int
	PackDays   float64

	ByteDays float64 // of shards as they ought to be

	trace   uint64
	traffic [phases][kinds]traffic
}

// failed tells whether an invariant was broken.
func (r *report) failed() bool {
	return len(r.Lost)+len(r.Late)+len(r.Claims)+len(r.Hidden)+len(r.Undead) > 0
}

// sample looks at everything, every so often.
func (w *world) sample(every time.Duration) {
	r := &w.report
	for _, x := range w.packs {
		if !x.stored {
			continue
		}
		if x.tombstone != nil {
			w.buried(x)
			continue
		}
		g := x.g
		r.PackDays += every.Hours() / 24
		for s := range g.N() {
			r.ByteDays += float64(g.ShardLen(s)) * every.Hours() / 24
		}
		if x.base+x.losses > g.M && !x.spoiled {
			x.spoiled = true
		}
		if x.lost {
			continue
		}
		if x.intact() < g.K {
			x.lost = true
			name := x.id.Short() + " " + x.scheme.String() + " " + w.t.String()
			if x.spoiled {
				r.Spoiled = append(r.Spoiled, name)
			} else {
				r.Lost = append(r.Lost, name)
			}
			continue
		}
		real, reach := x.live(w.cfg.Grace, (*shard).good), x.live(0, (*shard).good)
		counted := x.counted(real)
		r.Least = min(r.Least, real-g.K)
		switch {
		case counted > repair.Threshold(g.K, g.M):
			x.due = 0
		case reach >= g.K && w.split == nil && !w.crowded(x):
			x.due += every
			r.MaxDue = max(r.MaxDue, x.due)
			if x.due > w.cfg.Within && x.due-every <= w.cfg.Within {
				r.Late = append(r.Late, x.id.Short()+" "+x.scheme.String()+" "+w.t.String())
			}
		}
		x.undetected(every)
		w.claims(x, real, every)
	}
}

// crowded tells whether there is no peer to give a shard to.
func (w *world) crowded(x *watched) bool {
	for _, p := range w.peers {
		if p.online() && !p.lie.useless() && !p.full() && !slices.ContainsFunc(x.copies, func(s *shard) bool { return s.peer == p }) {
			return false
		}
	}
	return true
}

// claims looks at what those that hold a pack think of it: that may be out of
// date, but not for long.
func (w *world) claims(x *watched, counted int, every time.Duration) {
	most := 0
	for _, s := range x.copies {
		if p := s.peer; s.good() && p.online() && p.lie == truth {
			sum := p.keeper.Summary()
			for _, h := range sum.Worst {
				if h.ID == x.id {
					most = max(most, h.Live-h.Unknown)
				}
			}
		}
	}
	if most <= counted {
		x.claimed = 0
		return
	}
	x.claimed += every
	w.report.MaxClaim = max(w.report.MaxClaim, x.claimed)
	if lim := w.cfg.Believed; lim > 0 && x.claimed > lim && x.claimed-every <= lim {
		w.report.Claims = append(w.report.Claims, x.id.Short()+" "+x.scheme.String()+" "+w.t.String())
	}
}

// buried looks whether a pack that was deleted stays so.
func (w *world) buried(x *watched) {
	if w.t-x.deletedAt < 10*day {
		return
	}
	for _, s := range x.copies {
		p := s.peer
		if p.lie == truth && p.online() && w.t-max(x.deletedAt, p.came) > 3*day && !s.undead {
			s.undead = true
			w.report.Undead = append(w.report.Undead, x.id.Short()+" "+w.t.String())
		}
	}
}

// repair has a peer repair a pack, and keeps the books.
func (w *world) repair(p *peer) bool {
	before := w.blocks
	w.restoring = w.restoring[:0]
	did := p.keeper.Repair(w.ctx)
	if len(w.restoring) > 0 {
		r := &w.report
		m := w.restoring[0].manifest
		g := m.Geometry()
		r.Repairs++
		r.Restored += len(w.restoring)
		for _, x := range w.restoring {
			r.LostBytes += int64(g.ShardLen(x.index))
		}
		r.Moved += w.blocks - before
		r.Bound += int64(g.K+len(w.restoring)) * int64(g.ShardLen(0))
		if x := w.byPack[m.ID()]; x != nil {
			x.base, x.losses = g.N()-x.intact(), 0
		}
	}
	w.restoring = w.restoring[:0]
	return did
}

// restored hears that a shard was stored that was not there.
func (w *world) restored(m *pack.Manifest, index int) {
	w.restoring = append(w.restoring, restoredShard{m, index})
}

type restoredShard struct {
	manifest *pack.Manifest
	index    int
}
