package digest

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"lukechampine.com/blake3/bao"
	"pgregory.net/rapid"
)

// noise is n bytes, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// lengths are those at which the tree has another shape.
var lengths = []int{1, 2, 1023, 1024, 1025, 2047, 2048, 2049, 3072, 3073, 4096, 5000, 65_537, 200_001, MaxBlock - 1023, MaxBlock - 1, MaxBlock}

func TestBaoRootIsTheDigest(t *testing.T) {
	t.Parallel()
	for _, n := range lengths {
		in := noise(1, n)
		if _, root := bao.EncodeBuf(in, 0, true); root != Of(in) {
			t.Errorf("%d bytes: two libraries, two digests", n)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		in := noise(rapid.Byte().Draw(t, "seed"), rapid.IntRange(1, MaxBlock).Draw(t, "len"))
		if _, root := bao.EncodeBuf(in, 0, true); root != Of(in) {
			t.Errorf("%d bytes: two libraries, two digests", len(in))
		}
	})
}

func TestEveryChunkIsProven(t *testing.T) {
	t.Parallel()
	for _, n := range lengths {
		block := noise(2, n)
		hash := Of(block)
		step := 1024
		if testing.Short() && n > 5000 {
			step = 1024 * 37
		}
		for at := 0; at < n; at += step {
			end := min(at+1024, n)
			want := Prove(block, at)
			for _, off := range []int{at, end - 1} {
				proof := Prove(block, off)
				if !bytes.Equal(proof, want) || len(proof) > MaxProof {
					t.Errorf("%d bytes at %d: %d bytes of proof, another than for the same chunk at %d", n, off, len(proof), at)
				}
				chunk, err := VerifyProof(hash, n, off, proof)
				if err != nil || !bytes.Equal(chunk, block[at:end]) {
					t.Errorf("%d bytes at %d: got %d bytes, %v", n, off, len(chunk), err)
				}
			}
		}
	}
}

// From tests/test_vectors.json of github.com/oconnor663/bao. Its input counts
// up in words of four bytes, little-endian, from 1.
func TestBaoVectors(t *testing.T) {
	t.Parallel()
	block := make([]byte, 0, 11264)
	for i := uint32(1); len(block) < cap(block); i++ {
		block = binary.LittleEndian.AppendUint32(block, i)
	}
	hash := Of(block)
	if got, want := hex.EncodeToString(hash[:]), "69fa39c8ab837dbb9e419c66a3ab7014ce9f86dba55935936b4c38cfcbc4d5f6"; got != want {
		t.Errorf("hash: got %s, want %s", got, want)
	}
	for _, tt := range []struct {
		off int
		sum string // digest of the slice
	}{
		{0, "62947903d9b957c93f241a7a948141ef6fdd3ae4a55031ea845a622b51a15ad0"},
		{1023, "62947903d9b957c93f241a7a948141ef6fdd3ae4a55031ea845a622b51a15ad0"},
		{1024, "9fa5fc9ac6f34743ab103137310df80cd01bd45fc3afd62ec3dca95054308544"},
		{3071, "4f4643ae5deca65fed6af3ac271f719d8659919d61562605359933f319214192"},
		{4095, "91451c07097f1867384979e6ef9a1f9f826796e3c2bee827003cf9f01c88a5c6"},
		{5119, "6002c6d0e59e1556bc6b8c3ef38e776270b1711c1cfe1e64a6c36d026e6b2283"},
		{7168, "0c360dba230a01b742ee305b4e280322ef74bfba386009b8b564522f09395d90"},
	} {
		proof := Prove(block, tt.off)
		sum := Of(proof)
		if got := hex.EncodeToString(sum[:]); len(proof) != 1288 || got != tt.sum {
			t.Errorf("at %d: got %d bytes, %s, want 1288, %s", tt.off, len(proof), got, tt.sum)
		}
	}
}

func TestNothingElseIsAProof(t *testing.T) {
	t.Parallel()
	block := noise(3, 5000)
	copy(block[2048:3072], block[:1024]) // a chunk that comes twice
	zeros := make([]byte, 5000)
	hash := Of(block)
	proof := Prove(block, 2100)
	with := func(edit func(b []byte) []byte) []byte { return edit(bytes.Clone(proof)) }
	for _, tt := range []struct {
		name   string
		hash   Sum
		n, off int
		proof  []byte
	}{
		{"nothing", hash, 5000, 2100, nil},
		{"the chunk alone", hash, 5000, 2100, block[2048:3072]},
		{"the block", hash, 5000, 2100, block},
		{"one byte missing", hash, 5000, 2100, proof[:len(proof)-1]},
		{"one byte more", hash, 5000, 2100, append(bytes.Clone(proof), 0)},
		{"zeros missing", Of(zeros), 5000, 2100, Prove(zeros, 2100)[:lengthLen+3*pairLen+64]},
		{"zeros missing of one chunk", Of(zeros[:9]), 9, 0, Prove(zeros[:9], 0)[:lengthLen+8]},
		{"another chunk of it", hash, 5000, 2100, Prove(block, 3072)},
		{"the same bytes elsewhere", hash, 5000, 2100, Prove(block, 0)},
		{"another block", hash, 5000, 2100, Prove(noise(4, 5000), 2100)},
		{"a shorter block", hash, 5000, 2100, Prove(block[:4999], 2100)},
		{"another hash", Of(block[:4999]), 5000, 2100, proof},
		{"length of a shorter block", hash, 4999, 2100, proof},
		{"length of a longer block", hash, 5001, 2100, proof},
		{"length of a longest block", hash, MaxBlock, 2100, proof},
		{"header of another length", hash, 5000, 2100, with(func(b []byte) []byte { b[0]++; return b })},
		{"header of an endless length", hash, 5000, 2100, with(func(b []byte) []byte {
			binary.LittleEndian.PutUint64(b, 1<<64-1)
			return b
		})},
		{"children exchanged", hash, 5000, 2100, with(func(b []byte) []byte {
			return slices.Concat(b[:8], b[40:72], b[8:40], b[72:])
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if chunk, err := VerifyProof(tt.hash, tt.n, tt.off, tt.proof); !errors.Is(err, ErrProof) || chunk != nil {
				t.Errorf("got %d bytes, %v, want %v", len(chunk), err, ErrProof)
			}
		})
	}
}

func TestNoPlaceInABlockIsNoProof(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ n, off int }{{0, 0}, {-1, 0}, {10, -1}, {10, 10}, {MaxBlock + 1, 0}, {MaxBlock, MaxBlock}} {
		chunk, err := VerifyProof(Sum{}, tt.n, tt.off, make([]byte, MaxProof))
		if err == nil || errors.Is(err, ErrProof) || chunk != nil {
			t.Errorf("%d bytes at %d: got %d bytes, %v", tt.n, tt.off, len(chunk), err)
		}
	}
}

func TestAnyChangeOfAProofIsSeen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.OneOf(rapid.SampledFrom(lengths), rapid.IntRange(1, MaxBlock)).Draw(t, "len")
		off := rapid.IntRange(0, n-1).Draw(t, "off")
		block := noise(rapid.Byte().Draw(t, "seed"), n)
		hash, proof := Of(block), Prove(block, off)
		at := off / 1024 * 1024
		chunk, err := VerifyProof(hash, n, off, proof)
		if err != nil || !bytes.Equal(chunk, block[at:min(at+1024, n)]) {
			t.Fatalf("got %d bytes, %v", len(chunk), err)
		}
		refused := func(what string, n, off int, proof []byte) {
			if _, err := VerifyProof(hash, n, off, proof); !errors.Is(err, ErrProof) {
				t.Errorf("%s: got %v, want %v", what, err, ErrProof)
			}
		}
		i := rapid.IntRange(0, len(proof)-1).Draw(t, "byte")
		changed := bytes.Clone(proof)
		changed[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		refused("a bit changed", n, off, changed)
		refused("cut off", n, off, proof[:i])
		refused("and more", n, off, append(bytes.Clone(proof), proof[:i+1]...))
		if other := rapid.IntRange(off+1, MaxBlock).Draw(t, "other length"); other != n {
			refused("another length", other, off, proof)
		}
		if other := rapid.IntRange(0, n-1).Draw(t, "other offset"); other/1024 != off/1024 {
			refused("another chunk", n, other, proof)
		}
	})
}

// Not parallel: it counts what all allocate.
func TestNoProofAllocatesMuch(t *testing.T) {
	block := noise(5, MaxBlock)
	hash := Of(block)
	endless := Prove(block, 0)
	binary.LittleEndian.PutUint64(endless, 1<<63)
	for _, tt := range []struct {
		name  string
		n     int
		proof []byte
	}{
		{"good", MaxBlock, Prove(block, 0)},
		{"wrong hashes", MaxBlock, append(Prove(block, 0)[:lengthLen], make([]byte, MaxProof-lengthLen)...)},
		{"endless", MaxBlock, make([]byte, 16<<20)},
		{"endless length", MaxBlock, endless},
	} {
		const runs, most = 100, 8 << 10
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			VerifyProof(hash, tt.n, 0, tt.proof)
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / runs; got > most {
			t.Errorf("%s: got %d bytes allocated, want at most %d", tt.name, got, most)
		}
	}
}

// FuzzVerifyProof checks that of all bytes only the one proof passes, and with
// the block's own length.
func FuzzVerifyProof(f *testing.F) {
	for _, n := range []int{1, 1024, 1025, 5000, 70_000} {
		for _, off := range []int{0, n / 2, n - 1} {
			block := noise(6, n)
			f.Add(block, n, off, Prove(block, off))
		}
	}
	f.Add(make([]byte, 3000), 3000, 2000, Prove(make([]byte, 3000), 2000)[:lengthLen+2*pairLen+64])
	f.Fuzz(func(t *testing.T, block []byte, n, off int, proof []byte) {
		chunk, err := VerifyProof(Of(block), n, off, proof)
		if err != nil {
			if chunk != nil {
				t.Errorf("%d bytes beside %v", len(chunk), err)
			}
		} else if at := off / 1024 * 1024; n != len(block) || !bytes.Equal(proof, Prove(block, off)) || !bytes.Equal(chunk, block[at:min(at+1024, n)]) {
			t.Errorf("%d bytes, as %d at %d: %x was accepted", len(block), n, off, proof)
		}
		// What does pass, in a block of that length.
		if checkPlace(len(block), off) == nil {
			if _, err := VerifyProof(Of(block), len(block), off, Prove(block, off)); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestProveOfNoPlacePanics(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ n, off int }{{0, 0}, {10, -1}, {10, 10}, {MaxBlock + 1, 0}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d bytes at %d: no panic", tt.n, tt.off)
				}
			}()
			Prove(make([]byte, tt.n), tt.off)
		}()
	}
}

func BenchmarkProve(b *testing.B) {
	for _, n := range []int{4 << 10, MaxBlock} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			block := noise(7, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				Prove(block, n/2)
			}
		})
	}
}

func BenchmarkVerifyProof(b *testing.B) {
	for _, n := range []int{4 << 10, MaxBlock} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			block := noise(7, n)
			hash, proof := Of(block), Prove(block, n/2)
			b.ReportMetric(float64(len(proof)), "bytes/proof")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := VerifyProof(hash, n, n/2, proof); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
