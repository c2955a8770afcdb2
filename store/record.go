package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

// The first byte of a key says what lies there, in the database of what must not
// be lost. docs/format.md has the table.
const (
	keyBlock    = 'b' // slot 8, row 1: a block
	keyIntent   = 'i' // slot 8: a shard being written
	keyNote     = 'k' // any text: the node's own notes
	keyManifest = 'm' // slot 8: a manifest
	keyPack     = 'p' // pack ID 32: what is held of a pack
	keyPut      = 'u' // put ID 16: a put's last sign of life
)

func slotKey(kind byte, slot uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kind}, slot)
}

func blockKey(slot uint64, row int) []byte {
	return append(slotKey(keyBlock, slot), byte(row))
}

func packKey(kind byte, id pack.ID) []byte {
	return append([]byte{kind}, id[:]...)
}

func putKey(id PutID) []byte { return append([]byte{keyPut}, id[:]...) }

// stamp places a state in the order of the states of its pack without the
// state itself.
type stamp struct {
	number uint64
	hash   pack.Hash
}

func stampOf(st *pack.State) stamp { return stamp{st.Number, st.Hash()} }

// newer does what pack.State.Newer does.
func (a stamp) newer(b stamp) bool {
	if a.number != b.number {
		return a.number > b.number
	}
	return bytes.Compare(a.hash[:], b.hash[:]) < 0
}

// shard is what is known of a shard held.
type shard struct {
	stamp
	coding  pack.Hash // of how the pack is coded: what a renewal does not change
	slot    uint64    // where its blocks lie
	index   int       // which of the n shards
	k, m    int       // the scheme
	coded   int       // the pack's own number of data shards (k′), 1 to k
	rows    int       // how many blocks
	cost    int64     // bytes it counts for
	expires uint64    // Unix milliseconds; 0: never
	put     PutID     // the put that brought it or its state; zero: none
	damaged bool      // a read found a damaged block

	confirmed bool // the put is known to be durable; never set without one
}

func (h *shard) provisional() bool { return h.put != PutID{} && !h.confirmed }

// tombstone is a deletion.
type tombstone struct {
	stamp
	since int64  // when it came, Unix milliseconds
	state []byte // encoded
}

func (t *tombstone) cost() int64 { return int64(len(t.state)) + itemCost }

// record is all that is held of one pack. The zero value is nothing.
type record struct {
	tomb   *tombstone
	shards []shard
}

const (
	recordVersion = 1
	// maxShards is how many shards of one pack a store holds, over all states:
	// dropping all of them must fit one transaction of Badger.
	maxShards = 64
	// maxTombstone bounds an encoded deleted state.
	maxTombstone = 1 << 10
	shardLen     = 8 + 32 + 32 + 8 + 1 + 2 + 2 + 2 + 1 + 8 + 8 + 16 + 1

	flagDamaged   = 1
	flagConfirmed = 2

	// itemCost is what a record counts for beyond its bytes: keys, index, the
	// record itself.
	itemCost = 512
	// rowCost is what a block counts for beyond its bytes.
	rowCost = 64
	// holderCost is what one entry in the list of holders counts for.
	holderCost = 64
)

// costOf is what a shard counts for in bytes.
func costOf(m *pack.Manifest, index, manifestLen int) int64 {
	g := m.Geometry()
	return int64(g.ShardLen(index)) + int64(manifestLen) +
		rowCost*int64(g.ShardRows(index)) + holderCost*int64(g.N()) + itemCost
}

// codingOf is the same for two states just if their shards are the same.
func codingOf(st *pack.State) pack.Hash {
	b := make([]byte, 0, 8+32*len(st.Parity))
	for _, n := range []int{st.K, st.M, st.Coded, int(st.Coder)} {
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	for i := range st.Parity {
		b = append(b, st.Parity[i][:]...)
	}
	return digest.Of(b)
}

// encode gives the one encoding of r.
func (r *record) encode() []byte {
	b := make([]byte, 0, 128+shardLen*len(r.shards))
	b = append(b, recordVersion)
	var tomb tombstone
	if r.tomb != nil {
		tomb = *r.tomb
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(tomb.state)))
	if r.tomb != nil {
		b = appendStamp(b, tomb.stamp)
		b = binary.BigEndian.AppendUint64(b, uint64(tomb.since))
		b = append(b, tomb.state...)
	}
	b = append(b, byte(len(r.shards)))
	for i := range r.shards {
		b = r.shards[i].append(b)
	}
	return b
}

func appendStamp(b []byte, s stamp) []byte {
	b = binary.BigEndian.AppendUint64(b, s.number)
	return append(b, s.hash[:]...)
}

func (h *shard) append(b []byte) []byte {
	b = appendStamp(b, h.stamp)
	b = append(b, h.coding[:]...)
	b = binary.BigEndian.AppendUint64(b, h.slot)
	b = append(b, byte(h.index))
	b = binary.BigEndian.AppendUint16(b, uint16(h.k))
	b = binary.BigEndian.AppendUint16(b, uint16(h.m))
	b = binary.BigEndian.AppendUint16(b, uint16(h.coded))
	b = append(b, byte(h.rows))
	b = binary.BigEndian.AppendUint64(b, uint64(h.cost))
	b = binary.BigEndian.AppendUint64(b, h.expires)
	b = append(b, h.put[:]...)
	flags := byte(0)
	if h.damaged {
		flags |= flagDamaged
	}
	if h.confirmed {
		flags |= flagConfirmed
	}
	return append(b, flags)
}

// decodeRecord reads what encode gave, and nothing else.
func decodeRecord(b []byte) (record, error) {
	r, err := decodeRecordBytes(b)
	if err != nil {
		return record{}, fmt.Errorf("decode pack record: %w", err)
	}
	return r, nil
}

func decodeRecordBytes(b []byte) (rec record, err error) {
	r := reader{b: b}
	if v := r.u8(); v > recordVersion {
		return record{}, fmt.Errorf("version %d: %w", v, ErrVersion)
	} else if v < recordVersion {
		r.bad = true
	}
	if n := int(r.u16()); n > maxTombstone {
		r.bad = true
	} else if n > 0 {
		rec.tomb = &tombstone{stamp: r.stamp(), since: int64(r.u64())}
		rec.tomb.state = bytes.Clone(r.take(n))
		r.bad = r.bad || rec.tomb.since < 0
	}
	n := int(r.u8())
	if n > maxShards || r.bad {
		return record{}, ErrCorrupt
	}
	rec.shards = make([]shard, n)
	for i := range rec.shards {
		rec.shards[i] = r.shard()
	}
	if r.bad || len(r.b) > 0 {
		return record{}, ErrCorrupt
	}
	return rec, nil
}

// reader takes bytes from the front; bad tells that something did not fit.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return make([]byte, min(n, maxTombstone))
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u8() byte       { return r.take(1)[0] }
func (r *reader) u16() uint16    { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) u64() uint64    { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) b32() pack.Hash { return pack.Hash(r.take(32)) }
func (r *reader) stamp() stamp   { return stamp{r.u64(), r.b32()} }

func (r *reader) shard() (h shard) {
	h = shard{stamp: r.stamp(), coding: r.b32(), slot: r.u64(), index: int(r.u8()),
		k: int(r.u16()), m: int(r.u16()), coded: int(r.u16()), rows: int(r.u8()),
		cost: int64(r.u64()), expires: r.u64(), put: PutID(r.take(16))}
	flags := r.u8()
	h.damaged, h.confirmed = flags&flagDamaged != 0, flags&flagConfirmed != 0
	if flags&^(flagDamaged|flagConfirmed) != 0 || h.confirmed && h.put == (PutID{}) ||
		h.coded < 1 || h.coded > h.k || h.rows == 0 || h.rows > pack.MaxBlocks || h.cost < 0 {
		r.bad = true
	}
	return h
}

// newest is the stamp of the newest state known, live or deleted.
func (r *record) newest() (at stamp, known bool) {
	if r.tomb != nil {
		at, known = r.tomb.stamp, true
	}
	for i := range r.shards {
		if h := &r.shards[i]; !known || h.newer(at) {
			at, known = h.stamp, true
		}
	}
	return at, known
}

// find gives the shard of that coding and index, or nil.
func (r *record) find(coding pack.Hash, index int) *shard {
	for i := range r.shards {
		if h := &r.shards[i]; h.coding == coding && h.index == index {
			return h
		}
	}
	return nil
}

// better orders shards as answers to the question what is held of a pack:
// confirmed ones first, since all of such a state is durable, then by state,
// newest first, then by index.
func better(a, b *shard) int {
	if a.provisional() != b.provisional() {
		if a.provisional() {
			return 1
		}
		return -1
	}
	if a.stamp != b.stamp {
		if a.newer(b.stamp) {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.index, b.index)
}
