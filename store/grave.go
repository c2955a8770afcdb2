package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/pack"
)

// A grave is the mark of a tombstone of a pack that was not held when it came:
// it took no room of shards, so it is counted by itself.
const (
	keyGrave     = 't' // pack ID 32: whose it is
	graveVersion = 1
	graveLen     = 1 + 32 + 8 // version, owner, start of the digest of the peer that sent it

	// maxGraves is how many tombstones of packs not held are kept: 80 MiB. A
	// quarter of that are kept of one owner, and from one peer.
	maxGraves = 100_000

	// recount is how often graves that have gone are looked for at most: where
	// they were too many, room is found again that late.
	recount = 10 * time.Minute
)

// graves counts graves, those that have gone since the last look among them.
type graves struct {
	looked time.Time // when; zero: never
	all    int
	of     map[[32]byte]int // by owner
	from   map[mark]int     // by the peer that sent them
}

// Bury does what SetState does for a deletion, verified by the caller, of a
// pack that is perhaps not held: of those it keeps a bounded number, in all, of
// one owner and from one peer, and returns ErrFull beyond it.
func (s *Store) Bury(st *pack.State, from string) (changed bool, err error) {
	id := st.ID()
	if !st.Deleted {
		return false, fmt.Errorf("bury pack %s: its state is not deleted", id.Short())
	}
	if _, err := s.Holding(id); !errors.Is(err, ErrNotFound) {
		return s.SetState(st)
	}
	s.digging.Lock()
	defer s.digging.Unlock()
	by := markOf(from)
	if err := s.roomForGrave(st.Owner, by); err != nil {
		return false, fmt.Errorf("bury pack %s: %w", id.Short(), err)
	}
	if changed, err = s.SetState(st); err != nil || !changed {
		return changed, err
	}
	// A crash here leaves one that is not counted.
	b := append([]byte{graveVersion}, st.Owner[:]...)
	b = append(b, by[:]...)
	if err := s.update(func(txn *badger.Txn) error { return txn.Set(packKey(keyGrave, id), b) }); err != nil {
		return false, fmt.Errorf("bury pack %s: %w", id.Short(), err)
	}
	g := &s.graves
	g.all++
	g.of[st.Owner]++
	g.from[by]++
	return true, nil
}

// roomForGrave refuses one too many. digging is held.
func (s *Store) roomForGrave(owner pack.Owner, by mark) error {
	g := &s.graves
	full := func() bool {
		return g.all >= s.mostGraves() || g.of[owner] >= s.mostGraves()/4 || g.from[by] >= s.mostGraves()/4
	}
	if now := s.opt.Now(); g.looked.IsZero() || full() && now.Sub(g.looked) >= recount {
		if err := s.countGraves(); err != nil {
			return err
		}
		g.looked = now
	}
	if full() {
		return fmt.Errorf("%w: %d deletions of packs not held are kept", ErrFull, g.all)
	}
	return nil
}

func (s *Store) mostGraves() int {
	if s.opt.graves != 0 {
		return s.opt.graves
	}
	return maxGraves
}

// countGraves counts the graves that still have a tombstone, and removes the
// others. digging is held.
func (s *Store) countGraves() error {
	g := &s.graves
	g.all, g.of, g.from = 0, make(map[[32]byte]int), make(map[mark]int)
	from := []byte{keyGrave}
	for {
		var over [][]byte
		read := 0
		err := s.view(func(txn *badger.Txn) error {
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyGrave}})
			defer it.Close()
			for it.Seek(from); it.Valid() && read < page; it.Next() {
				key := it.Item().KeyCopy(nil)
				from = append(key[:len(key):len(key)], 0)
				read++
				val, err := it.Item().ValueCopy(nil)
				if err != nil {
					return err
				}
				r, err := getRecord(txn, pack.ID(key[1:]))
				if len(val) != graveLen || val[0] != graveVersion || err == nil && (r.tomb == nil || len(r.shards) > 0) {
					over = append(over, key)
					continue
				}
				g.all++
				g.of[[32]byte(val[1:33])]++
				g.from[mark(val[33:])]++
			}
			return nil
		})
		if err == nil && len(over) > 0 {
			err = s.update(func(txn *badger.Txn) error {
				for _, key := range over {
					if err := txn.Delete(key); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err != nil || read < page {
			return err
		}
	}
}
