package volume

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/p2pfs/p2pfs/pack"
)

const (
	historyMagic   = "p2pY"
	historyVersion = 1
	historyHeader  = headerLen + 1 + 2 // and depth, count

	// maxLeaf is how many records a leaf has, and maxLeafBytes the length of the
	// longest.
	maxLeaf      = 128
	maxPast      = 8 + 32 + 8 + 1 + 1 + maxPeer + pack.RefLen + 1 + MaxParents*32
	maxLeafBytes = historyHeader + maxLeaf*maxPast
	// maxLeaves is how many leaves a root refers to, and maxHistoryRoot the
	// length of the longest, which is longer than any leaf.
	maxLeaves      = 4096
	maxHistoryRoot = historyHeader + maxLeaves*pack.RefLen

	// flagPin marks a link among past heads.
	flagPin = 2

	// MaxHistory is how many heads a history is to have at most: one each ten minutes for
	// a year. It stands in one pack with what else a head points to, in which twice as
	// many, of two that are merged, have room too.
	MaxHistory = 65_536
)

// Past is a head that was, and what it pointed to; or a link that was given out to
// something in the volume, which stays with the history.
type Past struct {
	Number   uint64
	Hash     HeadHash
	Time     time.Time // see HeadContent, as for those below
	Snapshot bool
	Pin      bool // a link: Hash is the [File.Identity] of what Root leads to, Number that of the head then
	Peer     string
	Root     pack.Ref
	Parents  []HeadHash // the heads that it follows, of those that are kept, see [Without]: at most MaxParents, ascending
}

// compare is the order of a history.
func (p *Past) compare(q *Past) int {
	return cmp.Or(cmp.Compare(p.Number, q.Number), p.Hash.compare(q.Hash))
}

// check refuses what no head was.
func (p *Past) check() error {
	if p.Number == 0 {
		return fmt.Errorf("%w: a past head without number", ErrCorrupt)
	}
	if p.Pin && p.Snapshot {
		return fmt.Errorf("%w: a link that is a snapshot", ErrCorrupt)
	}
	if p.Pin && len(p.Parents) > 0 {
		return fmt.Errorf("%w: a link that follows a head", ErrCorrupt)
	}
	if err := checkParents(p.Parents); err != nil {
		return err
	}
	if err := checkTime(p.Time); err != nil {
		return err
	}
	if err := checkPeer(p.Peer); err != nil {
		return err
	}
	return checkRoot(p.Root)
}

// Without gives a history without the heads that drop tells of. Who followed one of
// them follows then what that one followed, so that of those that are left it can
// still be told which follows which.
func Without(past []Past, drop func(i int) bool) []Past {
	past = slices.Clone(past)
	at := make(map[HeadHash]int, len(past))
	for i := range past {
		if !past[i].Pin {
			at[past[i].Hash] = i
		}
	}
	order := make([]int, len(past))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return past[i].compare(&past[j]) })
	for _, i := range order { // those that a head follows come before it
		p := &past[i]
		var parents []HeadHash
		for _, h := range p.Parents {
			if j, ok := at[h]; ok && past[j].Number < p.Number && drop(j) {
				parents = append(parents, past[j].Parents...)
			} else {
				parents = append(parents, h)
			}
		}
		p.Parents = FewParents(past, parents)
	}
	var out []Past
	for i, p := range past {
		if !drop(i) {
			out = append(out, p)
		}
	}
	return out
}

// FewParents gives the heads that one follows, in order and each once, and of more
// than [MaxParents] those of them that are the latest in a history.
func FewParents(past []Past, parents []HeadHash) []HeadHash {
	parents = slices.Clone(parents)
	slices.SortFunc(parents, HeadHash.compare)
	parents = slices.Compact(parents)
	if len(parents) > MaxParents {
		number := make(map[HeadHash]uint64)
		for _, p := range past {
			if !p.Pin {
				number[p.Hash] = p.Number
			}
		}
		slices.SortFunc(parents, func(a, b HeadHash) int { return cmp.Or(cmp.Compare(number[b], number[a]), a.compare(b)) })
		parents = parents[:MaxParents]
		slices.SortFunc(parents, HeadHash.compare)
	}
	return parents
}

// historyChunks gives the chunks, in order, that list past heads of a volume;
// there are none if past is empty. The history is where the only one is, or
// where the chunk is that [historyRoot] makes of the refs to them. The order of
// past does not matter, nor does a head that is there twice.
func historyChunks(past []Past) ([][]byte, error) {
	past = slices.Clone(past)
	slices.SortFunc(past, func(p, q Past) int { return p.compare(&q) })
	past = slices.CompactFunc(past, func(p, q Past) bool { return p.compare(&q) == 0 })
	if len(past) > maxLeaves*maxLeaf {
		return nil, fmt.Errorf("history of %d heads, at most %d are allowed", len(past), maxLeaves*maxLeaf)
	}
	var chunks [][]byte
	for leaf := range slices.Chunk(past, maxLeaf) {
		b := appendHistoryHeader(nil, 0, len(leaf))
		for i := range leaf {
			p := &leaf[i]
			if err := p.check(); err != nil {
				return nil, fmt.Errorf("history: head %s: %w", p.Hash.Short(), err)
			}
			b = p.append(b)
		}
		chunks = append(chunks, b)
	}
	return chunks, nil
}

// historyRoot gives the chunk that refers to those which [historyChunks] gave,
// of which there must be more than one. Refs to chunks before it in its own
// pack have a zero pack.
func historyRoot(refs []pack.Ref) ([]byte, error) {
	if len(refs) < 2 || len(refs) > maxLeaves {
		return nil, fmt.Errorf("history of %d chunks, 2 to %d are allowed", len(refs), maxLeaves)
	}
	b := appendHistoryHeader(make([]byte, 0, historyHeader+len(refs)*pack.RefLen), 1, len(refs))
	for _, r := range refs {
		if err := checkRef(r, maxLeafBytes); err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		b = r.Append(b)
	}
	return b, nil
}

func appendHistoryHeader(b []byte, depth byte, n int) []byte {
	b = append(b, historyMagic...)
	b = append(b, historyVersion, depth)
	return binary.BigEndian.AppendUint16(b, uint16(n))
}

func (p *Past) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, p.Number)
	b = append(b, p.Hash[:]...)
	b = appendTime(b, p.Time)
	flags := snapshotFlags(p.Snapshot)
	if p.Pin {
		flags = flagPin
	}
	b = append(b, flags)
	b = appendPeer(b, p.Peer)
	b = p.Root.Append(b)
	b = append(b, byte(len(p.Parents)))
	for _, h := range p.Parents {
		b = append(b, h[:]...)
	}
	return b
}

// decodeHistory reads a chunk of a history: past of a leaf, refs of a root.
func decodeHistory(b []byte) (past []Past, refs []pack.Ref, err error) {
	r := reader{b: b}
	r.header("history", historyMagic, historyVersion)
	depth, n := r.u8(), int(r.u16())
	switch {
	case r.err != nil:
	case depth == 0 && n >= 1 && n <= maxLeaf:
		past = make([]Past, 0, n)
		for range n {
			past = append(past, r.past())
		}
	case depth == 1 && n >= 2 && n <= maxLeaves && len(r.b) == n*pack.RefLen:
		refs = make([]pack.Ref, 0, n)
		for range n {
			refs = append(refs, r.ref(false))
		}
	default:
		r.fail("%d in %d bytes at depth %d", n, len(r.b), depth)
	}
	if err := r.end(); err != nil {
		return nil, nil, err
	}
	for i := range past {
		if err := past[i].check(); err != nil {
			return nil, nil, err
		}
		if i > 0 && past[i-1].compare(&past[i]) >= 0 {
			return nil, nil, fmt.Errorf("%w: past heads not in order", ErrCorrupt)
		}
	}
	for _, ref := range refs {
		if err := checkRef(ref, maxLeafBytes); err != nil {
			return nil, nil, err
		}
	}
	return past, refs, nil
}

func (r *reader) past() Past {
	p := Past{Number: r.u64(), Hash: r.b32(), Time: r.time()}
	if len(r.b) > 0 && r.b[0] == flagPin {
		r.take(1)
		p.Pin = true
	} else {
		p.Snapshot = r.snapshot()
	}
	p.Peer, p.Root = r.peer(), r.ref(false)
	for n := r.u8(); n > 0 && r.err == nil; n-- {
		p.Parents = append(p.Parents, r.b32())
	}
	return p
}

// ReadHistory gives the past heads of a volume that are kept, ascending by
// number and hash, at most 524,288. A zero ref stands for none.
func ReadHistory(ctx context.Context, src Source, ref pack.Ref) ([]Past, error) {
	past, err := readHistory(ctx, src, ref)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	return past, nil
}

func readHistory(ctx context.Context, src Source, ref pack.Ref) ([]Past, error) {
	if ref == (pack.Ref{}) {
		return nil, nil
	}
	plain, err := readChunk(ctx, src, ref, maxHistoryRoot)
	if err != nil {
		return nil, err
	}
	past, refs, err := decodeHistory(plain)
	if err != nil {
		return nil, err
	}
	for i, sub := range refs {
		if sub, err = sub.In(ref.Pack, ref.Off); err != nil {
			return nil, err
		}
		plain, err := readChunk(ctx, src, sub, maxLeafBytes)
		if err != nil {
			return nil, err
		}
		leaf, nested, err := decodeHistory(plain)
		switch {
		case err != nil:
			return nil, err
		case nested != nil || len(leaf) < maxLeaf && i < len(refs)-1:
			return nil, fmt.Errorf("%w: nested wrongly", ErrCorrupt)
		case i > 0 && past[len(past)-1].compare(&leaf[0]) >= 0:
			return nil, fmt.Errorf("%w: past heads not in order", ErrCorrupt)
		}
		past = append(past, leaf...)
	}
	return past, nil
}

const (
	dyingMagic   = "p2pG"
	dyingVersion = 1
	dyingHeader  = headerLen + 4
	dyingRecord  = 32 + 8

	// MaxDying is how many packs may be dying at a time. Their list fits one
	// chunk.
	MaxDying      = 65_536
	maxDyingBytes = dyingHeader + MaxDying*dyingRecord
)

// DyingPack is a pack that nothing in its volume refers to any more.
type DyingPack struct {
	ID    pack.ID
	Since time.Time // to the millisecond
}

// encodeDying gives the one encoding of 1 to [MaxDying] packs. Their order does not
// matter, but none may be there twice.
func encodeDying(dying []DyingPack) ([]byte, error) {
	dying = slices.Clone(dying)
	slices.SortFunc(dying, func(d, e DyingPack) int { return bytes.Compare(d.ID[:], e.ID[:]) })
	if err := checkDying(dying); err != nil {
		return nil, fmt.Errorf("encode dying packs: %w", err)
	}
	b := make([]byte, 0, dyingHeader+len(dying)*dyingRecord)
	b = append(b, dyingMagic...)
	b = append(b, dyingVersion)
	b = binary.BigEndian.AppendUint32(b, uint32(len(dying)))
	for _, d := range dying {
		b = append(b, d.ID[:]...)
		b = appendTime(b, d.Since)
	}
	return b, nil
}

// checkDying refuses what no list of dying packs is.
func checkDying(dying []DyingPack) error {
	if len(dying) < 1 || len(dying) > MaxDying {
		return fmt.Errorf("%w: %d dying packs, 1 to %d are allowed", ErrCorrupt, len(dying), MaxDying)
	}
	var last pack.ID // zero, which is no pack's
	for _, d := range dying {
		if bytes.Compare(last[:], d.ID[:]) >= 0 {
			return fmt.Errorf("%w: dying packs not in order", ErrCorrupt)
		}
		last = d.ID
		if err := checkTime(d.Since); err != nil {
			return err
		}
	}
	return nil
}

// decodeDying reads what encodeDying gave.
func decodeDying(b []byte) ([]DyingPack, error) {
	r := reader{b: b}
	r.header("list of dying packs", dyingMagic, dyingVersion)
	n := r.u32()
	if n > MaxDying || len(r.b) != int(n)*dyingRecord {
		r.fail("%d dying packs in %d bytes", n, len(r.b))
	}
	if r.err != nil {
		return nil, r.err
	}
	dying := make([]DyingPack, n)
	for i := range dying {
		dying[i] = DyingPack{ID: r.b32(), Since: r.time()}
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	if err := checkDying(dying); err != nil {
		return nil, err
	}
	return dying, nil
}

// ReadDying gives the dying packs of a volume, ascending by ID. A zero ref
// stands for none.
func ReadDying(ctx context.Context, src Source, ref pack.Ref) ([]DyingPack, error) {
	if ref == (pack.Ref{}) {
		return nil, nil
	}
	plain, err := readChunk(ctx, src, ref, maxDyingBytes)
	if err != nil {
		return nil, fmt.Errorf("read dying packs: %w", err)
	}
	dying, err := decodeDying(plain)
	if err != nil {
		return nil, fmt.Errorf("read dying packs: %w", err)
	}
	return dying, nil
}
