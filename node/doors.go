package node

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// What places, fetches and, later, repairs meets the world through the four
// narrow doors of this file, and through nothing else: the same code runs over
// libp2p in real life and over an in-memory network with simulated time in
// tests.

// A stream is one request to a peer: written, half closed, answered, closed.
type stream interface {
	io.ReadWriteCloser

	// Reset ends the stream at once in both directions.
	Reset() error

	// SetDeadline bounds every read and write; the zero time lifts it.
	SetDeadline(t time.Time) error
}

// A dialer opens streams to peers, connecting where needed.
type dialer interface {
	Open(ctx context.Context, p peer.ID) (stream, error)

	// Group names the group of the public address of a connected peer, "" if
	// it has none: see addressGroup.
	Group(p peer.ID) string
}

// A directory answers the few questions there are for the DHT. IDs are pack
// IDs; distance is Kademlia's, on the DHT's own key of the ID.
type directory interface {
	// Closest gives the n peers closest to id that serve the DHT, this node
	// among them where it is one, closest first.
	Closest(ctx context.Context, id [32]byte, n int) ([]peer.ID, error)

	// Walk yields ever farther peers, each once, until there are no more.
	Walk(ctx context.Context, id [32]byte) iter.Seq2[peer.ID, error]

	// Compare says which of two peers is closer to id: negative, a.
	Compare(id [32]byte, a, b peer.ID) int

	// Holders yields peers that announced that they hold id, as found.
	Holders(ctx context.Context, id [32]byte) iter.Seq2[peer.AddrInfo, error]

	// AddLocal writes this node's own record for id, so that whoever asks
	// this node learns of it at once.
	AddLocal(ctx context.Context, id [32]byte) error

	// Announce tells the peers closest to each id, soon, in sweeps.
	Announce(ctx context.Context, ids ...[32]byte) error
}

// A clock tells the time and waits.
type clock interface {
	Now() time.Time

	// After gives a channel that receives once, d from now, and a function
	// that stops it.
	After(d time.Duration) (<-chan time.Time, func())
}

// realClock is the clock of the machine.
type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, c clock, d time.Duration) error {
	ch, stop := c.After(d)
	defer stop()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
