package store

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// The catalog is what this home has put: the roots, and the packs under them.
// It is written synced. A pack is in it as long as a root refers to it.
//
// A root is written before the rows of its packs and removed after them, so
// that what a crash leaves is a root with too few packs, which is put or
// removed again, and never a pack that is kept for a root that is not there.
const (
	keyRoot     = 'o' // root ID 16: a root
	keyRootPack = 'q' // root ID 16, pack ID 32: the pack is under the root
	keyPackRoot = 'w' // pack ID 32, root ID 16: the same, the other way round
	keyOwned    = 'c' // pack ID 32: what its owner knows of it
)

const (
	rootVersion  = 1
	ownedVersion = 1
	rowVersion   = 1

	rootContext = "p2pfs 2026-11 root of a put"

	// rootOverhead is what sealing adds to a root: version, nonce and tag.
	rootOverhead = 1 + 12 + 16

	maxRootName = 255
	maxRootLink = 1 << 10
	maxSource   = 4 << 10

	flagMeta  = 1
	flagGiven = 2

	ownedLen = 1 + 1 + 2 + 2 + 4 + 8 + 8 + 32

	// ownStep is how many packs one transaction takes in or out: four keys
	// each, of which Badger allows some ten thousand.
	ownStep = 1000
)

// RootID names what was put.
type RootID [16]byte

// RootOf is the ID of the root that is at an offset of a pack.
func RootOf(id pack.ID, off uint32) RootID {
	sum := digest.Derive(rootContext, id[:], binary.BigEndian.AppendUint32(nil, off))
	return RootID(sum[:16])
}

// Root is one thing that was put. Name and link are the owner's alone: a root is
// sealed with [Options].Seal.
type Root struct {
	ID      RootID
	Link    string // its text, 1 to 1,024 bytes
	Name    string // 1 to 255 bytes
	Bytes   int64  // plain bytes
	Time    int64  // when it was put last, Unix milliseconds; no two times the same
	Expires uint64 // when the first of its packs expires, Unix milliseconds; 0: none does
	Source  string // what was put, such as a path on the machine it was read on; at most 4 KiB, "" where nobody cares
}

// OwnedPack is what the owner of a pack knows of it.
type OwnedPack struct {
	ID      pack.ID
	Meta    bool           // a metadata pack: its scheme has half the k
	Given   bool           // the scheme was given by the user: it is never changed by itself
	Scheme  erasure.Scheme // of the newest state signed here
	Number  uint64         // of that state
	Expires uint64         // of that state, Unix milliseconds; 0: never
	Len     int            // of the pack, in bytes
	Content pack.Hash      // so that it can be deleted though nobody shows its manifest
}

func (r *Root) check() error {
	if len(r.Name) < 1 || len(r.Name) > maxRootName || len(r.Link) < 1 || len(r.Link) > maxRootLink || len(r.Source) > maxSource || r.Bytes < 0 || r.Time < 0 {
		return fmt.Errorf("root with a name of %d and a link of %d bytes: %w", len(r.Name), len(r.Link), ErrCorrupt)
	}
	return nil
}

// encode gives the one encoding of r, which must be valid; the ID is the key.
func (r *Root) encode() []byte {
	b := make([]byte, 0, 29+len(r.Name)+len(r.Link)+len(r.Source))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Bytes))
	b = binary.BigEndian.AppendUint64(b, uint64(r.Time))
	b = binary.BigEndian.AppendUint64(b, r.Expires)
	b = append(b, byte(len(r.Name)))
	b = append(b, r.Name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Link)))
	b = append(b, r.Link...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Source)))
	return append(b, r.Source...)
}

// decodeRoot reads what encode gave, and nothing else.
func decodeRoot(id RootID, b []byte) (Root, error) {
	r := reader{b: b}
	root := Root{ID: id, Bytes: int64(r.u64()), Time: int64(r.u64()), Expires: r.u64()}
	root.Name = string(r.take(int(r.u8())))
	if n := int(r.u16()); n > maxRootLink {
		r.bad = true
	} else {
		root.Link = string(r.take(n))
	}
	if n := int(r.u16()); n > maxSource {
		r.bad = true
	} else {
		root.Source = string(r.take(n))
	}
	if r.bad || len(r.b) > 0 || root.check() != nil {
		return Root{}, fmt.Errorf("decode root: %w", ErrCorrupt)
	}
	return root, nil
}

// rootCipher seals roots: AES-256-GCM with a random nonce, the ID beside it.
func rootCipher(key [32]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// sealRoot gives what is kept of a root, which must be valid.
func sealRoot(aead cipher.AEAD, r *Root) []byte {
	plain := r.encode()
	b := make([]byte, 1, len(plain)+rootOverhead)
	b[0] = rootVersion
	return aead.Seal(b, nil, plain, r.ID[:])
}

// openRoot reads what sealRoot gave with the same key, and nothing else.
func openRoot(aead cipher.AEAD, id RootID, b []byte) (Root, error) {
	switch {
	case len(b) == 0 || b[0] < rootVersion:
		return Root{}, fmt.Errorf("open root: %w", ErrCorrupt)
	case b[0] > rootVersion:
		return Root{}, fmt.Errorf("open root: version %d: %w", b[0], ErrVersion)
	}
	plain, err := aead.Open(nil, nil, b[1:], id[:])
	if err != nil {
		return Root{}, fmt.Errorf("open root: sealed by another home, or damaged: %w", ErrCorrupt)
	}
	return decodeRoot(id, plain)
}

func (p *OwnedPack) check() error {
	if err := p.Scheme.Valid(); err != nil {
		return fmt.Errorf("owned pack %s: %w: %w", p.ID.Short(), ErrCorrupt, err)
	}
	if p.Len < 1 || p.Len > pack.MaxLen {
		return fmt.Errorf("owned pack %s of %d bytes: %w", p.ID.Short(), p.Len, ErrCorrupt)
	}
	return nil
}

// encode gives the one encoding of p, which must be valid; the ID is the key.
func (p *OwnedPack) encode() []byte {
	b := make([]byte, 0, ownedLen)
	flags := byte(0)
	if p.Meta {
		flags |= flagMeta
	}
	if p.Given {
		flags |= flagGiven
	}
	b = append(b, ownedVersion, flags)
	b = binary.BigEndian.AppendUint16(b, uint16(p.Scheme.K))
	b = binary.BigEndian.AppendUint16(b, uint16(p.Scheme.M))
	b = binary.BigEndian.AppendUint32(b, uint32(p.Len))
	b = binary.BigEndian.AppendUint64(b, p.Number)
	b = binary.BigEndian.AppendUint64(b, p.Expires)
	return append(b, p.Content[:]...)
}

// decodeOwned reads what encode gave, and nothing else.
func decodeOwned(id pack.ID, b []byte) (OwnedPack, error) {
	r := reader{b: b}
	if v := r.u8(); v > ownedVersion {
		return OwnedPack{}, fmt.Errorf("decode owned pack: version %d: %w", v, ErrVersion)
	} else if v < ownedVersion {
		r.bad = true
	}
	flags := r.u8()
	p := OwnedPack{ID: id, Meta: flags&flagMeta != 0, Given: flags&flagGiven != 0}
	p.Scheme = erasure.Scheme{K: int(r.u16()), M: int(r.u16())}
	p.Len = int(binary.BigEndian.Uint32(r.take(4)))
	p.Number, p.Expires, p.Content = r.u64(), r.u64(), r.b32()
	if r.bad || len(r.b) > 0 || flags&^(flagMeta|flagGiven) != 0 || p.check() != nil {
		return OwnedPack{}, fmt.Errorf("decode owned pack: %w", ErrCorrupt)
	}
	return p, nil
}

func rootKey(id RootID) []byte { return append([]byte{keyRoot}, id[:]...) }

func rootPackKey(root RootID, id pack.ID) []byte {
	return append(append([]byte{keyRootPack}, root[:]...), id[:]...)
}

func packRootKey(id pack.ID, root RootID) []byte {
	return append(packKey(keyPackRoot, id), root[:]...)
}

// Own takes what was put into the catalog: a root and all packs under it, with
// their newest states. A root that is there already gets a new time, and a
// pack's newer state stays. All of it is durable when Own returns nil; else a
// part may be, and Own or Disown again makes it whole.
func (s *Store) Own(root Root, packs []OwnedPack) error {
	if err := s.own(root, packs); err != nil {
		return fmt.Errorf("own %q: %w", root.Name, err)
	}
	return nil
}

func (s *Store) own(root Root, packs []OwnedPack) error {
	if err := root.check(); err != nil {
		return err
	}
	for i := range packs {
		if err := packs[i].check(); err != nil {
			return err
		}
	}
	err := s.catalogue(func(txn *badger.Txn) error {
		old, err := s.getRoot(txn, root.ID)
		if err == nil {
			root.Time = max(root.Time, old.Time+1) // Disown tells by it that this happened
		} else if !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt) {
			return err
		}
		return txn.Set(rootKey(root.ID), sealRoot(s.sealer(), &root))
	})
	if err != nil {
		return err
	}
	for part := range slices.Chunk(packs, ownStep) {
		err := s.catalogue(func(txn *badger.Txn) error {
			for i := range part {
				p := &part[i]
				if err := setOwned(txn, p); err != nil {
					return err
				}
				if err := txn.Set(rootPackKey(root.ID, p.ID), []byte{rowVersion}); err != nil {
					return err
				}
				if err := txn.Set(packRootKey(p.ID, root.ID), []byte{rowVersion}); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// catalogue runs fn in a transaction that writes the catalog, no two at once:
// each looks first at what it writes.
func (s *Store) catalogue(fn func(*badger.Txn) error) error {
	s.owning.Lock()
	defer s.owning.Unlock()
	return s.update(fn)
}

// setOwned writes p unless a newer state of the pack is known.
func setOwned(txn *badger.Txn, p *OwnedPack) error {
	old, err := getOwned(txn, p.ID)
	if err == nil && old.Number > p.Number {
		return nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt) {
		return err
	}
	return txn.Set(packKey(keyOwned, p.ID), p.encode())
}

func getOwned(txn *badger.Txn, id pack.ID) (OwnedPack, error) {
	b, err := get(txn, packKey(keyOwned, id))
	if err != nil {
		return OwnedPack{}, err
	}
	return decodeOwned(id, b)
}

func (s *Store) getRoot(txn *badger.Txn, id RootID) (Root, error) {
	b, err := get(txn, rootKey(id))
	if err != nil {
		return Root{}, err
	}
	return openRoot(s.sealer(), id, b)
}

// SetOwned keeps the newest state of a pack in the catalog. It returns
// ErrNotFound where the pack is not in it any more.
func (s *Store) SetOwned(p OwnedPack) error {
	err := p.check()
	if err == nil {
		err = s.catalogue(func(txn *badger.Txn) error {
			if _, err := get(txn, packKey(keyOwned, p.ID)); err != nil {
				return err
			}
			return setOwned(txn, &p)
		})
	}
	if err != nil {
		return fmt.Errorf("catalog: pack %s: %w", p.ID.Short(), err)
	}
	return nil
}

// Disown takes a root out of the catalog, as it was read from there, and gives
// the packs that no other root refers to, which go with it. It works in steps:
// after an error, or a crash, some packs are out and the root is not, and
// Disown again takes out the rest. ErrOld tells that the root was put again
// since it was read; one that is not there is no error.
func (s *Store) Disown(root Root) (gone []pack.ID, err error) {
	for more := true; more && err == nil; {
		var step []pack.ID
		step, more, err = s.disown(root)
		gone = append(gone, step...)
	}
	if err != nil {
		return gone, fmt.Errorf("disown %q: %w", root.Name, err)
	}
	return gone, nil
}

// disown is one step of Disown.
func (s *Store) disown(root Root) (gone []pack.ID, more bool, err error) {
	s.owning.Lock()
	defer s.owning.Unlock()
	// Reading comes first: in a transaction that has written, each iterator
	// sorts what is to be written.
	var keys [][]byte
	err = s.view(func(txn *badger.Txn) error {
		now, err := s.getRoot(txn, root.ID)
		if err == nil && now.Time != root.Time {
			return ErrOld
		}
		if err != nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt) {
			return err
		}
		keys = keysWith(txn, rootPackKey(root.ID, pack.ID{})[:17], ownStep)
		for _, key := range keys {
			id := pack.ID(key[17:])
			if len(keysWith(txn, packKey(keyPackRoot, id), 2)) < 2 {
				gone = append(gone, id)
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	more = len(keys) == ownStep
	err = s.update(func(txn *badger.Txn) error {
		if !more {
			if err := txn.Delete(rootKey(root.ID)); err != nil {
				return err
			}
		}
		for _, key := range keys {
			if err := errors.Join(txn.Delete(key), txn.Delete(packRootKey(pack.ID(key[17:]), root.ID))); err != nil {
				return err
			}
		}
		for _, id := range gone {
			if err := txn.Delete(packKey(keyOwned, id)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return gone, more, nil
}

// DisownPacks takes packs out of the catalog as far as a root refers to them;
// those that another refers to stay.
func (s *Store) DisownPacks(root RootID, ids []pack.ID) error {
	for part := range slices.Chunk(ids, ownStep) {
		if err := s.disownPacks(root, part); err != nil {
			return fmt.Errorf("disown packs: %w", err)
		}
	}
	return nil
}

func (s *Store) disownPacks(root RootID, ids []pack.ID) error {
	s.owning.Lock()
	defer s.owning.Unlock()
	var gone []pack.ID
	err := s.view(func(txn *badger.Txn) error {
		for _, id := range ids {
			others := false
			for _, key := range keysWith(txn, packKey(keyPackRoot, id), 2) {
				others = others || RootID(key[33:]) != root
			}
			if !others {
				gone = append(gone, id)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.update(func(txn *badger.Txn) error {
		for _, id := range ids {
			if err := errors.Join(txn.Delete(rootPackKey(root, id)), txn.Delete(packRootKey(id, root))); err != nil {
				return err
			}
		}
		for _, id := range gone {
			if err := txn.Delete(packKey(keyOwned, id)); err != nil {
				return err
			}
		}
		return nil
	})
}

// sealer seals roots.
func (s *Store) sealer() cipher.AEAD { return *s.roots.Load() }

// Reseal has roots sealed with another key from now on. The catalog must be
// empty: else the error wraps ErrHave.
func (s *Store) Reseal(key [32]byte) error {
	aead, err := rootCipher(key)
	if err != nil {
		return err
	}
	s.owning.Lock()
	defer s.owning.Unlock()
	err = s.view(func(txn *badger.Txn) error {
		if len(keysWith(txn, []byte{keyRoot}, 1)) > 0 {
			return ErrHave
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reseal the catalog: %w", err)
	}
	s.roots.Store(&aead)
	return nil
}

// Root gives a root of the catalog.
func (s *Store) Root(id RootID) (root Root, err error) {
	err = s.view(func(txn *badger.Txn) error {
		root, err = s.getRoot(txn, id)
		return err
	})
	if err != nil {
		return Root{}, fmt.Errorf("catalog: root %x: %w", id[:4], err)
	}
	return root, nil
}

// OwnedPack gives what the catalog knows of a pack.
func (s *Store) OwnedPack(id pack.ID) (p OwnedPack, err error) {
	err = s.view(func(txn *badger.Txn) error {
		p, err = getOwned(txn, id)
		return err
	})
	if err != nil {
		return OwnedPack{}, fmt.Errorf("catalog: pack %s: %w", id.Short(), err)
	}
	return p, nil
}

// RootsOf gives up to limit of the roots that refer to a pack.
func (s *Store) RootsOf(id pack.ID, limit int) (roots []RootID, err error) {
	err = s.view(func(txn *badger.Txn) error {
		for _, key := range keysWith(txn, packKey(keyPackRoot, id), limit) {
			roots = append(roots, RootID(key[33:]))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("catalog: roots of pack %s: %w", id.Short(), err)
	}
	return roots, nil
}

// PacksOf gives the packs under a root, in the order of their IDs. An error is
// the last that it gives; so with Roots and Owned. What comes and goes
// meanwhile may or may not be among them.
func (s *Store) PacksOf(ctx context.Context, id RootID) iter.Seq2[pack.ID, error] {
	return catalogOf(s, ctx, rootPackKey(id, pack.ID{})[:17], func(key, _ []byte) (pack.ID, error) { return pack.ID(key[17:]), nil })
}

// Roots gives all that is in the catalog.
func (s *Store) Roots(ctx context.Context) iter.Seq2[Root, error] {
	return catalogOf(s, ctx, []byte{keyRoot}, func(key, val []byte) (Root, error) { return openRoot(s.sealer(), RootID(key[1:]), val) })
}

// Owned gives all packs of the catalog, in the order of their IDs.
func (s *Store) Owned(ctx context.Context) iter.Seq2[OwnedPack, error] {
	return catalogOf(s, ctx, []byte{keyOwned}, func(key, val []byte) (OwnedPack, error) { return decodeOwned(pack.ID(key[1:]), val) })
}

// catalogOf gives what decode makes of the keys with a prefix. What is damaged
// is logged and left out: of a pack or root so lost a put again makes a new one.
func catalogOf[T any](s *Store, ctx context.Context, prefix []byte, decode func(key, val []byte) (T, error)) iter.Seq2[T, error] {
	return rowsOf(s, ctx, "the catalog", prefix, decode)
}

// rowsOf gives what decode makes of the keys with a prefix, in their order, a
// page at a time. What is damaged is logged and left out; what says of what it is.
func rowsOf[T any](s *Store, ctx context.Context, what string, prefix []byte, decode func(key, val []byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		from := bytes.Clone(prefix)
		for {
			out := make([]T, 0, page)
			read := 0
			err := s.view(func(txn *badger.Txn) error {
				it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
				defer it.Close()
				for it.Seek(from); it.Valid() && read < page; it.Next() {
					if err := ctx.Err(); err != nil {
						return err
					}
					key := it.Item().KeyCopy(nil)
					from = append(bytes.Clone(key), 0)
					read++
					val, err := it.Item().ValueCopy(nil)
					if err != nil {
						return err
					}
					v, err := decode(key, val)
					if errors.Is(err, ErrCorrupt) {
						s.log.Error("damaged record", "of", what, "key", fmt.Sprintf("%x", key), "err", err)
						continue
					}
					if err != nil {
						return err
					}
					out = append(out, v)
				}
				return nil
			})
			for _, v := range out {
				if !yield(v, nil) {
					return
				}
			}
			if err != nil {
				var none T
				yield(none, fmt.Errorf("list %s: %w", what, err))
				return
			}
			if read < page {
				return
			}
		}
	}
}
