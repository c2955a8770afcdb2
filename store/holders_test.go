package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// wantHolders compares what is known of who holds p.
func (p *sample) wantHolders(tb testing.TB, s *Store, number uint64, want []Holder) {
	tb.Helper()
	got, err := s.Pack(p.id())
	if err != nil {
		tb.Fatal(err)
	}
	if diff := cmp.Diff(want, got.Holders); diff != "" || got.Number != number {
		tb.Errorf("got holders of state %d, want %d (-want +got):\n%s", got.Number, number, diff)
	}
	n, hs, err := s.Holders(p.id())
	if number == 0 {
		wantErr(tb, err, ErrNotFound)
	} else if n != number || !slices.Equal(hs, got.Holders) || err != nil {
		tb.Errorf("Holders gives state %d, %v, %v", n, hs, err)
	}
}

// setHolders has a store know who holds p.
func (p *sample) setHolders(tb testing.TB, s *Store, hs ...Holder) {
	tb.Helper()
	if err := s.SetHolders(p.id(), p.m.State.Number, hs); err != nil {
		tb.Fatal(err)
	}
}

// update changes the list of p.
func (p *sample) update(tb testing.TB, s *Store, hs []Holder) {
	tb.Helper()
	if err := s.UpdateHolders([]pack.ID{p.id()}, func(Pack) []Holder { return hs }); err != nil {
		tb.Fatal(err)
	}
}

func TestWhatWasSeenOfHoldersIsKept(t *testing.T) {
	seen := []Holder{{Peer: "a", Shard: 0, Heard: 5, Verified: 6}, {Peer: "b", Shard: 1, Failed: 7}}
	x := []Holder{{Peer: "b", Shard: 1}, {Peer: "c", Shard: 2}, {Peer: "b", Shard: 0}}
	for _, tt := range []struct {
		name   string
		then   func(t *testing.T, s *Store, p *sample) *sample // gives what x is said of
		number uint64
		want   []Holder
	}{
		{"the same state", func(_ *testing.T, _ *Store, p *sample) *sample { return p }, 10,
			[]Holder{seen[0], seen[1], x[1], x[2]}},
		{"renewed by its state", func(t *testing.T, s *Store, p *sample) *sample {
			q := p.renewed(11, 0)
			if _, err := s.SetState(&q.m.State); err != nil {
				t.Fatal(err)
			}
			q.wantHolders(t, s, 11, seen)
			return q
		}, 11, []Holder{seen[0], seen[1], x[1], x[2]}},
		{"put again", func(t *testing.T, s *Store, p *sample) *sample {
			q := p.renewed(11, 0)
			wantErr(t, q.put(t, s, 0, PutID{2}), ErrHave)
			q.wantHolders(t, s, 11, seen)
			return q
		}, 11, []Holder{seen[1], x[1], x[2]}},
		{"another coding", func(t *testing.T, s *Store, p *sample) *sample {
			q := p.recode(t, erasure.Scheme{K: 2, M: 3}, 11)
			if err := q.put(t, s, 0, PutID{2}); err != nil {
				t.Fatal(err)
			}
			p.wantHolders(t, s, 10, seen)
			return q
		}, 11, x},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t, "", Options{InMemory: true})
			p := newSample(t, seeded(t), 100<<10, scheme, 10)
			if err := p.put(t, s, 0, PutID{1}); err != nil {
				t.Fatal(err)
			}
			p.setHolders(t, s, seen...)
			q := tt.then(t, s, p)
			q.setHolders(t, s, x...)
			q.wantHolders(t, s, tt.number, tt.want)
			if h, err := s.Holding(p.id()); err != nil || h.Provisional || h.Number != tt.number {
				t.Errorf("got %+v, %v", h, err)
			}
		})
	}
}

func TestListsOfHoldersAreBounded(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := newSample(t, seeded(t), 100<<10, scheme, 10) // n = 6
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	const most = 2*6 + 16
	list := make([]Holder, most+10)
	for i := range list {
		list[i] = Holder{Peer: fmt.Sprint(i), Shard: i % 6}
		if i%2 == 1 {
			list[i].Heard = int64(1000 - i)
		}
	}
	var want []Holder // 19 are heard, the first 9 of the others stay
	for i, h := range list {
		if i%2 == 1 || i < 18 {
			want = append(want, h)
		}
	}
	if len(want) != most {
		t.Fatalf("got %d, want %d", len(want), most)
	}
	p.setHolders(t, s, list...)
	p.wantHolders(t, s, 10, want)
	p.setHolders(t, s, Holder{Peer: "new", Shard: 1}) // goes before those that are there
	p.wantHolders(t, s, 10, want)
	p.update(t, s, []Holder{})
	p.wantHolders(t, s, 0, nil)
	p.update(t, s, list)
	p.wantHolders(t, s, 10, want)
	for i := range list {
		list[i].Heard = int64(1000 - i)
	}
	p.update(t, s, list)
	p.wantHolders(t, s, 10, list[:most])
	if err := s.SetHolders(p.id(), 10, make([]Holder, maxHolders+1)); err == nil {
		t.Error("a list without end was taken")
	}
	for _, bad := range []Holder{{Peer: "", Shard: 1}, {Peer: "x", Shard: 256}, {Peer: "x", Heard: -1}} {
		if err := s.UpdateHolders([]pack.ID{p.id()}, func(Pack) []Holder { return []Holder{bad} }); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	p.wantHolders(t, s, 10, list[:most])
}

// TestBoundKeepsThoseHeardLast holds bound against its own words.
func TestBoundKeepsThoseHeardLast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOf(rapid.Custom(func(t *rapid.T) Holder {
			return Holder{Peer: rapid.StringN(1, 1, 1).Draw(t, "peer"), Shard: rapid.IntRange(0, 2).Draw(t, "shard"), Heard: rapid.Int64Range(0, 4).Draw(t, "heard")}
		})).Draw(t, "list")
		most := rapid.IntRange(0, 20).Draw(t, "most")
		got := bound(list, most)
		in := map[Holder]bool{}
		next := 0
		for _, h := range got {
			i := slices.Index(list[next:], h)
			if i < 0 || in[h.key()] {
				t.Fatalf("got %v of %v", got, list)
			}
			next += i + 1
			in[h.key()] = true
		}
		gone := map[Holder]bool{}
		for _, h := range list {
			if in[h.key()] || gone[h.key()] {
				continue
			}
			gone[h.key()] = true
			for _, g := range got {
				if g.Heard < h.Heard {
					t.Fatalf("%v stays and %v goes", g, h)
				}
			}
		}
		if len(got) > most || len(gone) > 0 && len(got) < most {
			t.Fatalf("got %d of %d, at most %d", len(got), len(list), most)
		}
	})
}

func TestListSurvivesReopeningAndGoesWithTheLastShard(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	p := newSample(t, seeded(t), 100<<10, scheme, 10)
	for shard := range 2 {
		if err := p.put(t, s, shard, PutID{}); err != nil {
			t.Fatal(err)
		}
	}
	want := []Holder{{Peer: "a", Shard: 3, Heard: 1, Verified: 2, Failed: 3}}
	p.setHolders(t, s, want...)
	boot := s.Boot()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	if s.Boot() == boot {
		t.Errorf("opened twice with the number %d", boot)
	}
	p.wantHolders(t, s, 10, want)
	sweep(t, s)
	p.wantHolders(t, s, 10, want)
	if err := s.Drop(p.id(), 0); err != nil {
		t.Fatal(err)
	}
	p.wantHolders(t, s, 10, want)
	if err := s.Drop(p.id(), 1); err != nil {
		t.Fatal(err)
	}
	if got := lists(t, s); len(got) > 0 {
		t.Errorf("got lists of %v", got)
	}
	_, err = s.Pack(p.id())
	wantErr(t, err, ErrNotFound)
}

// lists gives the packs of which there is a list.
func lists(tb testing.TB, s *Store) (ids []pack.ID) {
	tb.Helper()
	for id, err := range s.listed(tb.Context()) {
		if err != nil {
			tb.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// plant writes a list behind the store's back, as a crash may leave one.
func plant(tb testing.TB, s *Store, id pack.ID, val []byte) {
	tb.Helper()
	if err := s.updateRecords(func(txn *badger.Txn) error { return txn.Set(packKey(keyHolders, id), val) }); err != nil {
		tb.Fatal(err)
	}
}

func TestListsWithoutShardsAreSwept(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	sweep(t, s)
	rnd := seeded(t)
	p, deleted := newSample(t, rnd, 5000, scheme, 10), newSample(t, rnd, 5000, scheme, 10)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	p.setHolders(t, s, Holder{Peer: "a"})
	if _, err := s.SetState(deleted.tombstone(11)); err != nil {
		t.Fatal(err)
	}
	stray, err := goldenHolders.encode()
	if err != nil {
		t.Fatal(err)
	}
	plant(t, s, deleted.id(), stray)
	for i := range 2*page + 3 {
		plant(t, s, pack.ID{byte(i), byte(i >> 8)}, stray)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	sweep(t, s)
	if got := lists(t, s); !slices.Equal(got, []pack.ID{p.id()}) {
		t.Errorf("got lists of %d packs, want that of %s", len(got), p.id())
	}
	p.wantHolders(t, s, 10, []Holder{{Peer: "a"}})
	if got, err := s.Pack(deleted.id()); err != nil || len(got.Held) != 1 || !got.Held[0].Deleted || got.Holders != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestAListThatIsLostOrDamagedIsNoError(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := newSample(t, seeded(t), 100<<10, scheme, 10)
	if err := p.put(t, s, 0, PutID{1}); err != nil {
		t.Fatal(err)
	}
	lost, err := goldenHolders.encode() // of a coding that is not held
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Clone(lost)
	newer[0]++
	want := []Holder{{Peer: "a", Shard: 1}}
	for _, val := range [][]byte{lost, newer, {holdersVersion}, {}} {
		plant(t, s, p.id(), val)
		p.wantHolders(t, s, 0, nil)
		for got, err := range s.Walk(t.Context(), pack.ID{}) {
			if err != nil || got.Number != 0 || len(got.Held) != 1 {
				t.Errorf("got %+v, %v", got, err)
			}
		}
		p.setHolders(t, s, want...)
		p.wantHolders(t, s, 10, want)
		plant(t, s, p.id(), val)
		p.update(t, s, want)
		p.wantHolders(t, s, 10, want)
	}
}

// walkStore has n packs of one shard each, in order, and tombstones of every
// eighth other.
func walkStore(tb testing.TB, n int) (s *Store, ids []pack.ID) {
	tb.Helper()
	s = openStore(tb, "", Options{InMemory: true})
	base := newSample(tb, rand.New(rand.NewPCG(1, 1)), 4<<10, erasure.Scheme{K: 1}, 1)
	for i := range n {
		m := *base.m // another owner: another pack
		m.State.Owner = pack.Owner{byte(i), byte(i >> 8)}
		p := &sample{&m, base.data, nil}
		ids = append(ids, p.id())
		if i%8 == 7 {
			if _, err := s.SetState(p.tombstone(2)); err != nil {
				tb.Fatal(err)
			}
			continue
		}
		if err := p.put(tb, s, 0, PutID{}); err != nil {
			tb.Fatal(err)
		}
		p.setHolders(tb, s, Holder{Peer: p.id().Short()})
	}
	slices.SortFunc(ids, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
	return s, ids
}

func TestWalkBeginsAnywhere(t *testing.T) {
	s, ids := walkStore(t, 2*page+7)
	after := func(id pack.ID) pack.ID { // the ID behind it
		for i := len(id) - 1; ; i-- {
			if id[i]++; id[i] != 0 {
				return id
			}
		}
	}
	for _, tt := range []struct {
		name string
		from pack.ID
		want []pack.ID
	}{
		{"all", pack.ID{}, ids},
		{"from the middle", ids[page+3], ids[page+3:]},
		{"between two", after(ids[10]), ids[11:]},
		{"the last", ids[len(ids)-1], ids[len(ids)-1:]},
		{"behind the last", after(ids[len(ids)-1]), nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []pack.ID
			for p, err := range s.Walk(t.Context(), tt.from) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, p.ID)
				one, err := s.Pack(p.ID)
				if diff := cmp.Diff(one, p); diff != "" || err != nil {
					t.Errorf("pack %s: %v (-one +walked):\n%s", p.ID, err, diff)
				}
				if p.Held[0].Deleted != (p.Holders == nil) {
					t.Errorf("got %+v", p)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for p, err := range s.Walk(t.Context(), ids[1]) {
		if p.ID != ids[1] || err != nil {
			t.Errorf("got %s, %v", p.ID, err)
		}
		// Nothing is open: what is asked meanwhile does not wait for Walk.
		if err := s.UpdateHolders([]pack.ID{p.ID}, func(Pack) []Holder { return []Holder{{Peer: "x"}} }); err != nil {
			t.Error(err)
		}
		break
	}
}

func TestUpdateHoldersTakesManyAtOnce(t *testing.T) {
	s, ids := walkStore(t, updatePage+100)
	long := make([]Holder, 1000)
	for i := range long {
		long[i] = Holder{Peer: fmt.Sprintf("%0*d", maxPeer, i), Heard: int64(i + 1)}
	}
	most := mostHolders(1)
	ask := append(slices.Clone(ids), ids...) // each twice
	ask = append(ask, pack.ID{1, 2, 3})
	rand.New(rand.NewPCG(2, 2)).Shuffle(len(ask), func(i, j int) { ask[i], ask[j] = ask[j], ask[i] })
	var asked []pack.ID
	err := s.UpdateHolders(ask, func(p Pack) []Holder {
		asked = append(asked, p.ID)
		return long
	})
	if err != nil {
		t.Fatal(err)
	}
	var held []pack.ID
	for p, err := range s.Walk(t.Context(), pack.ID{}) {
		if err != nil {
			t.Fatal(err)
		}
		if p.Held[0].Deleted {
			continue
		}
		held = append(held, p.ID)
		if !slices.Equal(p.Holders, long[len(long)-most:]) || p.Number != 1 {
			t.Fatalf("pack %s: got %d holders of state %d", p.ID, len(p.Holders), p.Number)
		}
	}
	if diff := cmp.Diff(held, asked); diff != "" {
		t.Error(diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wantErr(t, s.UpdateHolders(ids, func(Pack) []Holder { return nil }), ErrClosed)
}

func TestUpdatesOfHoldersAndAllElseGoSideBySide(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{noSync: true})
	base := newSample(t, seeded(t), 4<<10, erasure.Scheme{K: 1, M: 1}, 1)
	var ps []*sample
	var ids []pack.ID
	for i := range 200 { // more than there are locks
		m := *base.m
		m.State.Owner = pack.Owner{byte(i)}
		p := &sample{&m, base.data, nil}
		ps, ids = append(ps, p), append(ids, p.id())
		if err := p.put(t, s, 0, PutID{}); err != nil {
			t.Fatal(err)
		}
	}
	rounds := 20
	if raceOn {
		rounds = 5
	}
	// Each of the updaters counts in an entry of its own; no count may be lost,
	// but by the packs that are dropped.
	var g errgroup.Group
	for u := range 3 {
		g.Go(func() error {
			rnd := rand.New(rand.NewPCG(9, uint64(u)))
			me := fmt.Sprint("updater ", u)
			for range rounds {
				mine := slices.Clone(ids)
				rnd.Shuffle(len(mine), func(i, j int) { mine[i], mine[j] = mine[j], mine[i] })
				err := s.UpdateHolders(mine, func(p Pack) []Holder {
					list := slices.Clone(p.Holders)
					i := slices.IndexFunc(list, func(h Holder) bool { return h.Peer == me })
					if i < 0 {
						list, i = append(list, Holder{Peer: me}), len(list)
					}
					list[i].Heard++
					return list
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for i := range 2 * rounds {
			for _, p := range ps {
				if err := s.SetHolders(p.id(), 1, []Holder{{Peer: fmt.Sprint("confirmed ", i%5)}}); err != nil && !errors.Is(err, ErrNotFound) {
					return err
				}
			}
		}
		return nil
	})
	g.Go(func() error {
		for range rounds {
			for _, p := range ps[:50] {
				if err := s.Drop(p.id(), 0); err != nil {
					return err
				}
				if err := p.put(t, s, 0, PutID{}); err != nil {
					return err
				}
			}
		}
		return nil
	})
	g.Go(func() error {
		for range rounds {
			for _, err := range s.Walk(t.Context(), pack.ID{}) {
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, p := range ps[50:] {
		got, err := s.Pack(p.id())
		if err != nil || len(got.Holders) != 3+5 {
			t.Fatalf("got %+v, %v", got, err)
		}
		for _, h := range got.Holders {
			if h.Peer[:4] == "upda" && h.Heard != int64(rounds) {
				t.Errorf("got %+v, want it heard %d times", h, rounds)
			}
		}
	}
}
