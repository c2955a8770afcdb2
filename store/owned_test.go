package store

import (
	"bytes"
	"crypto/cipher"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

var (
	goldenRoot = Root{ID: RootOf(pack.ID{1}, 300), Link: "p2pfs:AbC-_", Name: "a b.pdf", Bytes: 5 << 30,
		Time: 1_800_000_000_000, Expires: 1_900_000_000_000, Source: "/home/a b"}
	goldenOwned = OwnedPack{ID: pack.ID{2}, Meta: true, Given: true, Scheme: erasure.Scheme{K: 4, M: 16},
		Number: 1_800_000_000_001, Expires: 1_900_000_000_000, Len: 4096, Content: hashOf("content")}
)

func TestCatalogIsEncodedAsEver(t *testing.T) {
	id := goldenRoot.ID
	golden(t, "root-id", id[:])
	for name, enc := range map[string]struct {
		b      []byte
		decode func([]byte) (any, error)
		want   any
	}{
		"root":  {goldenRoot.encode(), func(b []byte) (any, error) { return decodeRoot(goldenRoot.ID, b) }, goldenRoot},
		"owned": {goldenOwned.encode(), func(b []byte) (any, error) { return decodeOwned(goldenOwned.ID, b) }, goldenOwned},
	} {
		golden(t, name, enc.b)
		got, err := enc.decode(enc.b)
		if diff := cmp.Diff(enc.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		for n := range enc.b {
			if _, err := enc.decode(enc.b[:n]); err == nil {
				t.Errorf("%s: the first %d bytes were taken for all", name, n)
			}
		}
		if _, err := enc.decode(append(bytes.Clone(enc.b), 0)); err == nil {
			t.Errorf("%s: a byte too many was taken", name)
		}
	}
	owned := goldenOwned.encode()
	owned[0]++
	_, err := decodeOwned(goldenOwned.ID, owned)
	wantErr(t, err, ErrVersion)
}

// sealing gives what seals roots with a key of one repeated byte.
func sealing(t *testing.T, fill byte) cipher.AEAD {
	t.Helper()
	aead, err := rootCipher([32]byte(bytes.Repeat([]byte{fill}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	return aead
}

func TestRootsAreSealedAsEver(t *testing.T) {
	aead := sealing(t, 7)
	sealed := sealRoot(aead, &goldenRoot)
	old := fixture(t, "root-sealed", sealed) // another nonce each time: what is pinned is that it opens
	for _, b := range [][]byte{sealed, old} {
		got, err := openRoot(aead, goldenRoot.ID, b)
		if diff := cmp.Diff(goldenRoot, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		if bytes.Contains(b, []byte(goldenRoot.Name)) || bytes.Contains(b, []byte(goldenRoot.Link)) {
			t.Errorf("name or link are plain in %x", b)
		}
		for i := range b {
			damaged := bytes.Clone(b)
			damaged[i] ^= 1
			if _, err := openRoot(aead, goldenRoot.ID, damaged); err == nil {
				t.Errorf("taken although byte %d is damaged", i)
			}
			if _, err := openRoot(aead, goldenRoot.ID, b[:i]); err == nil {
				t.Errorf("the first %d bytes were taken for all", i)
			}
		}
		_, err = openRoot(aead, RootID{1}, b)
		wantErr(t, err, ErrCorrupt) // moved to another root
		_, err = openRoot(sealing(t, 8), goldenRoot.ID, b)
		wantErr(t, err, ErrCorrupt)
	}
	sealed[0]++
	_, err := openRoot(aead, goldenRoot.ID, sealed)
	wantErr(t, err, ErrVersion)
}

func TestAnotherHomesCatalogIsNotRead(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{Seal: [32]byte{1}})
	root := testRoot("a")
	if err := s.Own(root, []OwnedPack{ownedPack(1)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{Seal: [32]byte{2}})
	_, err := s.Root(root.ID)
	wantErr(t, err, ErrCorrupt)
	if roots := gather(t, s.Roots(t.Context())); len(roots) != 0 {
		t.Errorf("got %v of another home", roots)
	}
}

func FuzzDecodeRoot(f *testing.F) {
	f.Add(goldenRoot.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRoot(RootID{}, b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Errorf("got %x, want %x", r.encode(), b)
		}
	})
}

func FuzzDecodeOwned(f *testing.F) {
	f.Add(goldenOwned.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodeOwned(pack.ID{}, b); err == nil && !bytes.Equal(p.encode(), b) {
			t.Errorf("got %x, want %x", p.encode(), b)
		}
	})
}

// ownedPack is a pack for tests of the catalog.
func ownedPack(n int) OwnedPack {
	return OwnedPack{ID: pack.ID{byte(n >> 8), byte(n)}, Scheme: erasure.Scheme{K: 2, M: 3}, Number: 10, Len: 4096}
}

func testRoot(name string) Root {
	return Root{ID: RootOf(pack.ID{9}, uint32(len(name))<<8|uint32(name[0])), Link: "p2pfs:x", Name: name, Time: 7}
}

// gather gives all of a list, and fails on its error.
func gather[T any](tb testing.TB, seq func(func(T, error) bool)) []T {
	tb.Helper()
	var out []T
	for v, err := range seq {
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func TestAPackIsOwnedAsLongAsARootRefersToIt(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	a, b := testRoot("a"), testRoot("b")
	for _, own := range []struct {
		root  Root
		packs []OwnedPack
	}{{a, []OwnedPack{ownedPack(1), ownedPack(2)}}, {b, []OwnedPack{ownedPack(2), ownedPack(3)}}} {
		if err := s.Own(own.root, own.packs); err != nil {
			t.Fatal(err)
		}
	}
	if got := gather(t, s.Roots(t.Context())); len(got) != 2 {
		t.Errorf("got %d roots, want 2", len(got))
	}
	if roots, err := s.RootsOf(ownedPack(2).ID, 5); err != nil || len(roots) != 2 {
		t.Errorf("got %v, %v, want two roots", roots, err)
	}
	if got := gather(t, s.PacksOf(t.Context(), a.ID)); !slices.Equal(got, []pack.ID{ownedPack(1).ID, ownedPack(2).ID}) {
		t.Errorf("got %v", got)
	}
	gone, err := s.Disown(a)
	if err != nil || !slices.Equal(gone, []pack.ID{ownedPack(1).ID}) {
		t.Errorf("got %v, %v, want the first pack", gone, err)
	}
	if got := gather(t, s.Owned(t.Context())); len(got) != 2 || got[0] != ownedPack(2) || got[1] != ownedPack(3) {
		t.Errorf("got %v", got)
	}
	if gone, err := s.Disown(b); err != nil || len(gone) != 2 {
		t.Errorf("got %v, %v, want two packs", gone, err)
	}
	if got := gather(t, s.Owned(t.Context())); len(got) != 0 {
		t.Errorf("got %v, want nothing", got)
	}
	if gone, err := s.Disown(b); err != nil || len(gone) != 0 {
		t.Errorf("again: got %v, %v", gone, err)
	}
}

func TestACatalogOfManyPacksIsWrittenInSteps(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	var packs []OwnedPack
	for n := range 2*ownStep + 5 {
		packs = append(packs, ownedPack(n))
	}
	root := testRoot("many")
	if err := s.Own(root, packs); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	if got := gather(t, s.Owned(t.Context())); len(got) != len(packs) {
		t.Errorf("got %d packs, want %d", len(got), len(packs))
	}
	// Killed after the first step: the rest goes the next time, and the root last.
	first, more, err := s.disown(root)
	if err != nil || !more || len(first) != ownStep {
		t.Fatalf("got %d packs gone, %v, %v, want %d and more", len(first), more, err, ownStep)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, Options{})
	if _, err := s.Root(root.ID); err != nil {
		t.Errorf("root in between: %v", err)
	}
	if gone, err := s.Disown(root); err != nil || len(gone) != len(packs)-ownStep {
		t.Errorf("got %d packs gone, %v, want %d", len(gone), err, len(packs)-ownStep)
	}
	if _, err := s.Root(root.ID); !errors.Is(err, ErrNotFound) || len(gather(t, s.Owned(t.Context()))) != 0 {
		t.Errorf("something is left: %v", err)
	}
}

// What a kill leaves in the middle is made whole by the same again.
func TestHalfACatalogIsRepeated(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	root := testRoot("half")
	if err := s.Own(root, nil); err != nil { // killed before the packs
		t.Fatal(err)
	}
	if err := s.Own(root, []OwnedPack{ownedPack(1), ownedPack(2)}); err != nil {
		t.Fatal(err)
	}
	now, err := s.Root(root.ID)
	if err != nil || now.Time <= root.Time {
		t.Fatalf("got %+v, %v, want a later time", now, err)
	}
	if _, err := s.Disown(root); !errors.Is(err, ErrOld) {
		t.Errorf("put again since it was read: got %v, want %v", err, ErrOld)
	}
	if got := gather(t, s.Owned(t.Context())); len(got) != 2 {
		t.Errorf("got %v, want both packs", got)
	}
	if gone, err := s.Disown(now); err != nil || len(gone) != 2 {
		t.Errorf("got %v, %v", gone, err)
	}
}

func TestTheNewestStateOfAnOwnedPackStays(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	p := ownedPack(1)
	wantErr(t, s.SetOwned(p), ErrNotFound)
	if err := s.Own(testRoot("a"), []OwnedPack{p}); err != nil {
		t.Fatal(err)
	}
	newer := p
	newer.Number, newer.Scheme = 11, erasure.Scheme{K: 8, M: 12}
	if err := s.SetOwned(newer); err != nil {
		t.Fatal(err)
	}
	if err := s.Own(testRoot("b"), []OwnedPack{p}); err != nil { // an older one
		t.Fatal(err)
	}
	if got, err := s.OwnedPack(p.ID); err != nil || got != newer {
		t.Errorf("got %+v, %v, want %+v", got, err, newer)
	}
}

func TestTombstonesOfPacksNotHeldAreBounded(t *testing.T) {
	c := newClock()
	s := openStore(t, "", Options{InMemory: true, Now: c.now, graves: 8})
	rnd := seeded(t)
	bury := func(from string) error {
		p := newSample(t, rnd, 100, erasure.Scheme{K: 1}, 1)
		_, err := s.Bury(p.tombstone(2), from)
		return err
	}
	for n := range 2 {
		if err := bury("one peer"); err != nil {
			t.Fatalf("tombstone %d: %v", n, err)
		}
	}
	wantErr(t, bury("one peer"), ErrFull)
	// Samples have one owner, so another peer is refused too.
	wantErr(t, bury("another"), ErrFull)
	// A pack that is held has its room.
	p := newSample(t, rnd, 100, erasure.Scheme{K: 1}, 1)
	if err := p.put(t, s, 0, PutID{}); err != nil {
		t.Fatal(err)
	}
	if changed, err := s.Bury(p.tombstone(2), "one peer"); err != nil || !changed {
		t.Errorf("of a pack held: got %v, %v", changed, err)
	}
	if _, err := s.Begin(t.Context(), p.m, 0, PutID{}); !errors.Is(err, ErrOld) {
		t.Errorf("an older state after it: got %v, want %v", err, ErrOld)
	}
	// What has gone makes room, once it is looked for.
	c.add(tombstoneTTL)
	sweep(t, s)
	if err := bury("one peer"); err != nil {
		t.Errorf("after their time: %v", err)
	}
	if s.graves.all != 1 {
		t.Errorf("%d are counted, want 1", s.graves.all)
	}
}

func BenchmarkOwn(b *testing.B) {
	s := openStore(b, b.TempDir(), Options{})
	var packs []OwnedPack
	for n := range 32 << 10 {
		packs = append(packs, ownedPack(n))
	}
	for i := 0; b.Loop(); i++ {
		root := testRoot(fmt.Sprintf("%d", i))
		if err := s.Own(root, packs); err != nil {
			b.Fatal(err)
		}
		begun := time.Now()
		root, err := s.Root(root.ID)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Disown(root); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(time.Since(begun).Seconds()*1e3, "ms/disown")
	}
}
