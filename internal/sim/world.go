package main

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/pack"
)

// A world is a network of peers and the time that passes in it. Everything
// happens in one goroutine, in an order that the seed alone decides.
type world struct {
	cfg   config
	rng   *rand.Rand
	ctx   context.Context
	t     time.Duration // since the world began
	queue []event
	seq   uint64

	peers  []*peer // all there ever were
	byID   map[string]*peer
	there  int // peers that have not left for good
	packs  []*watched
	byPack map[pack.ID]*watched

	verified map[*pack.State]bool
	split    []bool // by zone: which side it is on; nil: the network is whole

	traffic [phases][kinds]traffic
	blocks  int64 // bytes of blocks that were read and stored over the network
	phase   phase
	report  report

	restoring []restoredShard // in the repair under way
	giving    bool            // a peer gives up a shard on purpose
}

// traffic is how often something was asked, and the bytes of questions and
// answers.
type traffic struct{ calls, bytes int64 }

// event is something that happens at a time.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

func (e event) before(f event) bool {
	return e.at < f.at || e.at == f.at && e.seq < f.seq
}

// after has something happen d from now.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	w.queue = append(w.queue, event{w.t + max(d, 0), w.seq, do})
	q := w.queue
	for i := len(q) - 1; i > 0; {
		up := (i - 1) / 2
		if !q[i].before(q[up]) {
			break
		}
		q[i], q[up] = q[up], q[i]
		i = up
	}
}

// next takes the first event.
func (w *world) next() event {
	q := w.queue
	first, n := q[0], len(q)-1
	q[0] = q[n]
	q[n] = event{}
	q = q[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= n {
			break
		}
		if c+1 < n && q[c+1].before(q[c]) {
			c++
		}
		if !q[c].before(q[i]) {
			break
		}
		q[i], q[c] = q[c], q[i]
		i = c
	}
	w.queue = q
	return first
}

// run lets time pass until end.
func (w *world) run(end time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= end {
		e := w.next()
		w.t = e.at
		e.do()
	}
	w.t = end
}

// every has something happen every d, first after the delay.
func (w *world) every(delay, d time.Duration, do func()) {
	var tick func()
	tick = func() {
		do()
		w.after(d, tick)
	}
	w.after(delay, tick)
}

func (w *world) now() time.Time { return time.UnixMilli(begin).Add(w.t).UTC() }

// newWorld makes a world of peers that are all there, and none of whom holds
// anything.
func newWorld(cfg config) *world {
	w := &world{cfg: cfg, ctx: context.Background(), byID: map[string]*peer{}, byPack: map[pack.ID]*watched{}, verified: map[*pack.State]bool{},
		rng: rand.New(rand.NewPCG(cfg.seed, 0x70327066_73))}
	for range cfg.peers {
		w.join()
	}
	return w
}

// join makes a new peer, which is there.
func (w *world) join() *peer {
	b := make([]byte, 0, 38)
	b = append(b, 0x00, 0x24, 0x08, 0x01, 0x12, 0x20) // what libp2p's IDs of Ed25519 keys begin with
	for range 4 {
		x := w.rng.Uint64()
		for i := range 8 {
			b = append(b, byte(x>>(8*i)))
		}
	}
	p := newPeer(w, string(b), len(w.peers))
	w.peers = append(w.peers, p)
	w.byID[p.id] = p
	w.there++
	for _, x := range w.packs {
		x.order = nil
	}
	return p
}

// add has the world watch over a pack, which nobody holds yet.
func (w *world) add(f *fixture) *watched {
	x := &watched{fixture: f, w: w}
	w.packs = append(w.packs, x)
	w.byPack[f.id] = x
	return x
}

// closest gives all peers there ever were, by their distance from a pack.
func (w *world) closest(id pack.ID) []*peer {
	x := w.byPack[id]
	if x == nil { // what a liar made up
		return sorted(w.peers, placeOf(id))
	}
	if x.order == nil {
		x.order = sorted(w.peers, x.key)
	}
	return x.order
}

func sorted(peers []*peer, key [32]byte) []*peer {
	out := slices.Clone(peers)
	slices.SortFunc(out, func(a, b *peer) int { return compare(key, a, b) })
	return out
}

// compare tells which of two peers is closer to key, by Kademlia's metric.
func compare(key [32]byte, a, b *peer) int {
	for i := range key {
		if x, y := a.key[i]^key[i], b.key[i]^key[i]; x != y {
			if x < y {
				return -1
			}
			return 1
		}
	}
	return 0
}

// put stores a pack as a put does: n of the closest peers that are there and
// accept, at most m in a zone, each told of all. It reports whether all n took
// it.
func (x *watched) put() bool {
	w := x.w
	zones := map[int]int{}
	var chosen []*peer
	for _, p := range w.closest(x.id) {
		if len(chosen) == x.g.N() {
			break
		}
		if !p.online() || p.full() || zones[p.zone] >= max(x.g.M, 1) && p.says {
			continue
		}
		zones[p.zone]++
		chosen = append(chosen, p)
	}
	if len(chosen) < x.g.N() {
		return false
	}
	hs := holdersOf(chosen)
	for i, p := range chosen {
		p.srv.put(x.fixture, i, hs)
	}
	x.putAt = w.t
	x.stored = true
	x.base = x.g.N() - x.intact()
	return true
}

// remove deletes a pack as its owner does: a tombstone for all of the closest
// that are there.
func (x *watched) remove() {
	st := x.manifest.State.Tombstone(pack.NextNumber(x.w.now(), x.manifest.State.Number))
	st.Sign(x.owner)
	x.tombstone = st
	x.deletedAt = x.w.t
	told := 0
	for _, p := range x.w.closest(x.id) {
		if p.online() && told < 20 {
			told++
			p.srv.setState("", st)
		}
	}
}

// trace folds what has happened into a number: two runs of one seed have the
// same.
func (w *world) trace() uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, w.seq, w.t, w.traffic)
	for _, p := range w.peers {
		ids := slices.Clone(p.disk.order)
		slices.SortFunc(ids, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
		for _, id := range ids {
			e := p.disk.packs[id]
			fmt.Fprint(h, id, e.number, e.holders, len(e.shards))
			for _, s := range e.shards {
				fmt.Fprint(h, s.index, s.damaged, s.rotten)
			}
		}
	}
	return h.Sum64()
}
