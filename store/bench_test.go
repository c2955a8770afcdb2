package store

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// owner signs the states of the tests.
var owner = ed25519.NewKeyFromSeed(make([]byte, 32))

// sample is a pack with all that is needed to store its shards.
type sample struct {
	m            *pack.Manifest
	data, parity []byte
}

// newSample makes a pack of n random bytes.
func newSample(tb testing.TB, rnd *rand.Rand, n int, sch erasure.Scheme, number uint64) *sample {
	tb.Helper()
	p := &sample{data: make([]byte, n)}
	fill(rnd, p.data)
	return p.recode(tb, sch, number)
}

// recode codes the same data by another scheme.
func (p *sample) recode(tb testing.TB, sch erasure.Scheme, number uint64) *sample {
	tb.Helper()
	q := &sample{data: p.data}
	content := pack.NewContent(q.data)
	g := erasure.NewGeometry(len(q.data), sch)
	if g.K > 1 {
		q.parity = make([]byte, g.ParityLen())
	}
	hashes, err := pack.Code(content, q.data, sch, q.parity)
	if err != nil {
		tb.Fatal(err)
	}
	st := pack.NewState(pack.Network{1}, pack.Owner(owner.Public().(ed25519.PublicKey)), content, sch, false, number, hashes)
	st.Sign(owner)
	q.m = &pack.Manifest{Content: content, State: *st}
	return q
}

// renewed gives the same coding a new number.
func (p *sample) renewed(number uint64, expires uint64) *sample {
	m := *p.m
	m.State.Number, m.State.Expires = number, expires
	m.State.Sign(owner)
	return &sample{&m, p.data, p.parity}
}

// tombstone deletes the pack.
func (p *sample) tombstone(number uint64) *pack.State {
	st := p.m.State.Tombstone(number)
	st.Sign(owner)
	return st
}

func (p *sample) id() pack.ID { return p.m.ID() }

func (p *sample) cell(shard, row int) []byte {
	return p.m.Geometry().Cell(p.data, p.parity, shard, row)
}

func fill(rnd *rand.Rand, b []byte) {
	for i := 0; i+8 <= len(b); i += 8 {
		x := rnd.Uint64()
		for j := range 8 {
			b[i+j] = byte(x >> (8 * j))
		}
	}
	for i := len(b) &^ 7; i < len(b); i++ {
		b[i] = byte(rnd.Uint32())
	}
}

// put stores a shard of p.
func (p *sample) put(tb testing.TB, s *Store, shard int, id PutID) error {
	tb.Helper()
	return p.putCtx(tb.Context(), s, shard, id)
}

func (p *sample) putCtx(ctx context.Context, s *Store, shard int, id PutID) error {
	w, err := s.Begin(ctx, p.m, shard, id)
	if err != nil {
		return err
	}
	for row := range p.m.Geometry().ShardRows(shard) {
		if err := w.Write(row, p.cell(shard, row)); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Commit()
}

func BenchmarkWriteShard(b *testing.B) {
	for _, size := range []int64{256 << 20, 1 << 30} {
		for _, n := range []int{1, 4} {
			b.Run(fmt.Sprintf("log%dMiB/writers%d", size>>20, n), func(b *testing.B) {
				s, err := Open(b.TempDir(), Options{size: size})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				rnd := rand.New(rand.NewPCG(1, 1))
				base := newSample(b, rnd, 4<<20, erasure.Scheme{K: 1}, 1)
				var owners atomic.Uint64
				b.SetBytes(4 << 20)
				b.ResetTimer()
				var g errgroup.Group
				g.SetLimit(n)
				for range b.N {
					g.Go(func() error {
						m := *base.m // another owner: another pack, the same blocks
						m.State.Owner = pack.Owner{byte(owners.Add(1)), byte(owners.Load() >> 8), byte(owners.Load() >> 16)}
						p := &sample{&m, base.data, nil}
						return p.put(b, s, 0, PutID{})
					})
				}
				if err := g.Wait(); err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

func BenchmarkReadBlock(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	p := newSample(b, rand.New(rand.NewPCG(1, 1)), 32<<20, erasure.Scheme{K: 1}, 1)
	if err := p.put(b, s, 0, PutID{}); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 256<<10)
	id := p.id()
	b.SetBytes(256 << 10)
	b.ResetTimer()
	for i := range b.N {
		if _, err := s.ReadBlock(id, 0, i%128, dst); err != nil {
			b.Fatal(err)
		}
	}
}
