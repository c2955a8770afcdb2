package erasure

import "fmt"

const (
	// MaxLen is the length of the longest pack, in bytes.
	MaxLen = 32 << 20
	// MinBlock and MaxBlock bound the size of a block, in bytes.
	MinBlock = 4 << 10
	MaxBlock = 256 << 10
	// MaxBlocks is the most data blocks a pack is cut into.
	MaxBlocks = 128
)

// Geometry says how a pack of a given length is cut and coded under a
// scheme. Its fields are for reading: make one with NewGeometry.
//
// Data shard i is the data blocks i*Rows … i*Rows+Rows-1, so it is a run of
// the pack's bytes; no data shard is empty, and only the last may have fewer
// blocks than Rows. Row r is the r-th block of every data shard and gives the
// r-th block of every parity shard.
type Geometry struct {
	Len       int // the pack's padded length in bytes
	BlockSize int // bytes of every data block but the last, which may be shorter
	Blocks    int // number of data blocks
	K         int // number of data shards: at most the scheme's, fewer for a small pack
	M         int // number of parity shards: always the scheme's
	Rows      int // number of rows
}

// NewGeometry cuts a pack of packLen bytes, 1 to MaxLen, under s. The block
// size is the smallest power of two from MinBlock up that gives at most
// MaxBlocks blocks. It panics if packLen is out of range or s is not valid:
// check what comes from elsewhere before.
func NewGeometry(packLen int, s Scheme) Geometry {
	if packLen < 1 || packLen > MaxLen {
		panic(fmt.Sprintf("erasure: pack of %d bytes", packLen))
	}
	return newGeometry(packLen, BlockSize(packLen), s)
}

// BlockSize is the block size of a pack of packLen bytes, whatever its
// scheme.
func BlockSize(packLen int) int {
	size := MinBlock
	for packLen > size*MaxBlocks {
		size *= 2
	}
	return size
}

// newGeometry is NewGeometry for any block size: the rest of the package
// does not depend on it, so tests can go through everything with tiny blocks.
func newGeometry(packLen, blockSize int, s Scheme) Geometry {
	if err := s.Valid(); err != nil {
		panic("erasure: " + err.Error())
	}
	g := Geometry{Len: packLen, BlockSize: blockSize, M: s.M}
	g.Blocks = ceil(packLen, blockSize)
	g.Rows = ceil(g.Blocks, min(s.K, g.Blocks))
	g.K = ceil(g.Blocks, g.Rows)
	return g
}

func ceil(a, b int) int { return (a + b - 1) / b }

// N is the number of shards.
func (g Geometry) N() int { return g.K + g.M }

// BlockLen is the true length of a data block in bytes.
func (g Geometry) BlockLen(block int) int {
	return min(g.BlockSize, g.Len-block*g.BlockSize)
}

// Block is the index of the data block at (shard, row), shard < K, or -1
// where the last data shard has none: coding takes that for zeros.
func (g Geometry) Block(shard, row int) int {
	if b := shard*g.Rows + row; b < g.Blocks {
		return b
	}
	return -1
}

// Place is where a data block is; the inverse of Block.
func (g Geometry) Place(block int) (shard, row int) {
	return block / g.Rows, block % g.Rows
}

// RowLen is the length in bytes of the parity blocks of a row: that of its
// longest data block, which is the first.
func (g Geometry) RowLen(row int) int { return g.BlockLen(row) }

// ShardRows is how many blocks a shard has: Rows, but for the last data
// shard.
func (g Geometry) ShardRows(shard int) int {
	if shard >= g.K {
		return g.Rows
	}
	return min(g.Rows, g.Blocks-shard*g.Rows)
}

// CellLen is the true length in bytes of the block at (shard, row), data or
// parity; 0 where there is none.
func (g Geometry) CellLen(shard, row int) int {
	if shard >= g.K {
		return g.RowLen(row)
	}
	if b := g.Block(shard, row); b >= 0 {
		return g.BlockLen(b)
	}
	return 0
}

// ShardLen is the length of a shard in bytes.
func (g Geometry) ShardLen(shard int) int {
	rows := g.ShardRows(shard)
	return (rows-1)*g.BlockSize + g.CellLen(shard, rows-1)
}

// ParityLen is the length in bytes of all parity: shard after shard, and row
// after row within a shard.
func (g Geometry) ParityLen() int {
	if g.M == 0 {
		return 0
	}
	return g.M * g.ShardLen(g.K)
}

// ParityOff is the offset of the block at (shard, row), shard >= K, within
// the parity.
func (g Geometry) ParityOff(shard, row int) int {
	return (shard-g.K)*g.ShardLen(g.K) + row*g.BlockSize
}

// Cell is the block at (shard, row), a view of data or parity; nil where
// there is none. With K = 1 it is always one of data, and parity may be nil.
func (g Geometry) Cell(data, parity []byte, shard, row int) []byte {
	n := g.CellLen(shard, row)
	if n == 0 {
		return nil
	}
	if g.K == 1 {
		shard = 0
	}
	if shard >= g.K {
		off := g.ParityOff(shard, row)
		return parity[off : off+n]
	}
	off := g.Block(shard, row) * g.BlockSize
	return data[off : off+n]
}
