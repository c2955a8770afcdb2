//go:build !race

// Under the race detector sync.Pool forgets on purpose.

package chunk

import "testing"

func TestSealInPlaceAllocatesLittle(t *testing.T) {
	data := random(8, AvgSize)
	buf := make([]byte, 0, MaxSealed(AvgSize))
	sealed, key := Seal(buf, &secret, data)
	if &sealed[0] != &buf[:1][0] {
		t.Error("Seal left a buffer that has room")
	}
	plain := make([]byte, 0, AvgSize)
	res := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			Seal(buf, &secret, data)
			if _, err := Open(plain, &key, sealed, AvgSize); err != nil {
				b.Fatal(err)
			}
		}
	})
	if got := res.AllocedBytesPerOp(); got > 16<<10 {
		t.Errorf("Seal and Open of 1 MiB allocate %d bytes, want at most 16 KiB", got)
	}
}
