package store

import (
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/pack"
)

// Get reads a note of the node's own.
func (s *Store) Get(key string) ([]byte, error) {
	var b []byte
	err := s.view(func(txn *badger.Txn) error {
		return retry(func() (err error) {
			b, err = get(txn, append([]byte{keyNote}, key...))
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("note %q: %w", key, err)
	}
	return b[1:], nil
}

// maxNote bounds a note of the node's own, in bytes.
const maxNote = 512 << 10

// Set writes a note of the node's own, of at most 512 KiB; nil removes it.
// It is durable when Set returns.
func (s *Store) Set(key string, val []byte) error {
	if len(val) > maxNote {
		return fmt.Errorf("note %q: %d bytes, at most %d are kept", key, len(val), maxNote)
	}
	err := s.update(func(txn *badger.Txn) error {
		k := append([]byte{keyNote}, key...)
		if val == nil {
			return txn.Delete(k)
		}
		return txn.Set(k, append([]byte{1}, val...)) // never empty
	})
	if err != nil {
		return fmt.Errorf("note %q: %w", key, err)
	}
	return nil
}

// hintTTL is how long a hint is kept: peers change.
const hintTTL = 30 * 24 * time.Hour

// Keys of the database of what may be lost.
const (
	keyDatum   = 'd' // prefix, zero byte, key: see Datastore
	keyHolders = 'h' // pack ID 32: who holds a pack held here
	keyHint    = 'n' // pack ID 32: who was seen holding another pack
)

// SetHint keeps who was seen to hold a pack that this node does not hold, to
// save looking for them again. It may be lost in a crash, and is forgotten after
// 30 days.
func (s *Store) SetHint(id pack.ID, hs []Holder) error {
	h := holders{number: uint64(s.nowMs()), list: hs}
	b, err := h.encode()
	if err == nil {
		err = s.updateRecords(func(txn *badger.Txn) error { return txn.Set(packKey(keyHint, id), b) })
	}
	if err != nil {
		return fmt.Errorf("hint for pack %s: %w", id.Short(), err)
	}
	return nil
}

// Hint gives what SetHint was told last.
func (s *Store) Hint(id pack.ID) (hs []Holder, err error) {
	err = s.viewRecords(func(txn *badger.Txn) error {
		b, err := get(txn, packKey(keyHint, id))
		if err != nil {
			return err
		}
		h, err := decodeHolders(b)
		hs = h.list
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("hint for pack %s: %w", id.Short(), err)
	}
	return hs, nil
}

// sweepHints removes hints past their time.
func (s *Store) sweepHints(now int64) error {
	var old [][]byte
	err := s.viewRecords(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{keyHint}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			b, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			h, err := decodeHolders(b)
			if err != nil || now-int64(h.number) >= hintTTL.Milliseconds() {
				old = append(old, it.Item().KeyCopy(nil))
			}
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	return s.batchRecords(func(b *badger.WriteBatch) error {
		for _, key := range old {
			if err := b.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) viewRecords(fn func(*badger.Txn) error) error {
	s.door.RLock()
	defer s.door.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	return s.records.View(fn)
}

func (s *Store) updateRecords(fn func(*badger.Txn) error) error {
	s.door.RLock()
	defer s.door.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	return full(s.records.Update(fn))
}

// batchRecords writes what fn puts into the batch, in as few transactions as
// hold it.
func (s *Store) batchRecords(fn func(*badger.WriteBatch) error) error {
	s.door.RLock()
	defer s.door.RUnlock()
	if s.db == nil {
		return ErrClosed
	}
	b := s.records.NewWriteBatch()
	defer b.Cancel()
	if err := fn(b); err != nil {
		return full(err)
	}
	return full(b.Flush())
}
