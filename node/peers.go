package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// factsAge is how long what a peer said of itself is taken as true: a
	// peer that has filled up since refuses, which costs a round trip.
	factsAge = 15 * time.Second

	// factsTimeout is how long a put waits to hear of a peer whether it has
	// room; one that is slower is not the best of holders anyway.
	factsTimeout = 2 * time.Second

	// avoidFor is how long a peer that failed is asked last.
	avoidFor = 10 * time.Second

	// insistAgain is how long a peer that stayed silent when it was asked
	// once more is left in peace.
	insistAgain = time.Minute

	// maxPeers bounds the table; the longest unheard of go first.
	maxPeers = 4096
)

// errSilent is the error of a peer that is not asked because it failed a
// moment ago.
var errSilent = errors.New("did not answer a moment ago")

// peerTable is what is known of peers from dealing with them.
type peerTable struct {
	mu    sync.Mutex
	peers map[peer.ID]*peerState // guarded by mu
}

type peerState struct {
	facts    wire.Facts
	factsAt  time.Time
	lastSeen time.Time
	lastFail time.Time
	since    time.Time     // of the first answer after the last failure
	insisted time.Time     // when it was last asked in spite of having failed
	latency  time.Duration // moving average of short answers
}

func newPeerTable() *peerTable { return &peerTable{peers: make(map[peer.ID]*peerState)} }

// with runs fn on the state of p.
func (t *peerTable) with(p peer.ID, fn func(*peerState)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.peers[p]
	if !ok {
		if len(t.peers) >= maxPeers {
			t.evict()
		}
		s = new(peerState)
		t.peers[p] = s
	}
	fn(s)
}

// evict drops the peer longest unheard of.
func (t *peerTable) evict() {
	var oldest peer.ID
	var when time.Time
	for p, s := range t.peers {
		if oldest == "" || s.lastSeen.Before(when) {
			oldest, when = p, s.lastSeen
		}
	}
	delete(t.peers, oldest)
}

func (t *peerTable) failed(p peer.ID, now time.Time) {
	t.with(p, func(s *peerState) { s.lastFail, s.since, s.factsAt = now, time.Time{}, time.Time{} })
}

func (t *peerTable) answered(p peer.ID, now time.Time, took time.Duration) {
	t.with(p, func(s *peerState) {
		s.lastSeen = now
		if s.since.IsZero() {
			s.since = now
		}
		if took < askTimeout {
			if s.latency == 0 {
				s.latency = took
			} else {
				s.latency += (took - s.latency) / 8
			}
		}
	})
}

// state gives a copy of what is known of p.
func (t *peerTable) state(p peer.ID) peerState {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.peers[p]; ok {
		return *s
	}
	return peerState{}
}

// count gives how many peers that hold shards for others have answered for the
// whole of a period, without a failure and to the end of it, and how many have
// answered in it at all. Whether one has room is asked when it is to have a
// shard.
func (t *peerTable) count(now time.Time, period, end time.Duration) (steady, seen int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.peers {
		if s.facts.Capacity == 0 && s.facts.Free == 0 || now.Sub(s.lastSeen) > period {
			continue
		}
		seen++
		if !s.since.IsZero() && now.Sub(s.since) >= period && now.Sub(s.lastSeen) <= end {
			steady++
		}
	}
	return steady, seen
}

// avoid says whether p failed a moment ago and has not answered since.
func (t *peerTable) avoid(p peer.ID, now time.Time) bool {
	s := t.state(p)
	return !s.lastFail.IsZero() && now.Sub(s.lastFail) < avoidFor && !s.lastSeen.After(s.lastFail)
}

// facts gives what p says of itself, asking where what is known is old.
func (e *engine) facts(ctx context.Context, p peer.ID, timeout time.Duration) (wire.Facts, error) {
	if p == e.self {
		return e.ownFacts(), nil
	}
	now := e.clock.Now()
	if s := e.peers.state(p); !s.factsAt.IsZero() && now.Sub(s.factsAt) < factsAge {
		return s.facts, nil
	}
	if e.peers.avoid(p, now) {
		return wire.Facts{}, fmt.Errorf("%s: %w", short(p), errSilent)
	}
	var f wire.Facts
	err := e.call(ctx, p, timeout, func(s stream) (err error) {
		f, err = wire.GetFacts(s)
		return err
	})
	if err != nil {
		return wire.Facts{}, err
	}
	e.peers.with(p, func(s *peerState) { s.facts, s.factsAt = f, e.clock.Now() })
	return f, nil
}

// insist asks peers that were silent once more, and waits longer; not those
// that were asked so less than insistAgain ago. It adds the ones that stay
// silent to quiet, and why to reasons.
func (e *engine) insist(ctx context.Context, peers []peer.ID, quiet *[]peer.ID, reasons *[]error) []offer {
	now := e.clock.Now()
	var ask []peer.ID
	for _, p := range peers {
		e.peers.with(p, func(s *peerState) {
			if now.Sub(s.insisted) < insistAgain && s.lastFail.After(s.insisted) {
				*quiet = append(*quiet, p)
				*reasons = append(*reasons, fmt.Errorf("%s: %w", short(p), errSilent))
				return
			}
			s.insisted, s.lastFail = now, time.Time{}
			ask = append(ask, p)
		})
	}
	var out []offer
	for _, o := range e.ask(ctx, ask, askTimeout) {
		if o.err != nil {
			*quiet = append(*quiet, o.peer)
			*reasons = append(*reasons, o.err)
			continue
		}
		out = append(out, o)
	}
	return out
}

// accepting asks peers side by side for their facts and gives those that
// answered with what they said, in the order of peers.
func (e *engine) accepting(ctx context.Context, peers []peer.ID) []offer {
	return e.ask(ctx, peers, factsTimeout)
}

func (e *engine) ask(ctx context.Context, peers []peer.ID, timeout time.Duration) []offer {
	offers := make([]offer, len(peers))
	var g errgroup.Group
	g.SetLimit(32)
	for i, p := range peers {
		g.Go(func() error {
			f, err := e.facts(ctx, p, timeout)
			offers[i] = offer{peer: p, facts: f, err: err}
			return nil
		})
	}
	g.Wait()
	return offers
}

// offer is a peer's answer to whether it would hold a shard.
type offer struct {
	peer  peer.ID
	facts wire.Facts
	err   error        // it did not answer
	held  wire.Holding // what it has of the pack already, where it was asked
}

// holds tells whether it has a shard of the pack, as g codes it.
func (o *offer) holds(g erasure.Geometry) bool {
	return o.held.Held && !o.held.Damaged && o.held.K == g.K && o.held.M == g.M && o.held.Shard < g.N()
}
