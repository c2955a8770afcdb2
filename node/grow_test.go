package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/wire"
)

// mortal is the dialer of a node that dies: from the last call on it reaches
// nobody.
type mortal struct {
	dialer

	calls atomic.Int64
	last  int64 // 0: it lives
}

func (d *mortal) Open(ctx context.Context, p peer.ID) (stream, error) {
	if n := d.calls.Add(1); d.last > 0 && n >= d.last {
		return nil, errors.New("dead")
	}
	return d.dialer.Open(ctx, p)
}

// hasty is a clock whose waits are short.
type hasty struct{ realClock }

func (hasty) After(d time.Duration) (<-chan time.Time, func()) {
	return realClock{}.After(min(d/20, time.Second))
}

// grownNet is a file of a client that was put where there were few peers.
type grownNet struct {
	*memNet

	owner *memNode
	data  []byte
	put   PutResult
	grow  *grower
}

func newGrownNet(t *testing.T, seed uint64, before, after int, redundancy *erasure.Scheme) *grownNet {
	m := newMemNet(t, seed, before, 0)
	g := &grownNet{memNet: m, owner: m.client(), data: random(50, 300<<10)}
	n := g.owner.node()
	g.put = put(t, n, "f", g.data, redundancy)
	for len(m.holders()) < after {
		m.add(true, 0, "")
	}
	for _, n := range m.holders()[after:] {
		n.down.Store(true)
	}
	g.grow = newGrower(g.owner.engine, func(owner pack.Owner) ed25519.PrivateKey { return n.seed.Keys().Owner }, 0)
	return g
}

// all moves packs until none is left to be moved, or one fails.
func (g *grownNet) all(t *testing.T, peers int) error {
	for {
		if moved, err := g.grow.growOnce(t.Context(), peers, peers); err != nil || !moved {
			return err
		}
	}
}

// check reads the file as somebody who knows nothing of it.
func (g *grownNet) check(t *testing.T, when string) {
	t.Helper()
	back, _, err := get(t.Context(), g.client().node(), g.put.Link)
	if err != nil || !bytes.Equal(back, g.data) {
		t.Errorf("%s: got %d bytes, %v", when, len(back), err)
	}
}

func TestPacksFollowTheNumberOfPeers(t *testing.T) {
	tests := []struct {
		before, after int
		k, n          int // of the pack that survives the fewest losses, in the end
	}{
		{1, 2, 1, 2}, {2, 4, 1, 3}, {3, 5, 2, 5}, {5, 10, 4, 10}, {3, 10, 4, 10}, {10, 20, 8, 20},
		{5, 9, 2, 5}, // not enough for the next step
		{10, 8, 4, 10}, {10, 7, 2, 5}, {5, 4, 1, 3}, {3, 2, 1, 2},
		{2, 1, 1, 2}, // one copy is no step to go to
	}
	for _, c := range tests {
		t.Run(fmt.Sprintf("%d to %d", c.before, c.after), func(t *testing.T) {
			g := newGrownNet(t, 220, c.before, c.after, nil)
			g.data = append([]byte(nil), g.data...)
			if err := g.all(t, c.after); err != nil {
				t.Fatal(err)
			}
			g.check(t, "moved")
			m := g.client().node()
			st, err := m.Stat(t.Context(), g.put.Link)
			if err != nil || st.K != c.k || st.N != c.n || st.Live != min(c.n, c.after) {
				t.Errorf("stat: got %+v, %v, want %d of %d", st, err, c.k, c.n)
			}
			for p, err := range g.owner.store.Owned(t.Context()) {
				if err != nil || !p.Meta && (p.Scheme.K != c.k || p.Scheme.N() != c.n) || p.Meta && c.after > c.before && p.Scheme != metaScheme(erasure.Scheme{K: c.k, M: c.n - c.k}) {
					t.Errorf("catalog: got %+v, %v, want n = %d", p, err, c.n)
				}
			}
			// Nothing that is there is provisional, and there is nothing more to do.
			g.ahead.Store(int64(25 * time.Hour))
			g.sweep()
			g.check(t, "a day later")
			if moved, err := g.grow.growOnce(t.Context(), c.after, c.after); moved || err != nil {
				t.Errorf("again: got %v, %v", moved, err)
			}
		})
	}
}

func TestGivenRedundancyIsNotChanged(t *testing.T) {
	g := newGrownNet(t, 221, 5, 20, &erasure.Scheme{K: 2, M: 3})
	if moved, err := g.grow.growOnce(t.Context(), 20, 20); moved || err != nil {
		t.Errorf("got %v, %v, want nothing moved", moved, err)
	}
}

// A node that dies at any moment of a move leaves a file that can be read, at
// once and when all that was provisional has gone; and the next attempt ends
// the work.
func TestAMoveThatEndsAnywhereLosesNothing(t *testing.T) {
	tests := []struct{ before, after, step int }{{3, 5, 5}, {5, 10, 29}, {10, 20, 61}, {10, 7, 13}} // step: of calls, when short
	for _, c := range tests {
		if !testing.Short() {
			c.step = (c.step + 9) / 10
		}
		t.Run(fmt.Sprintf("%d to %d", c.before, c.after), func(t *testing.T) {
			for last, done := 1, false; !done && !t.Failed(); last += c.step {
				t.Run(fmt.Sprint(last), func(t *testing.T) { done = moveDying(t, c.before, c.after, last) })
			}
		})
	}
}

// moveDying moves a file by a node that dies at a call, and once more. It is
// done where the node lives that long.
func moveDying(t *testing.T, before, after, last int) (done bool) {
	g := newGrownNet(t, 222, before, after, nil)
	d := &mortal{dialer: g.owner.dial, last: int64(last)}
	g.owner.dial, g.owner.clock = d, hasty{}
	err := g.all(t, after)
	g.check(t, fmt.Sprintf("dead (%v)", err))
	g.ahead.Store(int64(25 * time.Hour))
	g.sweep()
	g.check(t, fmt.Sprintf("dead (%v), a day later", err))
	if err == nil {
		t.Logf("a move of all packs takes %d calls", d.calls.Load())
		if d.last <= d.calls.Load() {
			t.Errorf("it died at call %d of %d, and all was well", last, d.calls.Load())
		}
		return true
	}
	// It comes back.
	d.last = 0
	g.owner.peers, g.owner.packs = newPeerTable(), newPackTable()
	g.grow = newGrower(g.owner.engine, g.grow.key, 0)
	if err := g.all(t, after); err != nil {
		t.Errorf("the next attempt: %v", err)
	}
	g.ahead.Store(int64(50 * time.Hour))
	g.sweep()
	g.check(t, "moved")
	want, _ := stepFor(after)
	if st, err := g.client().node().Stat(t.Context(), g.put.Link); err != nil || st.N != want.N() || st.Live != st.N {
		t.Errorf("moved: got %+v, %v", st, err)
	}
	return false
}

// told notes who is told of holders, in order.
type told struct {
	wire.Handler

	note func()
}

func (h told) Holders(ctx context.Context, from string, p wire.PackHolders) error {
	h.note()
	return h.Handler.Holders(ctx, from, p)
}

func TestThoseWithNothingToDropChangeOverFirst(t *testing.T) {
	g := newGrownNet(t, 228, 10, 20, nil)
	var mu sync.Mutex
	var order []bool // whether the holder had an old shard
	for i, n := range g.holders() {
		n.wrap = func(h wire.Handler) wire.Handler {
			return told{h, func() {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i < 10)
			}}
		}
	}
	if moved, err := g.grow.growOnce(t.Context(), 20, 20); !moved || err != nil {
		t.Fatalf("got %v, %v", moved, err)
	}
	if len(order) < 11 || slices.Contains(order[:len(order)-10], true) || slices.Contains(order[len(order)-10:], false) {
		t.Errorf("told in the order %v, want those that had an old shard last", order)
	}
}

func TestHoldersMayChangeOverOnlyIfOneStateStaysWhole(t *testing.T) {
	for confirmed := range 21 {
		for live := range 21 {
			for k := 1; k <= 8; k++ {
				for oldK := 1; oldK <= 8; oldK++ {
					safe := true // at every number of holders that have changed over
					for n := range live + 1 {
						safe = safe && (confirmed+n >= k || live-n >= oldK)
					}
					if live < oldK { // it was not whole before
						safe = confirmed >= k
					}
					if got := mayDrop(confirmed, k, live, oldK); got != safe && (got || live+confirmed >= k) {
						t.Fatalf("%d confirmed of %d, %d live of %d: got %v, want %v", confirmed, k, live, oldK, got, safe)
					}
				}
			}
		}
	}
}

// A removal while a pack is moved waits, and leaves nothing; one before leaves
// nothing to move.
func TestARemovedPackIsNotMoved(t *testing.T) {
	g := newGrownNet(t, 223, 3, 5, nil)
	if err := g.grow.fill(t.Context(), 5, 5); err != nil || len(g.grow.queue) == 0 {
		t.Fatalf("got %d packs to move, %v", len(g.grow.queue), err)
	}
	n := g.owner.node()
	if _, err := n.Remove(t.Context(), g.put.Link); err != nil {
		t.Fatal(err)
	}
	if moved, err := g.grow.growOnce(t.Context(), 5, 5); moved || !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v, %v, want %v", moved, err, store.ErrNotFound)
	}
	if held := g.held(); held != 0 {
		t.Errorf("%d shards are there again", held)
	}
}

// Another machine of the same owner has deleted the pack, and a holder that
// was away has come back with its shard.
func TestADeletedPackIsNotRevivedByAMove(t *testing.T) {
	g := newGrownNet(t, 224, 3, 5, nil)
	away := g.holders()[0]
	away.down.Store(true)
	other := g.client().alsoOf(g.owner.node())
	if res, err := other.Remove(t.Context(), g.put.Link); err != nil || res.Partial {
		t.Fatalf("remove: %+v, %v", res, err)
	}
	away.down.Store(false)
	for range 3 {
		if moved, err := g.grow.growOnce(t.Context(), 5, 5); moved {
			t.Errorf("got %v, %v, want nothing moved", moved, err)
		}
	}
	for _, n := range g.holders()[1:] {
		if s := n.store.Usage().Shards; s != 0 {
			t.Errorf("%d shards are there again", s)
		}
	}
}

func TestAMoveGivesWayToAPut(t *testing.T) {
	g := newGrownNet(t, 225, 3, 5, nil)
	hang := make(chan struct{})
	begun := make(chan struct{}, 100)
	for _, n := range g.holders() {
		n.wrap = func(h wire.Handler) wire.Handler { return hanging{h, begun, hang} }
	}
	done := make(chan error, 1)
	go func() {
		_, err := g.grow.growOnce(t.Context(), 5, 5)
		done <- err
	}()
	<-begun
	var err error
	put := make(chan struct{})
	go func() {
		defer close(put)
		_, err = g.owner.node().Put(t.Context(), PutRequest{Name: "f", Mode: 0o644, ModTime: time.Unix(1700000000, 5), Size: -1},
			bytes.NewReader(g.data), nil)
	}()
	if err := <-done; !errors.Is(err, errLeft) {
		t.Errorf("move: got %v, want %v", err, errLeft)
	}
	close(hang)
	<-put
	if err != nil {
		t.Errorf("put: %v", err)
	}
	g.check(t, "put")
}

// hanging takes no shard before until is closed, and is busy for those that
// have waited.
type hanging struct {
	wire.Handler

	begun chan<- struct{}
	until <-chan struct{}
}

func (h hanging) Store(ctx context.Context, from string, q *wire.StoreRequest) (wire.ShardWriter, error) {
	select {
	case <-h.until:
		return h.Handler.Store(ctx, from, q)
	default:
	}
	h.begun <- struct{}{}
	<-h.until
	return nil, wire.ErrBusy
}

func TestPacksThatFailAreTriedLater(t *testing.T) {
	g := newGrownNet(t, 226, 3, 5, nil)
	for _, n := range g.holders()[3:] { // they are there, and take nothing
		n.wrap = func(h wire.Handler) wire.Handler {
			return liar{Handler: h, store: func() (wire.ShardWriter, error) { return nil, wire.ErrFull }}
		}
	}
	failed := 0
	for {
		moved, err := g.grow.growOnce(t.Context(), 5, 5)
		if moved {
			t.Fatal("moved")
		}
		if err == nil {
			break
		}
		failed++
	}
	if failed != g.put.Packs || len(g.grow.retry) != failed {
		t.Errorf("%d failed, %d are remembered, want %d", failed, len(g.grow.retry), g.put.Packs)
	}
	g.check(t, "not moved")
	if st, err := g.client().node().Stat(t.Context(), g.put.Link); err != nil || st.N != 3 || st.Live != 3 {
		t.Errorf("got %+v, %v, want 3 of 3 as before", st, err)
	}
	for id, r := range g.grow.retry {
		g.grow.postpone(id)
		if again := g.grow.retry[id]; again.tries != r.tries+1 || !again.at.After(r.at) {
			t.Errorf("got %+v after %+v", again, r)
		}
	}
}

func TestPeersAreCountedByHowLongTheyHaveBeenThere(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	tab := newPeerTable()
	const day, end = 24 * time.Hour, 2 * time.Hour
	hear := func(p peer.ID, capacity uint64) {
		tab.answered(p, now, time.Millisecond)
		tab.with(p, func(s *peerState) { s.facts = wire.Facts{Capacity: capacity, Free: capacity} })
	}
	want := func(steady, seen int) {
		t.Helper()
		if a, b := tab.count(now, day, end); a != steady || b != seen {
			t.Errorf("got %d steady, %d seen, want %d and %d", a, b, steady, seen)
		}
	}
	hear("a", 1)
	hear("b", 1)
	hear("client", 0)
	want(0, 2)
	for range 24 {
		now = now.Add(time.Hour)
		hear("a", 1)
		hear("b", 1)
		hear("client", 0)
	}
	want(2, 2)
	tab.failed("b", now)
	want(1, 2)
	hear("b", 1)
	want(1, 2)
	now = now.Add(3 * time.Hour) // nobody has asked
	want(0, 2)
	now = now.Add(day)
	want(0, 0)
}

// The loop asks the peers itself, waits until they have been there for long
// enough, and moves what there is to be moved.
func TestGrowthWaitsUntilPeersHaveSettled(t *testing.T) {
	g := newGrownNet(t, 227, 3, 5, nil)
	synctest.Test(t, func(t *testing.T) {
		grow := newGrower(g.owner.engine, g.grow.key, 24*time.Hour)
		// No streams in here: what is asked is seen, and fails.
		d := &mortal{dialer: g.owner.dial, last: 1}
		g.owner.dial = d
		ctx, cancel := context.WithCancel(t.Context())
		var asked []int64
		done := make(chan error)
		go func() {
			done <- grow.run(ctx, func() (int, int) {
				asked = append(asked, d.calls.Load())
				return 3, 3
			})
		}()
		time.Sleep(12 * time.Hour)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(asked) < 10 || len(asked) > 12 || d.calls.Load() == 0 {
			t.Errorf("looked %d times in 12 hours, with %d calls", len(asked), d.calls.Load())
		}
	})
}
