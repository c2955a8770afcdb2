package chunk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/internal/digest"
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

var secret = Secret(digest.Of([]byte("a convergence secret")))

// text gives n bytes that compress well.
func text(n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "line %d of a text that says little\n", i)
	}
	return b[:n]
}

// sealPayload seals any payload, also one that Seal would not make.
func sealPayload(key *Key, payload []byte) []byte {
	return sealRest(nil, newAEAD(key), 0, payload)
}

var sizes = []int{
	0, 1, 2, 100, probeSize - 1, probeSize, probeSize + 1,
	FrameSize - 2, FrameSize - 1, FrameSize, FrameSize + 1,
	2*FrameSize - 2, 2*FrameSize - 1, 2 * FrameSize, MinSize, AvgSize, MaxSize - 1, MaxSize,
}

func TestOpenGivesWhatWasSealed(t *testing.T) {
	t.Parallel()
	for _, size := range sizes {
		for name, data := range map[string][]byte{"random": random(7, size), "text": text(size)} {
			t.Run(fmt.Sprintf("%s of %d", name, size), func(t *testing.T) {
				sealed, key := Seal([]byte("before"), &secret, data)
				if !bytes.HasPrefix(sealed, []byte("before")) {
					t.Fatal("Seal does not append")
				}
				sealed = sealed[len("before"):]
				raw := len(sealed) == RawLen(size)
				if len(sealed) > MaxSealed(size) {
					t.Errorf("sealed to %d bytes, MaxSealed says %d", len(sealed), MaxSealed(size))
				}
				if want := name == "random" || size < 100; raw != want {
					t.Errorf("stored raw: got %v, want %v", raw, want)
				}
				again, keyAgain := Seal(nil, &secret, data)
				if !bytes.Equal(again, sealed) || keyAgain != key {
					t.Error("sealed again: other bytes or another key")
				}
				got, err := Open([]byte("before"), &key, sealed, size)
				if err != nil {
					t.Fatal(err)
				}
				if want := append([]byte("before"), data...); !bytes.Equal(got, want) {
					t.Error("opened: other bytes")
				}
				for _, wrong := range []int{-1, size - 1, size + 1, size + FrameSize, MaxSize + 1} {
					if b, err := Open(nil, &key, sealed, wrong); !errors.Is(err, ErrCorrupt) {
						t.Errorf("opened as %d bytes: got %d bytes, %v, want %v", wrong, len(b), err, ErrCorrupt)
					}
				}
				other := key
				other[31] ^= 1
				if _, err := Open(nil, &other, sealed, size); !errors.Is(err, ErrCorrupt) {
					t.Errorf("another key: got %v, want %v", err, ErrCorrupt)
				}
			})
		}
	}
}

func TestKeysDifferBySecretAndPayload(t *testing.T) {
	t.Parallel()
	seen := map[Key]string{}
	for _, s := range []Secret{{}, {1}} {
		for _, data := range []string{"", "\x00", "a", "b"} {
			_, key := Seal(nil, &s, []byte(data))
			name := fmt.Sprintf("%x %q", s[:1], data)
			if other, ok := seen[key]; ok {
				t.Errorf("%s has the key of %s", name, other)
			}
			seen[key] = name
		}
	}
}

func TestAnyChangeIsFound(t *testing.T) {
	t.Parallel()
	whole := random(9, 300<<10)
	prose := text(300 << 10)
	rapid.Check(t, func(t *rapid.T) {
		from := whole
		if rapid.Bool().Draw(t, "text") {
			from = prose
		}
		data := from[:rapid.IntRange(0, len(from)).Draw(t, "size")]
		sealed, key := Seal(nil, &secret, data)
		bad := bytes.Clone(sealed)
		switch rapid.SampledFrom([]string{"flip", "cut", "append", "swap", "drop"}).Draw(t, "change") {
		case "flip":
			bad[rapid.IntRange(0, len(bad)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case "cut":
			bad = bad[:rapid.IntRange(0, len(bad)-1).Draw(t, "to")]
		case "append":
			bad = append(bad, rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "more")...)
		case "swap":
			if len(bad) < 2*sealedSize {
				t.Skip("one frame")
			}
			frame := bytes.Clone(bad[:sealedSize])
			copy(bad, bad[sealedSize:2*sealedSize])
			copy(bad[sealedSize:], frame)
		case "drop":
			if len(bad) < sealedSize {
				t.Skip("one frame")
			}
			bad = bad[sealedSize:]
		}
		if _, err := Open(nil, &key, bad, len(data)); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("got %v, want %v", err, ErrCorrupt)
		}
	})
}

func TestEveryFrameIsAuthenticated(t *testing.T) {
	t.Parallel()
	data := random(10, 5*FrameSize+77)
	sealed, key := Seal(nil, &secret, data)
	for at := 0; at < len(sealed); at += sealedSize {
		for _, i := range []int{at, min(at+sealedSize, len(sealed)) - 1} {
			sealed[i] ^= 0x80
			if _, err := Open(nil, &key, sealed, len(data)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("byte %d flipped: got %v, want %v", i, err, ErrCorrupt)
			}
			sealed[i] ^= 0x80
		}
	}
}

// What whoever knows the secret could make, but Seal does not.
func TestOpenRefusesWhatSealDoesNotMake(t *testing.T) {
	t.Parallel()
	key := Key{1}
	frame := func(n int, last bool, payload []byte) []byte {
		return newAEAD(&key).Seal(nil, nonce(n, last), payload, nil)
	}
	full := make([]byte, FrameSize)
	zeros := compress([]byte{flagZstd}, make([]byte, 1000))
	for _, tt := range []struct {
		name   string
		sealed []byte
		size   int
	}{
		{"nothing", nil, 0},
		{"a tag alone", frame(0, true, nil), 0},
		{"an empty last frame", slices.Concat(frame(0, false, full), frame(1, true, nil)), FrameSize - 1},
		{"the last frame not marked", frame(0, false, make([]byte, 11)), 10},
		{"frames marked as last", slices.Concat(frame(0, true, full), frame(1, true, full)), 2*FrameSize - 1},
		{"frames numbered from 1", frame(1, true, make([]byte, 11)), 10},
		{"flag zstd on raw bytes", frame(0, true, append([]byte{flagZstd}, make([]byte, 10)...)), 10},
		{"unknown flag", frame(0, true, append([]byte{2}, make([]byte, 10)...)), 10},
		{"flag raw on few bytes", frame(0, true, make([]byte, 11)), 20},
		{"unknown flag on few bytes", frame(0, true, append([]byte{2}, zeros[1:]...)), 1000},
		{"zstd and no bytes", frame(0, true, []byte{flagZstd}), 10},
		{"zstd cut short", frame(0, true, zeros[:len(zeros)-1]), 1000},
		{"zstd of fewer bytes", frame(0, true, zeros), 1001},
		{"zstd of more bytes", frame(0, true, zeros), 999},
		{"zstd of garbage", frame(0, true, append([]byte{flagZstd}, random(11, 100)...)), 1000},
		{"zstd that saves nothing", frame(0, true, compress([]byte{flagZstd}, []byte("ab"))), 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if b, err := Open(nil, &key, tt.sealed, tt.size); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %d bytes, %v, want %v", len(b), err, ErrCorrupt)
			}
		})
	}
}

func TestABombIsNotDecompressed(t *testing.T) {
	key := Key{1}
	const size = 100_000
	var bomb bytes.Buffer // 256 MiB of zeros, its size not in its header
	w, err := zstd.NewWriter(&bomb, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	for range 256 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, payload := range map[string][]byte{
		"size not told": append([]byte{flagZstd}, bomb.Bytes()...),
		"size told":     compress([]byte{flagZstd}, make([]byte, 2*MaxSize)),
		"many frames":   append([]byte{flagZstd}, bytes.Repeat(compress(nil, make([]byte, size/2)), 3)...),
	} {
		sealed := sealPayload(&key, payload)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Open(nil, &key, sealed, size); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 2*MaxSize {
			t.Errorf("%s: allocated %d bytes", name, got)
		}
	}
}

func TestSpanOpensTheSameBytesAsTheWhole(t *testing.T) {
	t.Parallel()
	whole := random(12, 4*FrameSize+10)
	rapid.Check(t, func(t *rapid.T) {
		// Around the frames' borders, or anywhere.
		near := func(most int) *rapid.Generator[int] {
			return rapid.OneOf(rapid.IntRange(0, most), rapid.Custom(func(t *rapid.T) int {
				n := rapid.IntRange(0, 4).Draw(t, "frame")*FrameSize + rapid.IntRange(-3, 3).Draw(t, "by")
				return min(max(n, 0), most)
			}))
		}
		size := near(len(whole)).Draw(t, "size")
		off := near(size).Draw(t, "off")
		n := near(size-off).Draw(t, "n")
		data := whole[:size]
		sealed, key := Seal(nil, &secret, data)
		if len(sealed) != RawLen(size) {
			t.Fatal("not stored raw")
		}
		at, length := Span(size, off, n)
		span := sealed[at : at+length]
		got, err := OpenSpan([]byte("before"), &key, span, size, off, n)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, append([]byte("before"), data[off:off+n]...)) {
			t.Fatal("other bytes")
		}
		// No more frames than needed.
		if most := (n+2*FrameSize-2)/FrameSize + 1; length > most*sealedSize {
			t.Fatalf("%d sealed bytes for %d", length, n)
		}
		i := rapid.IntRange(0, len(span)-1).Draw(t, "flip")
		span = bytes.Clone(span)
		span[i] ^= 1
		if _, err := OpenSpan(nil, &key, span, size, off, n); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d flipped: got %v, want %v", i, err, ErrCorrupt)
		}
	})
}

func TestOpenSpanRefusesBadRanges(t *testing.T) {
	t.Parallel()
	sealed, key := Seal(nil, &secret, random(13, 1000))
	const big = int(^uint(0) >> 1)
	for _, r := range [][3]int{
		{1000, -1, 1}, {1000, 0, -1}, {1000, 1001, 0}, {1000, 1, 1000}, {1000, big, big}, {1000, 1, big},
		{-1, 0, 0}, {MaxSize + 1, 0, 1}, {999, 0, 1}, {1001, 0, 1},
	} {
		if _, err := OpenSpan(nil, &key, sealed, r[0], r[1], r[2]); !errors.Is(err, ErrCorrupt) {
			t.Errorf("size %d, off %d, n %d: got %v, want %v", r[0], r[1], r[2], err, ErrCorrupt)
		}
	}
}

func TestConcurrentSealAndOpen(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				data := slices.Concat(text(100_000*i), random(uint64(i*10+j), 50_000))
				sealed, key := Seal(nil, &secret, data)
				got, err := Open(nil, &key, sealed, len(data))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("opened other bytes, %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// The bytes of the format. Compressed payloads are pinned for Open only: a
// newer zstd may make other bytes of the same data.
func TestSealedFormatIsPinned(t *testing.T) {
	t.Parallel()
	var got []byte
	for _, v := range []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"byte", []byte{0x61}},
		{"raw", random(14, 100)},
		{"frame", random(15, FrameSize-1)},
		{"frames", random(16, 2*FrameSize)},
	} {
		sealed, key := Seal(nil, &secret, v.data)
		if len(sealed) != RawLen(len(v.data)) {
			t.Fatalf("%s is not stored raw", v.name)
		}
		pinned := hex.EncodeToString(sealed)
		if len(sealed) > 1000 { // their digest says as much
			sum := digest.Of(sealed)
			pinned = "digest:" + hex.EncodeToString(sum[:])
		}
		got = fmt.Appendf(got, "%s %d %x %s\n", v.name, len(v.data), key, pinned)
	}
	golden(t, "raw.hex", got)
}

func TestCompressedFormatIsPinned(t *testing.T) {
	t.Parallel()
	data := text(2000)
	path := filepath.Join("testdata", "zstd.hex")
	if *update {
		sealed, key := Seal(nil, &secret, data)
		if err := os.WriteFile(path, fmt.Appendf(nil, "text %d %x %x\n", len(data), key, sealed), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	line, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(line))
	if len(f) != 4 {
		t.Fatalf("%s has %d fields, want 4", path, len(f))
	}
	size, err := strconv.Atoi(f[1])
	if err != nil {
		t.Fatal(err)
	}
	key, sealed := Key(unhex(t, f[2])), unhex(t, f[3])
	got, err := Open(nil, &key, sealed, size)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, data) {
		t.Error("opened other bytes")
	}
	// The key is that of the payload, whatever compressed it.
	payload, err := openPayload(nil, newAEAD(&key), sealed)
	if err != nil {
		t.Fatal(err)
	}
	if got := deriveKey(&secret, payload); got != key {
		t.Errorf("key: got %x, want %x", got, key)
	}
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// FuzzOpen opens anything: as it is, and, to come past the seal, as a payload
// sealed under the right key, with zeros put behind its flag for more frames
// (the fuzzer is slow with long inputs).
func FuzzOpen(f *testing.F) {
	key := Key{1}
	for _, n := range []int{0, 1, 500} {
		f.Add(append([]byte{flagRaw}, random(17, n)...), n, true, uint(0))
		f.Add(append([]byte{flagRaw}, random(17, n)...), n+2*FrameSize, true, uint(2*FrameSize))
		f.Add(compress([]byte{flagZstd}, text(10*n)), 10*n, true, uint(0))
		f.Add(sealPayload(&key, append([]byte{flagRaw}, random(17, n)...)), n, false, uint(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int, payload bool, zeros uint) {
		sealed := b
		if payload {
			if len(b) == 0 {
				return
			}
			sealed = sealPayload(&key, slices.Concat(b[:1], make([]byte, zeros%(3*FrameSize)), b[1:]))
		}
		got, err := Open(nil, &key, sealed, size)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v, want %v", err, ErrCorrupt)
			}
			return
		}
		if len(got) != size {
			t.Fatalf("got %d bytes, want %d", len(got), size)
		}
		opened, err := openPayload(nil, newAEAD(&key), sealed)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sealPayload(&key, opened), sealed) {
			t.Fatal("sealed again: other bytes")
		}
		if raw := len(sealed) == RawLen(size); raw != (opened[0] == flagRaw) {
			t.Fatalf("flag %d on %d sealed bytes of %d", opened[0], len(sealed), size)
		} else if raw && !bytes.Equal(opened[1:], got) {
			t.Fatal("other bytes than in the payload")
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for name, data := range map[string][]byte{"random": random(18, AvgSize), "text": text(AvgSize)} {
		b.Run(name, func(b *testing.B) {
			buf := make([]byte, 0, MaxSealed(AvgSize))
			b.SetBytes(AvgSize)
			b.ReportAllocs()
			for b.Loop() {
				Seal(buf, &secret, data)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for name, data := range map[string][]byte{"random": random(18, AvgSize), "text": text(AvgSize)} {
		b.Run(name, func(b *testing.B) {
			sealed, key := Seal(nil, &secret, data)
			buf := make([]byte, 0, AvgSize)
			b.SetBytes(AvgSize)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Open(buf, &key, sealed, AvgSize); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenSpan(b *testing.B) {
	sealed, key := Seal(nil, &secret, random(18, AvgSize))
	const off, n = 300_000, 128 << 10
	at, length := Span(AvgSize, off, n)
	buf := make([]byte, 0, n)
	b.SetBytes(n)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenSpan(buf, &key, sealed[at:at+length], AvgSize, off, n); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCompress compares zstd's levels on real text.
func BenchmarkCompress(b *testing.B) {
	data := sources(b)
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault} {
		b.Run(level.String(), func(b *testing.B) {
			enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
				zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(MaxSize), zstd.WithEncoderCRC(false))
			if err != nil {
				b.Fatal(err)
			}
			var out []byte
			at, in, sum := 0, 0, 0
			b.SetBytes(AvgSize)
			for b.Loop() {
				out = enc.EncodeAll(data[at:at+AvgSize], out[:0])
				in, sum = in+AvgSize, sum+len(out)
				if at += AvgSize; at+AvgSize > len(data) {
					at = 0
				}
			}
			b.ReportMetric(float64(in)/float64(sum), "ratio")
		})
	}
}
