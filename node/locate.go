package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// maxKnown bounds the table of located packs: 1,024 manifests are 10 MiB.
	maxKnown = 1024

	// enoughWait is how long a search goes on for the holders of the data
	// shards once enough holders of any shard are known; widerWait how long
	// one goes on that was begun because holders failed.
	enoughWait = 100 * time.Millisecond
	widerWait  = 500 * time.Millisecond

	// bulkTimeout bounds the questions that only save others.
	bulkTimeout = time.Second

	// maxAsked bounds the peers one search asks, whoever names them.
	maxAsked = 1024

	// searches is how often a search begins anew because what peers claimed
	// was not true. The last one waits for everybody.
	searches = 3

	// lookupWidth is how many of the closest peers a search asks directly: as
	// many as hold a pack at the largest automatic step.
	lookupWidth = 20
)

// answer is what one peer said that it holds of a pack.
type answer struct {
	peer        peer.ID
	number      uint64
	shard       int
	k, m        int
	provisional bool // the put that brought it has not been completed
}

// known is where a pack is: its manifest and who holds which shard of it.
type known struct {
	manifest *pack.Manifest
	geometry erasure.Geometry
	holders  map[int][]peer.ID // by shard; shared, never written to

	// confirmed are the peers that answered the search just made and whose
	// shards stay: a put that was not completed leaves some that do not.
	confirmed map[peer.ID]bool
}

// distinct gives the number of distinct shards that stay, on distinct peers
// that answered just now.
func (k *known) distinct() int {
	var seen []repair.Sight
	for s, ps := range k.holders {
		for _, p := range ps {
			if k.confirmed[p] {
				seen = append(seen, repair.Sight{Shard: s, Peer: string(p), Presence: repair.Present})
			}
		}
	}
	return len(repair.Match(k.geometry.N(), seen, repair.Present))
}

// staying gives the shards that stay, each with a peer of its own that answered
// just now, in their order.
func (k *known) staying() []wire.Holder {
	var out []wire.Holder
	used := make(map[peer.ID]bool)
	for shard := range k.geometry.N() {
		for _, p := range k.holders[shard] {
			if k.confirmed[p] && !used[p] {
				used[p] = true
				out = append(out, wire.Holder{Peer: string(p), Shard: shard})
				break
			}
		}
	}
	return out
}

// packTable remembers located packs.
type packTable struct {
	mu      sync.Mutex
	known   map[pack.ID]*known
	order   []pack.ID            // oldest first
	answers map[pack.ID][]answer // what peers asked in bulk said, not yet a known
}

func newPackTable() *packTable {
	return &packTable{known: make(map[pack.ID]*known), answers: make(map[pack.ID][]answer)}
}

func (t *packTable) get(id pack.ID) (*known, []answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.known[id], t.answers[id]
}

func (t *packTable) set(id pack.ID, k *known) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.answers, id)
	if _, ok := t.known[id]; !ok {
		if len(t.order) >= maxKnown {
			delete(t.known, t.order[0])
			t.order = t.order[1:]
		}
		t.order = append(t.order, id)
	}
	t.known[id] = k
}

func (t *packTable) forget(id pack.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.answers, id)
	if _, ok := t.known[id]; ok {
		delete(t.known, id)
		t.order = slices.DeleteFunc(t.order, func(o pack.ID) bool { return o == id })
	}
}

// note keeps an answer for a pack that will be wanted soon.
func (t *packTable) note(id pack.ID, a answer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.answers) >= 4*maxKnown {
		clear(t.answers) // they only save questions
	}
	t.answers[id] = append(t.answers[id], a)
}

// askAll asks the holders of one pack of a file, and those who are close to it,
// what they have of its others: in a network not much larger than n that finds
// all of them in one round trip. What it does not find is looked for one by one when it is wanted.
func (e *engine) askAll(ctx context.Context, near *known, ids []pack.ID) {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	ids = slices.DeleteFunc(slices.Clone(ids), func(id pack.ID) bool {
		k, as := e.packs.get(id)
		return k != nil || as != nil
	})
	if len(ids) > maxKnown {
		ids = ids[:maxKnown]
	}
	if len(ids) == 0 {
		return
	}
	peers, err := e.dir.Closest(ctx, near.manifest.ID(), lookupWidth)
	if err != nil {
		peers = nil // the holders are enough
	}
	for _, ps := range near.holders {
		peers = append(peers, ps...)
	}
	slices.Sort(peers)
	peers = slices.Compact(peers)
	now := e.clock.Now()
	var wg sync.WaitGroup
	for _, p := range peers {
		if e.peers.avoid(p, now) {
			continue
		}
		wg.Go(func() {
			hs, err := e.holdings(ctx, p, ids)
			if err != nil {
				if errors.Is(ctx.Err(), context.DeadlineExceeded) {
					e.log.Info("peer is slow to answer, going on without it", "peer", p)
				}
				return
			}
			for i, h := range hs {
				if a, ok := answerOf(p, h); ok {
					e.packs.note(ids[i], a)
				}
			}
		})
	}
	wg.Wait()
}

// holdings asks p what it has of ids, itself included.
func (e *engine) holdings(ctx context.Context, p peer.ID, ids []pack.ID) ([]wire.Holding, error) {
	if p == e.self {
		return e.Have(ctx, string(p), ids)
	}
	var hs []wire.Holding
	err := e.call(ctx, p, askTimeout, func(s stream) (err error) {
		hs, err = wire.Have(s, ids)
		return err
	})
	return hs, err
}

func answerOf(p peer.ID, h wire.Holding) (answer, bool) {
	if !h.Held {
		return answer{}, false
	}
	return answer{peer: p, number: h.Number, shard: h.Shard, k: h.K, m: h.M, provisional: h.Provisional}, true
}

// effort is how far a search goes.
type effort struct {
	all    bool             // ask everybody who may know, and wait for them
	now    bool             // but for those of whom it is known that they are away
	failed map[holding]bool // holders that are of no use any more: find others
}

// locate finds the manifest and the holders of a pack. With the zero effort it
// takes what is known, or returns as soon as enough is known to begin.
//
// Errors have code NotFound where nobody has a manifest of it.
func (e *engine) locate(ctx context.Context, id pack.ID, how effort) (*known, error) {
	if !how.all && how.failed == nil {
		k, answers := e.packs.get(id)
		if k != nil {
			return k, nil
		}
		if g := bestGroup(answers); g.k > 0 && g.shards >= g.k {
			if k, err := e.settle(ctx, id, answers); err == nil {
				return k, nil
			}
		}
	}
	// A peer that claims what no manifest bears out is left out, and the
	// search begins anew, for it may have ended with that claim.
	liars := make(map[peer.ID]bool)
	for try := 0; ; try++ {
		if try == searches-1 {
			how.all = true
		}
		answers, err := e.search(ctx, id, how, liars)
		if err != nil {
			return nil, err
		}
		k, err := e.settle(ctx, id, answers)
		if err == nil || len(answers) == 0 || try == searches-1 || ctx.Err() != nil {
			return k, err
		}
		for _, a := range answers {
			liars[a.peer] = true
		}
		e.log.Warn("claims to hold a pack are not borne out", "pack", id, "claims", len(answers), "err", err)
	}
}

// away tells whether a peer is known to be away: it failed a moment ago, or the
// keeper has not heard of it.
func (e *engine) away(p peer.ID) bool {
	return e.peers.avoid(p, e.clock.Now()) || e.keeper != nil && e.keeper.Presence(string(p)) != repair.Present
}

// search asks who may hold the pack: the remembered holders, the closest
// peers, and the announced ones, all at once.
// Those in without are not.
func (e *engine) search(parent context.Context, id pack.ID, how effort, without map[peer.ID]bool) ([]answer, error) {
	ctx, cancel := context.WithTimeout(parent, 3*askTimeout)
	defer cancel()

	type found struct {
		answer answer
		ok     bool
	}
	results := make(chan found)
	asked := make(map[peer.ID]bool)
	var mu sync.Mutex // guards asked
	var wg sync.WaitGroup
	limit := make(chan struct{}, 64)
	ask := func(p peer.ID) {
		mu.Lock()
		skip := asked[p] || without[p] || len(asked) > maxAsked || how.now && e.away(p)
		asked[p] = true
		mu.Unlock()
		if skip {
			return
		}
		wg.Go(func() {
			select {
			case limit <- struct{}{}:
				defer func() { <-limit }()
			case <-ctx.Done():
				return
			}
			var f found
			if hs, err := e.holdings(ctx, p, []pack.ID{id}); err == nil && len(hs) == 1 {
				f.answer, f.ok = answerOf(p, hs[0])
			}
			select {
			case results <- f:
			case <-ctx.Done():
			}
		})
	}
	if e.store != nil {
		ask(e.self)
		if _, hs, err := e.store.Holders(id); err == nil {
			for _, h := range hs {
				ask(peer.ID(h.Peer))
			}
		}
		if hs, err := e.store.Hint(id); err == nil {
			for _, h := range hs {
				ask(peer.ID(h.Peer))
			}
		}
	}
	if k, _ := e.packs.get(id); k != nil {
		for _, ps := range k.holders {
			for _, p := range ps {
				ask(p)
			}
		}
	}
	var lookupErr error
	wg.Go(func() {
		near, err := e.dir.Closest(ctx, id, lookupWidth)
		if err != nil {
			mu.Lock()
			lookupErr = err
			mu.Unlock()
		}
		for _, p := range near {
			ask(p)
		}
	})
	wg.Go(func() {
		for info, err := range e.dir.Holders(ctx, id) {
			if err != nil {
				return
			}
			ask(info.ID)
		}
	})
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	var answers []answer
	var enough <-chan time.Time
	stop := func() {}
	defer func() { cancel(); <-done; stop() }()
	for {
		select {
		case f := <-results:
			if !f.ok {
				continue
			}
			answers = append(answers, f.answer)
			if how.all {
				continue
			}
			g := bestGroup(slices.DeleteFunc(slices.Clone(answers), func(a answer) bool { return how.failed[holding{a.shard, a.peer}] }))
			if g.k > 0 && g.data >= g.k { // every data shard is known
				return answers, nil
			}
			if g.k > 0 && g.shards >= g.k && enough == nil {
				wait := enoughWait
				if how.failed != nil {
					wait = widerWait
				}
				enough, stop = e.clock.After(wait)
			}
		case <-enough:
			return answers, nil
		case <-done:
			if err := parent.Err(); err != nil {
				return nil, err
			}
			if len(answers) == 0 && lookupErr != nil {
				return nil, fail(NoPeers, "start a node of this network, or check that this machine reaches one: 'p2pfs peers'",
					"look up pack %s: %w", id.Short(), lookupErr)
			}
			return answers, nil
		case <-ctx.Done():
			return answers, parent.Err()
		}
	}
}

// coding is how a pack is coded, as far as its shards are concerned.
type coding struct {
	k, m int
}

// group is what answers say of one coding of a pack.
type group struct {
	coding

	number    uint64
	shards    int // distinct shards
	data      int // distinct data shards
	confirmed int // distinct shards of a put that was completed
}

// enough says whether the shards of the group restore the pack.
func (g group) enough() bool { return g.shards >= g.k }

// safe says whether those that will stay do.
func (g group) safe() bool { return g.confirmed >= g.k }

// groups sorts what answers say by coding, the one to read from first: those
// whose shards are enough before others, of a completed put before one under
// way, the higher number before the lower; else the one with the most shards.
func groups(answers []answer) []group {
	all := make(map[coding]*group)
	seen := make(map[coding]map[int]bool)
	sure := make(map[coding]map[int]bool)
	for _, a := range answers {
		c := coding{a.k, a.m}
		g := all[c]
		if g == nil {
			g = &group{coding: c}
			all[c], seen[c], sure[c] = g, make(map[int]bool), make(map[int]bool)
		}
		g.number = max(g.number, a.number)
		if !seen[c][a.shard] {
			seen[c][a.shard] = true
			g.shards++
			if a.shard < a.k {
				g.data++
			}
		}
		if !a.provisional && !sure[c][a.shard] {
			sure[c][a.shard] = true
			g.confirmed++
		}
	}
	out := make([]group, 0, len(all))
	for _, g := range all {
		out = append(out, *g)
	}
	first := func(a, b bool) int {
		switch {
		case a && !b:
			return -1
		case b && !a:
			return 1
		}
		return 0
	}
	slices.SortFunc(out, func(a, b group) int {
		if c := cmp.Or(first(a.enough(), b.enough()), first(a.safe(), b.safe())); c != 0 {
			return c
		}
		if a.enough() {
			return cmp.Or(cmp.Compare(b.number, a.number), cmp.Compare(b.shards, a.shards), cmp.Compare(a.k, b.k), cmp.Compare(a.m, b.m))
		}
		return cmp.Or(cmp.Compare(b.shards, a.shards), cmp.Compare(b.number, a.number), cmp.Compare(a.k, b.k), cmp.Compare(a.m, b.m))
	})
	return out
}

// bestGroup gives the coding to read from, zero where there is no answer.
func bestGroup(answers []answer) group {
	gs := groups(answers)
	if len(gs) == 0 {
		return group{}
	}
	return gs[0]
}

// settle makes answers into a known pack: it fetches the manifest of the best
// coding for which a peer has one that checks.
func (e *engine) settle(ctx context.Context, id pack.ID, answers []answer) (*known, error) {
	if len(answers) == 0 {
		return nil, fail(NotFound, "check that the link is of this network and that its holders are online; 'p2pfs peers' lists who is there",
			"pack %s: no peer has it", id.Short())
	}
	var errs []error
	for _, g := range groups(answers) {
		m, err := e.manifestOf(ctx, id, g.coding, answers)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		holders := make(map[int][]peer.ID)
		old, _ := e.packs.get(id)
		if old != nil && old.geometry == m.Geometry() {
			for s, ps := range old.holders { // a search that ended early has not heard of all
				holders[s] = slices.Clone(ps)
			}
		}
		stays := make(map[peer.ID]bool)
		for _, a := range answers {
			if (coding{a.k, a.m}) == g.coding && a.shard < g.k+g.m {
				if !slices.Contains(holders[a.shard], a.peer) {
					holders[a.shard] = append(holders[a.shard], a.peer)
				}
				stays[a.peer] = !a.provisional
			}
		}
		k := &known{manifest: m, geometry: m.Geometry(), holders: holders, confirmed: stays}
		e.packs.set(id, k)
		return k, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("pack %s: no manifest: %w", id.Short(), errors.Join(errs...))
}

// manifestOf gives the pack's manifest under a coding, from what is known or
// from one of those who say that they hold a shard of it.
func (e *engine) manifestOf(ctx context.Context, id pack.ID, c coding, answers []answer) (*pack.Manifest, error) {
	if k, _ := e.packs.get(id); k != nil && k.geometry.K == c.k && k.geometry.M == c.m {
		return k.manifest, nil
	}
	var errs []error
	for _, a := range e.inOrder(answers) {
		if (coding{a.k, a.m}) != c {
			continue
		}
		m, err := e.manifestFrom(ctx, a.peer, id)
		if err == nil {
			if g := m.Geometry(); g.K == c.k && g.M == c.m {
				return m, nil
			}
			err = fmt.Errorf("%s says %d+%d, its manifest something else", short(a.peer), c.k, c.m)
			e.log.Warn("peer says one thing of a pack and its manifest another", "peer", a.peer, "pack", id)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// inOrder sorts answers so that peers that failed lately come last.
func (e *engine) inOrder(answers []answer) []answer {
	now := e.clock.Now()
	out := slices.Clone(answers)
	slices.SortStableFunc(out, func(a, b answer) int {
		x, y := e.peers.avoid(a.peer, now), e.peers.avoid(b.peer, now)
		switch {
		case a.peer == e.self && b.peer != e.self, !x && y:
			return -1
		case b.peer == e.self && a.peer != e.self, x && !y:
			return 1
		}
		return 0
	})
	return out
}

// manifestFrom fetches a manifest and checks all of it.
func (e *engine) manifestFrom(ctx context.Context, p peer.ID, id pack.ID) (*pack.Manifest, error) {
	var m *pack.Manifest
	var err error
	if p == e.self {
		m, err = e.store.Manifest(id)
	} else {
		err = e.call(ctx, p, askTimeout, func(s stream) (err error) {
			m, err = wire.Manifest(s, id)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("manifest from %s: %w", short(p), err)
	}
	if err := m.Verify(e.network, id); err != nil {
		e.log.Warn("peer sent a bad manifest", "peer", p, "pack", id, "err", err)
		return nil, fmt.Errorf("manifest from %s: %w", short(p), err)
	}
	return m, nil
}

// remember keeps who holds a pack for the next run.
func (e *engine) remember(id pack.ID, holders []store.Holder) {
	if e.store == nil {
		return
	}
	if err := e.store.SetHint(id, holders); err != nil {
		e.log.Debug("holders not remembered", "pack", id, "err", err)
	}
}
