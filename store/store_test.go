package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.UnixMilli(1_800_000_000_000)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func openStore(tb testing.TB, dir string, o Options) *Store {
	tb.Helper()
	s, err := Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func seeded(tb testing.TB) *rand.Rand {
	tb.Helper()
	seed := rand.Uint64()
	tb.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// check reads all of a shard and compares it.
func (p *sample) check(tb testing.TB, s *Store, shard int) {
	tb.Helper()
	if err := p.compare(s, shard); err != nil {
		tb.Error(err)
	}
}

func (p *sample) compare(s *Store, shard int) error {
	st := p.m.State
	for row := range p.m.Geometry().ShardRows(shard) {
		b, err := s.ReadCoded(p.id(), st.K, st.M, shard, row, nil)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, p.cell(shard, row)) {
			return fmt.Errorf("pack %s: shard %d, row %d: wrong bytes", p.id().Short(), shard, row)
		}
	}
	return nil
}

func wantErr(tb testing.TB, got, want error) {
	tb.Helper()
	if !errors.Is(got, want) {
		tb.Errorf("got error %v, want %v", got, want)
	}
}

var scheme = erasure.Scheme{K: 4, M: 2}

func TestShardIsReadAsItWasWritten(t *testing.T) {
	for _, tc := range []struct {
		name string
		len  int
		sch  erasure.Scheme
		o    Options
	}{
		{"one block", 4 << 10, scheme, Options{}},
		{"short last block", 4<<10*9 + 1, scheme, Options{}},
		{"full pack", 32 << 20, scheme, Options{}},
		{"copies", 32 << 20, erasure.Scheme{K: 1, M: 2}, Options{}},
		{"in memory", 8 << 20, erasure.Scheme{K: 1, M: 2}, Options{InMemory: true}},
		{"in a memory that outlives it", 8 << 20, scheme, Options{Memory: new(Memory)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			if m := tc.o.Memory; m != nil {
				t.Cleanup(func() { wantErr(t, m.Close(), nil) })
			}
			s, err := Open(dir, tc.o)
			if err != nil {
				t.Fatal(err)
			}
			p := newSample(t, seeded(t), tc.len, tc.sch, 1)
			n := p.m.Geometry().N()
			for i := range n {
				if err := p.put(t, s, i, PutID{}); err != nil {
					t.Fatal(err)
				}
				p.check(t, s, i)
			}
			u := s.Usage()
			if u.Shards != n || u.Held < int64(len(p.data)+p.m.Geometry().ParityLen()) {
				t.Errorf("got usage %+v", u)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if tc.o.InMemory {
				return
			}
			s = openStore(t, dir, tc.o)
			for i := range n {
				p.check(t, s, i)
			}
			u.Free = s.Usage().Free
			if diff := cmp.Diff(u, s.Usage()); diff != "" {
				t.Errorf("usage after opening again (-before +after):\n%s", diff)
			}
			m, err := s.Manifest(p.id())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(p.m, m); diff != "" {
				t.Errorf("manifest (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadAppends(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := newSample(t, seeded(t), 100<<10, scheme, 1)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	b, err := s.ReadBlock(p.id(), 0, 1, []byte("before"))
	if want := append([]byte("before"), p.cell(0, 1)...); err != nil || !bytes.Equal(b, want) {
		t.Errorf("got %d bytes and %v, want %d", len(b), err, len(want))
	}
	for _, at := range [][2]int{{1, 0}, {0, 99}, {0, -1}, {-1, 0}} {
		_, err := s.ReadBlock(p.id(), at[0], at[1], nil)
		wantErr(t, err, ErrNotFound)
	}
	_, err = s.ReadBlock(pack.ID{1}, 0, 0, nil)
	wantErr(t, err, ErrNotFound)
	_, err = s.Manifest(pack.ID{1})
	wantErr(t, err, ErrNotFound)
	_, err = s.Holding(pack.ID{1})
	wantErr(t, err, ErrNotFound)
}

func TestWriterRefusesWhatDoesNotFit(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := newSample(t, seeded(t), 100<<10, scheme, 1)
	for _, i := range []int{-1, 6} {
		if _, err := s.Begin(t.Context(), p.m, i, PutID{}); err == nil {
			t.Errorf("shard %d was begun", i)
		}
	}
	w, err := s.Begin(t.Context(), p.m, 0, PutID{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Write(1, p.cell(0, 1)); err == nil {
		t.Error("row 1 was taken for row 0")
	}
	if err := w.Write(0, p.cell(0, 0)[1:]); err == nil {
		t.Error("a short block was taken")
	}
	if err := w.Commit(); err == nil {
		t.Error("half a shard was committed")
	}
	wantErr(t, w.Write(0, p.cell(0, 0)), errEnded)
	wantErr(t, w.Commit(), errEnded)
	w.Abort()
	if u := s.Usage(); u.Held != 0 || u.Shards != 0 {
		t.Errorf("got usage %+v after all was aborted", u)
	}
}

func TestCapacityIsNotPassed(t *testing.T) {
	p := newSample(t, seeded(t), 8<<20, erasure.Scheme{K: 1}, 1)
	cost := costOf(p.m, 0, len(p.m.Encode()))
	s := openStore(t, t.TempDir(), Options{Capacity: cost * 3 / 2})
	w, err := s.Begin(t.Context(), p.m, 0, PutID{})
	if err != nil {
		t.Fatal(err)
	}
	q := newSample(t, seeded(t), 8<<20, erasure.Scheme{K: 1}, 1)
	wantErr(t, q.put(t, s, 0, PutID{}), ErrFull)
	w.Abort()
	if err := q.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, p.put(t, s, 0, PutID{}), ErrFull)
	if _, err := s.SetState(q.tombstone(2)); err != nil {
		t.Fatal(err)
	}
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u.Free >= u.Capacity || u.Free != u.Capacity-u.Held {
		t.Errorf("got usage %+v", u)
	}
}

func TestFullDiskRefusesAndLosesNothing(t *testing.T) {
	var free int64 = math.MaxInt64 / 2
	s := openStore(t, t.TempDir(), Options{free: func() (int64, error) { return free, nil }})
	p := newSample(t, seeded(t), 8<<20, erasure.Scheme{K: 1}, 1)
	q := newSample(t, seeded(t), 8<<20, erasure.Scheme{K: 1}, 1)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	w, err := s.Begin(t.Context(), q.m, 0, PutID{})
	if err != nil {
		t.Fatal(err)
	}
	held := s.Usage().Held
	free = diskReserve / 2
	wantErr(t, q.put(t, s, 0, PutID{}), ErrFull)
	free = diskReserve/2 - 1
	var last error
	for row := range q.m.Geometry().Rows {
		if last = w.Write(row, q.cell(0, row)); last != nil {
			break
		}
	}
	if last == nil {
		last = w.Commit()
	}
	wantErr(t, last, ErrFull)
	w.Abort()
	if got := s.Usage().Held; got >= held {
		t.Errorf("got %d bytes held after the refusal, %d before", got, held)
	}
	p.check(t, s, 0)
	free = math.MaxInt64 / 2
	if err := q.put(t, s, 0, PutID{}); err != nil {
		t.Error(err)
	}
	q.check(t, s, 0)
}

func TestHaveAndOld(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := newSample(t, seeded(t), 1<<20, scheme, 10)
	if err := p.put(t, s, 2, PutID{}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, p.put(t, s, 2, PutID{}), ErrHave)
	wantErr(t, p.renewed(12, 77).put(t, s, 2, PutID{1}), ErrHave)
	h, err := s.Holding(p.id())
	if err != nil || h.Number != 12 || h.Shard != 2 || h.K != 4 || h.M != 2 || h.Coded != 4 || h.Provisional {
		t.Errorf("got %+v, %v", h, err)
	}
	if m, err := s.Manifest(p.id()); err != nil || m.State.Expires != 77 {
		t.Errorf("got %v, %v", m, err)
	}
	wantErr(t, p.put(t, s, 3, PutID{}), ErrOld)
	wantErr(t, p.put(t, s, 2, PutID{}), ErrOld)
	_, err = s.SetState(&p.m.State)
	wantErr(t, err, ErrOld)
	_, err = s.SetState(p.tombstone(11))
	wantErr(t, err, ErrOld)
	_, err = s.SetState(&p.recode(t, erasure.Scheme{K: 2, M: 3}, 13).m.State)
	wantErr(t, err, ErrCoding)
	if changed, err := s.SetState(&p.renewed(12, 77).m.State); changed || err != nil {
		t.Errorf("the same state again: got %v, %v", changed, err)
	}
	if changed, err := s.SetState(&p.renewed(14, 0).m.State); !changed || err != nil {
		t.Errorf("a newer state: got %v, %v", changed, err)
	}
	p.check(t, s, 2)
	_, err = s.SetState(&newSample(t, seeded(t), 5000, scheme, 1).m.State)
	wantErr(t, err, ErrNotFound)
}

func TestStampsAreOrderedAsStatesAre(t *testing.T) {
	p := newSample(t, seeded(t), 5000, scheme, 10)
	states := []*pack.State{&p.m.State, &p.renewed(11, 0).m.State, &p.renewed(10, 5).m.State, &p.renewed(10, 6).m.State, p.tombstone(10)}
	for _, a := range states {
		for _, b := range states {
			if got, want := stampOf(a).newer(stampOf(b)), a.Newer(b); got != want {
				t.Errorf("got %v, want %v", got, want)
			}
		}
	}
}

func TestDeleteLeavesATombstoneThatANewerPutRevives(t *testing.T) {
	c := newClock()
	s := openStore(t, t.TempDir(), Options{Now: c.now})
	p := newSample(t, seeded(t), 1<<20, scheme, 10)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	if changed, err := s.SetState(p.tombstone(11)); !changed || err != nil {
		t.Fatalf("got %v, %v", changed, err)
	}
	_, err := s.ReadBlock(p.id(), 0, 0, nil)
	wantErr(t, err, ErrNotFound)
	wantErr(t, p.put(t, s, 0, PutID{}), ErrOld)
	h, err := s.Holding(p.id())
	if err != nil || !h.Deleted || h.Number != 11 {
		t.Errorf("got %+v, %v", h, err)
	}
	if st, err := s.Tombstone(p.id()); err != nil || !st.Equal(p.tombstone(11)) {
		t.Errorf("got %v, %v", st, err)
	}
	if u := s.Usage(); u.Held != h.Bytes || u.Shards != 0 || u.Held == 0 {
		t.Errorf("got usage %+v, the tombstone counts for %d", u, h.Bytes)
	}
	q := p.renewed(12, 0)
	if err := q.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	q.check(t, s, 0)
	_, err = s.Tombstone(p.id())
	wantErr(t, err, ErrNotFound)

	if _, err := s.SetState(p.tombstone(13)); err != nil {
		t.Fatal(err)
	}
	c.add(tombstoneTTL - time.Millisecond)
	sweep(t, s)
	if _, err := s.Holding(p.id()); err != nil {
		t.Error(err)
	}
	c.add(time.Millisecond)
	sweep(t, s)
	_, err = s.Holding(p.id())
	wantErr(t, err, ErrNotFound)
	if u := s.Usage(); u.Held != 0 {
		t.Errorf("got usage %+v", u)
	}
}

func sweep(tb testing.TB, s *Store) {
	tb.Helper()
	if err := s.Sweep(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

func TestTombstoneOfAnUnknownPackIsKept(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := newSample(t, seeded(t), 1<<20, scheme, 10)
	if changed, err := s.SetState(p.tombstone(11)); !changed || err != nil {
		t.Fatalf("got %v, %v", changed, err)
	}
	wantErr(t, p.put(t, s, 0, PutID{}), ErrOld)
	_, err := s.SetState(&p.renewed(12, 0).m.State)
	wantErr(t, err, ErrNotFound)
}

func TestExpiredPacksAreSwept(t *testing.T) {
	c := newClock()
	s := openStore(t, "", Options{InMemory: true, Now: c.now})
	p := newSample(t, seeded(t), 1<<20, scheme, 10).renewed(11, uint64(c.now().UnixMilli())+1000)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	sweep(t, s)
	p.check(t, s, 0)
	c.add(time.Second)
	sweep(t, s)
	_, err := s.Holding(p.id())
	wantErr(t, err, ErrNotFound)
}

func TestProvisionalShardsGoADayAfterTheLastSignOfLife(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	s := openStore(t, dir, Options{Now: c.now})
	dead, alive, done := PutID{1}, PutID{2}, PutID{3}
	var ps []*sample
	for i, id := range []PutID{dead, alive, done, dead} {
		p := newSample(t, seeded(t), 1<<20, scheme, uint64(10+i))
		if err := p.put(t, s, i, id); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if err := s.SetHolders(ps[2].id(), 12, []Holder{{Peer: "peer", Shard: 2}}); err != nil {
		t.Fatal(err)
	}
	c.add(23 * time.Hour)
	sweep(t, s)
	for i, p := range ps {
		p.check(t, s, i)
	}
	if err := s.Touch(alive); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // signs of life survive
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{Now: c.now})
	c.add(time.Hour)
	sweep(t, s)
	for i, p := range ps {
		h, err := s.Holding(p.id())
		if i == 0 || i == 3 {
			wantErr(t, err, ErrNotFound)
		} else if err != nil || h.Provisional != (i == 1) {
			t.Errorf("shard %d: got %+v, %v", i, h, err)
		}
	}
	wantErr(t, s.Touch(dead), ErrNotFound)
	wantErr(t, s.Touch(done), ErrNotFound)
	c.add(24 * time.Hour)
	sweep(t, s)
	if u := s.Usage(); u.Shards != 1 {
		t.Errorf("got usage %+v, want one shard", u)
	}
	wantErr(t, s.Touch(alive), ErrNotFound)
}

func TestAnotherPutTakesOverAProvisionalShard(t *testing.T) {
	c := newClock()
	s := openStore(t, "", Options{InMemory: true, Now: c.now})
	p := newSample(t, seeded(t), 1<<20, scheme, 10)
	if err := p.put(t, s, 0, PutID{1}); err != nil {
		t.Fatal(err)
	}
	c.add(23 * time.Hour)
	wantErr(t, p.renewed(11, 0).put(t, s, 0, PutID{2}), ErrHave)
	c.add(2 * time.Hour)
	sweep(t, s)
	if h, err := s.Holding(p.id()); err != nil || !h.Provisional || h.Number != 11 {
		t.Errorf("got %+v, %v", h, err)
	}
	for _, id := range []PutID{{}, {1}} {
		wantErr(t, p.renewed(11, 0).put(t, s, 0, id), ErrHave)
		if h, err := s.Holding(p.id()); err != nil || !h.Provisional {
			t.Errorf("put %x of the same state, not its owner's: got %+v, %v", id[:1], h, err)
		}
	}
	wantErr(t, s.Touch(PutID{1}), ErrNotFound)
	wantErr(t, p.renewed(12, 0).put(t, s, 0, PutID{}), ErrHave)
	if h, err := s.Holding(p.id()); err != nil || h.Provisional {
		t.Errorf("got %+v, %v", h, err)
	}
}

func TestConfirmAsksWhoMay(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := newSample(t, seeded(t), 1<<20, scheme, 10)
	if err := p.put(t, s, 4, PutID{1}); err != nil {
		t.Fatal(err)
	}
	first := []Holder{{Peer: "a", Shard: 4}}
	for _, step := range []struct {
		name   string
		number uint64
		allow  bool
		put    PutID
		known  []Holder
	}{
		{"provisional, refused", 10, false, PutID{1}, nil},
		{"provisional, allowed", 10, true, PutID{1}, nil},
		{"confirmed", 10, false, PutID{1}, first},
	} {
		err := s.Confirm(p.id(), step.number, first, func(shard int, put PutID, known []Holder) bool {
			if diff := cmp.Diff(step.known, known); shard != 4 || put != step.put || diff != "" {
				t.Errorf("%s: asked for shard %d of put %x, holders %v", step.name, shard, put, known)
			}
			return step.allow
		})
		if allowed := !errors.Is(err, ErrDenied); allowed != step.allow || allowed && err != nil {
			t.Errorf("%s: got %v", step.name, err)
		}
		h, err := s.Holding(p.id())
		if err != nil || h.Provisional != (step.known == nil && !step.allow) {
			t.Errorf("%s: got %+v, %v", step.name, h, err)
		}
	}
	wantErr(t, p.renewed(11, 0).put(t, s, 4, PutID{2}), ErrHave)
	if err := s.Confirm(p.id(), 11, first, func(_ int, put PutID, _ []Holder) bool { return put == PutID{2} }); err != nil {
		t.Errorf("who renewed a confirmed shard: got %v", err)
	}
}

func TestDroppedIsCalledWithTheLastShard(t *testing.T) {
	var gone []pack.ID
	s := openStore(t, "", Options{InMemory: true, Dropped: func(id pack.ID) { gone = append(gone, id) }})
	p := newSample(t, seeded(t), 1<<20, scheme, 10)
	for shard := range 2 {
		if err := p.put(t, s, shard, PutID{}); err != nil {
			t.Fatal(err)
		}
	}
	for shard := range 2 {
		if len(gone) > 0 {
			t.Errorf("called while shard %d is held", shard)
		}
		if err := s.Drop(p.id(), shard); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]pack.ID{p.id()}, gone); diff != "" {
		t.Error(diff)
	}
}

func TestHoldersOfANewCodingReplaceTheOld(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	p := newSample(t, seeded(t), 1<<20, scheme, 10)
	q := p.recode(t, erasure.Scheme{K: 8, M: 12}, 11)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, s.SetHolders(p.id(), 11, nil), ErrNotFound)
	wantErr(t, s.SetHolders(p.id(), 9, nil), ErrOld)
	if err := q.put(t, s, 0, PutID{5}); err != nil {
		t.Fatal(err)
	}
	p.check(t, s, 0)
	q.check(t, s, 0)
	hs, err := s.Holdings(p.id())
	if err != nil || len(hs) != 2 || hs[0].Number != 10 || hs[1].Number != 11 {
		t.Errorf("got %+v, %v: want the confirmed shard, then the provisional one", hs, err)
	}
	want := []Holder{{Peer: "a", Shard: 0}, {Peer: "b", Shard: 19}}
	if err := s.SetHolders(p.id(), 11, want); err != nil {
		t.Fatal(err)
	}
	q.check(t, s, 0)
	if err := p.compare(s, 0); !errors.Is(err, ErrNotFound) {
		t.Errorf("the old shard: got %v", err)
	}
	number, got, err := s.Holders(p.id())
	if diff := cmp.Diff(want, got); diff != "" || number != 11 || err != nil {
		t.Errorf("got %d, %v, %v", number, got, err)
	}
	if u := s.Usage(); u.Shards != 1 {
		t.Errorf("got usage %+v", u)
	}
	if err := s.Drop(p.id(), 0); err != nil {
		t.Fatal(err)
	}
	wantErr(t, s.Drop(p.id(), 0), ErrNotFound)
	_, _, err = s.Holders(p.id())
	wantErr(t, err, ErrNotFound)
	if u := s.Usage(); u.Held != 0 {
		t.Errorf("got usage %+v", u)
	}
}

func TestPacksListsAll(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	want := map[pack.ID]bool{}
	for range 2*page + 7 {
		p := newSample(t, rand.New(rand.NewPCG(uint64(len(want)), 9)), 4<<10, erasure.Scheme{K: 1}, 1)
		if err := p.put(t, s, 0, PutID{}); err != nil {
			t.Fatal(err)
		}
		want[p.id()] = true
	}
	got := map[pack.ID]bool{}
	for h, err := range s.Packs(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got[h.ID] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.Packs(ctx) {
		wantErr(t, err, context.Canceled)
	}
}

func TestNotesAndHints(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	s := openStore(t, dir, Options{Now: c.now})
	_, err := s.Get("zone")
	wantErr(t, err, ErrNotFound)
	for _, want := range [][]byte{[]byte("home"), {}, bytes.Repeat([]byte("x"), 100<<10)} {
		if err := s.Set("zone", want); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get("zone"); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
		}
	}
	if err := s.Set("zone", nil); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get("zone")
	wantErr(t, err, ErrNotFound)

	want := []Holder{{Peer: "a", Shard: 1}}
	if err := s.SetHint(pack.ID{1}, want); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Hint(pack.ID{1})
	wantErr(t, err, ErrClosed)
	wantErr(t, s.Sweep(t.Context()), ErrClosed)
	s = openStore(t, dir, Options{Now: c.now})
	if got, err := s.Hint(pack.ID{1}); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	c.add(hintTTL)
	sweep(t, s)
	_, err = s.Hint(pack.ID{1})
	wantErr(t, err, ErrNotFound)
	if err := s.SetHint(pack.ID{1}, []Holder{{Peer: "", Shard: 1}}); err == nil {
		t.Error("a holder without a peer was kept")
	}
}

func TestStoreOfANewerVersionIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]error{"p2pfs store 2\n": ErrVersion, "what?": ErrCorrupt} {
		if err := os.WriteFile(filepath.Join(dir, versionFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Open(dir, Options{})
		wantErr(t, err, want)
	}
}

// What a kill leaves between the moment at which a log is made and that at which
// it has a length.
func TestOpenWithLogsWithoutAByte(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err == nil {
		err = errors.Join(s.Set("note", []byte("here")), s.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"records/00099.mem", "blocks/00099.mem", "blocks/000099.vlog", "records/000099.vlog"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if s, err = Open(dir, Options{}); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Get("note"); err != nil || string(b) != "here" {
			t.Errorf("got %q, %v", b, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	openStore(t, dir, Options{})
	_, err := Open(dir, Options{})
	wantErr(t, err, ErrLocked)
}

func TestManyWritersAtOnce(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	rnd := seeded(t)
	var g errgroup.Group
	for i := range 12 {
		p := newSample(t, rnd, 1<<20, erasure.Scheme{K: 1, M: 3}, 1)
		for range 2 { // the same shard twice
			g.Go(func() error {
				err := p.put(t, s, i%4, PutID{byte(i)})
				if errors.Is(err, ErrHave) {
					err = nil
				}
				return errors.Join(err, p.compare(s, i%4))
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if u := s.Usage(); u.Shards != 12 {
		t.Errorf("got usage %+v, want 12 shards", u)
	}
	if n := s.buffered.Load(); n != 0 {
		t.Errorf("%d bytes are still buffered", n)
	}
}

func TestNothingRunsAfterClose(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return s.Run(ctx) })
	p := newSample(t, seeded(t), 8<<20, erasure.Scheme{K: 1}, 1)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := errors.Join(g.Wait(), s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}

// testLog gives what the store logs to the test.
func testLog(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}
