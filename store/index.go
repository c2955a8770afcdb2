package store

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/pack"
)

// The index says where this home has stored chunks before, by volume, so that
// what is in a volume already is not stored again. It may be lost: then some of it is,
// and the index grows anew. It does not tell the keys of chunks.
const (
	keyIndex   = 'x' // volume 8, chunk 16: where it is
	keyIndexed = 'y' // volume 8: the index has all that was in the volume once

	placeLen = 32 + 4 + 4 + 8
)

// Chunk names a chunk in the index.
type Chunk [16]byte

// Place is where a sealed chunk is.
type Place struct {
	Pack pack.ID
	Off  uint32 // in the pack
	Len  uint32 // sealed
	Size uint64 // once it is open
}

func indexKey(of [8]byte, c Chunk) []byte {
	return append(append([]byte{keyIndex}, of[:]...), c[:]...)
}

func (p *Place) encode() []byte {
	b := make([]byte, 0, placeLen)
	b = append(b, p.Pack[:]...)
	b = binary.BigEndian.AppendUint32(b, p.Off)
	b = binary.BigEndian.AppendUint32(b, p.Len)
	return binary.BigEndian.AppendUint64(b, p.Size)
}

// decodePlace reads what encode gave. Who uses a place checks that a chunk can be
// there.
func decodePlace(b []byte) (p Place, err error) {
	if len(b) != placeLen {
		return p, fmt.Errorf("place of %d bytes: %w", len(b), ErrCorrupt)
	}
	copy(p.Pack[:], b)
	p.Off = binary.BigEndian.Uint32(b[32:])
	p.Len = binary.BigEndian.Uint32(b[36:])
	p.Size = binary.BigEndian.Uint64(b[40:])
	return p, nil
}

// Indexed gives where a chunk of a volume is; ErrNotFound where that is not known.
func (s *Store) Indexed(of [8]byte, c Chunk) (p Place, err error) {
	err = s.viewRecords(func(txn *badger.Txn) error {
		b, err := get(txn, indexKey(of, c))
		if err == nil {
			p, err = decodePlace(b)
		}
		return err
	})
	if err != nil {
		return Place{}, fmt.Errorf("index: %w", err)
	}
	return p, nil
}

// Index keeps where chunks of a volume are.
func (s *Store) Index(of [8]byte, places map[Chunk]Place) error {
	err := s.batchRecords(func(b *badger.WriteBatch) error {
		for c, p := range places {
			if err := b.Set(indexKey(of, c), p.encode()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

// IsIndexed tells whether SetIndexed was called for a volume.
func (s *Store) IsIndexed(of [8]byte) bool {
	return s.viewRecords(func(txn *badger.Txn) error {
		_, err := get(txn, append([]byte{keyIndexed}, of[:]...))
		return err
	}) == nil
}

// SetIndexed says that the index has all that is in a volume now.
func (s *Store) SetIndexed(of [8]byte) error {
	err := s.updateRecords(func(txn *badger.Txn) error { return txn.Set(append([]byte{keyIndexed}, of[:]...), []byte{1}) })
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}
