package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// Times that bound how long a silent peer can keep us waiting.
const (
	// dialTimeout bounds the opening of a stream, connecting included.
	dialTimeout = 10 * time.Second

	// stallTimeout is how long a transfer may go without a byte moved, and an
	// acknowledgement may take: a disk under load syncs 4 MiB well within it.
	stallTimeout = 30 * time.Second

	// slowestRate, in bytes a second, is what a transfer that is under way may
	// slow down to: 40 shards at a time over a line of 5 Mbit/s up.
	slowestRate = 16 << 10

	// leastRate, in bytes a second, is what has to come and go on a stream after
	// leastAfter of the times for which one may be silent: else a peer that says a
	// byte now and then could keep us for days.
	leastRate  = 1 << 10
	leastAfter = 3

	// askTimeout bounds a question with a short answer.
	askTimeout = 5 * time.Second

	// listsHeld is how many bytes of lists of directories are remembered: those of a
	// tree of some 40,000 entries.
	listsHeld = 32 << 20
)

// errUnreached is wrapped where a peer could not be connected to at all.
var errUnreached = errors.New("not reached")

// An engine is what places and fetches packs: the part of a node that knows
// the world only through its doors.
type engine struct {
	self    peer.ID
	holder  bool // keeps shards for others; false for a client
	network pack.Network
	zone    string
	version string
	dial    dialer
	dir     directory
	clock   clock
	store   *store.Store
	peers   *peerTable
	packs   *packTable
	buffers *buffers
	lists   *volume.Lists // of directories that were read lately; nil in some tests
	log     *slog.Logger
	stall   time.Duration // stallTimeout, shorter in tests

	keeper   *repair.Keeper   // watches the packs held here; nil in some tests
	announce func(id pack.ID) // makes the network know of a pack held here; nil: nobody is to

	mu      sync.Mutex
	rand    *rand.Rand           // guarded by mu
	putting map[pack.ID]*storing // packs that puts of this node store now; guarded by mu
}

// call opens a stream to p and runs fn on it. While fn runs, a read or write
// that makes no progress for stall ends with an error, or next to none for longer;
// when ctx ends the stream is reset. What happened is remembered of the peer.
func (e *engine) call(ctx context.Context, p peer.ID, stall time.Duration, fn func(s stream) error) error {
	begun := e.clock.Now()
	open, cancel := context.WithTimeout(ctx, min(dialTimeout, max(stall, time.Second)))
	s, err := e.dial.Open(open, p)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.unheard(p, err)
		return fmt.Errorf("connect to %s: %w: %w", short(p), errUnreached, err)
	}
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	defer stop()
	err = fn(&patient{stream: s, clock: e.clock, stall: stall, begun: e.clock.Now()})
	if err != nil {
		s.Reset()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, refused := errors.AsType[*wire.Refusal](err); !refused {
			e.unheard(p, err)
		} else {
			e.peers.answered(p, e.clock.Now(), e.clock.Now().Sub(begun))
		}
		return err
	}
	s.Close()
	e.peers.answered(p, e.clock.Now(), e.clock.Now().Sub(begun))
	return nil
}

// jitter gives a random time below d, so that who waits for the same does not come
// back at the same time.
func (e *engine) jitter(d time.Duration) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return time.Duration(e.rand.Int64N(int64(d)))
}

// unheard remembers that a peer failed, and says so once a while.
func (e *engine) unheard(p peer.ID, err error) {
	now := e.clock.Now()
	if !e.peers.avoid(p, now) {
		e.log.Debug("peer does not answer", "peer", p, "err", err)
	}
	e.peers.failed(p, now)
}

// patient is a stream whose every read and write has a deadline of its own.
type patient struct {
	stream

	clock clock
	stall time.Duration
	begun time.Time    // zero: it may be as slow as it likes
	moved atomic.Int64 // bytes, both ways
}

func (s *patient) Read(b []byte) (int, error) {
	if err := s.wait(s.stall); err != nil {
		return 0, err
	}
	n, err := s.stream.Read(b)
	s.moved.Add(int64(n))
	return n, err
}

func (s *patient) Write(b []byte) (int, error) {
	// A long write is given the time that a slow line needs for it.
	slowest := time.Duration(len(b)) * time.Second / slowestRate
	if err := s.wait(s.stall + slowest); err != nil {
		return 0, err
	}
	n, err := s.stream.Write(b)
	s.moved.Add(int64(n))
	return n, err
}

// wait sets how long the next read or write may take.
func (s *patient) wait(most time.Duration) error {
	now := s.clock.Now()
	if long := leastAfter*s.stall + time.Duration(s.moved.Load()/leastRate)*time.Second; !s.begun.IsZero() && now.Sub(s.begun) > long {
		return fmt.Errorf("%d bytes in %s: %w", s.moved.Load(), now.Sub(s.begun).Round(time.Second), os.ErrDeadlineExceeded)
	}
	return s.SetDeadline(now.Add(most))
}

// short names a peer for people: the last 8 characters of its ID, for the
// first are the same for all.
func short(p peer.ID) string {
	s := p.String()
	if len(s) > 8 {
		s = s[len(s)-8:]
	}
	return s
}
