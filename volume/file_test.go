package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

var testKeys = Seed(sum("a seed")).Keys()

var errMissing = errors.New("no such pack")

// packs is a Sink and a Source on a map. Packs are copied in the background,
// so that a buffer used too early is a race.
type packs struct {
	wg sync.WaitGroup

	mu      sync.Mutex
	data    map[pack.ID][]byte
	meta    map[pack.ID]bool
	held    int   // buffers not released
	most    int   // of held
	refuse  int   // PutPack fails after so many
	opened  int   // ranges
	closed  int   // ranges
	ahead   int   // the most ranges open at a time
	open    int   // bytes of the ranges that are open
	window  int   // the most at a time
	fetched int64 // bytes of opened ranges
}

func newPacks() *packs {
	return &packs{data: make(map[pack.ID][]byte), meta: make(map[pack.ID]bool), refuse: -1}
}

func (p *packs) PutPack(_ context.Context, data []byte, meta bool, release func()) (pack.ID, error) {
	id := pack.IDOf(testKeys.Public(), pack.NewContent(data).Hash())
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse == 0 {
		return id, errMissing
	}
	p.refuse--
	p.held++
	p.most = max(p.most, p.held)
	p.meta[id] = meta
	p.wg.Go(func() {
		c := bytes.Clone(data)
		p.mu.Lock()
		p.data[id] = c
		p.held--
		p.mu.Unlock()
		release()
	})
	return id, nil
}

func (p *packs) Wait(context.Context) error {
	p.wg.Wait()
	return nil
}

// put stores a pack as it is.
func (p *packs) put(data []byte) pack.ID {
	id := pack.IDOf(testKeys.Public(), pack.NewContent(data).Hash())
	p.data[id] = data
	return id
}

type packRange struct {
	p      *packs
	data   []byte
	off, n int
	err    error
}

func (p *packs) Open(_ context.Context, id pack.ID, off, n int) (Range, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened++
	p.ahead = max(p.ahead, p.opened-p.closed)
	p.fetched += int64(n)
	p.open += n
	p.window = max(p.window, p.open)
	r := &packRange{p: p, data: p.data[id], off: off, n: n}
	if r.data == nil {
		r.err = errMissing
	} else if n < 1 || off < 0 || off+n > len(r.data) {
		r.err = ErrCorrupt
	}
	return r, nil
}

func (r *packRange) Bytes(ctx context.Context, off, n int) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if r.err != nil {
		return nil, r.err
	}
	if off < r.off || off+n > r.off+r.n {
		return nil, fmt.Errorf("bytes %d+%d of range %d+%d", off, n, r.off, r.n)
	}
	return r.data[off : off+n : off+n], nil
}

func (r *packRange) Close() {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	r.p.closed++
	r.p.open -= r.n
	r.data, r.err = nil, errors.New("closed")
}

// allClosed fails the test if a range was not.
func (p *packs) allClosed(t testing.TB) {
	t.Helper()
	if p.opened != p.closed {
		t.Errorf("%d ranges opened, %d closed", p.opened, p.closed)
	}
}

// content gives n bytes; the kinds are random, text, and random with
// repetitions.
func content(n int, kind, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	switch kind {
	case 1:
		words := strings.Fields("chunk pack block shard manifest holder ref entry inventory volume head link")
		text := make([]byte, 0, n+16)
		for i := 0; len(text) < n; i++ {
			text = append(append(text, words[int(b[i])%len(words)]...), ' ')
		}
		return text[:n]
	case 2:
		const period = 3 << 20
		for i := period; i < n; i += period {
			copy(b[i:], b[:period])
		}
	}
	return b
}

func testInfo(size int) Info {
	return Info{Name: "a file", Mode: 0o640, MTime: time.Unix(1_700_000_000, 42), Size: int64(size)}
}

// smallest is the shortest limit that PackBytes can set.
var smallest = chunk.MaxSealed(chunk.MaxSize)

func write(t testing.TB, p *packs, data []byte) Link {
	t.Helper()
	root, entry, ids, err := WriteFile(context.Background(), p, &testKeys, testInfo(len(data)), bytes.NewReader(data), Options{PackBytes: smallest})
	if err != nil {
		t.Fatal(err)
	}
	if entry.Size != int64(len(data)) || entry.Name != "a file" || ids[len(ids)-1] != root.Pack {
		t.Fatalf("got entry %v in packs %v", entry, ids)
	}
	return FileLink(testNetwork, root)
}

func open(t testing.TB, p *packs, l Link) *File {
	t.Helper()
	l, err := ParseLink(l.String())
	if err != nil {
		t.Fatal(err)
	}
	f, err := OpenFile(context.Background(), p, l)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// same fails the test unless got and want are equal.
func same(t interface {
	Helper()
	Errorf(string, ...any)
}, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got %d bytes, want %d, or others", what, len(got), len(want))
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	sizes := []int{
		0, 1, MaxInline - 1, MaxInline, MaxInline + 1, chunk.FrameSize - 1, chunk.FrameSize,
		chunk.MinSize - 1, chunk.MinSize, chunk.MinSize + 1, chunk.MaxSize, chunk.MaxSize + 1,
		smallest - 1, smallest, smallest + 1, 3*smallest + 17,
	}
	for _, size := range sizes {
		for kind := range byte(3) {
			t.Run(fmt.Sprintf("%d of kind %d", size, kind), func(t *testing.T) {
				t.Parallel()
				data := content(size, kind, byte(size))
				p := newPacks()
				f := open(t, p, write(t, p, data))
				var out bytes.Buffer
				if n, err := f.WriteTo(t.Context(), &out, 0, -1, 1); err != nil || n != int64(size) {
					t.Errorf("got %d, %v, want %d", n, err, size)
				}
				same(t, "WriteTo", out.Bytes(), data)
				got := make([]byte, size+1)
				n, err := f.ReadAt(t.Context(), got, 0)
				if !errors.Is(err, io.EOF) {
					t.Errorf("got %v, want %v", err, io.EOF)
				}
				same(t, "ReadAt", got[:n], data)
				e := f.Entry()
				if e.Name != "a file" || e.Mode != 0o640 || !e.MTime.Equal(time.Unix(1_700_000_000, 42)) || e.Size != int64(size) {
					t.Errorf("got %v", e)
				}
				p.allClosed(t)
				if p.most > ownBuffers+2 {
					t.Errorf("%d buffers at a time", p.most)
				}
				ids, err := f.Packs(t.Context())
				if err != nil || len(ids) != len(p.data) {
					t.Errorf("got %d packs, %v, want %d", len(ids), err, len(p.data))
				}
				for _, id := range ids {
					if p.data[id] == nil {
						t.Errorf("there is no pack %v", id)
					}
					if p.meta[id] != (id == f.root.Pack) {
						t.Errorf("pack %v: meta %v", id, p.meta[id])
					}
				}
			})
		}
	}
}

func TestRangesAreWhatTheyShouldBe(t *testing.T) {
	for kind := range byte(3) {
		data := content(9<<20, kind, 1)
		p := newPacks()
		f := open(t, p, write(t, p, data))
		rapid.Check(t, func(t *rapid.T) {
			off := rapid.IntRange(0, len(data)).Draw(t, "off")
			n := rapid.OneOf(rapid.IntRange(0, 200<<10), rapid.IntRange(0, len(data))).Draw(t, "n")
			want := data[off:min(off+n, len(data))]
			got := make([]byte, n)
			k, err := f.ReadAt(context.Background(), got, int64(off))
			if len(want) < n != errors.Is(err, io.EOF) && off < len(data) || err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("ReadAt: got %v", err)
			}
			same(t, "ReadAt", got[:k], want)
			var out bytes.Buffer
			if _, err := f.WriteTo(context.Background(), &out, int64(off), int64(n), 2); err != nil {
				t.Errorf("WriteTo: got %v", err)
			}
			same(t, "WriteTo", out.Bytes(), want)
		})
		p.allClosed(t)
	}
}

func TestRangeReadFetchesOnlyWhatItNeeds(t *testing.T) {
	data := content(9<<20, 0, 2)
	p := newPacks()
	f := open(t, p, write(t, p, data))
	before := p.fetched
	got := make([]byte, 128<<10)
	if _, err := f.ReadAt(t.Context(), got, 3<<20+12345); err != nil {
		t.Fatal(err)
	}
	same(t, "ReadAt", got, data[3<<20+12345:][:len(got)])
	// At most a frame more at each end of at most two chunks.
	if n := p.fetched - before; n > 128<<10+4*(chunk.FrameSize+16) {
		t.Errorf("%d bytes fetched", n)
	}
	before = p.fetched
	if _, err := f.WriteTo(t.Context(), io.Discard, 3<<20+12345, 1000, 2); err != nil {
		t.Fatal(err)
	}
	if n := p.fetched - before; n > 2*(chunk.FrameSize+16) {
		t.Errorf("%d bytes fetched", n)
	}
}

func TestSmallReadsOfCompressedChunksFetchOnce(t *testing.T) {
	data := content(1<<20, 1, 3)
	p := newPacks()
	f := open(t, p, write(t, p, data))
	before := p.fetched
	r := io.NewSectionReader(readerAt{f}, 0, int64(len(data)))
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "read", got, data)
	if n := p.fetched - before; n > int64(len(data)) {
		t.Errorf("%d bytes fetched for %d", n, len(data))
	}
}

type readerAt struct{ f *File }

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	return r.f.ReadAt(context.Background(), p, off)
}

func TestFileIsAReaderAt(t *testing.T) {
	data := content(2*MaxInline, 0, 4)
	p := newPacks()
	f := open(t, p, write(t, p, data))
	if err := iotest.TestReader(io.NewSectionReader(readerAt{f}, 0, int64(len(data))), data); err != nil {
		t.Error(err)
	}
	if _, err := f.ReadAt(t.Context(), nil, -1); err == nil {
		t.Error("negative offset: got no error")
	}
	if _, err := f.WriteTo(t.Context(), io.Discard, int64(len(data))+1, -1, 0); err == nil {
		t.Error("offset beyond the end: got no error")
	}
}

func TestWriteIsDeterministic(t *testing.T) {
	data := content(9<<20, 2, 5)
	a, b := newPacks(), newPacks()
	la := write(t, a, data)
	root, _, _, err := WriteFile(t.Context(), b, &testKeys, testInfo(len(data)), iotest.HalfReader(bytes.NewReader(data)), Options{PackBytes: smallest, Buffers: NewBuffers(1)})
	if err != nil {
		t.Fatal(err)
	}
	if lb := FileLink(testNetwork, root); la != lb {
		t.Errorf("got %v and %v", la, lb)
	}
	if len(a.data) != len(b.data) {
		t.Errorf("got %d and %d packs", len(a.data), len(b.data))
	}
	other := Seed(sum("another seed")).Keys()
	root, _, _, err = WriteFile(t.Context(), b, &other, testInfo(len(data)), bytes.NewReader(data), Options{})
	if err != nil || root.Key == la.Root.Key {
		t.Errorf("another volume: got the same key, or %v", err)
	}
}

func TestDuplicatesAreStoredOnce(t *testing.T) {
	p := newPacks()
	data := make([]byte, 24<<20)
	copy(data, content(4<<20, 0, 6))
	copy(data[12<<20:], data[:4<<20])
	l := write(t, p, data)
	total := 0
	for _, b := range p.data {
		total += len(b)
	}
	if total > 7<<20 {
		t.Errorf("%d bytes stored", total)
	}
	var out bytes.Buffer
	if _, err := open(t, p, l).WriteTo(t.Context(), &out, 0, -1, 1); err != nil {
		t.Fatal(err)
	}
	same(t, "WriteTo", out.Bytes(), data)
}

func TestFileThatChangesIsToldAsSuch(t *testing.T) {
	data := content(6<<20, 0, 7)
	for _, size := range []int{0, 100, len(data) - 1, len(data) + 1} {
		_, _, _, err := WriteFile(t.Context(), newPacks(), &testKeys, testInfo(size), bytes.NewReader(data), Options{})
		if !errors.Is(err, ErrChanged) {
			t.Errorf("%d bytes expected: got %v, want %v", size, err, ErrChanged)
		}
	}
	if _, e, _, err := WriteFile(t.Context(), newPacks(), &testKeys, testInfo(-1), bytes.NewReader(data), Options{}); err != nil || e.Size != int64(len(data)) {
		t.Errorf("no size expected: got %v, %v", e.Size, err)
	}
}

func TestWriteFailsAsItsPartsDo(t *testing.T) {
	data := content(9<<20, 0, 8)
	buffers := NewBuffers(2)
	opt := Options{PackBytes: smallest, Buffers: buffers}
	for n := range 4 {
		p := newPacks()
		p.refuse = n
		if _, _, _, err := WriteFile(t.Context(), p, &testKeys, testInfo(-1), bytes.NewReader(data), opt); !errors.Is(err, errMissing) {
			t.Errorf("sink fails after %d: got %v, want %v", n, err, errMissing)
		}
		p.wg.Wait()
	}
	broken := io.MultiReader(bytes.NewReader(data), iotest.ErrReader(errMissing))
	p := newPacks()
	if _, _, _, err := WriteFile(t.Context(), p, &testKeys, testInfo(-1), broken, opt); !errors.Is(err, errMissing) {
		t.Errorf("reader fails: got %v, want %v", err, errMissing)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opt.Progress = func(int64) { cancel() }
	if _, _, _, err := WriteFile(ctx, p, &testKeys, testInfo(-1), bytes.NewReader(data), opt); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v, want %v", err, context.Canceled)
	}
	p.wg.Wait()
	for range 2 { // all buffers are back
		if _, err := buffers.get(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(buffers.free) != 0 {
		t.Error("a buffer too many")
	}
	for _, name := range []string{"", "..", "a/b"} {
		info := testInfo(0)
		info.Name = name
		if _, _, _, err := WriteFile(t.Context(), p, &testKeys, info, bytes.NewReader(nil), Options{}); err == nil {
			t.Errorf("name %q: got no error", name)
		}
	}
}

func TestProgressReachesTheSize(t *testing.T) {
	data := content(6<<20, 0, 9)
	var last int64
	opt := Options{Progress: func(n int64) {
		if n <= last {
			t.Errorf("got %d after %d", n, last)
		}
		last = n
	}}
	if _, _, _, err := WriteFile(t.Context(), newPacks(), &testKeys, testInfo(len(data)), bytes.NewReader(data), opt); err != nil {
		t.Fatal(err)
	}
	if last != int64(len(data)) {
		t.Errorf("got %d, want %d", last, len(data))
	}
}

// A failing writer stops after n bytes.
type failing struct{ n int }

func (w *failing) Write(b []byte) (int, error) {
	if w.n -= len(b); w.n < 0 {
		return 0, errMissing
	}
	return len(b), nil
}

func TestReadFailsAsItsPartsDo(t *testing.T) {
	data := content(9<<20, 0, 10)
	p := newPacks()
	f := open(t, p, write(t, p, data))
	for _, n := range []int{0, 5 << 20, 8 << 20} {
		if _, err := f.WriteTo(t.Context(), &failing{n}, 0, -1, 3); !errors.Is(err, errMissing) {
			t.Errorf("writer fails after %d: got %v, want %v", n, err, errMissing)
		}
		p.allClosed(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.WriteTo(ctx, io.Discard, 0, -1, 3); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: got %v, want %v", err, context.Canceled)
	}
	p.allClosed(t)
	ids, err := f.Packs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids[:len(ids)-1] {
		kept := p.data[id]
		bad := bytes.Clone(kept)
		bad[len(kept)/3] ^= 1
		for name, b := range map[string][]byte{"missing": nil, "one bit changed": bad, "too short": kept[:len(kept)/2]} {
			p.data[id] = b
			want := ErrCorrupt
			if b == nil {
				delete(p.data, id)
				want = errMissing
			}
			var out bytes.Buffer
			if _, err := f.WriteTo(t.Context(), &out, 0, -1, 1); !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v", name, err, want)
			}
			if !bytes.HasPrefix(data, out.Bytes()) {
				t.Errorf("%s: wrong bytes were written", name)
			}
			p.allClosed(t)
			if _, err := f.ReadAt(t.Context(), make([]byte, len(data)), 0); !errors.Is(err, want) {
				t.Errorf("%s: ReadAt: got %v, want %v", name, err, want)
			}
			p.allClosed(t)
		}
		p.data[id] = kept
	}
}

func TestLookAheadIsBounded(t *testing.T) {
	data := content(36<<20, 0, 11)
	p := newPacks()
	f := open(t, p, write(t, p, data))
	for _, ahead := range []int{0, 1, 3} {
		p.ahead, p.window = 0, 0
		if _, err := f.WriteTo(t.Context(), io.Discard, 0, -1, ahead); err != nil {
			t.Fatal(err)
		}
		if p.ahead > 1+ahead {
			t.Errorf("ahead %d: %d ranges at a time", ahead, p.ahead)
		}
		if p.window > (1+ahead)*maxRange {
			t.Errorf("ahead %d: %d bytes at a time", ahead, p.window)
		}
	}
}

func TestLongListsOfRefsNest(t *testing.T) {
	for _, count := range []int{1, 3, 4, 5, 12, 13, 16, 17, 64, 100, 256, 257, 700} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			p := newPacks()
			w := newWriter(p, &testKeys, testInfo(-1), Options{PackBytes: smallest})
			w.limit = 300 << 10 // so that metadata needs many packs
			w.nodeRefs, w.entryRefs = 4, 3
			w.entry = Entry{Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "a file"}
			var want []pack.Ref
			for i := range count {
				r := testRef(fmt.Sprint(i), uint32(i), 1000, 5000)
				want = append(want, r)
				if err := w.push(t.Context(), &w.levels, 0, part{Ref: r, under: r.Size}); err != nil {
					t.Fatal(err)
				}
				if i%7 == 0 && w.meta.id != nil {
					if err := w.finishMeta(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.entry.Size = int64(count) * 5000
			var err error
			if w.entry.depth, w.entry.parts, err = w.collapse(t.Context(), &w.levels); err != nil {
				t.Fatal(err)
			}
			if err := w.finishRoot(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			f := open(t, p, FileLink(testNetwork, w.root))
			for _, c := range [][2]int{{0, count}, {count / 2, count}, {count / 3, count/3 + 1}} {
				var got []pack.Ref
				for pc, err := range f.pieces(t.Context(), int64(c[0])*5000, int64(c[1])*5000) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, pc.ref)
				}
				if d := cmp.Diff(got, want[c[0]:c[1]]); d != "" {
					t.Error(d)
				}
			}
			ids, err := f.Packs(t.Context())
			if err != nil || len(ids) != len(p.data) {
				t.Errorf("got %d packs, %v, want %d", len(ids), err, len(p.data))
			}
			if len(f.nodes) > keptNodes {
				t.Errorf("%d nodes kept", len(f.nodes))
			}
		})
	}
}

func TestLongInventoriesNest(t *testing.T) {
	for _, count := range []int{0, 1, pack.MaxInventoryIDs, pack.MaxInventoryIDs + 1, 5 * pack.MaxInventoryIDs} {
		p := newPacks()
		w := newWriter(p, &testKeys, testInfo(-1), Options{})
		w.entry = Entry{Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "a file"}
		for i := range count {
			w.packs = append(w.packs, sum(fmt.Sprint(i)))
		}
		want := slices.Clone(w.packs)
		slices.SortFunc(want, func(a, b pack.ID) int { return bytes.Compare(a[:], b[:]) })
		if err := w.finishRoot(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.wg.Wait()
		got, err := open(t, p, FileLink(testNetwork, w.root)).Packs(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, append(want, w.root.Pack)) {
			t.Errorf("%d packs: got others", count)
		}
	}
	w := newWriter(newPacks(), &testKeys, testInfo(-1), Options{PackBytes: smallest})
	w.entry = Entry{Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "a file"}
	w.packs = make([]pack.ID, smallest/32)
	if err := w.finishRoot(t.Context()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than a pack holds: got %v, want %v", err, ErrTooLarge)
	}
}

// hostile is packs made by somebody who has the right keys and no good will.
type hostile struct {
	*packs
	t *testing.T
	b *pack.Builder
}

func newHostile(t *testing.T) *hostile {
	return &hostile{packs: newPacks(), t: t, b: pack.NewBuilder(nil, pack.MaxLen)}
}

// chunk adds a chunk to the pack.
func (h *hostile) chunk(plain []byte) pack.Ref {
	sealed, key := chunk.Seal(nil, &testKeys.Convergence, plain)
	return pack.Ref{Off: uint32(h.b.Append(sealed)), Len: uint32(len(sealed)), Size: uint64(len(plain)), Key: key}
}

// open finishes the pack with the entry, and opens it.
func (h *hostile) open(e *Entry) (*File, error) {
	root := h.chunk(encodeUnchecked(e))
	root.Pack = h.put(h.b.Finish())
	return OpenFile(h.t.Context(), h, FileLink(testNetwork, root))
}

func TestHostileEntriesAreToldAsCorrupt(t *testing.T) {
	entry := func(size int64, depth int, parts ...part) *Entry {
		return &Entry{Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "a file", Size: size, depth: depth, parts: parts}
	}
	leaf := func(r pack.Ref) part { return part{Ref: r, under: r.Size} }
	data := content(100_000, 0, 12)
	for name, build := range map[string]func(h *hostile) *Entry{
		"size smaller than the chunk": func(h *hostile) *Entry {
			r := h.chunk(data)
			r.Size--
			return entry(int64(r.Size), 0, leaf(r))
		},
		"size larger than the chunk": func(h *hostile) *Entry {
			r := h.chunk(data)
			r.Size++
			return entry(int64(r.Size), 0, leaf(r))
		},
		"a bomb": func(h *hostile) *Entry {
			r := h.chunk(make([]byte, chunk.MaxSize))
			r.Size = 1000
			return entry(1000, 0, leaf(r))
		},
		"longer than its size allows": func(h *hostile) *Entry {
			r := h.chunk(data)
			r.Len = 1 << 20
			return entry(int64(r.Size), 0, leaf(r))
		},
		"beyond the end of the pack": func(h *hostile) *Entry {
			r := h.chunk(data)
			r.Pack, r.Off = h.put(make([]byte, 4096)), 4000
			return entry(int64(r.Size), 0, leaf(r))
		},
		"another key": func(h *hostile) *Entry {
			r := h.chunk(data)
			r.Key[0]++
			return entry(int64(r.Size), 0, leaf(r))
		},
		"not a node": func(h *hostile) *Entry {
			return entry(5000, 1, part{Ref: h.chunk(data), under: 5000})
		},
		"a node of another level": func(h *hostile) *Entry {
			r := h.chunk(testNode(1, 3).encode())
			return entry(3<<30, 3, part{Ref: r, under: 3 << 30})
		},
		"a node with more under it": func(h *hostile) *Entry {
			r := h.chunk(testNode(0, 3).encode())
			return entry(14_999, 1, part{Ref: r, under: 14_999})
		},
		"a node with less under it": func(h *hostile) *Entry {
			r := h.chunk(testNode(0, 3).encode())
			return entry(15_001, 1, part{Ref: r, under: 15_001})
		},
		"a node twice, with another sum": func(h *hostile) *Entry {
			d := leaf(h.chunk(data))
			r := h.chunk((&node{parts: []part{d}}).encode())
			return entry(200_001, 1, part{Ref: r, under: 100_000}, part{Ref: r, under: 100_001})
		},
		"a node that refers to itself": func(h *hostile) *Entry {
			off := h.b.Len()
			n := node{level: 0, parts: []part{leaf(pack.Ref{Off: uint32(off), Len: 100, Size: 1000})}}
			return entry(1000, 1, part{Ref: h.chunk(n.encode()), under: 1000})
		},
		"a chunk after its entry": func(h *hostile) *Entry {
			return entry(1000, 0, leaf(pack.Ref{Off: 3000, Len: 1000, Size: 1000}))
		},
		"a huge size": func(h *hostile) *Entry {
			r := h.chunk(testNode(0, 1).encode())
			return entry(1<<62, 4, part{Ref: r, under: 1 << 62})
		},
		"an inventory that is none": func(h *hostile) *Entry {
			e := entry(0, 0)
			e.inventory = h.chunk(data)
			return e
		},
		"an inventory with its own pack before itself": func(h *hostile) *Entry {
			e := entry(0, 0)
			sub := h.chunk(pack.Inventory{}.Encode())
			e.inventory = h.chunk(pack.Inventory{Depth: 1, Refs: []pack.Ref{sub, sub}}.Encode())
			return e
		},
		"an inventory twice": func(h *hostile) *Entry {
			e := entry(0, 0)
			sub := h.chunk(pack.Inventory{IDs: []pack.ID{{1}}}.Encode())
			e.inventory = h.chunk(pack.Inventory{Depth: 1, Refs: []pack.Ref{sub, sub}}.Encode())
			return e
		},
		"an inventory of another depth": func(h *hostile) *Entry {
			e := entry(0, 0)
			sub := h.chunk(pack.Inventory{IDs: []pack.ID{{1}}}.Encode())
			e.inventory = h.chunk(pack.Inventory{Depth: 2, Refs: []pack.Ref{sub}}.Encode())
			return e
		},
		"an inventory after its entry": func(h *hostile) *Entry {
			e := entry(0, 0)
			e.inventory = pack.Ref{Off: 3000, Len: 10, Size: 10}
			return e
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			f, err := h.open(build(h))
			if err == nil {
				_, err = f.WriteTo(t.Context(), io.Discard, 0, -1, 2)
			}
			if err == nil {
				_, err = f.Packs(t.Context())
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want %v", err, ErrCorrupt)
			}
			h.allClosed(t)
		})
	}
}

func TestManyTinyChunksAreFetchedInBoundedGroups(t *testing.T) {
	h := newHostile(t)
	var parts []part
	var want []byte
	for i := range 3000 {
		b := []byte(fmt.Sprint(i))
		r := h.chunk(b)
		parts = append(parts, part{Ref: r, under: r.Size})
		want = append(want, b...)
	}
	n := node{parts: parts}
	r := h.chunk(n.encode())
	f, err := h.open(&Entry{Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "a file", Size: int64(len(want)), depth: 1, parts: []part{{Ref: r, under: uint64(len(want))}}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := f.WriteTo(t.Context(), &out, 0, -1, 1); err != nil {
		t.Fatal(err)
	}
	same(t, "WriteTo", out.Bytes(), want)
	got := make([]byte, len(want))
	if _, err := f.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	same(t, "ReadAt", got, want)
	for g, err := range groups(f.steps(t.Context(), 0, int64(len(want)))) {
		if err != nil || len(g.steps) > maxPieces {
			t.Errorf("got %d pieces, %v", len(g.steps), err)
		}
	}
	h.allClosed(t)
}

func TestNothingPlainIsInPacks(t *testing.T) {
	const marker = "a marker that must not be found"
	for _, size := range []int{len(marker), 100_000} {
		p := newPacks()
		data := []byte(strings.Repeat(marker, size/len(marker)))
		info := testInfo(len(data))
		info.Name = "name: " + marker
		if _, _, _, err := WriteFile(t.Context(), p, &testKeys, info, bytes.NewReader(data), Options{}); err != nil {
			t.Fatal(err)
		}
		for id, b := range p.data {
			if bytes.Contains(b, []byte(marker[:8])) {
				t.Errorf("it is in pack %v", id)
			}
		}
	}
}

func TestGoldenFile(t *testing.T) {
	p := newPacks()
	data := content(300<<10, 0, 13) // not compressed, so no other library changes it
	root, _, ids, err := WriteFile(t.Context(), p, &testKeys, testInfo(len(data)), bytes.NewReader(data), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var s strings.Builder
	fmt.Fprintln(&s, FileLink(testNetwork, root))
	for _, id := range ids {
		fmt.Fprintf(&s, "%v %d %x\n", id, len(p.data[id]), digest.Of(p.data[id]))
	}
	golden(t, "file.hex", s.String())
}

func BenchmarkWriteFile(b *testing.B) {
	for kind, name := range []string{"random", "text"} {
		b.Run(name, func(b *testing.B) {
			data := content(256<<20, byte(kind), 1)
			buffers := NewBuffers(3)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, _, _, err := WriteFile(b.Context(), discard{}, &testKeys, testInfo(len(data)), bytes.NewReader(data), Options{Buffers: buffers}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// discard is a Sink that hashes packs, as it must, and forgets them.
type discard struct{}

func (discard) PutPack(_ context.Context, data []byte, _ bool, release func()) (pack.ID, error) {
	defer release()
	return pack.IDOf(testKeys.Public(), pack.NewContent(data).Hash()), nil
}

func (discard) Wait(context.Context) error { return nil }

func BenchmarkWriteTo(b *testing.B) {
	for kind, name := range []string{"random", "text"} {
		b.Run(name, func(b *testing.B) {
			data := content(256<<20, byte(kind), 1)
			p := newPacks()
			root, _, _, err := WriteFile(b.Context(), p, &testKeys, testInfo(len(data)), bytes.NewReader(data), Options{})
			if err != nil {
				b.Fatal(err)
			}
			f := open(b, p, FileLink(testNetwork, root))
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := f.WriteTo(b.Context(), io.Discard, 0, -1, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
