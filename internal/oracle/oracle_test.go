package oracle

import (
	"bytes"
	"crypto/ed25519"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
)

var owner = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// sample is a pack with its shards.
type sample struct {
	m            *pack.Manifest
	data, parity []byte
}

// newSample makes a pack of n bytes, the same for an n, coded by s.
func newSample(t *testing.T, n int, s erasure.Scheme, number uint64) *sample {
	t.Helper()
	p := &sample{data: make([]byte, n)}
	rand.NewChaCha8([32]byte{byte(n)}).Read(p.data)
	content := pack.NewContent(p.data)
	if g := erasure.NewGeometry(n, s); g.K > 1 {
		p.parity = make([]byte, g.ParityLen())
	}
	hashes, err := pack.Code(content, p.data, s, p.parity)
	if err != nil {
		t.Fatal(err)
	}
	st := pack.NewState(pack.Network{1}, pack.Owner(owner.Public().(ed25519.PublicKey)), content, s, false, number, hashes)
	st.Sign(owner)
	p.m = &pack.Manifest{Content: content, State: *st}
	return p
}

// put has the store of a home hold a shard.
func (p *sample) put(t *testing.T, home string, shard int, how store.PutID) {
	t.Helper()
	in(t, home, func(s *store.Store) {
		w, err := s.Begin(t.Context(), p.m, shard, how)
		if err != nil {
			t.Fatal(err)
		}
		g := p.m.Geometry()
		for row := range g.ShardRows(shard) {
			if err := w.Write(row, g.Cell(p.data, p.parity, shard, row)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
	})
}

func in(t *testing.T, home string, f func(*store.Store)) {
	t.Helper()
	s, err := store.Open(filepath.Join(home, "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func homes(t *testing.T, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = filepath.Join(t.TempDir(), "home")
	}
	return out
}

// damage flips a byte of every KiB in the middle of the value log with the
// blocks.
func damage(t *testing.T, home string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(home, "store", "*", "*.vlog"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		used := len(bytes.TrimRight(b, "\x00"))
		if !strings.Contains(path, "blocks") || used < 100<<10 {
			continue
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for off := used / 4; off < used*3/4; off += 1 << 10 {
			if _, err := f.WriteAt([]byte{b[off] ^ 1}, int64(off)); err != nil {
				t.Fatal(err)
			}
			damaged++
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if damaged == 0 {
		t.Fatalf("nothing to damage in %v", logs)
	}
}

var scheme = erasure.Scheme{K: 4, M: 2}

func TestWholeShardsInDistinctStoresCount(t *testing.T) {
	t.Parallel()
	h := homes(t, 7)
	big, small := newSample(t, 1<<20, scheme, 1), newSample(t, 64<<10, scheme, 1)
	for i := range 6 {
		big.put(t, h[i], i, store.PutID{})
	}
	big.put(t, h[6], 0, store.PutID{}) // a copy is no further shard
	for i := range 3 {
		small.put(t, h[i], i, store.PutID{})
	}
	small.put(t, h[3], 3, store.PutID{1}) // of a put that has not ended

	judge := func(homes ...string) map[string]Pack {
		t.Helper()
		r, err := Judge(t.Context(), homes...)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Packs) != 2 || r.Stores != len(homes) || r.Packs[0].Survives > r.Packs[1].Survives {
			t.Fatalf("got %+v, want 2 packs in %d stores, worst first", r, len(homes))
		}
		of := make(map[string]Pack)
		for _, p := range r.Packs {
			of[p.ID] = p
		}
		return of
	}
	check := func(got, want Pack) {
		t.Helper()
		if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Pack{}, "ID", "Damaged")); d != "" {
			t.Errorf("want - got +:\n%s", d)
		}
	}
	got := judge(h...)
	check(got[big.m.ID().String()], Pack{K: 4, N: 6, Live: 6, Survives: 2, Shards: 6, Copies: 7})
	check(got[small.m.ID().String()], Pack{K: 4, N: 6, Live: 3, Survives: -1, Shards: 3, Copies: 3, Provisional: 1})
	check(judge(h[:4]...)[big.m.ID().String()], Pack{K: 4, N: 6, Live: 4, Survives: 0, Shards: 4, Copies: 4})

	damage(t, h[2])
	p := judge(h...)[big.m.ID().String()]
	check(p, Pack{K: 4, N: 6, Live: 5, Survives: 1, Shards: 5, Copies: 6})
	if len(p.Damaged) != 1 || !strings.Contains(p.Damaged[0], h[2]+": shard 2: ") {
		t.Errorf("got damage %q, want shard 2 in %s", p.Damaged, h[2])
	}
}

func TestDeletedPacksAreNotListed(t *testing.T) {
	t.Parallel()
	h := homes(t, 3)
	p := newSample(t, 64<<10, erasure.Scheme{K: 1, M: 2}, 1)
	for i := range h {
		p.put(t, h[i], i, store.PutID{})
	}
	stone := p.m.State.Tombstone(2)
	stone.Sign(owner)
	in(t, h[1], func(s *store.Store) {
		if _, err := s.SetState(stone); err != nil {
			t.Fatal(err)
		}
	})
	r, err := Judge(t.Context(), h...)
	if err != nil || len(r.Packs) != 0 || r.Deleted != 1 {
		t.Errorf("got %+v, %v; want one deleted pack", r, err)
	}
	if r, err = Judge(t.Context(), h[0], h[2]); err != nil || len(r.Packs) != 1 || r.Packs[0].Survives != 1 {
		t.Errorf("where nobody knows of it: got %+v, %v; want a pack that survives 1 loss", r, err)
	}
}

func TestTheSafestCodingCounts(t *testing.T) {
	t.Parallel()
	h := homes(t, 5)
	old, anew := newSample(t, 1<<20, erasure.Scheme{K: 1, M: 2}, 1), newSample(t, 1<<20, scheme, 2)
	for i := range 3 {
		old.put(t, h[i], i, store.PutID{})
	}
	for i := range 2 {
		anew.put(t, h[3+i], i, store.PutID{})
	}
	r, err := Judge(t.Context(), h...)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := r.Pack(old.m.ID().String()); !ok || len(r.Packs) != 1 || p.K != 1 || p.Live != 3 || p.Survives != 2 {
		t.Errorf("got %+v, want the coding of which enough is there", r)
	}
}

func TestMatching(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		stores [][]int // of each shard
		want   int
	}{
		{"none", nil, 0},
		{"one each", [][]int{{0}, {1}, {2}}, 3},
		{"two shards in one store", [][]int{{0}, {0}, {1}}, 2},
		{"one shard in two stores", [][]int{{0, 1}, {}}, 1},
		{"the first must give way", [][]int{{0, 1}, {0}}, 2},
		{"a chain", [][]int{{0, 1}, {1, 2}, {2, 3}, {0}}, 4},
		{"all shards in two stores", [][]int{{0, 1}, {0, 1}, {0, 1}}, 2},
	} {
		if got := matching(c.stores); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
}

func TestStoreInUseIsAnError(t *testing.T) {
	t.Parallel()
	h := homes(t, 1)
	in(t, h[0], func(*store.Store) {
		if _, err := Judge(t.Context(), h...); err == nil {
			t.Error("got no error, want one that says that the store is in use")
		}
	})
}
