// Package erasure cuts packs into blocks and shards and codes them with
// Reed-Solomon, so that any K of the K+M shards restore the pack.
//
// A Scheme is what is asked for, a Geometry what a pack of a certain length
// becomes under it: which block is where, and how long each is. Encode makes
// all parity of a pack; RestoreRow restores what is missing of one row from
// any K blocks of it, so a range of a pack is rebuilt without whole shards.
// Nothing here checks what it is given but for lengths: blocks are to be
// verified against their hashes before and after.
//
// With K = 1 every shard is the data itself.
package erasure

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/reedsolomon"
)

// CoderVandermonde names the one code so far: Reed-Solomon over GF(2^8) with
// polynomial 0x11d, the systematic form of the Vandermonde matrix of row^col,
// which is klauspost/reedsolomon's default. testdata pins its bytes.
const CoderVandermonde = 1

// ShortError tells that too little is left to restore a row.
type ShortError struct {
	Have int // blocks of the row that are there
	Need int // blocks that are needed: K
}

// Error says what is there and what is needed.
func (e *ShortError) Error() string {
	return fmt.Sprintf("%d shards left where %d are needed", e.Have, e.Need)
}

// Encode fills parity, of g.ParityLen() bytes, from data, of g.Len bytes.
// With K = 1 parity is M copies of data, or nil: then nothing is done, and
// Cell gives the data itself.
func Encode(g Geometry, data, parity []byte) error {
	if len(data) != g.Len {
		return fmt.Errorf("encode: %d bytes of data, want %d", len(data), g.Len)
	}
	if g.K == 1 && parity == nil || g.M == 0 && len(parity) == 0 {
		return nil
	}
	if len(parity) != g.ParityLen() {
		return fmt.Errorf("encode: %d bytes of parity, want %d", len(parity), g.ParityLen())
	}
	if g.K == 1 {
		for p := parity; len(p) > 0; p = p[len(data):] {
			copy(p, data)
		}
		return nil
	}
	enc, err := coder(g.K, g.M)
	if err != nil {
		return err
	}
	s := scratches.Get().(*scratch)
	defer s.free()
	for row := range g.Rows {
		cells := s.cells[:g.N()]
		n := g.RowLen(row)
		for i := range g.K {
			cells[i] = s.padded(g.Cell(data, parity, i, row), n)
		}
		for i := g.K; i < g.N(); i++ {
			cells[i] = g.Cell(data, parity, i, row)
		}
		if err := enc.Encode(cells); err != nil {
			return fmt.Errorf("encode row %d: %w", row, err)
		}
	}
	return nil
}

// RestoreRow restores missing blocks of one row. Cells has N entries, the
// blocks at their true lengths; an empty one is missing, unless the row has no
// block there. The missing that want names (nil: all) are filled in, within
// the capacity of their entry if it has that, else newly allocated; the other
// entries stay. Of the blocks at least K must be there, those known to be
// zeros counted; else the error is a *ShortError and nothing is changed.
func RestoreRow(g Geometry, row int, cells [][]byte, want []bool) error {
	n := g.N()
	if row < 0 || row >= g.Rows {
		return fmt.Errorf("restore row %d: there are %d rows", row, g.Rows)
	}
	if len(cells) != n || want != nil && len(want) != n {
		return fmt.Errorf("restore row %d: %d blocks, %d wanted, of %d shards", row, len(cells), len(want), n)
	}
	have, missing, source := 0, 0, -1
	for i, c := range cells {
		switch size := g.CellLen(i, row); {
		case len(c) != 0 && len(c) != size:
			return fmt.Errorf("restore row %d: block of shard %d has %d bytes, want %d", row, i, len(c), size)
		case len(c) == size: // there, or known to be zeros
			have++
			source = i
		case want == nil || want[i]:
			missing++
		}
	}
	if missing == 0 {
		return nil
	}
	if have < g.K {
		return &ShortError{Have: have, Need: g.K}
	}
	if g.K == 1 {
		for i, c := range cells {
			if len(c) == 0 && (want == nil || want[i]) {
				cells[i] = append(c, cells[source]...)
			}
		}
		return nil
	}
	enc, err := coder(g.K, g.M)
	if err != nil {
		return err
	}
	s := scratches.Get().(*scratch)
	defer s.free()
	size := g.RowLen(row)
	full, need := s.cells[:n], s.need[:n]
	for i, c := range cells {
		full[i], need[i] = nil, false
		switch own := g.CellLen(i, row); {
		case len(c) == own:
			full[i] = s.padded(c, size)
		case want != nil && !want[i]:
		case own == size && cap(c) >= size:
			full[i], need[i] = c[:0:size], true
		case own == size:
			full[i], need[i] = make([]byte, 0, size), true
		default:
			full[i], need[i] = s.pad(size)[:0], true
		}
	}
	if err := enc.ReconstructSome(full, need); err != nil {
		return fmt.Errorf("restore row %d: %w", row, err)
	}
	for i := range cells {
		if !need[i] {
			continue
		}
		if own := g.CellLen(i, row); own == size {
			cells[i] = full[i]
		} else {
			cells[i] = append(cells[i], full[i][:own]...)
		}
	}
	return nil
}

// zeros is the block that is not there. It is never written.
var zeros [MaxBlock]byte

// scratch is what coding a row needs besides the row.
type scratch struct {
	cells [MaxShards][]byte
	need  [MaxShards]bool
	short []byte // room for the pack's last block; a row has one at most
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// free gives s back, without the views of the caller's memory.
func (s *scratch) free() {
	clear(s.cells[:])
	scratches.Put(s)
}

// padded gives b at a length of n bytes, zeros behind its own.
func (s *scratch) padded(b []byte, n int) []byte {
	switch len(b) {
	case n:
		return b
	case 0:
		return zeros[:n]
	}
	p := s.pad(n)
	clear(p[copy(p, b):])
	return p
}

// pad gives room for the last block.
func (s *scratch) pad(n int) []byte {
	if cap(s.short) < n {
		s.short = make([]byte, n)
	}
	return s.short[:n]
}

// maxCoders bounds how many coders are kept. A node meets a few schemes, and
// for each the smaller K of packs that are not full; making one anew takes 10
// to 300 microseconds.
const maxCoders = 64

var coders struct {
	sync.Mutex

	kept map[[2]int]reedsolomon.Encoder
}

// coder gives the coder of k+m, m > 0.
func coder(k, m int) (reedsolomon.Encoder, error) {
	coders.Lock()
	defer coders.Unlock()
	key := [2]int{k, m}
	if enc := coders.kept[key]; enc != nil {
		return enc, nil
	}
	enc, err := reedsolomon.New(k, m,
		// Never 1: with that the library leaves its fast path, and codes of
		// more than 10 parity shards are 3 to 5 times slower.
		reedsolomon.WithMaxGoroutines(max(2, 4*runtime.GOMAXPROCS(0))),
		// The cache of inverted matrices has no bound, and the patterns are
		// many: 125,970 at 8+12. An inversion costs little beside a row.
		reedsolomon.WithInversionCache(false))
	if err != nil {
		return nil, fmt.Errorf("code %d+%d: %w", k, m, err)
	}
	if coders.kept == nil {
		coders.kept = make(map[[2]int]reedsolomon.Encoder, maxCoders)
	}
	for old := range coders.kept {
		if len(coders.kept) < maxCoders {
			break
		}
		delete(coders.kept, old)
	}
	coders.kept[key] = enc
	return enc, nil
}
