package store

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/pack"
)

var goldenTips = tips{by: markOf("peer one"), since: 1_800_000_000_000,
	heads: [][]byte{[]byte("a head"), []byte("a head that is longer"), {0xff}}}

func (t *tips) mustEncode(tb testing.TB) []byte {
	tb.Helper()
	b, err := t.encode()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestHeadsAreEncodedAsEver(t *testing.T) {
	b := goldenTips.mustEncode(t)
	golden(t, "heads", b)
	got, err := decodeTips(b)
	if diff := cmp.Diff(goldenTips, got, cmp.AllowUnexported(tips{})); diff != "" || err != nil {
		t.Errorf("got %v (-want +got):\n%s", err, diff)
	}
	for n := range b {
		_, err := decodeTips(b[:n])
		wantErr(t, err, ErrCorrupt)
	}
	_, err = decodeTips(append(bytes.Clone(b), 0))
	wantErr(t, err, ErrCorrupt)
	b[0]++
	_, err = decodeTips(b)
	wantErr(t, err, ErrVersion)
}

func TestImpossibleHeadsAreRefused(t *testing.T) {
	many := make([][]byte, maxTips+1)
	for i := range many {
		many[i] = []byte{byte(i)}
	}
	for name, heads := range map[string][][]byte{
		"none": nil, "too many": many, "an empty one": {{}}, "a long one": {make([]byte, maxHead+1)},
	} {
		if _, err := (&tips{heads: heads}).encode(); err == nil {
			t.Errorf("%s: they were encoded", name)
		}
	}
	good := func(heads ...[]byte) []byte { return (&tips{heads: heads}).mustEncode(t) }
	with := func(b []byte, at int, v ...byte) []byte {
		copy(b[at:], v)
		return b
	}
	long := append(with(good([]byte{1}), headsAt+1, 0x10, 1), make([]byte, maxHead)...)
	seventeen := with(good(many[:maxTips]...), headsAt, maxTips+1)
	for name, b := range map[string][]byte{
		"not in order":        good([]byte{2}, []byte{1}),
		"one twice":           good([]byte{1}, []byte{1}),
		"none":                good([]byte{1})[:headsAt+1],
		"count of none":       with(good([]byte{1})[:headsAt+1], headsAt, 0),
		"an empty one":        with(good([]byte{1})[:headsAt+3], headsAt+1, 0, 0),
		"a long one":          long,
		"too many":            append(seventeen, 0, 1, maxTips),
		"changed before 1970": with(good([]byte{1}), 9, 0x80),
		"version 0":           with(good([]byte{1}), 0, 0),
	} {
		if _, err := decodeTips(b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
	}
	if _, err := decodeTips(with(good([]byte{1}), 9, 0x7f)); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeHeads(f *testing.F) {
	f.Add(goldenTips.mustEncode(f))
	f.Add((&tips{since: math.MaxInt64, heads: [][]byte{make([]byte, maxHead)}}).mustEncode(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		tp, err := decodeTips(b)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
				t.Errorf("got error %v", err)
			}
			return
		}
		if got, err := tp.encode(); err != nil || !bytes.Equal(got, b) {
			t.Errorf("got %x, %v, want %x", got, err, b)
		}
	})
}

// heads makes heads of texts.
func heads(texts ...string) [][]byte {
	var hs [][]byte
	for _, s := range texts {
		hs = append(hs, []byte(s))
	}
	return hs
}

// setTips has the heads of a volume be those, whatever was there.
func setTips(s *Store, owner pack.Owner, from string, want [][]byte) error {
	_, err := s.UpdateHeads(owner, from, func([][]byte) ([][]byte, error) { return want, nil })
	return err
}

// wantHeads compares what is kept of a volume.
func wantHeads(tb testing.TB, s *Store, owner pack.Owner, want [][]byte) {
	tb.Helper()
	got, err := s.Heads(owner)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		tb.Errorf("heads of volume %s: %v (-want +got):\n%s", owner.Short(), err, diff)
	}
}

func TestHeadsAreKeptAsASet(t *testing.T) {
	c := newClock()
	s := openStore(t, "", Options{InMemory: true, Now: c.now})
	owner := pack.Owner{1}
	wantHeads(t, s, owner, nil)
	for _, step := range []struct {
		name    string
		have    [][]byte // what fn is to be given
		want    [][]byte
		changed bool
	}{
		{"nothing for nothing", nil, nil, false},
		{"the first", nil, heads("b"), true},
		{"the same", heads("b"), heads("b"), false},
		{"another", heads("b"), heads("b", "c", "a", "c"), true},
		{"the same in another order", heads("a", "b", "c"), heads("c", "b", "a"), false},
		{"one that follows all", heads("a", "b", "c"), heads("d"), true},
		{"none", heads("d"), nil, true},
		{"none again", nil, [][]byte{}, false},
	} {
		before := row(t, s, owner)
		c.add(time.Minute)
		changed, err := s.UpdateHeads(owner, "someone", func(have [][]byte) ([][]byte, error) {
			if diff := cmp.Diff(step.have, have); diff != "" {
				t.Errorf("%s: given (-want +got):\n%s", step.name, diff)
			}
			for i := range have { // it is free to do this
				have[i][0], have[i] = 'x', nil
			}
			return step.want, nil
		})
		if err != nil || changed != step.changed {
			t.Errorf("%s: got %v, %v, want %v", step.name, changed, err, step.changed)
		}
		if after := row(t, s, owner); bytes.Equal(before, after) == step.changed {
			t.Errorf("%s: stored %x, then %x", step.name, before, after)
		}
	}
	if u := s.Usage(); u.Held != 0 || s.volumes.all != 0 || len(s.volumes.by) != 0 {
		t.Errorf("in the end: got %+v and %d volumes", u, s.volumes.all)
	}
	for _, bad := range [][][]byte{{{}}, {make([]byte, maxHead+1)}, make([][]byte, maxTips+1)} {
		if err := setTips(s, owner, "someone", bad); err == nil {
			t.Errorf("%d heads were taken", len(bad))
		}
	}
}

// row is how the heads of a volume are stored.
func row(tb testing.TB, s *Store, owner pack.Owner) []byte {
	tb.Helper()
	_, b, err := s.tips(owner)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestAnErrorKeepsTheHeadsAsTheyAre(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	if err := setTips(s, pack.Owner{1}, "someone", heads("a")); err != nil {
		t.Fatal(err)
	}
	mine := errors.New("no")
	changed, err := s.UpdateHeads(pack.Owner{1}, "someone", func([][]byte) ([][]byte, error) { return heads("b"), mine })
	if changed || err != mine {
		t.Errorf("got %v, %v, want that very error", changed, err)
	}
	wantHeads(t, s, pack.Owner{1}, heads("a"))
}

// Those who bring heads at the same time each see what the others brought.
func TestNoHeadIsLostToAnother(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	owners := []pack.Owner{{1}, {1, 2}, {3}} // two of them under the same lock
	var want [][]byte
	var g errgroup.Group
	for i := range maxTips {
		h := fmt.Appendf(nil, "head %02d", i)
		want = append(want, h)
		for _, owner := range owners {
			g.Go(func() error {
				_, err := s.UpdateHeads(owner, "someone", func(have [][]byte) ([][]byte, error) { return append(have, h), nil })
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, owner := range owners {
		wantHeads(t, s, owner, want)
	}
	if got := gather(t, s.Volumes(t.Context())); !slices.Equal(got, owners) {
		t.Errorf("got volumes %v, want %v", got, owners)
	}
}

func TestVolumesAreBounded(t *testing.T) {
	dir := t.TempDir()
	opt := Options{volumes: 8}
	s := openStore(t, dir, opt)
	n := byte(0)
	bring := func(from string) error {
		n++
		return setTips(s, pack.Owner{n}, from, heads("a"))
	}
	for _, reopened := range []bool{false, true} {
		if reopened {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir, opt)
		} else {
			for i := range 2 {
				if err := bring("one peer"); err != nil {
					t.Fatalf("volume %d: %v", i, err)
				}
			}
		}
		wantErr(t, bring("one peer"), ErrDenied) // it has brought a quarter
		// What is kept goes on, whoever brings it.
		for _, from := range []string{"one peer", "another"} {
			if err := setTips(s, pack.Owner{2}, from, heads(from, fmt.Sprint(reopened))); err != nil {
				t.Errorf("a new head from %s: %v", from, err)
			}
		}
		if err := setTips(s, pack.Owner{1}, "one peer", nil); err != nil {
			t.Fatal(err)
		}
		if err := setTips(s, pack.Owner{1}, "one peer", heads("again")); err != nil {
			t.Errorf("after one was forgotten: %v", err)
		}
	}
	for _, from := range []string{"b", "b", "c", "c", "d", "d"} {
		if err := bring(from); err != nil {
			t.Fatalf("from %s: %v", from, err)
		}
	}
	held := s.Usage().Held
	wantErr(t, bring("e"), ErrDenied) // all are taken
	if got := s.Usage().Held; got != held {
		t.Errorf("got %d bytes held after the refusal, %d before", got, held)
	}
	if got := len(gather(t, s.Volumes(t.Context()))); got != 8 || s.volumes.all != 8 {
		t.Errorf("got %d volumes, %d counted, want 8", got, s.volumes.all)
	}
}

func TestHeadsCountForTheCapacity(t *testing.T) {
	one := tips{heads: [][]byte{make([]byte, 1000)}}
	cost := int64(len(one.mustEncode(t))) + itemCost
	dir := t.TempDir()
	free := int64(math.MaxInt64 / 2)
	opt := Options{Capacity: cost, free: func() (int64, error) { return free, nil }}
	s := openStore(t, dir, opt)
	if err := setTips(s, pack.Owner{1}, "someone", one.heads); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if u := s.Usage(); u.Held != cost || u.Free != 0 {
			t.Errorf("got usage %+v, want %d held and none free", u, cost)
		}
		wantErr(t, setTips(s, pack.Owner{2}, "someone", heads("a")), ErrFull)
		wantErr(t, setTips(s, pack.Owner{1}, "someone", [][]byte{make([]byte, 1001)}), ErrFull)
		wantHeads(t, s, pack.Owner{1}, one.heads)
		if u := s.Usage(); u.Held != cost || s.volumes.all != 1 {
			t.Errorf("after refusals: got %+v and %d volumes", u, s.volumes.all)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, dir, opt)
	}
	other := [][]byte{bytes.Repeat([]byte{1}, 1000)}
	free = diskReserve/2 - 1
	wantErr(t, setTips(s, pack.Owner{1}, "someone", other), ErrFull)
	free = diskReserve / 2
	if err := setTips(s, pack.Owner{1}, "someone", other); err != nil {
		t.Errorf("as long as before: %v", err)
	}
	free = 0
	if err := setTips(s, pack.Owner{1}, "someone", nil); err != nil {
		t.Errorf("none: %v", err)
	}
	if u := s.Usage(); u.Held != 0 || s.volumes.all != 0 {
		t.Errorf("in the end: got %+v and %d volumes", u, s.volumes.all)
	}
}

func TestDamagedHeadsAreNotThere(t *testing.T) {
	dir := t.TempDir()
	var log strings.Builder
	opt := Options{volumes: 8, Log: slog.New(slog.NewTextHandler(&log, nil))}
	s := openStore(t, dir, opt)
	for n := range byte(2) {
		if err := setTips(s, pack.Owner{n}, "someone", heads("a")); err != nil {
			t.Fatal(err)
		}
	}
	err := s.update(func(txn *badger.Txn) error { return txn.Set(headsKey(pack.Owner{0}), []byte("\x01noise")) })
	if err != nil {
		t.Fatal(err)
	}
	wantHeads(t, s, pack.Owner{0}, nil)
	if got := gather(t, s.Volumes(t.Context())); !slices.Equal(got, []pack.Owner{{1}}) {
		t.Errorf("got volumes %v, want the other", got)
	}
	if n := strings.Count(log.String(), "damaged record"); n != 2 {
		t.Errorf("it is logged %d times, want 2:\n%s", n, log.String())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, opt)
	if s.volumes.all != 1 {
		t.Errorf("%d volumes are counted, want 1", s.volumes.all)
	}
	if err := setTips(s, pack.Owner{0}, "someone", heads("b")); err != nil {
		t.Fatal(err)
	}
	wantHeads(t, s, pack.Owner{0}, heads("b"))
	if want := 2 * headsCost(row(t, s, pack.Owner{0})); s.volumes.all != 2 || s.Usage().Held != want {
		t.Errorf("got %d volumes and %d bytes, want 2 and %d", s.volumes.all, s.Usage().Held, want)
	}
	newer := goldenTips.mustEncode(t)
	newer[0]++
	err = s.update(func(txn *badger.Txn) error { return txn.Set(headsKey(pack.Owner{0}), newer) })
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, setTips(s, pack.Owner{0}, "someone", heads("c")), ErrVersion)
}

func TestManyVolumesAreListedInOrder(t *testing.T) {
	s := openStore(t, "", Options{InMemory: true})
	var want []pack.Owner
	for n := range 2*page + 1 {
		want = append(want, pack.Owner{byte(n >> 8), byte(n)})
	}
	for i := range want {
		if err := setTips(s, want[len(want)-1-i], "someone", heads("a")); err != nil {
			t.Fatal(err)
		}
	}
	if got := gather(t, s.Volumes(t.Context())); !slices.Equal(got, want) {
		t.Errorf("got %d volumes, want %d in order", len(got), len(want))
	}
	for range s.Volumes(t.Context()) {
		break
	}
}

func TestSpaceOfOldHeadsIsGivenBack(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{size: 1 << 20})
	rnd := seeded(t)
	var want [][]byte
	for range 20 {
		want = nil
		for i := range maxTips {
			h := bytes.Repeat([]byte{byte(i)}, maxHead)
			h[1] = byte(rnd.Uint32())
			want = append(want, h)
		}
		if err := setTips(s, pack.Owner{1}, "someone", want); err != nil {
			t.Fatal(err)
		}
	}
	if !s.worthReclaiming() {
		t.Error("it is not worth it")
	}
	if err := s.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantHeads(t, s, pack.Owner{1}, want)
	if dead, err := s.garbage(); err != nil || dead > 1<<20 {
		t.Errorf("got %d bytes dead, %v, want at most a file", dead, err)
	}
	// Small ones do not lie in the value log.
	s.account(0, 0, -s.dead, 0)
	for _, text := range []string{"a", "b", "c"} {
		if err := setTips(s, pack.Owner{2}, "someone", heads(text)); err != nil {
			t.Fatal(err)
		}
	}
	if s.dead != 0 {
		t.Errorf("got %d bytes dead, want none", s.dead)
	}
}

// headsModel is what a store must do with heads.
type headsModel struct {
	heads map[pack.Owner][]string // in order
	by    map[pack.Owner]string
}

// update is what UpdateHeads does with heads that are fine.
func (m *headsModel) update(owner pack.Owner, from string, want []string, most int) (changed bool, err error) {
	want = slices.Compact(slices.Sorted(slices.Values(want)))
	have, known := m.heads[owner]
	switch {
	case slices.Equal(have, want):
		return false, nil
	case len(want) == 0:
		delete(m.heads, owner)
		delete(m.by, owner)
		return true, nil
	case !known:
		same := 0
		for _, by := range m.by {
			if by == from {
				same++
			}
		}
		if len(m.heads) >= most || same >= most/4 {
			return false, ErrDenied
		}
		m.by[owner] = from
	}
	m.heads[owner] = want
	return true, nil
}

func TestHeadsAreKeptAsAModelDoes(t *testing.T) {
	const most = 8
	rapid.Check(t, func(t *rapid.T) {
		c, memory := newClock(), &Memory{}
		defer func() { _ = memory.Close() }()
		opt := Options{Memory: memory, Now: c.now, volumes: most}
		s, err := Open("", opt)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		m := &headsModel{heads: map[pack.Owner][]string{}, by: map[pack.Owner]string{}}
		anyOwner := rapid.Custom(func(t *rapid.T) pack.Owner {
			return pack.Owner{0: rapid.ByteRange(0, 3).Draw(t, "first"), 31: rapid.ByteRange(0, 3).Draw(t, "last")}
		})
		anyPeer := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
		anyHead := rapid.Custom(func(t *rapid.T) string {
			return strings.Repeat(rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "text"), rapid.SampledFrom([]int{1, 2, 500, maxHead}).Draw(t, "length"))
		})
		t.Repeat(map[string]func(*rapid.T){
			"update": func(t *rapid.T) {
				owner, from := anyOwner.Draw(t, "owner"), anyPeer.Draw(t, "from")
				want := rapid.SliceOfN(anyHead, 0, maxTips).Draw(t, "want")
				had := m.heads[owner]
				changed, err := s.UpdateHeads(owner, from, func(have [][]byte) ([][]byte, error) {
					if !slices.EqualFunc(have, had, func(a []byte, b string) bool { return string(a) == b }) {
						t.Fatalf("got %q, want %q", have, had)
					}
					return heads(want...), nil
				})
				wantChanged, wantErr := m.update(owner, from, want, most)
				if changed != wantChanged || !errors.Is(err, wantErr) || wantErr == nil && err != nil {
					t.Fatalf("got %v, %v, want %v, %v", changed, err, wantChanged, wantErr)
				}
			},
			"refuse": func(t *rapid.T) {
				mine := errors.New("no")
				if _, err := s.UpdateHeads(anyOwner.Draw(t, "owner"), "a", func([][]byte) ([][]byte, error) { return nil, mine }); err != mine {
					t.Fatalf("got %v, want %v", err, mine)
				}
			},
			"reopen": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open("", opt); err != nil {
					t.Fatal(err)
				}
			},
			"": func(t *rapid.T) {
				held := int64(0)
				for owner, want := range m.heads {
					got, err := s.Heads(owner)
					if err != nil || !slices.EqualFunc(got, want, func(a []byte, b string) bool { return string(a) == b }) {
						t.Fatalf("got %q, %v, want %q", got, err, want)
					}
					held += itemCost + 18
					for _, h := range want {
						held += 2 + int64(len(h))
					}
				}
				if got := s.Usage().Held; got != held {
					t.Fatalf("got %d bytes held, want %d", got, held)
				}
				var got []pack.Owner
				for owner, err := range s.Volumes(t.Context()) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, owner)
				}
				want := slices.SortedFunc(maps.Keys(m.heads), func(a, b pack.Owner) int { return bytes.Compare(a[:], b[:]) })
				if !slices.Equal(got, want) {
					t.Fatalf("got volumes %v, want %v", got, want)
				}
			},
		})
	})
}

// BenchmarkOpenWithVolumes opens a store that keeps as many volumes as it will.
func BenchmarkOpenWithVolumes(b *testing.B) {
	for _, size := range []int{400, 1200} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			dir := b.TempDir()
			s := openStore(b, dir, Options{noSync: true})
			var g errgroup.Group
			g.SetLimit(64)
			for n := range maxVolumes {
				g.Go(func() error {
					owner := pack.Owner{byte(n), byte(n >> 8), byte(n >> 16)}
					return setTips(s, owner, fmt.Sprint(n%5), [][]byte{bytes.Repeat([]byte{byte(n)}, size)})
				})
			}
			if err := errors.Join(g.Wait(), s.Close()); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				s, err := Open(dir, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
