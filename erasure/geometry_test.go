package erasure

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGeometry(t *testing.T) {
	t.Parallel()
	const K = 1 << 10
	for _, tt := range []struct {
		name    string
		packLen int
		s       Scheme
		want    Geometry
	}{
		{"full pack", MaxLen, Scheme{8, 12}, Geometry{Len: MaxLen, BlockSize: 256 * K, Blocks: 128, K: 8, M: 12, Rows: 16}},
		{"full pack, k that does not divide", MaxLen, Scheme{29, 51}, Geometry{Len: MaxLen, BlockSize: 256 * K, Blocks: 128, K: 26, M: 51, Rows: 5}},
		{"one byte", 1, Scheme{8, 12}, Geometry{Len: 1, BlockSize: 4 * K, Blocks: 1, K: 1, M: 12, Rows: 1}},
		{"one block", 4 * K, Scheme{8, 12}, Geometry{Len: 4 * K, BlockSize: 4 * K, Blocks: 1, K: 1, M: 12, Rows: 1}},
		{"two blocks", 4*K + 1, Scheme{8, 12}, Geometry{Len: 4*K + 1, BlockSize: 4 * K, Blocks: 2, K: 2, M: 12, Rows: 1}},
		{"no shard is empty", 9 * 4 * K, Scheme{8, 12}, Geometry{Len: 36 * K, BlockSize: 4 * K, Blocks: 9, K: 5, M: 12, Rows: 2}},
		{"128 small blocks", 512 * K, Scheme{4, 2}, Geometry{Len: 512 * K, BlockSize: 4 * K, Blocks: 128, K: 4, M: 2, Rows: 32}},
		{"larger blocks", 512*K + 1, Scheme{4, 2}, Geometry{Len: 512*K + 1, BlockSize: 8 * K, Blocks: 65, K: 4, M: 2, Rows: 17}},
		{"copies", 100 * K, Scheme{1, 2}, Geometry{Len: 100 * K, BlockSize: 4 * K, Blocks: 25, K: 1, M: 2, Rows: 25}},
		{"k above the blocks", 100 * K, Scheme{200, 56}, Geometry{Len: 100 * K, BlockSize: 4 * K, Blocks: 25, K: 25, M: 56, Rows: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := NewGeometry(tt.packLen, tt.s)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			checkGeometry(t, got, tt.s)
		})
	}
}

// Every number of blocks under every k, each with a short last block.
func TestGeometryHoldsTogether(t *testing.T) {
	t.Parallel()
	for blocks := 1; blocks <= MaxBlocks; blocks++ {
		for k := 1; k <= MaxBlocks+1; k++ {
			checkGeometry(t, newGeometry(3*blocks-1, 3, Scheme{k, 3}), Scheme{k, 3})
		}
	}
}

// checkGeometry checks all that a geometry promises.
func checkGeometry(t *testing.T, g Geometry, s Scheme) {
	t.Helper()
	if g.K < 1 || g.K > s.K || g.M != s.M || g.N() > MaxShards || g.Blocks < 1 || g.Blocks > MaxBlocks {
		t.Fatalf("%v: %+v is out of bounds", s, g)
	}
	seen, total, next := 0, 0, 0
	for shard := range g.K {
		length := 0
		for row := range g.Rows {
			b, size := g.Block(shard, row), g.CellLen(shard, row)
			length += size
			if b < 0 {
				if shard != g.K-1 || row < g.ShardRows(shard) || size != 0 {
					t.Fatalf("%+v: shard %d has no block in row %d", g, shard, row)
				}
				continue
			}
			if b != next || size != g.BlockLen(b) || size < 1 || size > g.RowLen(row) || row >= g.ShardRows(shard) {
				t.Fatalf("%+v: block %d of %d bytes at %d/%d, row length %d", g, b, size, shard, row, g.RowLen(row))
			}
			if s, r := g.Place(b); s != shard || r != row {
				t.Fatalf("%+v: block %d is at %d/%d, Place says %d/%d", g, b, shard, row, s, r)
			}
			next++
			seen++
		}
		if length == 0 || length != g.ShardLen(shard) {
			t.Fatalf("%+v: shard %d has %d bytes, ShardLen says %d", g, shard, length, g.ShardLen(shard))
		}
		total += length
	}
	if seen != g.Blocks || total != g.Len {
		t.Fatalf("%+v: the shards have %d blocks, %d bytes", g, seen, total)
	}
	off := 0
	for shard := g.K; shard < g.N(); shard++ {
		if g.ShardRows(shard) != g.Rows {
			t.Fatalf("%+v: shard %d has %d rows", g, shard, g.ShardRows(shard))
		}
		start := off
		for row := range g.Rows {
			if got := g.ParityOff(shard, row); got != off {
				t.Fatalf("%+v: parity of %d/%d at %d, want %d", g, shard, row, got, off)
			}
			off += g.CellLen(shard, row)
		}
		if got := g.ShardLen(shard); got != off-start {
			t.Fatalf("%+v: ShardLen of %d is %d, want %d", g, shard, got, off-start)
		}
	}
	if off != g.ParityLen() {
		t.Fatalf("%+v: ParityLen is %d, want %d", g, g.ParityLen(), off)
	}
}

func TestNewGeometryRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		packLen int
		s       Scheme
	}{
		{0, Scheme{1, 0}}, {-1, Scheme{1, 0}}, {MaxLen + 1, Scheme{1, 0}}, {1, Scheme{0, 1}}, {1, Scheme{200, 57}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d bytes under %v: no panic", tt.packLen, tt.s)
				}
			}()
			NewGeometry(tt.packLen, tt.s)
		}()
	}
}

func TestParseScheme(t *testing.T) {
	t.Parallel()
	for _, s := range []Scheme{{1, 0}, {1, 2}, {8, 12}, {128, 128}, {256, 0}} {
		got, err := ParseScheme(s.String())
		if err != nil || got != s {
			t.Errorf("%v: got %v, %v", s, got, err)
		}
	}
	for _, bad := range []string{
		"", "+", "8", "8+", "+12", "8+12+1", "08+12", "8+012", " 8+12", "8 + 12", "8+12\n", "+8+12", "8+-1", "-1+8", "0+3", "8++1",
		"200+57", "257+0", "9223372036854775807+9223372036854775807", "99999999999999999999+1", "8/20", "a+b", "٨+1",
	} {
		if got, err := ParseScheme(bad); !errors.Is(err, ErrScheme) {
			t.Errorf("%q: got %v, %v, want %v", bad, got, err, ErrScheme)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: the error has more than a line: %q", bad, err)
		}
	}
}

// FuzzGeometry checks any geometry, and codes with it where that is quick.
func FuzzGeometry(f *testing.F) {
	f.Add(1, 1, 0)
	f.Add(MaxLen, 8, 12)
	f.Add(4096, 4, 2)
	f.Add(100_001, 10, 20)
	f.Fuzz(func(t *testing.T, packLen, k, m int) {
		s := Scheme{k, m}
		if s.Valid() != nil || packLen < 1 || packLen > MaxLen {
			return
		}
		g := NewGeometry(packLen, s)
		checkGeometry(t, g, s)
		if g.BlockSize < MinBlock || g.BlockSize > MaxBlock || g.BlockSize&(g.BlockSize-1) != 0 ||
			g.BlockSize > MinBlock && packLen <= g.BlockSize/2*MaxBlocks {
			t.Fatalf("%+v: bad block size", g)
		}
		if packLen > 100_000 || m == 0 {
			return
		}
		c := code(t, g)
		for row := range g.Rows {
			want := c.row(row)
			cells := make([][]byte, g.N())
			copy(cells[min(m, g.K):], want[min(m, g.K):])
			if err := RestoreRow(g, row, cells, nil); err != nil {
				t.Fatal(err)
			}
			for i := range cells {
				if !bytes.Equal(cells[i], want[i]) {
					t.Fatalf("%+v, row %d: shard %d has other bytes", g, row, i)
				}
			}
		}
	})
}
