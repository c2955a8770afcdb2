package volume

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/pack"
)

// salts gives salts that are the same for the same seed.
func salts(seed byte) io.Reader { return rand.NewChaCha8([32]byte{seed}) }

// headContent is what heads of tests point to.
func headContent() HeadContent {
	return HeadContent{
		Time: time.UnixMilli(1_794_000_000_123), Peer: "a peer",
		Root: testRef("root", 100, 900, 800), Inventory: testRef("root", 0, 100, 42),
	}
}

// fullContent has all there can be.
func fullContent() HeadContent {
	c := headContent()
	c.Snapshot, c.Peer = true, strings.Repeat("p", maxPeer)
	c.Time = time.UnixMilli(math.MaxInt64)
	c.History, c.Dying = testRef("history", 0, 10, 10), testRef("dying", 0, 10, 10)
	return c
}

// aWriter gives the pseudonym of the nth peer.
func aWriter(n int) Writer { return WriterOf(testKeys.Read, fmt.Sprint("peer ", n)) }

// newHead makes a head of the nth peer.
func newHead(t testing.TB, n int, salt io.Reader, parents ...*Head) *Head {
	t.Helper()
	h, err := NewHead(testNetwork, &testKeys, parents, aWriter(n), headContent(), salt)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// heads has a head of each shape.
func heads(t testing.TB) map[string]*Head {
	salt := salts(1)
	first := newHead(t, 0, salt)
	a, b := newHead(t, 1, salt, first), newHead(t, 2, salt, first)
	merge, err := NewHead(testNetwork, &testKeys, []*Head{a, b}, aWriter(1), fullContent(), salt)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*Head{"first": first, "second": a, "merge": merge, "longest": longestHead(t)}
}

// longestHead is as long as heads get.
func longestHead(t testing.TB) *Head {
	t.Helper()
	salt := salts(2)
	h := newHead(t, 0, salt)
	for n := range MaxSeen + 5 {
		h = newHead(t, n, salt, h)
	}
	var parents []*Head
	for n := range MaxParents {
		parents = append(parents, newHead(t, n, salt, h))
	}
	return newHead(t, 0, salt, parents...)
}

func TestGoldenHeads(t *testing.T) {
	all := heads(t)
	for _, name := range []string{"first", "merge"} {
		h := all[name]
		golden(t, "head-"+name+".hex", dump(h.Encode()))
	}
	m := all["merge"]
	plain, err := m.unseal(readersContext, testKeys.Read, m.readers[:])
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "head-content.hex", dump(plain))
	golden(t, "head-hashes.hex", fmt.Sprintf("network %s\nread %x\nverify %x\nfirst %s\nmerge %s\nwriter %x of %q\n",
		testNetwork, testKeys.Read, testKeys.Verify, all["first"].Hash(), m.Hash(), aWriter(1), "peer 1"))
}

func TestHeadRoundTrip(t *testing.T) {
	for name, h := range heads(t) {
		t.Run(name, func(t *testing.T) {
			b := h.Encode()
			got, err := DecodeHead(b)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(got, h, cmp.AllowUnexported(Head{})); d != "" {
				t.Errorf("got -, want +:\n%s", d)
			}
			if !bytes.Equal(got.Encode(), b) || got.Hash() != h.Hash() {
				t.Error("another encoding")
			}
			if err := got.Verify(testNetwork); err != nil {
				t.Error(err)
			}
			want := headContent()
			if name == "merge" {
				want = fullContent()
			}
			c, err := got.Open(testKeys.Read)
			if d := cmp.Diff(c, want); err != nil || d != "" {
				t.Errorf("%v, got -, want +:\n%s", err, d)
			}
			inv, err := got.Inventory(testKeys.Verify)
			if err != nil || inv != want.Inventory {
				t.Errorf("got %v, %v, want %v", inv, err, want.Inventory)
			}
		})
	}
	if n := len(longestHead(t).Encode()); n != 2055 || n > MaxHead {
		t.Errorf("the longest head has %d bytes, which is written otherwise", n)
	}
}

func TestHeadHasNumberAndSeenOfItsParents(t *testing.T) {
	salt := salts(3)
	first := newHead(t, 0, salt)
	a := newHead(t, 1, salt, newHead(t, 1, salt, first))
	b := newHead(t, 2, salt, first)
	m := newHead(t, 0, salt, b, a, b)
	if m.Number != 4 || len(m.Parents) != 2 {
		t.Errorf("got number %d, %d parents, want 4, 2", m.Number, len(m.Parents))
	}
	got := map[Writer]uint64{}
	for _, s := range m.Seen {
		got[s.Writer] = s.Number
	}
	want := map[Writer]uint64{aWriter(0): 4, aWriter(1): 3, aWriter(2): 2}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("got -, want +:\n%s", d)
	}
}

func TestSeenForgetsTheLowestNumbers(t *testing.T) {
	h := longestHead(t)
	if len(h.Seen) != MaxSeen {
		t.Fatalf("got %d, want %d", len(h.Seen), MaxSeen)
	}
	seen := map[Writer]uint64{}
	for _, s := range h.Seen {
		seen[s.Writer] = s.Number
	}
	if seen[h.Writer] != h.Number {
		t.Error("it has not seen itself")
	}
	// The first MaxParents writers have the highest numbers, and writer n
	// after them n+2.
	for n := range MaxSeen + 5 {
		_, ok := seen[aWriter(n)]
		if want := n < MaxParents || n >= MaxParents+5; ok != want {
			t.Errorf("writer %d: got %v, want %v", n, ok, want)
		}
	}
}

func TestNewHeadRefusesWhatCannotBe(t *testing.T) {
	salt := salts(4)
	first := newHead(t, 0, salt)
	other := Seed(sum("another seed")).Keys()
	foreign, err := NewHead(testNetwork, &other, nil, aWriter(0), headContent(), salt)
	if err != nil {
		t.Fatal(err)
	}
	last := *first
	last.Number = math.MaxUint64
	var many []*Head
	for range MaxParents + 1 {
		many = append(many, newHead(t, 0, salt))
	}
	for _, c := range []struct {
		name    string
		parents []*Head
		change  func(c *HeadContent)
		salt    io.Reader
	}{
		{"parent of another volume", []*Head{first, foreign}, nil, salt},
		{"last number", []*Head{&last}, nil, salt},
		{"too many parents", many, nil, salt},
		{"no salt", nil, nil, io.LimitReader(salt, 31)},
		{"no root", nil, func(c *HeadContent) { c.Root = pack.Ref{} }, salt},
		{"root in the same pack", nil, func(c *HeadContent) { c.Root.Pack = pack.ID{} }, salt},
		{"root of no size", nil, func(c *HeadContent) { c.Root.Size = 0 }, salt},
		{"no inventory", nil, func(c *HeadContent) { c.Inventory = pack.Ref{} }, salt},
		{"history in the same pack", nil, func(c *HeadContent) { c.History = pack.Ref{Len: 1, Size: 1} }, salt},
		{"dying of no length", nil, func(c *HeadContent) { c.Dying = pack.Ref{Pack: pack.ID{1}} }, salt},
		{"no peer", nil, func(c *HeadContent) { c.Peer = "" }, salt},
		{"long peer", nil, func(c *HeadContent) { c.Peer = strings.Repeat("p", maxPeer+1) }, salt},
		{"before 1970", nil, func(c *HeadContent) { c.Time = time.UnixMilli(-1) }, salt},
	} {
		t.Run(c.name, func(t *testing.T) {
			content := headContent()
			if c.change != nil {
				c.change(&content)
			}
			if h, err := NewHead(testNetwork, &testKeys, c.parents, aWriter(0), content, c.salt); err == nil {
				t.Errorf("got head %d", h.Number)
			}
		})
	}
}

func TestHeadIsStrict(t *testing.T) {
	all := heads(t)
	const seen = headerLen + 32 + 8 + 8 + 1 // of first: where the count is
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   error
	}{
		{"empty", func(b []byte) []byte { return nil }, ErrCorrupt},
		{"magic", func(b []byte) []byte { b[0]++; return b }, ErrCorrupt},
		{"version 0", func(b []byte) []byte { b[4] = 0; return b }, ErrCorrupt},
		{"version 2", func(b []byte) []byte { b[4] = 2; return b }, pack.ErrVersion},
		{"a byte more", func(b []byte) []byte { return append(b, 0) }, ErrCorrupt},
		{"a byte less", func(b []byte) []byte { return b[:len(b)-1] }, ErrCorrupt},
		{"too long", func(b []byte) []byte { return append(b, make([]byte, MaxHead)...) }, ErrCorrupt},
		{"nothing seen", func(b []byte) []byte { b[seen] = 0; return slices.Delete(b, seen+1, seen+17) }, ErrCorrupt},
		{"255 seen", func(b []byte) []byte { b[seen] = 255; return b }, ErrCorrupt},
		{"255 parents", func(b []byte) []byte { b[seen-1] = 255; return b }, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := DecodeHead(c.change(all["first"].Encode())); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	for _, c := range []struct {
		name, of string
		change   func(h *Head)
	}{
		{"number 0", "first", func(h *Head) { h.Number, h.Seen[0].Number = 0, 0 }},
		{"number 1 with parents", "merge", func(h *Head) {
			h.Number, h.Seen = 1, []Seen{{h.Writer, 1}}
		}},
		{"number 2 without parents", "first", func(h *Head) { h.Number, h.Seen[0].Number = 2, 2 }},
		{"parents swapped", "merge", func(h *Head) { slices.Reverse(h.Parents) }},
		{"parent twice", "merge", func(h *Head) { h.Parents[1] = h.Parents[0] }},
		{"nine parents", "longest", func(h *Head) { h.Parents = append(h.Parents, HeadHash(bytes.Repeat([]byte{255}, 32))) }},
		{"writers swapped", "merge", func(h *Head) { slices.Reverse(h.Seen) }},
		{"writer twice", "merge", func(h *Head) { h.Seen[1].Writer = h.Seen[0].Writer }},
		{"65 writers", "longest", func(h *Head) { h.Seen = append(h.Seen, Seen{Writer(bytes.Repeat([]byte{255}, 8)), 1}) }},
		{"itself not seen", "merge", func(h *Head) { h.Writer[0]++ }},
		{"itself with another number", "merge", func(h *Head) { h.Number++ }},
		{"seen number 0", "second", func(h *Head) { setOther(h, 0) }},
		{"seen its own number of another", "second", func(h *Head) { setOther(h, h.Number) }},
		{"seen a later one", "second", func(h *Head) { setOther(h, math.MaxUint64) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := copyHead(all[c.of])
			if h.sign(testNetwork, testKeys.Owner); h.Verify(testNetwork) != nil {
				t.Fatal("not good before")
			}
			c.change(h)
			h.sign(testNetwork, testKeys.Owner)
			if _, err := DecodeHead(h.Encode()); !errors.Is(err, ErrCorrupt) {
				t.Errorf("decode: got %v, want %v", err, ErrCorrupt)
			}
			if err := h.Verify(testNetwork); !errors.Is(err, ErrCorrupt) {
				t.Errorf("verify: got %v, want %v", err, ErrCorrupt)
			}
		})
	}
}

func copyHead(h *Head) *Head {
	c := *h
	c.Parents, c.Seen = slices.Clone(h.Parents), slices.Clone(h.Seen)
	return &c
}

// setOther changes what h has seen of another writer.
func setOther(h *Head, number uint64) {
	for i := range h.Seen {
		if h.Seen[i].Writer != h.Writer {
			h.Seen[i].Number = number
		}
	}
}

func TestAnyChangeOfAHeadIsSeen(t *testing.T) {
	for name, h := range heads(t) {
		b := h.Encode()
		for i := range b {
			for _, flip := range []byte{1, 0x80} {
				c := bytes.Clone(b)
				c[i] ^= flip
				got, err := DecodeHead(c)
				if err != nil {
					continue
				}
				if err := got.Verify(testNetwork); !errors.Is(err, pack.ErrSignature) {
					t.Fatalf("%s, byte %d: got %v, want %v", name, i, err, pack.ErrSignature)
				}
				if got.Hash() == h.Hash() {
					t.Fatalf("%s, byte %d: the same hash", name, i)
				}
			}
		}
		if err := h.Verify(pack.Network{1}); !errors.Is(err, pack.ErrSignature) {
			t.Errorf("%s, another network: got %v, want %v", name, err, pack.ErrSignature)
		}
	}
}

// What is sealed cannot be moved to another head, not even by who may sign.
func TestSealedPartsBelongToTheirHead(t *testing.T) {
	all := heads(t)
	a, b := all["second"], copyHead(all["merge"])
	b.salt, b.readers, b.verifiers = a.salt, a.readers, a.verifiers
	b.sign(testNetwork, testKeys.Owner)
	if err := b.Verify(testNetwork); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(testKeys.Read); !errors.Is(err, ErrCorrupt) {
		t.Errorf("readers: got %v, want %v", err, ErrCorrupt)
	}
	if _, err := b.Inventory(testKeys.Verify); !errors.Is(err, ErrCorrupt) {
		t.Errorf("verifiers: got %v, want %v", err, ErrCorrupt)
	}
}

func TestNoRightOpensMoreThanItsOwn(t *testing.T) {
	h := heads(t)["merge"]
	other := Seed(sum("another seed")).Keys()
	for _, c := range []struct {
		name         string
		key          [32]byte
		read, verify bool
	}{
		{"read key", testKeys.Read, true, false}, // the verify key derives from it
		{"verify key", testKeys.Verify, false, true},
		{"owner's public key", testKeys.Public(), false, false},
		{"convergence secret", testKeys.Convergence, false, false},
		{"salt", h.salt, false, false},
		{"nothing", [32]byte{}, false, false},
		{"read key of another volume", other.Read, false, false},
		{"verify key of another volume", other.Verify, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := h.Open(c.key); (err == nil) != c.read || err != nil && got != (HeadContent{}) {
				t.Errorf("read: got %v, %v, want %v", got, err, c.read)
			}
			if got, err := h.Inventory(c.key); (err == nil) != c.verify || err != nil && got != (pack.Ref{}) {
				t.Errorf("verify: got %v, %v, want %v", got, err, c.verify)
			}
			// Nor does the key serve for the other part by the other's context.
			_, err := h.unseal(readersContext, c.key, h.readers[:])
			if (err == nil) != c.read {
				t.Errorf("what is for readers: got %v, want %v", err, c.read)
			}
			_, err = h.unseal(verifiersContext, c.key, h.verifiers[:])
			if (err == nil) != c.verify {
				t.Errorf("what is for verifiers: got %v, want %v", err, c.verify)
			}
		})
	}
	b, content := h.Encode(), fullContent()
	for _, secret := range [][]byte{content.Root.Pack[:8], content.Root.Key[:8], content.Inventory.Key[:8], []byte("pppp")} {
		if bytes.Contains(b, secret) {
			t.Errorf("%x is not sealed", secret)
		}
	}
}

func TestHeadsDoNotShowWhatTheyPointTo(t *testing.T) {
	salt := salts(5)
	a := newHead(t, 0, salt)
	b, err := NewHead(testNetwork, &testKeys, nil, aWriter(0), fullContent(), salt)
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Encode()) != len(b.Encode()) {
		t.Error("lengths differ")
	}
	if c := newHead(t, 0, salt); c.readers == a.readers || c.verifiers == a.verifiers {
		t.Error("the same content is sealed alike")
	}
}

func TestContentIsStrict(t *testing.T) {
	full := fullContent()
	good := full.encode()
	const peer = 8 + 1 // offset
	refs := peer + 1 + maxPeer
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
	}{
		{"time", func(b []byte) []byte { b[0] |= 0x80; return b }},
		{"flags", func(b []byte) []byte { b[8] = 2; return b }},
		{"no peer", func(b []byte) []byte { b[peer] = 0; return b }},
		{"long peer", func(b []byte) []byte { b[peer] = maxPeer + 1; return b }},
		{"endless peer", func(b []byte) []byte { b[peer] = 255; return b }},
		{"no root", func(b []byte) []byte { clear(b[refs : refs+80]); return b }},
		{"root without pack", func(b []byte) []byte { clear(b[refs : refs+32]); return b }},
		{"history without pack", func(b []byte) []byte { clear(b[refs+80 : refs+80+32]); return b }},
		{"dying without length", func(b []byte) []byte { clear(b[refs+160+36 : refs+160+40]); return b }},
		{"padding", func(b []byte) []byte { b[readersLen-1] = 1; return b }},
		{"first of padding", func(b []byte) []byte { b[refs+240] = 1; return b }},
		{"a byte more", func(b []byte) []byte { return append(b, 0) }},
		{"a byte less", func(b []byte) []byte { return b[:readersLen-1] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := decodeContent(c.change(bytes.Clone(good)))
			got.Inventory = full.Inventory
			if err == nil {
				err = got.check()
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want %v", err, ErrCorrupt)
			}
		})
	}
}

func TestWritersArePseudonyms(t *testing.T) {
	other := Seed(sum("another seed")).Keys()
	all := map[Writer]bool{}
	for _, w := range []Writer{WriterOf(testKeys.Read, "a"), WriterOf(testKeys.Read, "b"), WriterOf(other.Read, "a"), WriterOf(testKeys.Verify, "a")} {
		all[w] = true
	}
	if len(all) != 4 || !all[WriterOf(testKeys.Read, "a")] {
		t.Errorf("got %d, want 4", len(all))
	}
}

// crowd is some writers, each with the heads that it knows. All build on what
// they know, as real ones do.
type crowd struct {
	t     *rapid.T
	salt  io.Reader
	all   []*Head
	above map[HeadHash]map[HeadHash]bool // the real ancestors of each
	known []map[HeadHash]*Head           // by writer
}

func newCrowd(t *rapid.T, writers int) *crowd {
	c := &crowd{t: t, salt: salts(6), above: map[HeadHash]map[HeadHash]bool{}}
	for range writers {
		c.known = append(c.known, map[HeadHash]*Head{})
	}
	return c
}

// write lets a writer build on the tips that it knows.
func (c *crowd) write(w int) {
	var known []*Head
	for _, h := range c.known[w] {
		known = append(known, h)
	}
	parents := Tips(known)
	h, err := NewHead(testNetwork, &testKeys, parents, aWriter(w), headContent(), c.salt)
	if err != nil {
		c.t.Fatal(err)
	}
	above := map[HeadHash]bool{}
	for _, p := range parents {
		above[p.Hash()] = true
		for a := range c.above[p.Hash()] {
			above[a] = true
		}
	}
	c.above[h.Hash()] = above
	c.all = append(c.all, h)
	c.known[w][h.Hash()] = h
}

// live lets writers write and learn of each other's heads.
func (c *crowd) live(steps int) {
	writers := rapid.IntRange(0, len(c.known)-1)
	for range steps {
		w := writers.Draw(c.t, "writer")
		if len(c.all) > 0 && rapid.Bool().Draw(c.t, "learns") {
			h := rapid.SampledFrom(c.all).Draw(c.t, "head")
			c.known[w][h.Hash()] = h
		} else {
			c.write(w)
		}
	}
}

func TestFollowsIsAncestry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCrowd(t, rapid.IntRange(1, 6).Draw(t, "writers"))
		c.live(rapid.IntRange(1, 30).Draw(t, "steps"))
		for _, h := range c.all {
			for _, g := range c.all {
				if got, want := h.Follows(g), c.above[h.Hash()][g.Hash()]; got != want {
					t.Fatalf("head %d of %x and head %d of %x: got %v, want %v", h.Number, h.Writer, g.Number, g.Writer, got, want)
				}
			}
		}
	})
}

func hashes(hs []*Head) []HeadHash {
	var out []HeadHash
	for _, h := range hs {
		out = append(out, h.Hash())
	}
	return out
}

func TestTipsAreASet(t *testing.T) {
	stranger := newHead(t, 9, salts(10))
	rapid.Check(t, func(t *rapid.T) {
		c := newCrowd(t, rapid.IntRange(1, 6).Draw(t, "writers"))
		c.live(rapid.IntRange(1, 30).Draw(t, "steps"))
		same := func(what string, got, want []*Head) {
			if d := cmp.Diff(hashes(got), hashes(want)); d != "" {
				t.Errorf("%s: got -, want +:\n%s", what, d)
			}
		}
		some := rapid.SliceOf(rapid.SampledFrom(append([]*Head{stranger}, c.all...)))
		a, b := some.Draw(t, "a"), some.Draw(t, "b")
		tips := Tips(a)
		same("again", Tips(tips), tips)
		same("in another order", Tips(rapid.Permutation(a).Draw(t, "order")), tips)
		same("twice", Tips(slices.Concat(a, a)), tips)
		same("of both", Tips(slices.Concat(Tips(a), Tips(b))), Tips(slices.Concat(a, b)))
		if len(a) > 0 && len(tips) == 0 {
			t.Error("no tips")
		}
		for _, h := range a {
			if !slices.Contains(hashes(tips), h.Hash()) && !slices.ContainsFunc(tips, func(tip *Head) bool { return tip.Follows(h) }) {
				t.Errorf("head %d went, and no tip follows it", h.Number)
			}
		}
		if !slices.IsSortedFunc(tips, func(g, h *Head) int {
			if g.Number != h.Number {
				return int(h.Number) - int(g.Number)
			}
			return g.Hash().compare(h.Hash())
		}) {
			t.Error("not in order")
		}
	})
}

// Whatever somebody signs, there are tips, and they do not depend on the
// order.
func TestTipsOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []*Head
		for range rapid.IntRange(1, 12).Draw(t, "heads") {
			h := &Head{
				Owner:  pack.Owner{byte(rapid.IntRange(0, 1).Draw(t, "owner"))},
				Number: rapid.Uint64Range(1, 5).Draw(t, "number"),
				Writer: aWriter(rapid.IntRange(0, 3).Draw(t, "writer")),
			}
			for n := range 4 {
				if s := (Seen{aWriter(n), rapid.Uint64Range(0, 6).Draw(t, "seen")}); s.Number > 0 {
					h.Seen = append(h.Seen, s)
				}
			}
			slices.SortFunc(h.Seen, func(a, b Seen) int { return bytes.Compare(a.Writer[:], b.Writer[:]) })
			if len(all) > 0 {
				h.Parents = hashes(rapid.SliceOfN(rapid.SampledFrom(all), 0, 3).Draw(t, "parents"))
			}
			all = append(all, h)
		}
		tips := Tips(all)
		if len(tips) == 0 {
			t.Error("no tips")
		}
		if d := cmp.Diff(hashes(Tips(rapid.Permutation(all).Draw(t, "order"))), hashes(tips)); d != "" {
			t.Errorf("in another order -, before +:\n%s", d)
		}
		if d := cmp.Diff(hashes(Tips(tips)), hashes(tips)); d != "" {
			t.Errorf("again -, before +:\n%s", d)
		}
		for _, h := range all {
			for _, g := range all {
				if h.Follows(g) && g.Follows(h) {
					t.Error("two heads follow each other")
				}
			}
		}
	})
}

// A parent is followed even where its writer is not among those that are told
// of; what is behind it is not, and so is merged once more.
func TestParentsAreFollowedWhateverWasSeen(t *testing.T) {
	salt := salts(11)
	first := newHead(t, 100, salt)
	early := newHead(t, 101, salt, first)
	h := newHead(t, 0, salt, early, longestHead(t))
	if len(h.Seen) != MaxSeen || slices.ContainsFunc(h.Seen, func(s Seen) bool { return s.Writer == early.Writer }) {
		t.Fatal("its writer is told of")
	}
	if !h.Follows(early) || h.Follows(first) {
		t.Errorf("got %v, %v, want true, false", h.Follows(early), h.Follows(first))
	}
}

func TestVolumesDoNotFollowEachOther(t *testing.T) {
	salt := salts(12)
	first := newHead(t, 0, salt)
	second := newHead(t, 0, salt, first)
	foreign := copyHead(first)
	foreign.Owner[0]++
	if second.Follows(foreign) || len(Tips([]*Head{second, foreign})) != 2 {
		t.Error("a head follows one of another volume")
	}
}

func TestHeadsOfAWriterThatForgotBothStay(t *testing.T) {
	salt := salts(7)
	first := newHead(t, 0, salt)
	x, y := newHead(t, 1, salt, first), newHead(t, 1, salt, first)
	if x.Follows(y) || y.Follows(x) || x.Follows(x) || !x.Follows(first) || first.Follows(x) {
		t.Error("one follows the other")
	}
	if got := len(Tips([]*Head{x, y, first})); got != 2 {
		t.Errorf("got %d tips, want 2", got)
	}
	m := newHead(t, 2, salt, x, y)
	if got := Tips([]*Head{x, m, y}); len(got) != 1 || got[0] != m {
		t.Errorf("merged: got %d tips", len(got))
	}
}

func TestTipsOfManyAreTheFirst(t *testing.T) {
	salt := salts(8)
	first := newHead(t, 0, salt)
	all := []*Head{first}
	for n := range 3 * MaxTips {
		all = append(all, newHead(t, n, salt, first))
	}
	late := newHead(t, 0, salt, all[1])
	all = append(all, late)
	tips := Tips(all)
	if len(tips) != MaxTips || tips[0] != late {
		t.Errorf("got %d tips, the first has number %d, want %d and %d", len(tips), tips[0].Number, MaxTips, late.Number)
	}
	for i, h := range tips[2:] {
		if tips[i+1].Hash().compare(h.Hash()) >= 0 {
			t.Error("not in order")
		}
	}
	if Tips(nil) != nil {
		t.Error("tips of nothing")
	}
}

// FuzzDecodeHead decodes what it is given, and the same followed by what no
// fuzzer finds: that is any bytes, but hundreds of them.
func FuzzDecodeHead(f *testing.F) {
	tail := make([]byte, len(Head{}.readers)+len(Head{}.verifiers)+len(Head{}.sig))
	for _, h := range heads(f) {
		b := h.Encode()
		f.Add(b[:len(b)-len(tail)])
	}
	f.Fuzz(func(t *testing.T, open []byte) {
		for _, b := range [][]byte{open, slices.Concat(open, tail)} {
			h, err := DecodeHead(b)
			if err != nil {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, pack.ErrVersion) {
					t.Errorf("got %v, want %v", err, ErrCorrupt)
				}
				continue
			}
			if !bytes.Equal(h.Encode(), b) {
				t.Errorf("another encoding:\n%s", hex.Dump(h.Encode()))
			}
			if h.Follows(h) {
				t.Error("it follows itself")
			}
		}
	})
}

// FuzzHeadContent is about what is sealed, which the fuzzer could not open.
func FuzzHeadContent(f *testing.F) {
	for _, c := range []HeadContent{headContent(), fullContent()} {
		f.Add(c.encode())
	}
	inventory := headContent().Inventory
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeContent(b)
		c.Inventory = inventory
		if err == nil {
			err = c.check()
		}
		if err == nil && !bytes.Equal(c.encode(), b) {
			t.Errorf("another encoding:\n%s", hex.Dump(c.encode()))
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("got %v, want %v", err, ErrCorrupt)
		}
	})
}

func BenchmarkTips(b *testing.B) {
	salt := salts(9)
	first := newHead(b, 0, salt)
	all := []*Head{first}
	for n := range 20 * MaxTips { // what 20 peers may answer
		all = append(all, newHead(b, n%40, salt, all[n/2]))
	}
	for b.Loop() {
		Tips(all)
	}
}
