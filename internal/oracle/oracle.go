// Package oracle says how safe packs really are: it opens the stores of nodes
// that do not run and reads every block of every shard in them.
//
// It is the second opinion by which health is judged. It asks nobody, believes
// no list of holders, takes no samples, and shares no code with what counts
// for health: a shard is there if all of its blocks are, each with the hash
// that the owner signed, and a pack survives as many losses as a greatest
// matching of its shards to the stores that have them allows.
//
//	go run ./internal/cmd/oracle .testnet/node-*/home
package oracle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
)

// Report is what was found in all stores.
type Report struct {
	Stores  int    `json:"stores"`
	Deleted int    `json:"deleted"` // packs of which the newest state known is a tombstone; not listed
	Packs   []Pack `json:"packs"`   // those that survive the fewest losses first
}

// Pack is how safe a pack is. Where shards of several codings of it are
// there, it is the coding that survives the most losses.
type Pack struct {
	ID          string   `json:"id"`
	K           int      `json:"k"`                     // k′
	N           int      `json:"n"`                     // k′ + m
	Live        int      `json:"live"`                  // distinct whole shards in distinct stores
	Survives    int      `json:"survives"`              // live − k
	Shards      int      `json:"shards"`                // distinct whole shards
	Copies      int      `json:"copies"`                // whole shards
	Provisional int      `json:"provisional,omitempty"` // whole shards that may go by themselves, not counted above
	Damaged     []string `json:"damaged,omitempty"`     // STORE: what is wrong
}

// coding is what shards have in common of which any k′ restore a pack.
type coding struct{ k, m int }

// held is a shard that is whole.
type held struct {
	coding

	store, shard int
	provisional  bool
}

// found is all that was found of a pack.
type found struct {
	number    uint64 // of the newest state
	deleted   bool   // that state is a tombstone
	manifests map[coding]*pack.Manifest
	shards    []held
	damaged   []string
}

// Judge looks into the stores of homes, directories of nodes that do not run.
func Judge(ctx context.Context, homes ...string) (Report, error) {
	packs := make(map[pack.ID]*found)
	for i, home := range homes {
		if err := look(ctx, packs, i, home); err != nil {
			return Report{}, fmt.Errorf("%s: %w", home, err)
		}
	}
	r := Report{Stores: len(homes), Packs: []Pack{}}
	for id, f := range packs {
		if f.deleted {
			r.Deleted++
			continue
		}
		r.Packs = append(r.Packs, f.judge(id))
	}
	slices.SortFunc(r.Packs, func(a, b Pack) int {
		return cmp.Or(cmp.Compare(a.Survives, b.Survives), cmp.Compare(a.ID, b.ID))
	})
	return r, nil
}

// Pack gives the pack of that ID.
func (r Report) Pack(id string) (Pack, bool) {
	i := slices.IndexFunc(r.Packs, func(p Pack) bool { return p.ID == id })
	if i < 0 {
		return Pack{}, false
	}
	return r.Packs[i], true
}

// look adds what is in the store of a home to packs.
func look(ctx context.Context, packs map[pack.ID]*found, n int, home string) (err error) {
	s, err := store.Open(filepath.Join(home, "store"), store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var all []store.Holding
	for h, err := range s.Packs(ctx) {
		if err != nil {
			return err
		}
		all = append(all, h)
	}
	buf := make([]byte, 0, erasure.MaxBlock)
	for _, h := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		f := packs[h.ID]
		if f == nil {
			f = &found{manifests: make(map[coding]*pack.Manifest)}
			packs[h.ID] = f
		}
		if h.Number >= f.number {
			f.number, f.deleted = h.Number, h.Deleted
		}
		if h.Deleted {
			continue
		}
		if err := f.whole(s, h, buf); err != nil {
			f.damaged = append(f.damaged, fmt.Sprintf("%s: shard %d: %v", home, h.Shard, err))
			continue
		}
		f.shards = append(f.shards, held{coding{h.K, h.M}, n, h.Shard, h.Provisional})
	}
	return nil
}

// whole tells what is wrong with a shard, nil if nothing is.
func (f *found) whole(s *store.Store, h store.Holding, buf []byte) error {
	m, err := f.manifest(s, h)
	if err != nil {
		return err
	}
	g := m.Geometry()
	if h.Shard < 0 || h.Shard >= g.N() {
		return fmt.Errorf("there are %d shards only", g.N())
	}
	for row := range g.ShardRows(h.Shard) {
		b, err := s.ReadCoded(h.ID, h.K, h.M, h.Shard, row, buf[:0])
		if err == nil && len(b) != g.CellLen(h.Shard, row) {
			err = fmt.Errorf("%d bytes, want %d", len(b), g.CellLen(h.Shard, row))
		}
		if err == nil {
			err = m.VerifyBlock(h.Shard, row, b)
		}
		if err != nil {
			return fmt.Errorf("row %d: %w", row, err)
		}
	}
	return nil
}

// manifest gives a verified manifest of a holding's coding. A store gives that
// of the best shard it has of a pack; the first that has the coding serves for
// all, since the hashes are the same under every state with it.
func (f *found) manifest(s *store.Store, h store.Holding) (*pack.Manifest, error) {
	c := coding{h.K, h.M}
	if m := f.manifests[c]; m != nil {
		return m, nil
	}
	m, err := s.Manifest(h.ID)
	if err != nil {
		return nil, err
	}
	if err := m.Verify(m.State.Network, h.ID); err != nil {
		return nil, err
	}
	if m.State.K != h.K || m.State.M != h.M {
		return nil, errors.New("of an older coding, whose manifest is not to be had")
	}
	f.manifests[c] = m
	return m, nil
}

// judge says how safe the pack is.
func (f *found) judge(id pack.ID) Pack {
	var best Pack
	for c, m := range f.manifests {
		g := m.Geometry()
		p := Pack{ID: id.String(), K: g.K, N: g.N()}
		stores := make([][]int, g.N()) // that have a shard
		for _, h := range f.shards {
			switch {
			case h.coding != c:
			case h.provisional:
				p.Provisional++
			default:
				stores[h.shard] = append(stores[h.shard], h.store)
				p.Copies++
			}
		}
		for _, ss := range stores {
			if len(ss) > 0 {
				p.Shards++
			}
		}
		p.Live = matching(stores)
		p.Survives = p.Live - p.K
		if best.ID == "" || p.Survives > best.Survives || p.Survives == best.Survives && p.N > best.N {
			best = p
		}
	}
	if best.ID == "" { // nothing of it could be verified
		best = Pack{ID: id.String(), K: 1, N: 1, Survives: -1}
	}
	best.Damaged = f.damaged
	return best
}

// matching is how many shards can be paired with stores that have them, each
// store with one: by Kuhn's augmenting paths. Two shards in one store are one
// loss, two copies of one shard are one shard.
func matching(stores [][]int) int {
	of := make(map[int]int) // store -> shard
	var pair func(shard int, seen map[int]bool) bool
	pair = func(shard int, seen map[int]bool) bool {
		for _, s := range stores[shard] {
			if seen[s] {
				continue
			}
			seen[s] = true
			if other, taken := of[s]; !taken || pair(other, seen) {
				of[s] = shard
				return true
			}
		}
		return false
	}
	n := 0
	for shard := range stores {
		if pair(shard, make(map[int]bool)) {
			n++
		}
	}
	return n
}
