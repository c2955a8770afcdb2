//go:build linux

package store

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// modelShard is what the model knows of a shard held.
type modelShard struct {
	p     *sample // with the state held
	index int
	put   PutID
}

// model is what a store must do, in a slice and maps.
type model struct {
	shards []modelShard
	lists  map[pack.ID]holders
	tombs  map[pack.ID]*pack.State
	since  map[pack.ID]time.Time // when the tombstones came
	alive  map[PutID]time.Time
}

// newest is the newest state known of a pack, or nil.
func (m *model) newest(id pack.ID) *pack.State {
	newest := m.tombs[id]
	for _, h := range m.shards {
		if h.p.id() == id && h.p.m.State.Newer(newest) {
			newest = &h.p.m.State
		}
	}
	return newest
}

// old tells whether a newer state than st is known.
func (m *model) old(st *pack.State) bool {
	newest := m.newest(st.ID())
	return newest != nil && newest.Newer(st)
}

func (m *model) find(p *sample, index int) *modelShard {
	for i := range m.shards {
		h := &m.shards[i]
		if h.p.id() == p.id() && h.index == index && codingOf(&h.p.m.State) == codingOf(&p.m.State) {
			return h
		}
	}
	return nil
}

// put is what Store does with a shard of p.
func (m *model) put(p *sample, index int, id PutID, now time.Time) error {
	if m.old(&p.m.State) {
		return ErrOld
	}
	if h := m.find(p, index); h != nil {
		newer := p.m.State.Newer(&h.p.m.State)
		switch {
		case h.put == (PutID{}):
			id = PutID{}
		case !newer && id != h.put: // of another peer
			return ErrHave
		}
		*h = modelShard{p, index, id}
		m.alive[id] = now
		return ErrHave
	}
	m.alive[id] = now
	delete(m.tombs, p.id())
	m.shards = append(m.shards, modelShard{p, index, id})
	return nil
}

// forget removes the lists of packs of which no shard is held.
func (m *model) forget() {
	for id := range m.lists {
		if m.best(id) == nil {
			delete(m.lists, id)
		}
	}
}

// best is the shard of a pack that is the best answer, or nil.
func (m *model) best(id pack.ID) (best *modelShard) {
	for i := range m.shards {
		h := &m.shards[i]
		if h.p.id() != id {
			continue
		}
		st := &h.p.m.State
		var better bool
		switch {
		case best == nil:
			better = true
		case (h.put == PutID{}) != (best.put == PutID{}):
			better = h.put == PutID{}
		case st.Hash() != best.p.m.State.Hash():
			better = st.Newer(&best.p.m.State)
		default:
			better = h.index < best.index
		}
		if better {
			best = h
		}
	}
	return best
}

// newestOf is the newest state held of that coding, or nil.
func (m *model) newestOf(id pack.ID, coding pack.Hash) (st *pack.State) {
	for _, h := range m.shards {
		if h.p.id() == id && codingOf(&h.p.m.State) == coding && h.p.m.State.Newer(st) {
			st = &h.p.m.State
		}
	}
	return st
}

// known is the list of holders that counts, and of which state it is.
func (m *model) known(id pack.ID) (st *pack.State, list []Holder) {
	if st = m.newestOf(id, m.lists[id].coding); st == nil {
		return nil, nil
	}
	return st, m.lists[id].list
}

// setList keeps a list, one entry after the other thrown out where it is too
// long; an empty one is none.
func (m *model) setList(id pack.ID, number uint64, st *pack.State, list []Holder) {
	var kept []Holder
	for _, e := range list {
		if !slices.ContainsFunc(kept, func(k Holder) bool { return k.Peer == e.Peer && k.Shard == e.Shard }) {
			kept = append(kept, e)
		}
	}
	for len(kept) > 2*(st.Coded+st.M)+16 {
		worst := 0
		for i, e := range kept {
			if e.Heard <= kept[worst].Heard {
				worst = i
			}
		}
		kept = slices.Delete(kept, worst, worst+1)
	}
	if m.lists[id] = (holders{number, codingOf(st), kept}); len(kept) == 0 {
		delete(m.lists, id)
	}
}

// confirm is what SetHolders does to the list.
func (m *model) confirm(id pack.ID, st *pack.State, said []Holder) {
	known := m.lists[id]
	number := st.Number
	if known.coding == codingOf(st) {
		if known.number >= number {
			said, number = append(slices.Clone(known.list), said...), known.number
		} else {
			said = slices.Clone(said)
			for i, e := range said {
				for _, k := range known.list {
					if k.Peer == e.Peer && k.Shard == e.Shard {
						said[i] = k
					}
				}
			}
		}
	}
	m.setList(id, number, st, said)
}

// check compares a pack with what the store gives.
func (m *model) check(got Pack) error {
	want := Pack{ID: got.ID}
	if st, list := m.known(got.ID); st != nil && len(list) > 0 {
		want.Number, want.Holders = st.Number, list
	}
	held := 0
	for _, h := range m.shards {
		if h.p.id() == got.ID {
			held++
		}
	}
	if m.tombs[got.ID] != nil {
		held++
	}
	if got.Number != want.Number || !slices.Equal(got.Holders, want.Holders) || len(got.Held) != held {
		return fmt.Errorf("got %+v, want holders %+v of state %d, %d held", got, want.Holders, want.Number, held)
	}
	return nil
}

func TestStoreDoesWhatAModelDoes(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 3))
	var packs []*sample
	for _, size := range []int{4 << 10, 50 << 10, 5 << 20} {
		a := newSample(t, rnd, size, erasure.Scheme{K: 1, M: 2}, 1)
		packs = append(packs, a, a.recode(t, erasure.Scheme{K: 2, M: 3}, 1))
	}
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		checks := "10" // each opens stores on disk
		if raceOn {
			checks = "2"
		}
		if err := flag.Set("rapid.checks", checks); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		c := newClock()
		opt := Options{Now: c.now, size: 4 << 20}
		s, err := Open(dir, opt)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		m := &model{lists: map[pack.ID]holders{}, tombs: map[pack.ID]*pack.State{}, since: map[pack.ID]time.Time{}, alive: map[PutID]time.Time{}}

		anyPack := rapid.Custom(func(t *rapid.T) *sample {
			p := packs[rapid.IntRange(0, len(packs)-1).Draw(t, "pack")]
			var expires uint64
			if rapid.IntRange(0, 5).Draw(t, "expires") == 0 {
				expires = uint64(c.now().Add(time.Hour).UnixMilli())
			}
			return p.renewed(uint64(rapid.IntRange(1, 9).Draw(t, "number")), expires)
		})
		anyPut := rapid.Custom(func(t *rapid.T) PutID { return PutID{byte(rapid.IntRange(0, 2).Draw(t, "put"))} })

		anyHolder := rapid.Custom(func(t *rapid.T) Holder {
			return Holder{Peer: rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "peer"), Shard: rapid.IntRange(0, 2).Draw(t, "shard"),
				Heard: rapid.Int64Range(0, 3).Draw(t, "heard"), Verified: rapid.Int64Range(0, 3).Draw(t, "verified"),
				Failed: rapid.Int64Range(0, 3).Draw(t, "failed")}
		})
		anyHolders := rapid.Custom(func(t *rapid.T) []Holder {
			list := rapid.SliceOfN(anyHolder, 0, 4).Draw(t, "holders")
			if rapid.IntRange(0, 4).Draw(t, "many") == 0 {
				for i := range 30 {
					list = append(list, Holder{Peer: fmt.Sprint("many ", i), Heard: int64(i * 7 % 5)})
				}
			}
			return list
		})

		want := func(t *rapid.T, got, want error) {
			if !errors.Is(got, want) || want == nil && got != nil {
				t.Fatalf("got error %v, want %v", got, want)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				p, id := anyPack.Draw(t, "p"), anyPut.Draw(t, "id")
				index := rapid.IntRange(0, 2).Draw(t, "index")
				if index >= p.m.Geometry().N() {
					t.Skip()
				}
				want(t, p.putCtx(panicCtx{}, s, index, id), m.put(p, index, id, c.now()))
			},
			"abort": func(t *rapid.T) {
				p := anyPack.Draw(t, "p")
				if m.old(&p.m.State) || m.find(p, 0) != nil {
					t.Skip()
				}
				w, err := s.Begin(panicCtx{}, p.m, 0, PutID{})
				want(t, err, nil)
				for row := range rapid.IntRange(0, p.m.Geometry().ShardRows(0)).Draw(t, "rows") {
					want(t, w.Write(row, p.cell(0, row)), nil)
				}
				w.Abort()
			},
			"state": func(t *rapid.T) {
				p := anyPack.Draw(t, "p")
				changed, err := s.SetState(&p.m.State)
				var holding, coded bool
				for _, h := range m.shards {
					holding = holding || h.p.id() == p.id()
					coded = coded || h.p.id() == p.id() && codingOf(&h.p.m.State) == codingOf(&p.m.State)
				}
				switch newest := m.newest(p.id()); {
				case newest == nil:
					want(t, err, ErrNotFound)
				case newest.Hash() == p.m.State.Hash():
					want(t, err, nil)
					if changed {
						t.Fatal("the same state changed something")
					}
				case m.old(&p.m.State):
					want(t, err, ErrOld)
				case !holding:
					want(t, err, ErrNotFound)
				case !coded:
					want(t, err, ErrCoding)
				default:
					want(t, err, nil)
					for i := range m.shards {
						if h := &m.shards[i]; h.p.id() == p.id() && codingOf(&h.p.m.State) == codingOf(&p.m.State) {
							h.p = p
						}
					}
					if l, ok := m.lists[p.id()]; ok && l.coding == codingOf(&p.m.State) {
						l.number = max(l.number, p.m.State.Number)
						m.lists[p.id()] = l
					}
				}
			},
			"delete": func(t *rapid.T) {
				st := anyPack.Draw(t, "p").tombstone(uint64(rapid.IntRange(1, 9).Draw(t, "number")))
				_, err := s.SetState(st)
				if m.old(st) {
					want(t, err, ErrOld)
					return
				}
				want(t, err, nil)
				if newest := m.newest(st.ID()); newest != nil && newest.Hash() == st.Hash() {
					return
				}
				m.shards = slices.DeleteFunc(m.shards, func(h modelShard) bool { return h.p.id() == st.ID() })
				m.tombs[st.ID()], m.since[st.ID()] = st, c.now()
			},
			"holders": func(t *rapid.T) {
				p := anyPack.Draw(t, "p")
				number := p.m.State.Number
				said := anyHolders.Draw(t, "said")
				err := s.SetHolders(p.id(), number, said)
				var at *pack.State
				for _, h := range m.shards {
					if st := &h.p.m.State; h.p.id() == p.id() && st.Number == number && st.Newer(at) {
						at = st
					}
				}
				if at == nil {
					if newest := m.newest(p.id()); newest != nil && newest.Number > number {
						want(t, err, ErrOld)
					} else {
						want(t, err, ErrNotFound)
					}
					return
				}
				want(t, err, nil)
				m.confirm(p.id(), at, said)
				for i := range m.shards {
					if h := &m.shards[i]; h.p.m.State.Hash() == at.Hash() {
						h.put = PutID{}
					}
				}
				m.shards = slices.DeleteFunc(m.shards, func(h modelShard) bool {
					return h.p.id() == p.id() && at.Newer(&h.p.m.State) && h.p.m.State.Hash() != at.Hash()
				})
			},
			"update": func(t *rapid.T) {
				ids := []pack.ID{{1}} // one that is not held
				for _, p := range rapid.SliceOfN(anyPack, 1, 5).Draw(t, "packs") {
					ids = append(ids, p.id())
				}
				next := map[pack.ID][]Holder{}
				for _, id := range ids {
					switch rapid.IntRange(0, 3).Draw(t, "how") {
					case 0:
						next[id] = nil
					case 1:
						next[id] = append([]Holder{}, anyHolders.Draw(t, "list")...)
					default: // those known are heard
						_, known := m.known(id)
						known = append([]Holder{}, known...)
						for i := range known {
							known[i].Heard, known[i].Failed = 7, 0
						}
						next[id] = known
					}
				}
				asked := map[pack.ID]int{}
				want(t, s.UpdateHolders(ids, func(p Pack) []Holder {
					if err := m.check(p); err != nil {
						t.Fatal(err)
					}
					asked[p.ID]++
					return next[p.ID]
				}), nil)
				for id, list := range next {
					best := m.best(id)
					if (best != nil) != (asked[id] == 1) {
						t.Fatalf("pack %s was asked for %d times", id.Short(), asked[id])
					}
					if best == nil || list == nil {
						continue
					}
					st, known := m.known(id)
					if st == nil || len(known) == 0 {
						st = &best.p.m.State
					}
					m.setList(id, st.Number, st, list)
				}
			},
			"drop": func(t *rapid.T) {
				p, index := anyPack.Draw(t, "p"), rapid.IntRange(0, 2).Draw(t, "index")
				is := func(h modelShard) bool { return h.p.id() == p.id() && h.index == index }
				if err := s.Drop(p.id(), index); slices.ContainsFunc(m.shards, is) {
					want(t, err, nil)
				} else {
					want(t, err, ErrNotFound)
				}
				m.shards = slices.DeleteFunc(m.shards, is)
			},
			"touch": func(t *rapid.T) {
				id := anyPut.Draw(t, "id")
				err := s.Touch(id)
				if id != (PutID{}) && slices.ContainsFunc(m.shards, func(h modelShard) bool { return h.put == id }) {
					want(t, err, nil)
					m.alive[id] = c.now()
				} else {
					want(t, err, ErrNotFound)
				}
			},
			"sweep": func(t *rapid.T) {
				c.add(time.Duration(rapid.SampledFrom([]int{1, 10, 180 * 24}).Draw(t, "hours")) * time.Hour)
				want(t, s.Sweep(panicCtx{}), nil)
				m.shards = slices.DeleteFunc(m.shards, func(h modelShard) bool {
					return h.p.m.State.Expired(c.now()) ||
						h.put != PutID{} && c.now().Sub(m.alive[h.put]) >= defaultTTL
				})
				for id := range m.tombs {
					if c.now().Sub(m.since[id]) >= tombstoneTTL {
						delete(m.tombs, id)
					}
				}
			},
			"reclaim": func(t *rapid.T) { want(t, s.Reclaim(panicCtx{}), nil) },
			"reopen": func(t *rapid.T) {
				want(t, s.Close(), nil)
				if s, err = Open(dir, opt); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				m.forget()
				held := map[pack.ID]bool{}
				for _, p := range packs {
					got, err := s.Pack(p.id())
					if m.best(p.id()) == nil && m.tombs[p.id()] == nil {
						want(t, err, ErrNotFound)
						continue
					}
					want(t, errors.Join(err, m.check(got)), nil)
					held[p.id()] = true
				}
				from := packs[rapid.IntRange(0, len(packs)-1).Draw(t, "from")].id()
				last := pack.ID{}
				for p, err := range s.Walk(panicCtx{}, from) {
					want(t, errors.Join(err, m.check(p)), nil)
					if bytes.Compare(p.ID[:], from[:]) < 0 || bytes.Compare(p.ID[:], last[:]) <= 0 || !held[p.ID] {
						t.Fatalf("got pack %s after %s, from %s", p.ID, last, from)
					}
					last = p.ID
					delete(held, p.ID)
				}
				for id := range held {
					if bytes.Compare(id[:], from[:]) >= 0 {
						t.Fatalf("pack %s is not given", id)
					}
				}
				var u Usage
				for _, h := range m.shards {
					want(t, h.p.compare(s, h.index), nil)
					hs, err := s.Holdings(h.p.id())
					want(t, err, nil)
					if !slices.ContainsFunc(hs, func(g Holding) bool {
						return g.Shard == h.index && g.K == h.p.m.State.K && g.Number == h.p.m.State.Number && g.Provisional == (h.put != PutID{})
					}) {
						t.Fatalf("shard %d of state %d: got %+v", h.index, h.p.m.State.Number, hs)
					}
					u.Held += costOf(h.p.m, h.index, len(h.p.m.Encode()))
					u.Shards++
				}
				for id, st := range m.tombs {
					got, err := s.Tombstone(id)
					want(t, err, nil)
					if !got.Equal(st) {
						t.Fatalf("got tombstone %+v, want %+v", got, st)
					}
					u.Held += int64(len(st.Encode())) + itemCost
				}
				if got := s.Usage(); got.Held != u.Held || got.Shards != u.Shards {
					t.Fatalf("got usage %+v, want %+v", got, u)
				}
			},
		})
	})
}
