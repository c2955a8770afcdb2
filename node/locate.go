package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
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

	// lookupWidth is how many of the closest peers a search asks directly: as
	// many as hold a pack at the largest automatic step.
	lookupWidth = 20
)

// answer is what one peer said that it holds of a pack.
type answer struct {
	peer   peer.ID
	number uint64
	shard  int
	k, m   int
}

// known is where a pack is: its manifest and who holds which shard of it.
type known struct {
	manifest *pack.Manifest
	geometry erasure.Geometry
	holders  map[int][]peer.ID // by shard; shared, never written to
}

// distinct gives the number of distinct shards on distinct peers: the size of
// the greatest matching of shards to peers.
func (k *known) distinct() int { return matching(k.holders) }

// matching is the size of a greatest matching in the bipartite graph of
// shards and their holders, by augmenting paths. Counting shards or peers
// alone would claim more than is there: two shards on one peer are one loss.
func matching(holders map[int][]peer.ID) int {
	taken := make(map[peer.ID]int) // peer -> shard
	var assign func(shard int, seen map[peer.ID]bool) bool
	assign = func(shard int, seen map[peer.ID]bool) bool {
		for _, p := range holders[shard] {
			if seen[p] {
				continue
			}
			seen[p] = true
			other, busy := taken[p]
			if !busy || assign(other, seen) {
				taken[p] = shard
				return true
			}
		}
		return false
	}
	n := 0
	for shard := range holders {
		if assign(shard, make(map[peer.ID]bool)) {
			n++
		}
	}
	return n
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
	if len(t.answers) < 4*maxKnown {
		t.answers[id] = append(t.answers[id], a)
	}
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
					e.unheard(p, ctx.Err())
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
	return answer{peer: p, number: h.Number, shard: h.Shard, k: h.K, m: h.M}, true
}

// effort is how far a search goes.
type effort struct {
	all    bool             // ask everybody who may know, and wait for them
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
	answers, err := e.search(ctx, id, how)
	if err != nil {
		return nil, err
	}
	return e.settle(ctx, id, answers)
}

// search asks who may hold the pack: the remembered holders, the closest
// peers, and the announced ones, all at once.
func (e *engine) search(ctx context.Context, id pack.ID, how effort) ([]answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*askTimeout)
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
		again := asked[p]
		asked[p] = true
		mu.Unlock()
		if again || len(asked) > 4*256 {
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
			if g.data >= g.k { // every data shard is known
				return answers, nil
			}
			if g.shards >= g.k && enough == nil {
				wait := enoughWait
				if how.failed != nil {
					wait = widerWait
				}
				enough, stop = e.clock.After(wait)
			}
		case <-enough:
			return answers, nil
		case <-done:
			if len(answers) == 0 && lookupErr != nil {
				return nil, fail(NoPeers, "start a node of this network, or check that this machine reaches one: 'p2pfs peers'",
					"look up pack %s: %w", id.Short(), lookupErr)
			}
			return answers, nil
		case <-ctx.Done():
			return answers, nil
		}
	}
}

// group is what answers say of one coding of a pack.
type group struct {
	number       uint64
	k, m         int
	shards, data int // distinct shards, distinct data shards
}

// bestGroup gives the coding to read from: of those that have enough shards
// to restore, the one with the highest number; else the one with the most.
func bestGroup(answers []answer) group {
	type coding struct {
		k, m int
	}
	shards := make(map[coding]map[int]bool)
	groups := make(map[coding]*group)
	for _, a := range answers {
		c := coding{a.k, a.m}
		g := groups[c]
		if g == nil {
			g = &group{k: a.k, m: a.m}
			groups[c], shards[c] = g, make(map[int]bool)
		}
		g.number = max(g.number, a.number)
		if !shards[c][a.shard] {
			shards[c][a.shard] = true
			g.shards++
			if a.shard < a.k {
				g.data++
			}
		}
	}
	var best group
	for _, g := range groups {
		enough, before := g.shards >= g.k, best.k > 0 && best.shards >= best.k
		switch {
		case best.k == 0, enough && !before:
			best = *g
		case enough == before && enough && g.number > best.number:
			best = *g
		case enough == before && !enough && g.shards > best.shards:
			best = *g
		}
	}
	return best
}

// settle makes answers into a known pack: it fetches the manifest and checks
// it against the ID.
func (e *engine) settle(ctx context.Context, id pack.ID, answers []answer) (*known, error) {
	if len(answers) == 0 {
		return nil, fail(NotFound, "check that the link is of this network and that its holders are online; 'p2pfs peers' lists who is there",
			"pack %s: no peer has it", id.Short())
	}
	best := bestGroup(answers)
	holders := make(map[int][]peer.ID)
	for _, a := range answers {
		if a.k == best.k && a.m == best.m && !slices.Contains(holders[a.shard], a.peer) {
			holders[a.shard] = append(holders[a.shard], a.peer)
		}
	}
	if k, _ := e.packs.get(id); k != nil && k.geometry.K == best.k && k.geometry.M == best.m {
		n := &known{manifest: k.manifest, geometry: k.geometry, holders: holders}
		e.packs.set(id, n)
		return n, nil
	}
	var errs []error
	for _, a := range e.inOrder(answers) {
		if a.k != best.k || a.m != best.m {
			continue
		}
		m, err := e.manifestFrom(ctx, a.peer, id)
		if err == nil {
			if g := m.Geometry(); g.K == best.k && g.M == best.m {
				k := &known{manifest: m, geometry: g, holders: holders}
				e.packs.set(id, k)
				return k, nil
			}
			err = fmt.Errorf("pack %s: %s says %d+%d, its manifest something else", id.Short(), short(a.peer), best.k, best.m)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("pack %s: no manifest: %w", id.Short(), errors.Join(errs...))
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
