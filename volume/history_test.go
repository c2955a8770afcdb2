package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/pack"
)

// pasts gives n past heads in order, some with one number.
func pasts(n int) []Past {
	past := make([]Past, n)
	for i := range past {
		past[i] = Past{
			Number: uint64(i)/2 + 1, Hash: HeadHash{byte(i % 2), byte(i)}, Time: time.UnixMilli(1_794_000_000_000 + int64(i)),
			Snapshot: i%3 == 0, Peer: fmt.Sprint("peer ", i), Root: testRef(fmt.Sprint(i), 0, 900, 800),
		}
		for j := max(0, i-i%4); j < i; j++ {
			past[i].Parents = append(past[i].Parents, past[j].Hash)
		}
		slices.SortFunc(past[i].Parents, HeadHash.compare)
	}
	return past
}

// longPast is as long as records get.
func longPast() Past {
	return Past{
		Number: math.MaxUint64, Hash: sum("a head"), Time: time.UnixMilli(math.MaxInt64), Snapshot: true,
		Peer: strings.Repeat("p", maxPeer), Root: testRef("root", 1<<25-1<<19, 1<<19, 1<<19-1),
		Parents: []HeadHash{{1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}},
	}
}

// oneChunk gives the chunk of a history that has one.
func oneChunk(t testing.TB, past []Past) []byte {
	t.Helper()
	chunks, err := historyChunks(past)
	if err != nil || len(chunks) != 1 {
		t.Fatalf("got %d chunks, %v", len(chunks), err)
	}
	return chunks[0]
}

// someRefs gives n refs that a root may have.
func someRefs(n int) []pack.Ref {
	refs := make([]pack.Ref, n)
	for i := range refs {
		refs[i] = testRef(fmt.Sprint(i), 0, 700, 800)
	}
	return refs
}

func aRoot(t testing.TB, refs []pack.Ref) []byte {
	t.Helper()
	b, err := historyRoot(refs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenHistory(t *testing.T) {
	golden(t, "history-leaf.hex", dump(oneChunk(t, append(pasts(3), longPast()))))
	golden(t, "history-root.hex", dump(aRoot(t, append(someRefs(1), pack.Ref{Off: 5, Len: 100, Size: 90, Key: sum("key")}))))
}

// keepHistory stores a history in one pack, as a writer of heads would.
func keepHistory(t *testing.T, past []Past) (*hostile, pack.Ref) {
	t.Helper()
	h := newHostile(t)
	chunks, err := historyChunks(past)
	if err != nil {
		t.Fatal(err)
	}
	var refs []pack.Ref
	for _, c := range chunks {
		refs = append(refs, h.chunk(c))
	}
	switch len(refs) {
	case 0:
		return h, pack.Ref{}
	case 1:
		refs[0].Pack = h.put(h.b.Finish())
		return h, refs[0]
	}
	top := h.chunk(aRoot(t, refs))
	top.Pack = h.put(h.b.Finish())
	return h, top
}

func TestHistoryIsReadAsWritten(t *testing.T) {
	for _, n := range []int{0, 1, 2, 127, 128, 129, 256, 257, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			want := pasts(n)
			shuffled := slices.Concat(want, want[n/2:]) // some of them twice
			rand.New(rand.NewPCG(1, uint64(n))).Shuffle(len(shuffled), func(i, j int) {
				shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
			})
			h, ref := keepHistory(t, shuffled)
			got, err := ReadHistory(t.Context(), h, ref)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(got, want); len(got) != n || n > 0 && d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
			h.allClosed(t)
		})
	}
}

// Chunks of another pack are read as those of the same.
func TestHistoryGrowsOverPacks(t *testing.T) {
	want := pasts(300)
	chunks, err := historyChunks(want)
	if err != nil {
		t.Fatal(err)
	}
	h := newHostile(t)
	old := h.chunk(chunks[0])
	old.Pack = h.put(h.b.Finish())
	h.b = pack.NewBuilder(nil, pack.MaxLen)
	top := h.chunk(aRoot(t, []pack.Ref{old, h.chunk(chunks[1]), h.chunk(chunks[2])}))
	top.Pack = h.put(h.b.Finish())
	got, err := ReadHistory(t.Context(), h, top)
	if d := cmp.Diff(got, want); err != nil || d != "" {
		t.Errorf("%v, got -, want +:\n%s", err, d)
	}
}

func TestHistoryOfNothingHasNoChunks(t *testing.T) {
	if chunks, err := historyChunks(nil); err != nil || len(chunks) > 0 {
		t.Errorf("got %d chunks, %v", len(chunks), err)
	}
}

func TestLongestHistoryFitsChunks(t *testing.T) {
	var past []Past
	for n := range maxLeaf {
		p := longPast()
		p.Number -= uint64(n)
		past = append(past, p)
	}
	if b := oneChunk(t, past); len(b) != maxLeafBytes {
		t.Errorf("got %d bytes, want %d", len(b), maxLeafBytes)
	}
	b := aRoot(t, someRefs(maxLeaves))
	if _, refs, err := decodeHistory(b); err != nil || len(refs) != maxLeaves || len(b) != maxHistoryRoot {
		t.Errorf("got %d refs, %d bytes, %v, want %d and %d", len(refs), len(b), err, maxLeaves, maxHistoryRoot)
	}
	if maxHistoryRoot < maxLeafBytes || maxDyingBytes > chunk.MaxSize || maxHistoryRoot > chunk.MaxSize {
		t.Error("too long for a chunk, or a leaf longer than a root")
	}
}

func TestHistoryThatCannotBeIsNotWritten(t *testing.T) {
	for name, change := range map[string]func(p *Past){
		"no number":           func(p *Past) { p.Number = 0 },
		"no peer":             func(p *Past) { p.Peer = "" },
		"long peer":           func(p *Past) { p.Peer = strings.Repeat("p", maxPeer+1) },
		"before 1970":         func(p *Past) { p.Time = time.Time{} },
		"no root":             func(p *Past) { p.Root = pack.Ref{} },
		"root in a zeropack":  func(p *Past) { p.Root.Pack = pack.ID{} },
		"root of no size":     func(p *Past) { p.Root.Size = 0 },
		"parents in disorder": func(p *Past) { p.Parents = []HeadHash{{2}, {1}} },
		"one parent twice":    func(p *Past) { p.Parents = []HeadHash{{2}, {2}} },
		"many parents":        func(p *Past) { p.Parents = []HeadHash{{1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}} },
		"parents of a link":   func(p *Past) { p.Snapshot, p.Pin, p.Parents = false, true, []HeadHash{{1}} },
	} {
		past := pasts(200)
		change(&past[150])
		if _, err := historyChunks(past); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
	}
	for _, n := range []int{0, 1, maxLeaves + 1} {
		if _, err := historyRoot(someRefs(n)); err == nil {
			t.Errorf("a root of %d refs", n)
		}
	}
	if _, err := historyRoot([]pack.Ref{testRef("a", 0, 700, 800), {}}); err == nil {
		t.Error("a root with a ref to nothing")
	}
}

func TestHistoryIsStrict(t *testing.T) {
	leaf, root := oneChunk(t, pasts(3)), aRoot(t, someRefs(3))
	const first = historyHeader // where the first record is
	for _, c := range []struct {
		name   string
		of     []byte
		change func(b []byte) []byte
		want   error
	}{
		{"empty", leaf, func(b []byte) []byte { return nil }, ErrCorrupt},
		{"magic", leaf, func(b []byte) []byte { b[3] = 'Z'; return b }, ErrCorrupt},
		{"version 0", leaf, func(b []byte) []byte { b[4] = 0; return b }, ErrCorrupt},
		{"version 2", leaf, func(b []byte) []byte { b[4] = 2; return b }, pack.ErrVersion},
		{"depth 2", root, func(b []byte) []byte { b[5] = 2; return b }, ErrCorrupt},
		{"leaf as root", leaf, func(b []byte) []byte { b[5] = 1; return b }, ErrCorrupt},
		{"root as leaf", root, func(b []byte) []byte { b[5] = 0; return b }, ErrCorrupt},
		{"no records", leaf, func(b []byte) []byte { return appendHistoryHeader(nil, 0, 0) }, ErrCorrupt},
		{"no refs", root, func(b []byte) []byte { return appendHistoryHeader(nil, 1, 0) }, ErrCorrupt},
		{"one ref", root, func(b []byte) []byte { return append(appendHistoryHeader(nil, 1, 1), b[first:first+80]...) }, ErrCorrupt},
		{"129 records", leaf, func(b []byte) []byte { b[7] = 129; return b }, ErrCorrupt},
		{"4097 refs", root, func(b []byte) []byte {
			return append(appendHistoryHeader(nil, 1, maxLeaves+1), bytes.Repeat(b[first:first+80], maxLeaves+1)...)
		}, ErrCorrupt},
		{"a byte more", leaf, func(b []byte) []byte { return append(b, 0) }, ErrCorrupt},
		{"a byte less", leaf, func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt},
		{"a byte more, root", root, func(b []byte) []byte { return append(b, 0) }, ErrCorrupt},
		{"a record less", leaf, func(b []byte) []byte { b[7]++; return b }, ErrCorrupt},
		{"number 0", leaf, func(b []byte) []byte { b[first+7] = 0; return b }, ErrCorrupt},
		{"number too high", leaf, func(b []byte) []byte { b[first] = 1; return b }, ErrCorrupt},
		{"hash too high", leaf, func(b []byte) []byte { b[first+8] = 2; return b }, ErrCorrupt},
		{"time", leaf, func(b []byte) []byte { b[first+40] = 0x80; return b }, ErrCorrupt},
		{"flags", leaf, func(b []byte) []byte { b[first+48] |= 2; return b }, ErrCorrupt},
		{"no peer", leaf, func(b []byte) []byte { b[first+49] = 0; return b }, ErrCorrupt},
		{"endless peer", leaf, func(b []byte) []byte { b[first+49] = 255; return b }, ErrCorrupt},
		{"root in its own pack", leaf, func(b []byte) []byte { clear(b[first+50+6 : first+50+6+32]); return b }, ErrCorrupt},
		{"parents that are none", leaf, func(b []byte) []byte { b[first+130+len("peer 0")] = 1; return b }, ErrCorrupt},
		{"many parents", leaf, func(b []byte) []byte {
			at := first + 130 + len("peer 0")
			return slices.Concat(b[:at], []byte{MaxParents + 1}, make([]byte, 32*(MaxParents+1)), b[at+1:])
		}, ErrCorrupt},
		{"ref to nothing", root, func(b []byte) []byte { clear(b[first+32 : first+40]); return b }, ErrCorrupt},
		{"ref to more than a leaf", root, func(b []byte) []byte {
			binary.BigEndian.PutUint64(b[first+40:], maxLeafBytes+1)
			return b
		}, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := decodeHistory(c.change(bytes.Clone(c.of))); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestHostileHistoriesAreToldAsCorrupt(t *testing.T) {
	leaf := func(past ...Past) []byte { return oneChunk(t, past) }
	all := pasts(300)
	full, next := leaf(all[:maxLeaf]...), leaf(all[maxLeaf:2*maxLeaf]...)
	for name, build := range map[string]func(h *hostile) pack.Ref{
		"a leaf that is not full": func(h *hostile) pack.Ref {
			a, b := h.chunk(leaf(all[:127]...)), h.chunk(leaf(all[127:200]...))
			return h.chunk(aRoot(t, []pack.Ref{a, b}))
		},
		"leaves swapped": func(h *hostile) pack.Ref {
			a, b := h.chunk(full), h.chunk(next)
			return h.chunk(aRoot(t, []pack.Ref{b, a}))
		},
		"a leaf twice": func(h *hostile) pack.Ref {
			a := h.chunk(full)
			return h.chunk(aRoot(t, []pack.Ref{a, a}))
		},
		"a root of roots": func(h *hostile) pack.Ref {
			a, b := h.chunk(full), h.chunk(next)
			r := h.chunk(aRoot(t, []pack.Ref{a, b}))
			return h.chunk(aRoot(t, []pack.Ref{r, r}))
		},
		"a leaf after its root": func(h *hostile) pack.Ref {
			a := h.chunk(full)
			late := a
			late.Off = 1 << 20
			return h.chunk(aRoot(t, []pack.Ref{a, late}))
		},
		"something else": func(h *hostile) pack.Ref { return h.chunk([]byte("something else")) },
		"a leaf that is something else": func(h *hostile) pack.Ref {
			a, b := h.chunk(full), h.chunk(pack.Inventory{}.Encode())
			return h.chunk(aRoot(t, []pack.Ref{a, b}))
		},
		"another key": func(h *hostile) pack.Ref {
			r := h.chunk(full)
			r.Key[0]++
			return r
		},
		"endless": func(h *hostile) pack.Ref {
			r := h.chunk(full)
			r.Size = chunk.MaxSize
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			ref := build(h)
			ref.Pack = h.put(h.b.Finish())
			if past, err := ReadHistory(t.Context(), h, ref); !errors.Is(err, ErrCorrupt) || past != nil {
				t.Errorf("got %d past heads, %v, want %v", len(past), err, ErrCorrupt)
			}
			if _, err := ReadDying(t.Context(), h, ref); !errors.Is(err, ErrCorrupt) {
				t.Errorf("dying: got %v, want %v", err, ErrCorrupt)
			}
			h.allClosed(t)
		})
	}
}

func TestReadHistoryFailsAsItsSourceDoes(t *testing.T) {
	h, ref := keepHistory(t, pasts(300))
	h.data = nil
	if _, err := ReadHistory(t.Context(), h, ref); !errors.Is(err, errMissing) {
		t.Errorf("history: got %v, want %v", err, errMissing)
	}
	if _, err := ReadDying(t.Context(), h, ref); !errors.Is(err, errMissing) {
		t.Errorf("dying: got %v, want %v", err, errMissing)
	}
	h, ref = keepHistory(t, pasts(300))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadHistory(ctx, h, ref); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	h.allClosed(t)
}

func FuzzDecodeHistory(f *testing.F) {
	f.Add(oneChunk(f, append(pasts(3), longPast())))
	f.Add(aRoot(f, someRefs(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		past, refs, err := decodeHistory(b)
		if err != nil {
			if past != nil || refs != nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, pack.ErrVersion) {
				t.Errorf("got %d, %d, %v, want %v", len(past), len(refs), err, ErrCorrupt)
			}
			return
		}
		again := []byte(nil)
		if refs != nil {
			again = aRoot(t, refs)
		} else {
			again = oneChunk(t, past)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("another encoding:\n%s", hex.Dump(again))
		}
	})
}

// dying gives n dying packs in order.
func dying(n int) []DyingPack {
	d := make([]DyingPack, n)
	for i := range d {
		binary.BigEndian.PutUint32(d[i].ID[:], uint32(i))
		d[i].ID[31] = 1
		d[i].Since = time.UnixMilli(1_794_000_000_000 - int64(i))
	}
	return d
}

func mustDying(t testing.TB, d []DyingPack) []byte {
	t.Helper()
	b, err := encodeDying(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenDying(t *testing.T) {
	d := append(dying(2), DyingPack{ID: pack.ID(bytes.Repeat([]byte{255}, 32)), Since: time.UnixMilli(math.MaxInt64)})
	golden(t, "dying.hex", dump(mustDying(t, d)))
}

func TestDyingPacksAreReadAsWritten(t *testing.T) {
	for _, n := range []int{1, 2, 1000, MaxDying} {
		want := dying(n)
		shuffled := slices.Clone(want)
		slices.Reverse(shuffled)
		h := newHostile(t)
		ref := h.chunk(mustDying(t, shuffled))
		ref.Pack = h.put(h.b.Finish())
		got, err := ReadDying(t.Context(), h, ref)
		if err != nil || !slices.EqualFunc(got, want, func(a, b DyingPack) bool { return a.ID == b.ID && a.Since.Equal(b.Since) }) {
			t.Errorf("%d: got %d, %v", n, len(got), err)
		}
		h.allClosed(t)
	}
	if got, err := ReadDying(t.Context(), newPacks(), pack.Ref{}); err != nil || got != nil {
		t.Errorf("none: got %v, %v", got, err)
	}
}

func TestDyingPacksAreStrict(t *testing.T) {
	for name, d := range map[string][]DyingPack{
		"none":        nil,
		"too many":    dying(MaxDying + 1),
		"twice":       {dying(1)[0], dying(1)[0]},
		"no pack":     {{Since: time.UnixMilli(1)}},
		"before 1970": {{ID: pack.ID{1}, Since: time.UnixMilli(-1)}},
	} {
		if _, err := encodeDying(d); err == nil {
			t.Errorf("%s: encodes", name)
		}
	}
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   error
	}{
		{"empty", func(b []byte) []byte { return nil }, ErrCorrupt},
		{"magic", func(b []byte) []byte { b[3] = 'Y'; return b }, ErrCorrupt},
		{"version 0", func(b []byte) []byte { b[4] = 0; return b }, ErrCorrupt},
		{"version 2", func(b []byte) []byte { b[4] = 2; return b }, pack.ErrVersion},
		{"none", func(b []byte) []byte { b[8] = 0; return b[:dyingHeader] }, ErrCorrupt},
		{"endless", func(b []byte) []byte { b[5] = 255; return b }, ErrCorrupt},
		{"one more", func(b []byte) []byte { b[8]++; return b }, ErrCorrupt},
		{"a byte more", func(b []byte) []byte { return append(b, 0) }, ErrCorrupt},
		{"a byte less", func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt},
		{"not in order", func(b []byte) []byte { b[dyingHeader] = 255; return b }, ErrCorrupt},
		{"no pack", func(b []byte) []byte { clear(b[dyingHeader : dyingHeader+32]); return b }, ErrCorrupt},
		{"time", func(b []byte) []byte { b[dyingHeader+32] = 0x80; return b }, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := decodeDying(c.change(mustDying(t, dying(3)))); !errors.Is(err, c.want) || got != nil {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
		})
	}
}

func FuzzDecodeDying(f *testing.F) {
	f.Add(mustDying(f, dying(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDying(b)
		if err != nil {
			if d != nil || !errors.Is(err, ErrCorrupt) && !errors.Is(err, pack.ErrVersion) {
				t.Errorf("got %d, %v, want %v", len(d), err, ErrCorrupt)
			}
		} else if again := mustDying(t, d); !bytes.Equal(again, b) {
			t.Errorf("another encoding:\n%s", hex.Dump(again))
		}
	})
}
