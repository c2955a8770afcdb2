package repair

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// reviewShare bounds what reviews cost: after one that took a while there
	// is a pause of this many times as long.
	reviewShare = 10

	// reviewMost is after how long packs are reviewed although nothing has
	// happened.
	reviewMost = time.Hour

	// saveEvery is how often it is written down who is away.
	saveEvery = 5 * time.Minute
)

// Run does all that a keeper does, by the clock, until ctx ends. It returns
// when everything that it started has ended.
func (k *Keeper) Run(ctx context.Context) {
	var wg sync.WaitGroup
	loop := func(step func() time.Duration) {
		wg.Go(func() {
			for {
				d := step()
				if sleep(ctx, k.Clock, max(d, time.Millisecond)) != nil {
					return
				}
			}
		})
	}
	wake := make(chan struct{}, 1) // there may be repairs to do
	wg.Go(func() { k.reviews(ctx, wake) })
	loop(func() time.Duration {
		k.Watch(ctx)
		return k.Probe - k.Probe/20 + rand.N(k.Probe/10+1) // so that peers do not fall into step
	})
	loop(func() time.Duration { k.Audit(ctx); return k.AuditPause() })
	loop(func() time.Duration { k.Scrub(ctx); return time.Second })
	loop(func() time.Duration { k.Save(); return saveEvery })
	wg.Go(func() {
		for {
			for k.Repair(ctx) {
			}
			k.Tidy(ctx)
			tick, stop := k.Clock.After(k.Probe)
			select {
			case <-wake:
			case <-tick:
			case <-ctx.Done():
				stop()
				return
			}
			stop()
		}
	})
	wg.Wait()
	k.Save()
}

// nextGone is how long it takes until the grace of a peer that is away ends,
// reviewMost at most.
func (k *Keeper) nextGone() time.Duration {
	now := k.Clock.Now()
	next := reviewMost
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.peers {
		for _, since := range []time.Time{w.away, w.mute} {
			if d := since.Add(k.Grace).Sub(now); !since.IsZero() && d > 0 {
				next = min(next, d)
			}
		}
	}
	return next + time.Millisecond
}

// reviews reviews when there is a reason to, and now and then without.
func (k *Keeper) reviews(ctx context.Context, wake chan<- struct{}) {
	for {
		begun := k.Clock.Now()
		if err := k.Review(ctx); err != nil && ctx.Err() == nil {
			k.Log.Error("review of packs", "err", err)
		}
		select {
		case wake <- struct{}{}:
		default:
		}
		pause := max(reviewShare*k.Clock.Now().Sub(begun), min(k.Probe, time.Second))
		if sleep(ctx, k.Clock, pause) != nil {
			return
		}
		tick, stop := k.Clock.After(k.nextGone())
		select {
		case <-k.dirty:
		case <-tick:
		case <-ctx.Done():
			stop()
			return
		}
		stop()
	}
}
