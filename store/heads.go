package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// The heads of a volume that no other follows, its tips, are kept here for its
// owner, opaque and written synced.
const (
	keyHeads     = 'v' // owner's public key 32: the heads of its volume
	headsVersion = 1
	headsAt      = 1 + 8 + 8 // where the heads begin in what is stored, with their count

	maxTips = 16      // heads of one volume
	maxHead = 4 << 10 // bytes of a head

	// maxVolumes is of how many volumes heads are kept: 160 MiB where each has
	// two heads of half a KiB. A quarter of them may have been brought by one
	// peer.
	maxVolumes = 100_000
)

// tips is what is stored of a volume.
type tips struct {
	by    mark     // of the peer that first brought the volume
	since int64    // when the heads were last changed, Unix milliseconds
	heads [][]byte // 1 to maxTips, ascending, none twice
}

// mark stands for a peer: the start of the digest of its ID.
type mark [8]byte

func markOf(peer string) mark {
	sum := digest.Of([]byte(peer))
	return mark(sum[:8])
}

// encode gives the one encoding of t; the owner is the key.
func (t *tips) encode() ([]byte, error) {
	if len(t.heads) < 1 || len(t.heads) > maxTips {
		return nil, fmt.Errorf("%d heads, at most %d are kept", len(t.heads), maxTips)
	}
	n := headsAt + 1
	for _, h := range t.heads {
		if len(h) < 1 || len(h) > maxHead {
			return nil, fmt.Errorf("a head of %d bytes, want 1 to %d", len(h), maxHead)
		}
		n += 2 + len(h)
	}
	b := make([]byte, 0, n)
	b = append(b, headsVersion)
	b = append(b, t.by[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.since))
	b = append(b, byte(len(t.heads)))
	for _, h := range t.heads {
		b = binary.BigEndian.AppendUint16(b, uint16(len(h)))
		b = append(b, h...)
	}
	return b, nil
}

// decodeTips reads what encode gave, and nothing else. The heads are copies.
func decodeTips(b []byte) (tips, error) {
	r := reader{b: b}
	if v := r.u8(); v > headsVersion {
		return tips{}, fmt.Errorf("decode heads: version %d: %w", v, ErrVersion)
	} else if v < headsVersion {
		r.bad = true
	}
	t := tips{by: mark(r.take(8))}
	since := r.u64()
	n := int(r.u8())
	r.bad = r.bad || since > math.MaxInt64 || n < 1 || n > maxTips
	t.since = int64(since)
	for i := 0; i < n && !r.bad; i++ {
		size := int(r.u16())
		if size < 1 || size > maxHead {
			r.bad = true
			break
		}
		h := bytes.Clone(r.take(size))
		r.bad = r.bad || i > 0 && bytes.Compare(t.heads[i-1], h) >= 0
		t.heads = append(t.heads, h)
	}
	if r.bad || len(r.b) > 0 {
		return tips{}, fmt.Errorf("decode heads: %w", ErrCorrupt)
	}
	return t, nil
}

func headsKey(owner pack.Owner) []byte { return append([]byte{keyHeads}, owner[:]...) }

// headsCost is what the heads of a volume count for in bytes, nil for none.
func headsCost(row []byte) int64 {
	if row == nil {
		return 0
	}
	return int64(len(row)) + itemCost
}

// volumes counts the volumes that heads are kept of.
type volumes struct {
	mu  sync.Mutex
	all int
	by  map[mark]int // the peer that first brought them
}

// Heads gives the heads kept of a volume, ascending by their bytes; none where
// there are none.
func (s *Store) Heads(owner pack.Owner) ([][]byte, error) {
	t, _, err := s.tips(owner)
	if err != nil {
		return nil, fmt.Errorf("heads of volume %s: %w", owner.Short(), err)
	}
	return t.heads, nil
}

// tips reads what is kept of a volume, and how it is stored: nil for nothing.
// What is damaged is logged, and nothing.
func (s *Store) tips(owner pack.Owner) (t tips, row []byte, err error) {
	err = retry(func() error {
		return s.view(func(txn *badger.Txn) error {
			if row, err = get(txn, headsKey(owner)); err != nil {
				return err
			}
			t, err = decodeTips(row)
			return err
		})
	})
	if errors.Is(err, ErrCorrupt) {
		s.log.Error("damaged record", "volume", owner.String(), "err", err)
	}
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
		return tips{}, nil, nil
	}
	return t, row, err
}

// UpdateHeads changes the heads kept of a volume: fn is given those that are
// there and returns those that are to be, in any order, at most 16 of 1 to 4,096
// bytes, none to forget the volume. No other change of the volume comes
// between, so fn must be quick, and must not call UpdateHeads. An error of fn is
// returned as it is. What changed is durable when UpdateHeads returns; where fn
// returns what was there nothing is written.
//
// Heads are kept of a bounded number of volumes, in all and first brought by
// one peer, which from names in the case that nothing is kept of the volume yet:
// beyond it UpdateHeads returns ErrDenied. ErrFull tells that there is no space.
func (s *Store) UpdateHeads(owner pack.Owner, from string, fn func(have [][]byte) (want [][]byte, err error)) (changed bool, err error) {
	m := &s.heading[int(owner[0])%len(s.heading)]
	m.Lock()
	defer m.Unlock()
	old, row, err := s.tips(owner)
	if err != nil {
		return false, fmt.Errorf("heads of volume %s: %w", owner.Short(), err)
	}
	want, err := fn(old.heads)
	if err != nil {
		return false, err
	}
	next := tips{by: old.by, since: max(s.nowMs(), 0), heads: slices.Clone(want)}
	if row == nil {
		next.by = markOf(from)
	}
	changed, err = s.replaceTips(owner, row, next)
	if err != nil {
		return false, fmt.Errorf("heads of volume %s: %w", owner.Short(), err)
	}
	return changed, nil
}

// replaceTips keeps next in place of what is stored as row, if the heads are
// others.
func (s *Store) replaceTips(owner pack.Owner, row []byte, next tips) (changed bool, err error) {
	var b []byte
	if len(next.heads) > 0 {
		slices.SortFunc(next.heads, bytes.Compare)
		next.heads = slices.CompactFunc(next.heads, bytes.Equal)
		if b, err = next.encode(); err != nil {
			return false, err
		}
	}
	if bytes.Equal(headsIn(b), headsIn(row)) {
		return false, nil
	}
	if b != nil { // heads of the same length take space too, until it is reclaimed
		if err := s.roomOnDisk(); err != nil {
			return false, err
		}
	}
	if row == nil {
		if err := s.admit(next.by); err != nil {
			return false, err
		}
		defer func() {
			if err != nil {
				s.dismiss(next.by)
			}
		}()
	}
	grown := headsCost(b) - headsCost(row)
	if grown > 0 {
		if err := s.reserve(grown, 0); err != nil {
			return false, err
		}
		defer func() {
			if err != nil {
				s.account(-grown, 0, 0, 0)
			}
		}()
	}
	err = s.update(func(txn *badger.Txn) error {
		if b == nil {
			return txn.Delete(headsKey(owner))
		}
		return txn.Set(headsKey(owner), b)
	})
	if err != nil {
		return false, err
	}
	var dead int64 // only what lies in the value log waits to be collected
	if len(row) >= valueThreshold {
		dead = headsCost(row)
	}
	s.account(min(grown, 0), 0, dead, 0)
	if b == nil {
		s.dismiss(next.by)
	}
	return true, nil
}

// headsIn is the part of what is stored that says the heads.
func headsIn(row []byte) []byte {
	if row == nil {
		return nil
	}
	return row[headsAt:]
}

// admit counts a volume that a peer brings, or refuses one too many.
func (s *Store) admit(by mark) error {
	v := &s.volumes
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.all >= s.mostVolumes() || v.by[by] >= s.mostVolumes()/4 {
		return fmt.Errorf("%w: heads of %d volumes are kept, %d of them brought by that peer", ErrDenied, v.all, v.by[by])
	}
	v.all++
	v.by[by]++
	return nil
}

// dismiss counts that a volume that a peer brought has gone.
func (s *Store) dismiss(by mark) {
	v := &s.volumes
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all--
	if v.by[by]--; v.by[by] == 0 {
		delete(v.by, by)
	}
}

func (s *Store) mostVolumes() int {
	if s.opt.volumes != 0 {
		return s.opt.volumes
	}
	return maxVolumes
}

// Volumes gives the volumes that heads are kept of, in the order of their
// owners' keys. What comes and goes meanwhile may or may not be among them. An
// error is the last that it gives.
func (s *Store) Volumes(ctx context.Context) iter.Seq2[pack.Owner, error] {
	return rowsOf(s, ctx, "the volumes", []byte{keyHeads}, func(key, val []byte) (pack.Owner, error) {
		_, err := decodeTips(val)
		return pack.Owner(key[1:]), err
	})
}

// countVolumes counts, when the store is opened, what heads are kept of. One
// that is damaged from then on is counted until the store is opened again.
func (s *Store) countVolumes() error {
	type volume struct {
		by   mark
		cost int64
	}
	s.volumes.by = map[mark]int{}
	rows := rowsOf(s, context.Background(), "the volumes", []byte{keyHeads}, func(_, val []byte) (volume, error) {
		t, err := decodeTips(val)
		return volume{t.by, headsCost(val)}, err
	})
	for v, err := range rows {
		if err != nil {
			return err
		}
		s.held += v.cost
		s.volumes.all++
		s.volumes.by[v.by]++
	}
	return nil
}
