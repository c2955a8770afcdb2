package digest

import (
	"bytes"
	"encoding/hex"
	"strconv"
	"sync"
	"testing"
)

// vector is the input of BLAKE3's own test vectors: bytes counting to 250.
func vector(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i % 251)
	}
	return b
}

// From test_vectors.json of github.com/BLAKE3-team/BLAKE3.
func TestBLAKE3Vectors(t *testing.T) {
	t.Parallel()
	key := [32]byte([]byte("whats the Elvish word for friend"))
	const context = "BLAKE3 2019-12-27 16:29:52 test vectors context"
	for _, tt := range []struct {
		name               string
		n                  int
		hash, keyed, drive string
	}{
		{
			name:  "empty",
			n:     0,
			hash:  "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
			keyed: "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
			drive: "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
		},
		{
			name:  "one byte",
			n:     1,
			hash:  "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
			keyed: "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b",
			drive: "b3e2e340a117a499c6cf2398a19ee0d29cca2bb7404c73063382693bf66cb06c",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := vector(tt.n)
			for _, c := range []struct {
				name string
				got  Sum
				want string
			}{
				{"Of", Of(in), tt.hash},
				{"Of parts", Of(nil, in, nil), tt.hash},
				{"Keyed", Keyed(&key, in), tt.keyed},
				{"Derive", Derive(context, in), tt.drive},
				{"Derive again", Derive(context, nil, in), tt.drive},
			} {
				if got := hex.EncodeToString(c.got[:]); got != c.want {
					t.Errorf("%s: got %s, want %s", c.name, got, c.want)
				}
			}
		})
	}
}

func TestPartsAreConcatenated(t *testing.T) {
	t.Parallel()
	key := [32]byte{1}
	for _, n := range []int{0, 1, 63, 64, 65, 1023, 1024, 1025, 8191, 8192, 8193, 100_000} {
		in := vector(n)
		for _, at := range []int{0, 1, n / 2, n - 1, n} {
			if at < 0 || at > n {
				continue
			}
			a, b := in[:at], in[at:]
			if Of(in) != Of(a, b) || Keyed(&key, in) != Keyed(&key, a, b) || Derive("test", in) != Derive("test", a, b) {
				t.Errorf("%d bytes cut at %d: another digest", n, at)
			}
		}
	}
}

func TestModesAndContextsDiffer(t *testing.T) {
	t.Parallel()
	in := []byte("in")
	seen := map[Sum]string{}
	for _, c := range []struct {
		name string
		sum  Sum
	}{
		{"Of", Of(in)},
		{"Keyed", Keyed(new([32]byte), in)},
		{"Keyed, other key", Keyed(&[32]byte{1}, in)},
		{"Derive", Derive("a", in)},
		{"Derive, other context", Derive("b", in)},
	} {
		if other, ok := seen[c.sum]; ok {
			t.Errorf("%s gives what %s gives", c.name, other)
		}
		seen[c.sum] = c.name
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	in := vector(10_000)
	of, derived := Of(in), Derive("concurrent", in)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				if Of(in[:1], in[1:]) != of || Derive("concurrent", in) != derived {
					t.Error("another digest")
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkOf(b *testing.B) {
	for _, n := range []int{64, 4 << 10, 256 << 10} {
		in := bytes.Repeat([]byte{7}, n)
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				Of(in)
			}
		})
	}
	b.Run("two parts", func(b *testing.B) {
		in := make([]byte, 256<<10)
		b.SetBytes(256 << 10)
		b.ReportAllocs()
		for b.Loop() {
			Of(in[:1], in[1:])
		}
	})
}

func BenchmarkDerive(b *testing.B) {
	b.ReportAllocs()
	in := make([]byte, 64)
	for b.Loop() {
		Derive("bench", in)
	}
}

func BenchmarkKeyed(b *testing.B) {
	b.ReportAllocs()
	in, key := make([]byte, 64), [32]byte{1}
	for b.Loop() {
		Keyed(&key, in)
	}
}
