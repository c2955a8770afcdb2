package chunk

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"go/build"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/jc"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/internal/digest"
)

// random gives n bytes that depend on seed only.
func random(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // never an error
	return b
}

// split gives all chunks of what r gives, copied.
func split(t testing.TB, s *Splitter) [][]byte {
	t.Helper()
	var all [][]byte
	for {
		b, err := s.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, bytes.Clone(b))
	}
	if b, err := s.Next(); err != io.EOF || len(b) != 0 {
		t.Errorf("after the end: got %d bytes, %v, want io.EOF", len(b), err)
	}
	return all
}

// pieces reads at most the next of sizes at a time, over and over.
type pieces struct {
	r     io.Reader
	sizes []int
	next  int
}

func (p *pieces) Read(b []byte) (int, error) {
	n := p.sizes[p.next%len(p.sizes)]
	p.next++
	return p.r.Read(b[:min(n, len(b))])
}

func TestChunksJoinToTheStreamHoweverItComes(t *testing.T) {
	t.Parallel()
	whole := random(1, 5<<20)
	s := NewSplitter(nil)
	rapid.Check(t, func(t *rapid.T) {
		// Lengths around the bounds, and any.
		n := rapid.OneOf(
			rapid.SampledFrom([]int{0, 1, MinSize - 1, MinSize, MinSize + 1, AvgSize, MaxSize, MaxSize + 1}),
			rapid.IntRange(0, len(whole)),
		).Draw(t, "n")
		data := whole[len(whole)-n:]
		sizes := rapid.SliceOfN(rapid.IntRange(1, 3<<20), 1, 5).Draw(t, "sizes")

		collect := func(r io.Reader) (out [][]byte) {
			s.Reset(r)
			for {
				b, err := s.Next()
				if err == io.EOF {
					return out
				}
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, bytes.Clone(b))
			}
		}
		chunks := collect(bytes.NewReader(data))
		if !bytes.Equal(slices.Concat(chunks...), data) {
			t.Fatal("the chunks do not join to the stream")
		}
		for i, c := range chunks {
			if len(c) > MaxSize || len(c) == 0 || len(c) < MinSize && i < len(chunks)-1 {
				t.Fatalf("chunk %d of %d has %d bytes", i, len(chunks), len(c))
			}
		}
		if !slices.EqualFunc(collect(&pieces{r: bytes.NewReader(data), sizes: sizes}), chunks, bytes.Equal) {
			t.Fatal("the cuts depend on the sizes of the reads")
		}
	})
}

func TestCutsDoNotDependOnTheReader(t *testing.T) {
	t.Parallel()
	data := random(2, 5<<20)
	want := split(t, NewSplitter(bytes.NewReader(data)))
	for name, r := range map[string]io.Reader{
		"one byte":        iotest.OneByteReader(bytes.NewReader(data)),
		"half":            iotest.HalfReader(bytes.NewReader(data)),
		"data with error": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		if got := split(t, NewSplitter(r)); !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%s: other cuts", name)
		}
	}
}

func TestAnEditMovesOnlyTheCutsNearIt(t *testing.T) {
	t.Parallel()
	const n = 16 << 20
	data := random(3, n)
	known := map[digest.Sum]bool{}
	before := split(t, NewSplitter(bytes.NewReader(data)))
	for _, c := range before {
		known[digest.Of(c)] = true
	}
	for name, edited := range map[string][]byte{
		"a byte inserted at the start":  slices.Concat([]byte{1}, data),
		"bytes inserted in the middle":  slices.Concat(data[:n/2], []byte("inserted"), data[n/2:]),
		"bytes deleted from the middle": slices.Concat(data[:n/2], data[n/2+1000:]),
		"bytes appended":                slices.Concat(data, []byte("appended")),
	} {
		fresh := 0
		for _, c := range split(t, NewSplitter(bytes.NewReader(edited))) {
			if !known[digest.Of(c)] {
				fresh++
			}
		}
		if fresh == 0 || fresh > 4 {
			t.Errorf("%s: %d of %d chunks are new, want 1 to 4", name, fresh, len(before))
		}
	}
}

func TestAnErrorOfTheReaderPasses(t *testing.T) {
	t.Parallel()
	want := errors.New("disk on fire")
	for _, n := range []int{0, 1, MinSize, 5 << 20} {
		s := NewSplitter(io.MultiReader(bytes.NewReader(random(4, n)), iotest.ErrReader(want)))
		var err error
		for err == nil {
			_, err = s.Next()
		}
		if !errors.Is(err, want) {
			t.Errorf("error after %d bytes: got %v, want %v", n, err, want)
		}
		if _, err = s.Next(); !errors.Is(err, want) {
			t.Errorf("asked again after %d bytes: got %v, want %v", n, err, want)
		}
	}
}

func TestSplitterMemoryIsBounded(t *testing.T) {
	data := random(5, 8<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s := NewSplitter(bytes.NewReader(data))
	for range 8 {
		for {
			if _, err := s.Next(); err != nil {
				break
			}
		}
		s.Reset(bytes.NewReader(data))
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 9<<20 {
		t.Errorf("64 MiB were cut with %d bytes allocated, want at most 9 MiB", got)
	}
}

// Cuts that move would make all that is stored useless for deduplication.
func TestCutsArePinned(t *testing.T) {
	t.Parallel()
	var got []byte
	for _, c := range split(t, NewSplitter(bytes.NewReader(random(6, 24<<20)))) {
		got = fmt.Appendf(got, "%06x\n", len(c))
	}
	golden(t, "cuts.hex", got)
}

// sources gives a tar of Go's own sources, real text of real files.
func sources(b *testing.B) []byte {
	b.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	root := os.DirFS(filepath.Join(build.Default.GOROOT, "src"))
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err != nil {
		b.Skipf("no Go sources: %v", err)
	}
	return buf.Bytes()
}

// edit makes n random insertions, deletions or overwritings of up to 3,000
// bytes.
func edit(data []byte, n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	for range n {
		at := r.IntN(len(data))
		piece := random(r.Uint64(), 1+r.IntN(3000))
		end := min(at+len(piece), len(data))
		switch r.IntN(3) {
		case 0:
			data = slices.Concat(data[:at], piece, data[at:])
		case 1:
			data = slices.Concat(data[:at], data[end:])
		case 2:
			data = slices.Concat(data[:at], piece[:end-at], data[end:])
		}
	}
	return data
}

// BenchmarkSplit compares the library's algorithms: their speed, the mean
// chunk, and how much of an edited stream is new to one who has the original.
func BenchmarkSplit(b *testing.B) {
	data := sources(b)
	for _, alg := range []string{algorithm, "jc-v1.0.0", "jc-v1.1.0"} {
		cut := func(data []byte) (sums map[digest.Sum]int, n int) {
			c, err := chunkers.NewChunker(alg, bytes.NewReader(data), &chunkers.ChunkerOpts{
				MinSize: MinSize, NormalSize: AvgSize, MaxSize: MaxSize,
			})
			if err != nil {
				b.Fatal(err)
			}
			sums = map[digest.Sum]int{}
			for err == nil {
				var chunk []byte
				if chunk, err = c.Next(); len(chunk) > 0 {
					sums[digest.Of(chunk)] = len(chunk)
					n++
				}
			}
			return sums, n
		}
		b.Run(alg, func(b *testing.B) {
			known, n := cut(data)
			again := map[int]float64{}
			for _, edits := range []int{5, 20} {
				const rounds = 5
				for seed := range uint64(rounds) {
					edited := edit(data, edits, seed)
					fresh, _ := cut(edited)
					for sum, size := range fresh {
						if known[sum] == 0 {
							again[edits] += 100 * float64(size) / float64(len(edited)) / rounds
						}
					}
				}
			}
			c, err := chunkers.NewChunker(alg, nil, &chunkers.ChunkerOpts{
				MinSize: MinSize, NormalSize: AvgSize, MaxSize: MaxSize,
			})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				c.Reset(bytes.NewReader(data))
				for err := error(nil); err == nil; _, err = c.Next() {
				}
			}
			b.ReportMetric(float64(len(data)/n>>10), "KiB/chunk")
			b.ReportMetric(again[5], "%again/5")
			b.ReportMetric(again[20], "%again/20")
		})
	}
}
