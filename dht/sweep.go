package dht

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// sweepRouter does the sweeping provider's lookups.
//
// The provider sizes the network up by lookups, and sleeps a second after one
// that failed, with a lock held that its Close waits for. Who waits for a lock
// stops the clock under testing/synctest, where that sleep then never ends, so
// Close must not meet it: end lets no lookup fail any more and waits until the
// last sleep is over.
type sweepRouter struct {
	kad interface {
		GetClosestPeers(ctx context.Context, key string) ([]peer.ID, error)
	}

	mu     sync.Mutex
	ending bool
	failed time.Time // when a lookup failed last
}

// sweepSleep is how long the provider sleeps after a failed lookup.
const sweepSleep = time.Second

// GetClosestPeers does a lookup.
func (r *sweepRouter) GetClosestPeers(ctx context.Context, key string) ([]peer.ID, error) {
	r.mu.Lock()
	ending := r.ending
	r.mu.Unlock()
	if ending {
		return nil, nil
	}
	peers, err := r.kad.GetClosestPeers(ctx, key)
	if err == nil {
		return peers, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ending {
		return nil, nil
	}
	r.failed = time.Now()
	return nil, err
}

// end prepares for the provider's Close.
func (r *sweepRouter) end() {
	r.mu.Lock()
	r.ending = true
	awake := r.failed.Add(sweepSleep)
	r.mu.Unlock()
	time.Sleep(time.Until(awake))
}
