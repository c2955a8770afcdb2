//go:build !race

// Nothing here is concurrent, and the race detector makes it 20 times slower.

package erasure

import (
	"fmt"
	"testing"
)

// Every number of blocks from 1 to 128, for every k from 1 to 8, every set of
// m lost shards of n = 10, every row; then again with a short last block, in
// the one row that has it (the others are the same).
//
// That is all of m <= 10-k. A smaller m has the same parity shards, only
// fewer of them (TestParityShardsDoNotDependOnM), and fewer lost leaves more
// than the K blocks needed, of which the first K are used: both are the same
// sum of the same blocks as in a set of this test in which the others are
// lost too. Nor do the bytes of a block depend on each other, so blocks of 2
// bytes say as much as those of 256 KiB.
func TestRestoreWhateverTheNumberOfBlocks(t *testing.T) {
	t.Parallel()
	for k := 1; k <= 8; k++ {
		t.Run(fmt.Sprint("k=", k), func(t *testing.T) {
			t.Parallel()
			for blocks := 1; blocks <= MaxBlocks; blocks++ {
				g := newGeometry(2*blocks, 2, Scheme{k, 10 - k})
				if g.Blocks != blocks || g.K > k || g.M != 10-k {
					t.Fatalf("%d blocks: got %+v", blocks, g)
				}
				if got, want := checkLosses(t, g, g.M, allRows(g)...), binomial(g.N(), g.M); got != want {
					t.Fatalf("%+v: %d sets of lost shards, want %d", g, got, want)
				}
				short := newGeometry(2*blocks-1, 2, Scheme{k, 10 - k})
				_, last := short.Place(blocks - 1)
				checkLosses(t, short, g.M, last)
			}
		})
	}
}

func binomial(n, k int) int {
	b := 1
	for i := 1; i <= k; i++ {
		b = b * (n - k + i) / i
	}
	return b
}
