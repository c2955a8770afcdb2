package node

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/wire"
)

// What keeps one member, or one kind of request, from stopping a holder.
const (
	// requestsPerPeer is how many requests of one peer are served side by
	// side; waitingPerPeer how many more may wait for their turn, above which
	// they are reset.
	requestsPerPeer = 16
	waitingPerPeer  = 64

	// questionsAtOnce bounds the requests with short answers that are served
	// side by side, readsAtOnce those that blocks go out for, each with up to
	// 1 MiB in memory. Apart, so that the one never waits for the other.
	questionsAtOnce = 64
	readsAtOnce     = 64

	// openTimeout bounds the time until a stream has said what it wants, at
	// most 128 KiB; requestTimeout that of a request in all, waiting
	// included: 4 MiB at 56 kbit/s, the 32 MiB of a whole copy at 450.
	openTimeout    = 10 * time.Second
	requestTimeout = 10 * time.Minute
)

// errCrowded is the error of a peer that asks for more at a time than waits.
var errCrowded = errors.New("too many requests of this peer at a time")

// admission gives requests their turns.
type admission struct {
	clock     clock
	peers     *turns
	questions chan struct{}
	reads     chan struct{}
	open      time.Duration // openTimeout, shorter in tests
	stall     time.Duration // stallTimeout, shorter in tests
}

func newAdmission(c clock) *admission {
	return &admission{
		clock:     c,
		peers:     newTurns(requestsPerPeer, waitingPerPeer),
		questions: make(chan struct{}, questionsAtOnce),
		reads:     make(chan struct{}, readsAtOnce),
		open:      openTimeout, stall: stallTimeout,
	}
}

// serve answers the one request of a stream when it is its turn: first among
// those of its peer, then, once it is known what it asks for, among those of
// its kind. Shards that come in have slots of their own, in [server.Store].
// The caller closes the stream.
func (a *admission) serve(ctx context.Context, s stream, from peer.ID, version int, h wire.Handler) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	done, err := a.peers.take(ctx, nil, string(from))
	if err != nil {
		s.Reset()
		return err
	}
	defer done()
	if err := s.SetDeadline(a.clock.Now().Add(a.open)); err != nil {
		return err
	}
	in, err := wire.Accept(s, version)
	if in == nil {
		return err
	}
	var slots chan struct{}
	switch in.Kind {
	case wire.Question:
		slots = a.questions
	case wire.Reading:
		slots = a.reads
	}
	if slots != nil {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return in.Serve(ctx, &patient{stream: s, clock: a.clock, stall: a.stall}, string(from), h)
}

// turns lets every peer do a few things at a time.
type turns struct {
	atOnce, waiting int // of each peer

	mu    sync.Mutex
	peers map[string]*turn // that do or wait for something
}

type turn struct {
	slots chan struct{}
	n     int // those who have a slot or wait for one
}

func newTurns(atOnce, waiting int) *turns {
	return &turns{atOnce: atOnce, waiting: waiting, peers: make(map[string]*turn)}
}

// take waits for the peer's turn, until late (nil: never) or until ctx ends;
// done gives it back. It returns errCrowded at once where too many wait, and
// when it is late.
func (t *turns) take(ctx context.Context, late <-chan time.Time, from string) (done func(), err error) {
	t.mu.Lock()
	p := t.peers[from]
	if p == nil {
		p = &turn{slots: make(chan struct{}, t.atOnce)}
		t.peers[from] = p
	}
	if p.n >= t.atOnce+t.waiting {
		t.mu.Unlock()
		return nil, errCrowded
	}
	p.n++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if p.n--; p.n == 0 {
			delete(t.peers, from)
		}
	}
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots; leave() }, nil
	case <-late:
		err = errCrowded
	case <-ctx.Done():
		err = ctx.Err()
	}
	leave()
	return nil, err
}
