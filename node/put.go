package node

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// packsInFlight is how many packs are coded and sent side by side: while
	// holders sync one, the next is coded. A third brought nothing on two
	// cores and costs 80 MiB at 8+12.
	packsInFlight = 2

	// parityBudget bounds the parity held in memory, in bytes: what two full
	// packs have at 8+12. Under schemes with more, packs are made smaller.
	parityBudget = 96 << 20

	// claimWait is how long a put waits for another one of the same content.
	claimWait = time.Minute

	// soon bounds the number of a state that a peer claims to know, against
	// one that would have us sign the last number there is.
	soon = 24 * time.Hour

	// aliveEvery is how often a put that takes long tells holders that it is
	// alive, which keeps its shards.
	aliveEvery = 10 * time.Minute
)

// placed says where the shards of a pack are.
type placed struct {
	id      pack.ID
	number  uint64
	scheme  erasure.Scheme
	k, m    int // its own k′, and m
	meta    bool
	holders []wire.Holder
	owned   store.OwnedPack
	reasons []error // why shards could not be placed
	silent  int     // peers that did not answer when they were asked for room
	few     bool    // its step is larger than that for which there are peers now: see choose
}

// missing tells how many of its shards are.
func (p *placed) missing() int { return p.k + p.m - len(p.holders) }

// partial tells whether it is less than was asked for.
func (p *placed) partial() bool { return p.missing() > 0 && !p.few }

// putter stores the packs of one put: it is a volume.Sink. Packs are coded
// and sent behind PutPack, packsInFlight at a time.
type putter struct {
	e       *engine
	id      [16]byte
	owner   ed25519.PrivateKey
	scheme  *erasure.Scheme // nil: automatic
	given   bool            // scheme was given by the user
	last    bool            // no state that is newer than what was known is followed
	joins   bool            // where another home stores the same at the same time, what that stores will do
	expires uint64          // Unix time in ms, 0: never
	slots   chan struct{}
	ctx     context.Context // of the put: ends all that is under way
	cancel  context.CancelCauseFunc

	wg     sync.WaitGroup
	mu     sync.Mutex
	packs  []*placed
	mine   map[pack.ID]*storing // that it takes part in; guarded by the engine's mu
	seen   map[pack.ID]bool
	peers  map[peer.ID]bool // that were given shards
	failed error
}

// newPutter begins a put. The caller ends it with end.
func (e *engine) newPutter(ctx context.Context, owner ed25519.PrivateKey, s *erasure.Scheme, expires uint64) *putter {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &putter{
		e: e, owner: owner, scheme: s, given: s != nil, expires: expires, ctx: ctx, cancel: cancel,
		slots: make(chan struct{}, packsInFlight), mine: make(map[pack.ID]*storing),
		seen: make(map[pack.ID]bool), peers: make(map[peer.ID]bool),
	}
	e.mu.Lock()
	for i := range p.id {
		p.id[i] = byte(e.rand.Uint32())
	}
	e.mu.Unlock()
	p.wg.Go(p.stayAlive)
	return p
}

// end waits until nothing of the put is running any more.
func (p *putter) end() {
	p.cancel(context.Canceled)
	p.wg.Wait()
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	for id, st := range p.mine {
		st.leave(p.e, id)
	}
	clear(p.mine)
}

// storing is a pack that a put of this node stores, from its first step until
// the last put that takes part in it has ended, or one that is claimed.
type storing struct {
	by     *putter       // nil: claimed
	yield  func()        // ends the claim soon, for a put waits; nil: it ends soon anyway
	stored chan struct{} // closed when done and err are set
	done   *placed
	err    error
	users  int           // puts that take part, by among them; guarded by the engine's mu
	ended  chan struct{} // closed when the last of them has ended
}

// leave ends the part of one put. The engine's mu is held.
func (st *storing) leave(e *engine, id pack.ID) {
	if st.users--; st.users > 0 {
		return
	}
	close(st.ended)
	if e.putting[id] == st {
		delete(e.putting, id)
	}
}

// claim keeps the puts of this node away from a pack until release is called:
// whoever deletes it or codes it anew must know that nobody stores it at the
// same time. yield, which may be nil, is called when a put waits for that. The
// error wraps errClaimed where the pack is not free for claimWait.
func (e *engine) claim(ctx context.Context, id pack.ID, yield func()) (release func(), err error) {
	late, stop := e.clock.After(claimWait)
	defer stop()
	for {
		e.mu.Lock()
		other := e.putting[id]
		if other == nil {
			if e.putting == nil {
				e.putting = make(map[pack.ID]*storing)
			}
			own := &storing{yield: yield, users: 1, ended: make(chan struct{})}
			e.putting[id] = own
			e.mu.Unlock()
			return func() {
				e.mu.Lock()
				defer e.mu.Unlock()
				own.leave(e, id)
			}, nil
		}
		e.mu.Unlock()
		select {
		case <-other.ended:
		case <-late:
			return nil, fmt.Errorf("pack %s: %w", id.Short(), errClaimed)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// errClaimed is wrapped where a pack is stored by a put, or claimed, for long.
var errClaimed = errors.New("it is being stored now")

// share stores a pack, or takes part in what another put of this node that
// has the same pack does: two that store the same shards under two states
// would each take the other's away, up to the moment at which the last of them
// has confirmed its own. Where they want different things one waits for the
// other's end; two that wait for each other give up after claimWait.
func (p *putter) share(ctx context.Context, id pack.ID, store func() (*placed, error)) (*placed, error) {
	late, stop := p.e.clock.After(claimWait)
	defer stop()
	for {
		p.e.mu.Lock()
		if p.e.putting == nil {
			p.e.putting = make(map[pack.ID]*storing)
		}
		other := p.e.putting[id]
		if other == nil {
			own := &storing{by: p, stored: make(chan struct{}), users: 1, ended: make(chan struct{})}
			p.e.putting[id], p.mine[id] = own, own
			p.e.mu.Unlock()
			own.done, own.err = store()
			close(own.stored)
			return own.done, own.err
		}
		p.e.mu.Unlock()
		if other.yield != nil {
			other.yield()
		}
		wait := other.ended
		if p.wants(other.by) {
			wait = other.stored
		}
		select {
		case <-wait:
			if done := p.join(id, other); done != nil {
				return done, nil
			}
			select {
			case <-other.ended:
			case <-late:
				return store()
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		case <-late:
			return store()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// join takes part in what another put has stored, or gives nil where it is of
// no use.
func (p *putter) join(id pack.ID, other *storing) *placed {
	if !p.wants(other.by) {
		return nil
	}
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	if p.e.putting[id] != other || other.err != nil {
		return nil
	}
	other.users++
	p.mine[id] = other
	done := *other.done
	done.holders = slices.Clone(done.holders)
	return &done
}

// wants says whether two puts want the same of a pack.
func (p *putter) wants(q *putter) bool {
	if q == nil {
		return false
	}
	same := p.scheme == nil && q.scheme == nil || p.scheme != nil && q.scheme != nil && *p.scheme == *q.scheme
	return same && p.expires == q.expires
}

// stayAlive tells holders now and then that the put goes on.
func (p *putter) stayAlive() {
	for sleep(p.ctx, p.e.clock, aliveEvery) == nil {
		p.sign(p.ctx, p.e.store.Touch, wire.Alive)
	}
}

// giveUp has holders drop what they were given; those that cannot be told
// drop it in a day, and so do all where another put has come to rely on a part
// of it.
func (p *putter) giveUp() {
	if p.shared() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), askTimeout)
	defer cancel()
	p.sign(ctx, func(id store.PutID) error { return p.e.store.GiveUp(ctx, id) }, wire.GiveUp)
}

// shared tells whether another put relies on what this one has stored. If not,
// none will from now on.
func (p *putter) shared() bool {
	p.e.mu.Lock()
	defer p.e.mu.Unlock()
	for _, st := range p.mine {
		if st.by == p && st.users > 1 {
			return true
		}
	}
	for id, st := range p.mine {
		if st.by == p && p.e.putting[id] == st {
			delete(p.e.putting, id)
		}
	}
	return false
}

// sign says something about the put to all who were given shards.
func (p *putter) sign(ctx context.Context, here func(store.PutID) error, there func(io.ReadWriter, [16]byte) error) {
	p.mu.Lock()
	peers := slices.Collect(maps.Keys(p.peers))
	p.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(32)
	for _, h := range peers {
		g.Go(func() error {
			if h == p.e.self {
				return here(putOf(string(h), p.id))
			}
			return p.e.call(ctx, h, askTimeout, func(s stream) error { return there(s, p.id) })
		})
	}
	if err := g.Wait(); err != nil {
		p.e.log.Debug("sign of a put not heard", "err", err)
	}
}

// packBytes gives the greatest pack for which the parity of those in flight
// stays within the budget.
func packBytes(s *erasure.Scheme) int {
	if s == nil || s.K >= s.N() {
		return pack.MaxLen
	}
	// Metadata packs have half the k, but are few and small.
	most := parityBudget / packsInFlight * s.K / max(s.M, 1)
	return min(pack.MaxLen, max(most, 1<<20))
}

// PutPack stores a finished pack behind the caller's back and gives its ID.
// It waits while too many packs are under way. release is called once data is
// no longer looked at.
func (p *putter) PutPack(ctx context.Context, data []byte, meta bool, release func()) (pack.ID, error) {
	content := pack.NewContent(data)
	owner := pack.Owner(p.owner.Public().(ed25519.PublicKey))
	id := pack.IDOf(owner, content.Hash())
	p.mu.Lock()
	again := p.seen[id]
	err := p.failed
	p.mu.Unlock()
	if again || err != nil {
		release()
		return id, err
	}
	select {
	case p.slots <- struct{}{}:
	case <-p.ctx.Done():
		release()
		return id, context.Cause(p.ctx)
	case <-ctx.Done():
		release()
		return id, ctx.Err()
	}
	p.mu.Lock()
	p.seen[id] = true
	p.mu.Unlock()
	p.wg.Go(func() {
		defer func() { <-p.slots }()
		defer release()
		done, err := p.share(p.ctx, id, func() (*placed, error) { return p.store(p.ctx, id, owner, content, data, meta) })
		p.mu.Lock()
		defer p.mu.Unlock()
		if err != nil {
			if p.failed == nil {
				p.failed = err
				p.cancel(err)
			}
			return
		}
		p.packs = append(p.packs, done)
		p.remember(done) // for the same put again, should this one be interrupted
	})
	return id, nil
}

// remember keeps who holds a pack.
func (p *putter) remember(pk *placed) {
	hs := make([]store.Holder, 0, len(pk.holders))
	for _, h := range pk.holders {
		hs = append(hs, store.Holder{Peer: h.Peer, Shard: h.Shard})
	}
	p.e.remember(pk.id, hs)
}

// Wait waits until every pack is durable, or one cannot be.
func (p *putter) Wait(ctx context.Context) error {
	for range packsInFlight { // every slot is free: nothing is under way
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for range packsInFlight {
		<-p.slots
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

// store codes a pack and sends its shards to holders.
func (p *putter) store(ctx context.Context, id pack.ID, owner pack.Owner, content pack.Content, data []byte, meta bool) (*placed, error) {
	var last uint64
	if m, err := p.e.store.Manifest(id); err == nil {
		last = m.State.Number
	}
	owned, err := p.e.store.OwnedPack(id)
	if err == nil {
		last = max(last, owned.Number)
	}
	expires := p.expires
	var before *known
	if expires != 0 || owned.Expires != 0 {
		// What is stored already is not to end sooner than it would have.
		if k, err := p.e.locate(ctx, id, effort{all: true}); err == nil {
			before = k
			last = max(last, k.manifest.State.Number)
			if x := k.manifest.State.Expires; expires != 0 && (x == 0 || x > expires) {
				expires = x
			}
		}
	}
	done, state, err := p.spread(ctx, id, owner, content, data, meta, last, expires)
	if err == nil && before != nil {
		p.renew(ctx, done, state, before)
	}
	return done, err
}

// renew tells a new state to those who keep a shard of the pack and were not
// chosen now, which would else drop it when the old state expires. Those that
// are not told do just that.
func (p *putter) renew(ctx context.Context, done *placed, state *pack.State, before *known) {
	var g errgroup.Group
	g.SetLimit(32)
	told := make(map[peer.ID]bool)
	for _, h := range done.holders {
		told[peer.ID(h.Peer)] = true
	}
	for _, ps := range before.holders {
		for _, h := range ps {
			if told[h] {
				continue
			}
			told[h] = true
			g.Go(func() error {
				if err := p.e.tellState(ctx, h, state); err != nil {
					p.e.log.Debug("renewal not taken", "peer", h, "pack", done.id, "err", err)
				}
				return nil
			})
		}
	}
	g.Wait()
}

// tellState tells a peer, this node itself perhaps, a new state of a pack.
func (e *engine) tellState(ctx context.Context, to peer.ID, st *pack.State) error {
	if to != e.self {
		return e.call(ctx, to, askTimeout, func(s stream) error { return wire.State(s, st) })
	}
	set := e.store.SetState
	if st.Deleted {
		set = func(st *pack.State) (bool, error) { return e.store.Bury(st, string(to)) }
	}
	changed, err := set(st)
	if changed && e.keeper != nil {
		e.keeper.Changed()
	}
	return err
}

// spread codes a pack under a state that follows number last and sends its
// shards to holders.
func (p *putter) spread(ctx context.Context, id pack.ID, owner pack.Owner, content pack.Content, data []byte, meta bool, last, expires uint64) (*placed, *pack.State, error) {
	most := steps[0].N() // no more peers than this are taken
	for try := 0; ; try++ {
		choice, err := p.choose(ctx, id, len(data), meta, most)
		if err != nil {
			return nil, nil, err
		}
		scheme := choice.scheme
		if !p.last {
			last = max(last, choice.number)
		}
		g := erasure.NewGeometry(len(data), scheme)
		var parity []byte
		if g.K > 1 && g.M > 0 {
			parity = p.e.buffers.get(g.ParityLen())
		}
		hashes, err := pack.Code(content, data, scheme, parity)
		if err != nil {
			return nil, nil, fmt.Errorf("code pack %s: %w", id.Short(), err)
		}
		state := pack.NewState(p.e.network, owner, content, scheme, p.given, pack.NextNumber(p.e.clock.Now(), last), hashes)
		state.Expires = expires
		state.Sign(p.owner)
		m := &pack.Manifest{Content: content, State: *state}
		done, higher := p.send(ctx, m, g, data, parity, choice)
		if parity != nil {
			p.e.buffers.put(parity)
		}
		done.scheme, done.meta, done.silent, done.few = scheme, meta, choice.silent, choice.few
		done.owned = store.OwnedPack{ID: id, Meta: meta, Given: p.given, Scheme: scheme, Number: state.Number,
			Expires: expires, Len: len(data), Content: state.Content}
		if err := ctx.Err(); err != nil {
			return nil, nil, context.Cause(ctx)
		}
		if higher >= state.Number && p.last {
			return nil, nil, fmt.Errorf("pack %s: %w", id.Short(), store.ErrOld)
		}
		if higher >= state.Number && try < 3 {
			last = higher // a peer knows a newer state, a deletion perhaps: ours must follow it
			continue
		}
		if done.missing() == 0 {
			return done, state, nil
		}
		if p.scheme == nil && len(done.holders) > 0 && len(done.holders) < most && try < 3 {
			// Fewer took a shard than offered to: take the step that they are enough for.
			if s, _ := stepFor(len(done.holders)); s.N() < scheme.N() && len(done.holders) <= repair.Threshold(done.k, done.m) {
				last, most = state.Number, len(done.holders)
				continue
			}
		}
		if len(done.holders) <= repair.Threshold(done.k, done.m) {
			return nil, nil, fail(NoPeers, "see 'p2pfs peers' for who is there and what is free; a smaller --redundancy needs fewer peers",
				"pack %s: %d of %d shards stored, more than %d are needed%s",
				id.Short(), len(done.holders), g.N(), repair.Threshold(done.k, done.m), because(done.reasons))
		}
		return done, state, nil
	}
}

// because lists the first reasons for an error message.
func because(reasons []error) string {
	if len(reasons) == 0 {
		return ""
	}
	return ": " + reasons[0].Error()
}

// choice is how a pack is to be coded, and who is to have its shards.
type choice struct {
	scheme erasure.Scheme
	peers  []repair.Candidate // in order of preference
	held   map[string]int     // the shards that some of them hold already, by peer
	number uint64             // the highest of a state that one of them knows
	silent int                // peers that did not answer
	few    bool               // there are fewer peers than the scheme has shards
}

// choose finds peers that accept shards of the pack and, where redundancy is
// automatic, the largest step for which they are enough (of at most most).
//
// Those that hold a shard already, of an earlier put or of one that was
// interrupted, come first, and each keeps the one it has: the same put again
// sends nothing twice, whatever is otherwise in the network. For the same reason
// a larger step stays where so many shards of it are held that it survives no
// fewer losses than the one for which there are peers now.
func (p *putter) choose(ctx context.Context, id pack.ID, packLen int, meta bool, most int) (c choice, err error) {
	want := most
	if p.scheme != nil {
		want = p.scheme.N()
	}
	var offers []offer
	var quiet []peer.ID
	var reasons []error
	enough := func() bool {
		// The largest scheme whose shard so many peers have room for.
		try := steps
		if p.scheme != nil {
			try = []erasure.Scheme{*p.scheme}
		}
		for _, s := range try {
			if s.N() > most && p.scheme == nil {
				continue
			}
			of := s
			if meta {
				of = metaScheme(s)
			}
			if len(fitting(offers, of, packLen)) >= s.N() {
				c.scheme = of
				return true
			}
		}
		return false
	}
	take := func(peers []peer.ID) {
		var there []offer
		for _, o := range p.e.accepting(ctx, peers) {
			switch {
			case o.err != nil:
				reasons = append(reasons, o.err)
				quiet = append(quiet, o.peer)
			case o.facts.Capacity == 0 && o.facts.Free == 0:
				// a client: it holds nothing for others
			default:
				there = append(there, o)
			}
		}
		offers = append(offers, p.e.holding(ctx, id, there)...)
	}
	near, err := p.e.dir.Closest(ctx, id, want)
	if err != nil && len(near) == 0 {
		if !p.e.holder {
			return c, fail(NoPeers, "start a node of this network, or check that this machine reaches one: 'p2pfs peers'",
				"pack %s: no peer found: %w", id.Short(), err)
		}
	}
	more := len(near) >= want // are there perhaps
	if p.e.holder && !slices.Contains(near, p.e.self) {
		near = append(near, p.e.self)
	}
	if hints, err := p.e.store.Hint(id); err == nil { // a lookup need not find the same every time
		for _, h := range hints {
			if q := peer.ID(h.Peer); !slices.Contains(near, q) {
				near = append(near, q)
			}
		}
	}
	take(near)
	if len(fitting(offers, erasure.Scheme{K: 1}, packLen)) < want && more {
		// More peers are there than were asked: go on to farther ones.
		asked := make(map[peer.ID]bool)
		for _, q := range near {
			asked[q] = true
		}
		var batch []peer.ID
		for q, err := range p.e.dir.Walk(ctx, id) {
			if err != nil {
				break
			}
			if asked[q] {
				continue
			}
			asked[q] = true
			batch = append(batch, q)
			if len(batch) == lookupWidth {
				take(batch)
				batch = nil
				if enough() && (p.scheme != nil || c.scheme.N() >= want) {
					break
				}
			}
			if len(asked) > 16*want {
				break
			}
		}
		take(batch)
	}
	if len(quiet) > 0 && (!enough() || p.scheme == nil && c.scheme.N() < want) {
		// One hiccup is not to cost redundancy: ask those once more, in peace.
		again := quiet
		quiet, reasons = nil, nil
		offers = append(offers, p.e.holding(ctx, id, p.e.insist(ctx, again, &quiet, &reasons))...)
	}
	if err := ctx.Err(); err != nil {
		return c, context.Cause(ctx)
	}
	c.silent = len(quiet)
	if !enough() {
		if p.scheme == nil || len(offers) == 0 {
			return c, fail(NoPeers, "see 'p2pfs peers' for who is there and what is free",
				"pack %s: none of %d peers accepts a shard of it%s", id.Short(), len(near), because(reasons))
		}
		c.scheme = *p.scheme
		if meta {
			c.scheme = metaScheme(c.scheme)
		}
	}
	if p.scheme == nil {
		p.stay(&c, offers, packLen, meta, most)
	}
	g := erasure.NewGeometry(packLen, c.scheme)
	c.held = make(map[string]int)
	for _, o := range offers {
		c.number = max(c.number, p.e.believable(o.held.Number))
	}
	for _, o := range fitting(offers, c.scheme, packLen) {
		if o.holds(g) {
			c.held[string(o.peer)] = o.held.Shard
		}
		c.peers = append(c.peers, repair.Candidate{Peer: string(o.peer), Zones: repair.Zones(o.facts.Zone, p.e.dial.Group(o.peer))})
	}
	slices.SortStableFunc(c.peers, func(a, b repair.Candidate) int {
		_, x := c.held[a.Peer]
		_, y := c.held[b.Peer]
		switch {
		case x && !y:
			return -1
		case y && !x:
			return 1
		}
		return p.e.dir.Compare(id, peer.ID(a.Peer), peer.ID(b.Peer))
	})
	return c, nil
}

// stay takes a larger step than that of the choice if so much of it is held that
// it survives no fewer losses.
func (p *putter) stay(c *choice, offers []offer, packLen int, meta bool, most int) {
	now := erasure.NewGeometry(packLen, c.scheme)
	for _, s := range steps {
		if s.N() <= c.scheme.N() || s.N() > most {
			continue
		}
		if meta {
			s = metaScheme(s)
		}
		g := erasure.NewGeometry(packLen, s)
		shards := make(map[int]bool)
		for _, o := range offers {
			if o.holds(g) {
				shards[o.held.Shard] = true
			}
		}
		if n := len(shards); n > repair.Threshold(g.K, g.M) && n-g.K >= now.M {
			c.scheme, c.few = s, true
			return
		}
	}
}

// holding asks those who made an offer what they hold of the pack already. Who
// does not answer soon is taken to hold nothing.
func (e *engine) holding(ctx context.Context, id pack.ID, offers []offer) []offer {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(32)
	for i := range offers {
		g.Go(func() error {
			if hs, err := e.holdings(ctx, offers[i].peer, []pack.ID{id}); err == nil && len(hs) == 1 {
				offers[i].held = hs[0]
			}
			return nil
		})
	}
	g.Wait()
	return offers
}

// farther finds peers that accept a shard beyond those that are used: as many
// as a pack has shards, if there are.
func (p *putter) farther(ctx context.Context, id pack.ID, g erasure.Geometry, used map[peer.ID]bool) []repair.Candidate {
	var cs []repair.Candidate
	var batch []peer.ID
	take := func() {
		for _, o := range fitting(p.e.accepting(ctx, batch), erasure.Scheme{K: g.K, M: g.M}, g.Len) {
			cs = append(cs, repair.Candidate{Peer: string(o.peer), Zones: repair.Zones(o.facts.Zone, p.e.dial.Group(o.peer))})
		}
		batch = nil
	}
	seen := 0
	for q, err := range p.e.dir.Walk(ctx, id) {
		if err != nil || len(cs) >= g.N() || seen > 16*g.N() {
			break
		}
		seen++
		if !used[q] {
			used[q] = true
			if batch = append(batch, q); len(batch) == lookupWidth {
				take()
			}
		}
	}
	take()
	return cs
}

// fitting gives the offers with room for a shard under s, or with one already.
func fitting(offers []offer, s erasure.Scheme, packLen int) []offer {
	g := erasure.NewGeometry(packLen, s)
	need := uint64(g.ShardLen(0)) + pack.MaxManifest
	var out []offer
	for _, o := range offers {
		if o.facts.Free >= need || o.holds(g) {
			out = append(out, o)
		}
	}
	return out
}

// send gives each chosen peer a shard, side by side, and to a spare where one
// fails. higher is the highest number of a state that peers say is newer than
// ours.
func (p *putter) send(ctx context.Context, m *pack.Manifest, g erasure.Geometry, data, parity []byte, to choice) (done *placed, higher uint64) {
	id := m.ID()
	chosen, spare := repair.Place(to.peers, g.N(), g.M, nil)
	done = &placed{id: id, number: m.State.Number, k: g.K, m: g.M}
	used := make(map[peer.ID]bool)
	for _, c := range to.peers {
		used[peer.ID(c.Peer)] = true
	}
	in := make(repair.Crowd)
	for _, c := range chosen {
		in.Add(c, 1)
	}
	searched := false
	var mu sync.Mutex
	// next gives a peer in the place of one that failed: of a zone that has
	// room, if there is one.
	next := func(failed repair.Candidate) (to repair.Candidate, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		in.Add(failed, -1)
		if len(spare) == 0 && !searched {
			searched = true
			spare = p.farther(ctx, id, g, used)
		}
		if len(spare) == 0 || ctx.Err() != nil {
			return to, false
		}
		i := max(0, slices.IndexFunc(spare, func(c repair.Candidate) bool { return in.Room(c, max(g.M, 1)) }))
		c := spare[i]
		spare = slices.Delete(spare, i, i+1)
		in.Add(c, 1)
		return c, true
	}
	if len(chosen) < g.N() {
		searched = true
		more, rest := repair.Place(p.farther(ctx, id, g, used), g.N()-len(chosen), g.M, in)
		for _, c := range more {
			in.Add(c, 1)
		}
		chosen, spare = append(chosen, more...), rest
	}
	var wg sync.WaitGroup
	for shard, c := range assign(chosen, g.N(), to.held) {
		wg.Go(func() {
			for {
				err := p.sendPatiently(ctx, peer.ID(c.Peer), m, shard, func(row int) []byte { return g.Cell(data, parity, shard, row) })
				if err == nil {
					mu.Lock()
					done.holders = append(done.holders, wire.Holder{Peer: c.Peer, Shard: shard})
					mu.Unlock()
					p.mu.Lock()
					p.peers[peer.ID(c.Peer)] = true
					p.mu.Unlock()
					return
				}
				if ctx.Err() == nil {
					p.e.log.Warn("shard not stored", "peer", peer.ID(c.Peer), "pack", id, "shard", shard, "err", err)
				}
				newer := p.newer(ctx, peer.ID(c.Peer), id, err)
				mu.Lock()
				done.reasons = append(done.reasons, err)
				higher = max(higher, newer)
				mu.Unlock()
				if newer >= m.State.Number {
					return // all of it is sent again: nobody else is to have it for nothing
				}
				var ok bool
				if c, ok = next(c); !ok {
					return
				}
			}
		})
	}
	wg.Wait()
	slices.SortFunc(done.holders, func(a, b wire.Holder) int { return a.Shard - b.Shard })
	return done, higher
}

// assign gives up to n peers their shards: the one that a peer holds already,
// unless one before it does too, to the others what is left, in their order.
func assign(peers []repair.Candidate, n int, held map[string]int) map[int]repair.Candidate {
	out := make(map[int]repair.Candidate, n)
	var rest []repair.Candidate
	for _, c := range peers {
		s, ok := held[c.Peer]
		if _, taken := out[s]; !ok || taken {
			rest = append(rest, c)
			continue
		}
		out[s] = c
	}
	for s := range n {
		if _, taken := out[s]; !taken && len(rest) > 0 {
			out[s], rest = rest[0], rest[1:]
		}
	}
	return out
}

// newer gives the number of the state that a peer which refused ours as old
// knows, 0 where it is not to be believed.
func (p *putter) newer(ctx context.Context, from peer.ID, id pack.ID, err error) uint64 {
	if !errors.Is(err, wire.ErrOld) && !errors.Is(err, store.ErrOld) {
		return 0
	}
	hs, err := p.e.holdings(ctx, from, []pack.ID{id})
	if err != nil || len(hs) != 1 {
		return 0
	}
	if hs[0].Number > uint64(p.e.clock.Now().Add(soon).UnixMilli()) {
		p.e.log.Warn("peer claims a state from the future", "peer", from, "pack", id, "number", hs[0].Number)
		return 0
	}
	return hs[0].Number
}

// sendPatiently stores one shard on a peer, and tries again where that may
// help: the peer is busy, or the connection broke.
func (p *putter) sendPatiently(ctx context.Context, to peer.ID, m *pack.Manifest, shard int, cell func(row int) []byte) error {
	for try := 1; ; try++ {
		err := p.sendShard(ctx, to, m, shard, cell)
		if err == nil || to == p.e.self || try == 3 || ctx.Err() != nil {
			return err
		}
		_, refused := errors.AsType[*wire.Refusal](err)
		if refused && !errors.Is(err, wire.ErrBusy) || !refused && (silence(err) || errors.Is(err, errUnreached)) {
			return err
		}
		if err := sleep(ctx, p.e.clock, time.Duration(try)*time.Second); err != nil {
			return err
		}
	}
}

// silence says whether err is that of a wait that ended.
func silence(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && e.Timeout()
}

// sendShard stores one shard on a peer, this node itself perhaps; durable when
// it returns nil.
func (p *putter) sendShard(ctx context.Context, to peer.ID, m *pack.Manifest, shard int, cell func(row int) []byte) error {
	if to == p.e.self {
		return p.e.storeHere(ctx, m, shard, putOf(string(to), p.id), cell)
	}
	err := p.e.call(ctx, to, p.e.stall, func(s stream) error {
		_, err := wire.Store(s, &wire.StoreRequest{Put: p.id, Manifest: m, Shard: shard}, cell)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", short(to), err)
	}
	return nil
}

// storeHere stores a shard in this node's own store.
func (e *engine) storeHere(ctx context.Context, m *pack.Manifest, shard int, put store.PutID, cell func(row int) []byte) error {
	w, err := e.store.Begin(ctx, m, shard, put)
	if errors.Is(err, store.ErrHave) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("this node: %w", err)
	}
	for r := range m.Geometry().ShardRows(shard) {
		if err := w.Write(r, cell(r)); err != nil {
			w.Abort()
			return fmt.Errorf("this node: %w", err)
		}
	}
	if err := w.Commit(); err != nil {
		return fmt.Errorf("this node: %w", err)
	}
	return e.dir.AddLocal(ctx, m.ID())
}

// confirm tells every holder of every pack who the others are, which makes
// their shards permanent. Holders that cannot be told count as lost: their
// shards will go away.
func (p *putter) confirm(ctx context.Context) error {
	byPeer := make(map[peer.ID][]*placed)
	for _, pk := range p.packs {
		for _, h := range pk.holders {
			byPeer[peer.ID(h.Peer)] = append(byPeer[peer.ID(h.Peer)], pk)
		}
	}
	type shard struct {
		id pack.ID
		on peer.ID
	}
	var mu sync.Mutex
	lost := make(map[shard]error)
	overtaken := make(map[pack.ID]bool)
	var g errgroup.Group
	g.SetLimit(32)
	for to, packs := range byPeer {
		g.Go(func() error {
			for part := range slices.Chunk(packs, wire.MaxPacks) {
				err := p.tell(ctx, to, part)
				if err == nil {
					continue
				}
				some, _ := errors.AsType[*wire.HoldersError](err)
				mu.Lock()
				for i, pk := range part {
					if some == nil || some.Codes[i] != 0 {
						lost[shard{pk.id, to}] = err
					}
					// Whose put is followed may say who the holders are, nobody else.
					if some != nil && (some.Codes[i] == wire.Old || some.Codes[i] == wire.Denied) || some == nil && errors.Is(err, store.ErrOld) {
						overtaken[pk.id] = true
					}
				}
				mu.Unlock()
			}
			return nil
		})
	}
	g.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, pk := range p.packs {
		pk.holders = slices.DeleteFunc(pk.holders, func(h wire.Holder) bool {
			err := lost[shard{pk.id, peer.ID(h.Peer)}]
			if err != nil {
				pk.reasons = append(pk.reasons, err)
			}
			return err != nil
		})
		if overtaken[pk.id] && p.joins {
			if err := p.follow(ctx, pk); err == nil {
				continue
			} else if !errors.Is(err, errOvertaken) {
				return err
			}
		}
		if len(pk.holders) > repair.Threshold(pk.k, pk.m) || pk.missing() == 0 {
			p.remember(pk)
			continue
		}
		if overtaken[pk.id] {
			return fail(NoPeers, "try again: it is there when that has ended", "pack %s: %w", pk.id.Short(), errOvertaken)
		}
		return fail(NoPeers, "try again: holders went away while the file was stored",
			"pack %s: %d of %d shards confirmed%s", pk.id.Short(), len(pk.holders), pk.k+pk.m, because(pk.reasons))
	}
	return nil
}

const (
	// followFor is how long a put waits for one of another home that stores the
	// same: as long as a home may be silent about a put that goes on.
	followFor = aliveEvery

	// followShort is how long it waits where nobody is seen who stores the same.
	followShort = 3 * time.Second

	// followPause is how long it waits, at first, before it looks again.
	followPause = 100 * time.Millisecond
)

// follow waits until the put of another home has ended that stores a pack under a
// later state, and takes part in what that has stored. The error is errOvertaken
// where nothing comes of it, or not what was asked for.
func (p *putter) follow(ctx context.Context, pk *placed) error {
	begun := p.e.clock.Now()
	last := 0 // shards that stayed when it was looked at before
	for pause := followPause; ; pause = min(2*pause, 5*time.Second) {
		p.e.packs.forget(pk.id) // a manifest of before
		k, err := p.e.locate(ctx, pk.id, effort{all: true})
		limit := followFor
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case CodeOf(err) == NotFound:
			return errOvertaken // it was given up
		case err != nil:
		case k.manifest.State.Number < pk.number || !p.suits(pk, &k.manifest.State):
			return errOvertaken
		default:
			holders := k.staying()
			n := len(holders)
			if n == k.geometry.N() || n > repair.Threshold(k.geometry.K, k.geometry.M) && n == last && pause >= followShort {
				p.adopt(pk, k, holders)
				return nil
			}
			last = n
			if k.manifest.State.Number == pk.number {
				// Both have signed it in the same millisecond, or all that is left is ours.
				limit = followShort
			}
		}
		if p.e.clock.Now().Sub(begun) > limit {
			return errOvertaken
		}
		if err := sleep(ctx, p.e.clock, pause+p.e.jitter(pause)); err != nil {
			return err
		}
	}
}

// suits tells whether a pack under another state is what this put wants.
func (p *putter) suits(pk *placed, st *pack.State) bool {
	if x := st.Expires; x != 0 && (p.expires == 0 || x < p.expires) {
		return false
	}
	if p.scheme == nil {
		return !st.Given
	}
	return st.M >= pk.scheme.M
}

// adopt takes a pack for what this put has stored.
func (p *putter) adopt(pk *placed, k *known, holders []wire.Holder) {
	st := &k.manifest.State
	p.e.mu.Lock() // other puts of this node may take part
	pk.number, pk.k, pk.m = st.Number, k.geometry.K, k.geometry.M
	pk.scheme, pk.holders = erasure.Scheme{K: st.K, M: st.M}, holders
	pk.owned = store.OwnedPack{ID: pk.id, Meta: pk.meta, Given: st.Given, Scheme: pk.scheme, Number: st.Number,
		Expires: st.Expires, Len: k.geometry.Len, Content: st.Content}
	p.e.mu.Unlock()
	p.remember(pk)
}

// errOvertaken is wrapped where another home with the same volume stores a pack
// at the same time: the later state is the one that stays.
var errOvertaken = errors.New("it is being stored from another home too")

// tell confirms packs to one holder, trying three times.
func (p *putter) tell(ctx context.Context, to peer.ID, packs []*placed) error {
	list := make([]wire.PackHolders, 0, len(packs))
	for _, pk := range packs {
		list = append(list, wire.PackHolders{ID: pk.id, Number: pk.number, Holders: pk.holders})
	}
	var err error
	for try := range 3 {
		if try > 0 {
			if err := sleep(ctx, p.e.clock, time.Duration(try)*time.Second); err != nil {
				return err
			}
		}
		if to == p.e.self {
			err = p.e.Holders(ctx, string(to), list)
		} else {
			err = p.e.call(ctx, to, p.e.stall, func(s stream) error { return wire.Holders(s, list) })
		}
		if err == nil {
			return nil
		}
		if _, refused := errors.AsType[*wire.Refusal](err); refused {
			break
		}
	}
	return fmt.Errorf("%s: %w", short(to), err)
}

// worst gives what tells how safe all is that was put: the pack that survives the
// fewest losses. Of those that were there before what they were stored with counts;
// how they are now is for Stat.
func (p *putter) worst(before []store.OwnedPack) *placed {
	all := slices.Clone(p.packs)
	for _, b := range before {
		g := erasure.NewGeometry(b.Len, b.Scheme)
		all = append(all, &placed{id: b.ID, scheme: b.Scheme, k: g.K, m: g.M, holders: make([]wire.Holder, g.N())})
	}
	if len(all) == 0 { // nothing is known of what was there before
		return &placed{}
	}
	return slices.MinFunc(all, func(a, b *placed) int {
		return (len(a.holders) - a.k) - (len(b.holders) - b.k)
	})
}
