package erasure

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

// random gives n bytes that depend on seed only.
func random(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never an error
	return b
}

// coded is a pack with its parity.
type coded struct {
	Geometry

	data, parity []byte
}

func code(t testing.TB, g Geometry) *coded {
	t.Helper()
	c := &coded{g, random(uint64(g.Len), g.Len), make([]byte, g.ParityLen())}
	if err := Encode(g, c.data, c.parity); err != nil {
		t.Fatal(err)
	}
	return c
}

// row gives all blocks of a row.
func (c *coded) row(row int) [][]byte {
	cells := make([][]byte, c.N())
	for i := range cells {
		cells[i] = c.Cell(c.data, c.parity, i, row)
	}
	return cells
}

// checkLoss loses the block of the shards of a set in one row and restores
// them in place. Cells has room for the row, room for all its blocks.
func (c *coded) checkLoss(t testing.TB, row int, want [][]byte, lost uint32, cells [][]byte, room []byte) {
	for i := range cells {
		cells[i] = want[i]
		if lost>>i&1 != 0 {
			size := c.CellLen(i, row)
			cells[i] = room[i*c.BlockSize:][:0:size]
			clear(cells[i][:size])
		}
	}
	if err := RestoreRow(c.Geometry, row, cells, nil); err != nil {
		t.Fatalf("%+v, row %d, shards %b lost: %v", c.Geometry, row, lost, err)
	}
	for i := range cells {
		if !bytes.Equal(cells[i], want[i]) {
			t.Fatalf("%+v, row %d, shards %b lost: shard %d has other bytes", c.Geometry, row, lost, i)
		}
	}
}

// checkLosses goes through every set of lost shards of which atLeast to M are
// lost, in each of the rows, and counts the sets.
func checkLosses(t testing.TB, g Geometry, atLeast int, rows ...int) (sets int) {
	c := code(t, g)
	cells, room := make([][]byte, g.N()), make([]byte, g.N()*g.BlockSize)
	for _, row := range rows {
		sets = 0
		want := c.row(row)
		for lost := range uint32(1) << g.N() {
			if n := bits.OnesCount32(lost); n >= atLeast && n <= g.M {
				c.checkLoss(t, row, want, lost, cells, room)
				sets++
			}
		}
	}
	return sets
}

// allRows lists the rows of g.
func allRows(g Geometry) []int {
	rows := make([]int, g.Rows)
	for i := range rows {
		rows[i] = i
	}
	return rows
}

// Every set of 0 to m lost shards of every scheme of at most 10 shards, on
// packs of all shapes that a row can have: as many blocks as data shards or
// more, the last shard with all its blocks or fewer, the last block full or
// short.
func TestRestoreFromAnyKShards(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 10; n++ {
		for k := 1; k <= n; k++ {
			s := Scheme{k, n - k}
			for _, blocks := range []int{k, 2*k - 1, 2 * k, 3*k - 1} {
				for _, short := range []int{0, 1, 15} {
					g := newGeometry(blocks*16-short, 16, s)
					checkLosses(t, g, 0, allRows(g)...)
				}
			}
		}
	}
}

func TestParityShardsDoNotDependOnM(t *testing.T) {
	t.Parallel()
	for k := 1; k <= 8; k++ {
		all := code(t, newGeometry(100, 2, Scheme{k, 10 - k}))
		for m := 1; m < 10-k; m++ {
			fewer := code(t, newGeometry(100, 2, Scheme{k, m}))
			if !bytes.Equal(fewer.parity, all.parity[:len(fewer.parity)]) {
				t.Errorf("%d+%d has other parity shards than %d+%d", k, m, k, 10-k)
			}
		}
	}
}

// The sizes of real packs and the schemes in use, any loss.
func TestRestoreRealPacks(t *testing.T) {
	t.Parallel()
	schemes := []Scheme{{1, 0}, {1, 2}, {2, 3}, {4, 2}, {4, 6}, {4, 16}, {8, 12}, {10, 20}, {29, 51}, {128, 128}, {3, 253}}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(schemes).Draw(t, "scheme")
		packLen := rapid.OneOf(
			rapid.IntRange(1, 3*MinBlock),
			rapid.IntRange(1, 1<<20),
			rapid.SampledFrom([]int{1, MinBlock, MinBlock + 1, 128 * MinBlock, 128*MinBlock + 1}),
		).Draw(t, "len")
		g := NewGeometry(packLen, s)
		c := &coded{g, random(1, packLen), make([]byte, g.ParityLen())}
		if err := Encode(g, c.data, c.parity); err != nil {
			t.Fatal(err)
		}
		row := rapid.IntRange(0, g.Rows-1).Draw(t, "row")
		shards := make([]int, g.N())
		for i := range shards {
			shards[i] = i
		}
		lost := rapid.Permutation(shards).Draw(t, "lost")[:rapid.IntRange(0, g.M).Draw(t, "losses")]
		want := c.row(row)
		cells, wanted := slices.Clone(want), make([]bool, g.N())
		for _, i := range lost {
			cells[i] = nil
			wanted[i] = rapid.Bool().Draw(t, "wanted")
		}
		if err := RestoreRow(g, row, cells, wanted); err != nil {
			t.Fatal(err)
		}
		for i := range cells {
			if slices.Contains(lost, i) && !wanted[i] {
				if cells[i] != nil {
					t.Fatalf("shard %d was not wanted", i)
				}
			} else if !bytes.Equal(cells[i], want[i]) {
				t.Fatalf("shard %d has other bytes", i)
			}
		}
	})
}

func TestTooFewShards(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name       string
		g          Geometry
		row        int
		lost       []int
		have, need int // 0: it restores
	}{
		{"one too many lost", newGeometry(16*8, 16, Scheme{4, 2}), 1, []int{0, 4, 5}, 3, 4},
		{"all lost", newGeometry(16*8, 16, Scheme{4, 2}), 1, []int{0, 1, 2, 3, 4, 5}, 0, 4},
		{"the block that is not there counts", newGeometry(16*7, 16, Scheme{4, 2}), 1, []int{0, 4}, 0, 0},
		{"and can be all that is left with K-1", newGeometry(16*7, 16, Scheme{4, 2}), 1, []int{0, 1, 2}, 3, 4},
		{"copies", newGeometry(16*3, 16, Scheme{1, 2}), 0, []int{0, 2}, 0, 0},
		{"no copy", newGeometry(16*3, 16, Scheme{1, 2}), 0, []int{0, 1, 2}, 0, 1},
		{"no parity", newGeometry(16*3, 16, Scheme{3, 0}), 0, []int{1}, 2, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cells := code(t, tt.g).row(tt.row)
			for _, i := range tt.lost {
				cells[i] = nil
			}
			err := RestoreRow(tt.g, tt.row, cells, nil)
			if tt.need == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var short *ShortError
			if !errors.As(err, &short) || short.Have != tt.have || short.Need != tt.need {
				t.Errorf("got %v, want %d of %d", err, tt.have, tt.need)
			}
			for _, i := range tt.lost {
				if cells[i] != nil {
					t.Errorf("shard %d was filled", i)
				}
			}
		})
	}
	if cells := make([][]byte, 6); RestoreRow(newGeometry(128, 16, Scheme{4, 2}), 0, cells, make([]bool, 6)) != nil {
		t.Error("nothing wanted of a lost row: got an error")
	}
}

func TestBadLengthsAreRefused(t *testing.T) {
	t.Parallel()
	g := newGeometry(16*7-3, 16, Scheme{4, 2})
	c := code(t, g)
	for name, err := range map[string]error{
		"short data":    Encode(g, c.data[1:], c.parity),
		"short parity":  Encode(g, c.data, c.parity[1:]),
		"no parity":     Encode(g, c.data, nil),
		"no such row":   RestoreRow(g, 2, c.row(0), nil),
		"row -1":        RestoreRow(g, -1, c.row(0), nil),
		"few cells":     RestoreRow(g, 0, c.row(0)[1:], nil),
		"few wanted":    RestoreRow(g, 0, c.row(0), make([]bool, 5)),
		"a long block":  RestoreRow(g, 0, append(c.row(0)[:5:5], make([]byte, 17)), nil),
		"a short block": RestoreRow(g, 0, append(c.row(0)[:5:5], make([]byte, 15)), nil),
		"a full block where the pack's last is short": RestoreRow(g, 0, slices.Insert(c.row(0)[:5:5], 3, make([]byte, 16)), nil),
	} {
		if err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// The bytes behind a missing block's own belong to somebody else.
func TestRestoreWritesWithinTheBlock(t *testing.T) {
	t.Parallel()
	for _, s := range []Scheme{{4, 2}, {1, 1}} {
		g := newGeometry(16*8-3, 16, s)
		c := code(t, g)
		for row := range g.Rows {
			for i := range g.N() {
				cells := c.row(row)
				want := cells[i]
				room := bytes.Repeat([]byte{0xee}, 64)
				cells[i] = room[:0]
				if err := RestoreRow(g, row, cells, nil); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(cells[i], want) || &cells[i][0] != &room[0] {
					t.Errorf("%v: shard %d row %d: not restored in place", s, i, row)
				}
				for _, b := range room[len(want):] {
					if b != 0xee {
						t.Fatalf("%v: shard %d row %d: written behind the block", s, i, row)
					}
				}
			}
		}
	}
}

func TestCopiesNeedNoParity(t *testing.T) {
	t.Parallel()
	g := newGeometry(100, 16, Scheme{1, 2})
	c := code(t, g)
	if !bytes.Equal(c.parity, slices.Concat(c.data, c.data)) {
		t.Error("parity is not two copies")
	}
	if err := Encode(g, c.data, nil); err != nil {
		t.Error(err)
	}
	for i := range g.N() {
		for row := range g.Rows {
			if got := g.Cell(c.data, nil, i, row); !bytes.Equal(got, c.data[row*16:min(100, row*16+16)]) {
				t.Errorf("shard %d row %d has other bytes", i, row)
			}
		}
	}
	if err := Encode(newGeometry(100, 16, Scheme{2, 0}), c.data, nil); err != nil {
		t.Errorf("no parity shards: %v", err)
	}
}

// A coder that makes other bytes would leave all that is stored with parity
// nobody can use.
func TestParityIsPinned(t *testing.T) {
	t.Parallel()
	var got []byte
	for _, s := range []Scheme{{1, 2}, {2, 3}, {2, 18}, {4, 2}, {4, 6}, {4, 16}, {8, 12}, {10, 20}, {128, 128}} {
		// Two rows, and a last shard that lacks a block and has a short one
		// where it can.
		g := newGeometry(max(1, 2*s.K-1)*4-1, 4, s)
		c := code(t, g)
		got = fmt.Appendf(got, "%v %x %x\n", s, c.data, c.parity[:min(len(c.parity), 20*4*2)])
	}
	golden(t, "parity1.hex", got)
}

func TestConcurrentUseOfManySchemes(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for k := 2; k < 60; k++ { // with every m more than maxCoders
				g := newGeometry(k*16+5, 16, Scheme{k, 2 + w})
				c := code(t, g)
				cells := c.row(0)
				want := cells[0]
				cells[0] = nil
				if err := RestoreRow(g, 0, cells, nil); err != nil || !bytes.Equal(cells[0], want) {
					t.Errorf("%+v: other bytes, %v", g, err)
				}
			}
		})
	}
	wg.Wait()
	coders.Lock()
	defer coders.Unlock()
	if len(coders.kept) > maxCoders {
		t.Errorf("%d coders are kept, want at most %d", len(coders.kept), maxCoders)
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, s := range []Scheme{{4, 2}, {4, 6}, {8, 12}, {10, 20}} {
		for _, packLen := range []int{MaxLen, 1 << 20, 64 << 10} {
			b.Run(fmt.Sprintf("%v/%dK", s, packLen>>10), func(b *testing.B) {
				g := NewGeometry(packLen, s)
				data, parity := random(1, g.Len), make([]byte, g.ParityLen())
				b.SetBytes(int64(g.Len))
				b.ReportAllocs()
				for b.Loop() {
					if err := Encode(g, data, parity); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkRestore restores all rows of a full pack whose first min(k, m)
// shards are lost, data shards only as a reader does.
func BenchmarkRestore(b *testing.B) {
	for _, s := range []Scheme{{4, 2}, {4, 6}, {8, 12}, {10, 20}} {
		b.Run(s.String(), func(b *testing.B) {
			g := NewGeometry(MaxLen, s)
			c := code(b, g)
			out := make([]byte, g.Len)
			want := make([]bool, g.N())
			cells := make([][]byte, g.N())
			b.SetBytes(int64(g.Len))
			b.ReportAllocs()
			for b.Loop() {
				for row := range g.Rows {
					for i := range cells {
						cells[i] = c.Cell(c.data, c.parity, i, row)
						if i < min(g.K, g.M) && len(cells[i]) > 0 {
							want[i] = true
							off := g.Block(i, row) * g.BlockSize
							cells[i] = out[off : off : off+len(cells[i])]
						}
					}
					if err := RestoreRow(g, row, cells, want); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
