package node

import (
	"bytes"
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/wire"
)

// claimer claims things about packs.
type claimer struct {
	wire.Handler

	claim func(pack.ID) wire.Holding
	store error
}

func (c claimer) Have(_ context.Context, _ string, ids []pack.ID) ([]wire.Holding, error) {
	var out []wire.Holding
	for _, id := range ids {
		out = append(out, c.claim(id))
	}
	return out, nil
}

func (c claimer) Store(ctx context.Context, from string, q *wire.StoreRequest) (wire.ShardWriter, error) {
	if c.store != nil {
		return nil, c.store
	}
	return c.Handler.Store(ctx, from, q)
}

func TestOneThatClaimsAllShardsMakesNothingUnreadable(t *testing.T) {
	m := newMemNet(t, 101, 6, 0)
	data := random(20, 5<<20)
	res := put(t, m.client().node(), "f", data, &erasure.Scheme{K: 4, M: 2})
	for _, claim := range []wire.Holding{
		{Held: true, Number: math.MaxUint64, K: 1, M: 0},
		{Held: true, Number: math.MaxUint64, K: 4, M: 2, Shard: 0},
		{Held: true, Number: math.MaxUint64, K: 2, M: 253, Shard: 1},
		{Deleted: true, Number: math.MaxUint64},
	} {
		m.nodes[2].wrap = func(h wire.Handler) wire.Handler {
			return claimer{Handler: h, claim: func(pack.ID) wire.Holding { return claim }}
		}
		got, _, err := get(t.Context(), m.client().node(), res.Link)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("claim %+v: %v", claim, err)
		}
	}
}

func TestStateNumberFromTheFutureIsNotFollowed(t *testing.T) {
	m := newMemNet(t, 103, 6, 0)
	m.nodes[1].wrap = func(h wire.Handler) wire.Handler {
		return claimer{Handler: h, store: wire.ErrOld, claim: func(pack.ID) wire.Holding {
			return wire.Holding{Deleted: true, Number: math.MaxUint64 - 1}
		}}
	}
	client := m.client()
	put(t, client.node(), "f", random(21, 3<<20), &erasure.Scheme{K: 2, M: 2})
	limit := uint64(time.Now().Add(48 * time.Hour).UnixMilli())
	seen := 0
	for _, n := range m.holders() {
		for h, err := range n.store.Packs(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			seen++
			if h.Number > limit {
				t.Errorf("state %d was signed", h.Number)
			}
		}
	}
	if seen == 0 {
		t.Error("nothing was stored")
	}
}

// holdersOf gives the nodes that hold the pack of a file that has k data
// shards, by shard.
func (m *memNet) holdersOf(t *testing.T, link string, k int) []*memNode {
	t.Helper()
	c := m.client()
	if _, err := c.node().Stat(t.Context(), link); err != nil {
		t.Fatal(err)
	}
	for _, p := range c.packs.known {
		if p.geometry.K == k {
			out := make([]*memNode, p.geometry.N())
			for s := range out {
				out[s] = m.find(p.holders[s][0])
			}
			return out
		}
	}
	t.Fatalf("no pack of %d data shards", k)
	return nil
}

func TestParityThatIsFartherThanBadHoldersIsFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(n *memNode)
	}{
		{"wrong bytes", func(n *memNode) {
			n.wrap = func(h wire.Handler) wire.Handler {
				return liar{Handler: h, read: func(b []byte) []byte { b[0] ^= 1; return b }}
			}
		}},
		{"silent", func(n *memNode) {
			n.wrap = func(h wire.Handler) wire.Handler {
				return liar{Handler: h, read: func(b []byte) []byte { <-t.Context().Done(); return b }}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemNet(t, 107, 8, 0)
			data := random(22, 6<<20)
			res := put(t, m.client().node(), "f", data, &erasure.Scheme{K: 4, M: 4})
			for s, n := range m.holdersOf(t, res.Link, 4) {
				if s < 2 {
					c.spoil(n)
				} else if s >= 4 {
					n.far.Store(int64(60 * time.Millisecond))
				}
			}
			got, _, err := get(t.Context(), m.client().node(), res.Link)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("get: %v", err)
			}
		})
	}
}

// A disk that rots loses blocks, not shards.
func TestEveryGoodBlockCounts(t *testing.T) {
	m := newMemNet(t, 109, 5, 0)
	data := random(23, 10<<20)
	res := put(t, m.client().node(), "f", data, &erasure.Scheme{K: 4, M: 1})
	for s, n := range m.holdersOf(t, res.Link, 4)[:4] {
		n.wrap = func(h wire.Handler) wire.Handler { return rotten{h, s} } // block s of shard s
	}
	got, _, err := get(t.Context(), m.client().node(), res.Link)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("get: %v", err)
	}
}

// rotten cannot read one row.
type rotten struct {
	wire.Handler

	row int
}

func (r rotten) ReadBlock(ctx context.Context, from string, q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	if row == r.row {
		return nil, wire.ErrCorrupt
	}
	return r.Handler.ReadBlock(ctx, from, q, row, dst)
}

func TestReaderFollowsToAnotherCoding(t *testing.T) {
	m := newMemNet(t, 113, 8, 0)
	data := random(24, 6<<20)
	client, reader := m.client().node(), m.client().node()
	res := put(t, client, "f", data, &erasure.Scheme{K: 4, M: 4})
	if _, _, err := get(t.Context(), reader, res.Link); err != nil {
		t.Fatal(err)
	}
	put(t, client, "f", data, &erasure.Scheme{K: 2, M: 6})
	got, _, err := get(t.Context(), reader, res.Link) // by what it knew
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("get: %v", err)
	}
}

func TestPutWithExpiryDoesNotEndWhatWasStoredForGood(t *testing.T) {
	m := newMemNet(t, 127, 5, 0)
	client := m.client().node()
	data := random(25, 1<<20)
	res := put(t, client, "f", data, nil)
	_, err := client.Put(t.Context(), PutRequest{Name: "f", Mode: 0o644, ModTime: time.Unix(1700000000, 5), Size: -1, Expires: time.Millisecond},
		bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	m.ahead.Store(int64(time.Hour)) // past the expiry
	for _, n := range m.holders() {
		if err := n.store.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := get(t.Context(), m.client().node(), res.Link); err != nil {
		t.Errorf("get: %v", err)
	}
}

func TestTwoPutsOfTheSameContentAtOnce(t *testing.T) {
	m := newMemNet(t, 131, 5, 0)
	client := m.client().node()
	data := random(26, 2<<20)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if res, err := client.Put(t.Context(), PutRequest{Name: "f", Size: -1}, bytes.NewReader(data), nil); err != nil || res.Partial {
				t.Errorf("put: %+v, %v", res, err)
			}
		})
	}
	wg.Wait()
}

// The first of three ends before the second has confirmed what both stored;
// the third comes in between, and would sign a newer state if it could.
func TestWhatPutsShareLastsUntilTheLastHasEnded(t *testing.T) {
	m := newMemNet(t, 132, 5, 0)
	n := m.client().node()
	owner := n.seed.Keys().Owner
	data := random(29, pack.Padme(1<<20))
	put := func() *putter {
		p := n.engine.newPutter(t.Context(), owner, nil, 0)
		if _, err := p.PutPack(t.Context(), data, false, func() {}); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		return p
	}
	confirm := func(p *putter) {
		t.Helper()
		if err := p.confirm(t.Context()); err != nil || p.packs[0].missing() > 0 {
			t.Errorf("confirm: %v", err)
		}
		p.end()
	}
	first := put()
	second := put()
	confirm(first)
	third := put()
	confirm(second)
	confirm(third)
	if len(n.engine.putting) != 0 {
		t.Errorf("%d packs are still taken for being stored", len(n.engine.putting))
	}
}

func TestPutThatFailsLeavesWhatAnotherSharesWithIt(t *testing.T) {
	m := newMemNet(t, 133, 5, 0)
	n := m.client().node()
	owner := n.seed.Keys().Owner
	data := random(30, pack.Padme(1<<20))
	var puts [2]*putter
	for i := range puts {
		puts[i] = n.engine.newPutter(t.Context(), owner, nil, 0)
		if _, err := puts[i].PutPack(t.Context(), data, false, func() {}); err != nil {
			t.Fatal(err)
		}
		if err := puts[i].Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	puts[0].giveUp()
	puts[0].end()
	if err := puts[1].confirm(t.Context()); err != nil || puts[1].packs[0].missing() > 0 {
		t.Errorf("confirm: %v", err)
	}
	puts[1].end()
}

func TestOneHiccupCostsNoRedundancy(t *testing.T) {
	m := newMemNet(t, 137, 10, 0)
	client := m.client()
	for _, n := range m.holders()[:3] {
		client.peers.failed(n.self, time.Now())
	}
	if res := put(t, client.node(), "f", random(27, 3<<20), nil); res.N != 10 || res.Stored != 10 {
		t.Errorf("got %d of %d stored, want 10 of 10", res.Stored, res.N)
	}
}

func TestBusyPeerIsAskedAgain(t *testing.T) {
	m := newMemNet(t, 139, 6, 0)
	var once sync.Once
	for _, n := range m.holders() {
		n.wrap = func(h wire.Handler) wire.Handler { return busy{h, &once} }
	}
	if res := put(t, m.client().node(), "f", random(28, 3<<20), &erasure.Scheme{K: 2, M: 4}); res.Partial {
		t.Errorf("got %+v, want all shards stored", res)
	}
}

// busy refuses the first shard.
type busy struct {
	wire.Handler

	once *sync.Once
}

func (b busy) Store(ctx context.Context, from string, q *wire.StoreRequest) (w wire.ShardWriter, err error) {
	b.once.Do(func() { err = wire.ErrBusy })
	if err != nil {
		return nil, err
	}
	return b.Handler.Store(ctx, from, q)
}

func TestEndedContextIsNoVerdict(t *testing.T) {
	m := newMemNet(t, 149, 3, 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.client().locate(ctx, pack.ID{1}, effort{all: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
