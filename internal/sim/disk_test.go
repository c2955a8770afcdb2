package main

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	p2p "github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
)

// Simulated peers lie where the DHT has them.
func TestPlacesAreTheDHTs(t *testing.T) {
	w := newWorld(quiet(5, 20))
	for n := range 20 {
		f := newFixture(large, 8, n)
		for _, a := range w.peers {
			for _, b := range w.peers {
				if got, want := compare(f.key, a, b), dht.Compare(dht.ID(f.id), p2p.ID(a.id), p2p.ID(b.id)); got != want {
					t.Fatalf("peers %d and %d: got %d, the DHT says %d", a.n, b.n, got, want)
				}
			}
		}
	}
}

// kindOf names an error of a store.
func kindOf(err error) string {
	for _, e := range []error{store.ErrOld, store.ErrHave, store.ErrCoding, store.ErrNotFound, store.ErrCorrupt, store.ErrFull} {
		if errors.Is(err, e) {
			return e.Error()
		}
	}
	if err != nil {
		return "other: " + err.Error()
	}
	return ""
}

// A simulated disk does what the store does, whatever is asked of it.
func TestADiskIsAStore(t *testing.T) {
	for seed := range uint64(pick(30, 3)) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(quiet(seed, 1))
		d := w.peers[0].disk
		s, err := store.Open("", store.Options{InMemory: true, Now: w.now})
		if err != nil {
			t.Fatal(err)
		}
		var fs []*fixture
		for n := range 2 {
			fs = append(fs, newFixture(erasure.Scheme{K: 2, M: 3}, 8, n))
		}
		number := uint64(begin)
		states := map[pack.ID][]*pack.State{}
		for _, f := range fs {
			states[f.id] = append(states[f.id], &f.manifest.State)
		}
		for step := range 120 {
			f := fs[r.IntN(len(fs))]
			known := states[f.id]
			st := known[max(0, len(known)-1-r.IntN(3))]
			index := r.IntN(f.g.N())
			var op, got, want string
			switch r.IntN(7) {
			case 0, 1:
				op = "keep"
				if st.Deleted {
					continue
				}
				m := &pack.Manifest{Content: f.manifest.Content, State: *st}
				have, err := d.keep(m, index, func(row int) []byte { return f.cell(index, row) })
				if got = kindOf(err); have {
					got = store.ErrHave.Error()
				}
				want = kindOf(storeShard(t, s, m, f, index))
			case 2:
				op = "state"
				number++
				n := *st
				n.Number, n.Sig = number, [64]byte{}
				if r.IntN(4) == 0 {
					n = *st.Tombstone(number)
				} else if n.Deleted {
					continue
				}
				n.Sign(f.owner)
				states[f.id] = append(known, &n)
				fallthrough
			case 3:
				if op == "" {
					op = "old state"
				}
				last := states[f.id][len(states[f.id])-1]
				if op == "old state" {
					last = st
				}
				a, err := d.SetState(last)
				got = kindOf(err)
				b, err := s.SetState(last)
				if want = kindOf(err); a != b {
					t.Errorf("seed %d, step %d: SetState changed %v, the store's %v", seed, step, a, b)
				}
			case 4:
				op = "drop"
				got, want = kindOf(d.Drop(f.id, index)), kindOf(s.Drop(f.id, index))
			case 5:
				op = "read"
				a, err := d.ReadCoded(f.id, st.K, st.M, index, 0, nil)
				got = kindOf(err)
				b, err := s.ReadCoded(f.id, st.K, st.M, index, 0, nil)
				if want = kindOf(err); !slices.Equal(a, b) && err == nil {
					t.Errorf("seed %d, step %d: other bytes", seed, step)
				}
			case 6:
				op = "holders"
				fn := func(p store.Pack) []store.Holder {
					out := slices.Clone(p.Holders)
					h := store.Holder{Peer: "p" + string(rune('a'+step%20)), Shard: index, Heard: int64(step)}
					return append(slices.DeleteFunc(out, func(o store.Holder) bool { return o.Peer == h.Peer }), h)
				}
				got, want = kindOf(d.UpdateHolders([]pack.ID{f.id}, fn)), kindOf(s.UpdateHolders([]pack.ID{f.id}, fn))
			}
			if got != want {
				t.Fatalf("seed %d, step %d: %s: got %q, the store says %q", seed, step, op, got, want)
			}
			a, aerr := d.Pack(f.id)
			b, berr := s.Pack(f.id)
			if kindOf(aerr) != kindOf(berr) {
				t.Fatalf("seed %d, step %d: after %s: got %v, the store says %v", seed, step, op, aerr, berr)
			}
			for _, p := range []*store.Pack{&a, &b} {
				p.Held = slices.Clone(p.Held)
				for i := range p.Held {
					p.Held[i].Bytes = 0
				}
				if len(p.Holders) == 0 {
					p.Number, p.Holders = 0, nil
				}
			}
			if diff := cmp.Diff(b, a); diff != "" {
				t.Fatalf("seed %d, step %d: after %s (the store's -, the disk's +): %s", seed, step, op, diff)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func storeShard(t *testing.T, s *store.Store, m *pack.Manifest, f *fixture, index int) error {
	t.Helper()
	w, err := s.Begin(t.Context(), m, index, store.PutID{})
	if err != nil {
		return err
	}
	for row := range f.g.ShardRows(index) {
		if err := w.Write(row, f.cell(index, row)); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Commit()
}
