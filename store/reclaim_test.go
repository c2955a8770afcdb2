//go:build unix

package store

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
)

// onDisk is how many bytes the files under dir take, in blocks.
func onDisk(tb testing.TB, dir string) (n int64) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err == nil { // else it is gone meanwhile
			n += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestHalfDeletedGoesBackToTheDisk(t *testing.T) {
	const size, n = 4 << 20, 48 // 192 MiB
	dir := t.TempDir()
	s := openStore(t, dir, Options{Log: testLog(t), size: 64 << 20, ReclaimEvery: time.Millisecond})
	rnd := seeded(t)
	base := newSample(t, rnd, size, erasure.Scheme{K: 1}, 1)
	var ps []*sample
	for i := range n {
		m := *base.m // another owner: another pack of the same bytes
		m.State.Owner = pack.Owner{1, byte(i)}
		p := &sample{&m, base.data, nil}
		if err := p.put(t, s, 0, PutID{}); err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	rnd.Shuffle(n, func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
	before := onDisk(t, dir)
	var drops errgroup.Group
	drops.SetLimit(8)
	for _, p := range ps[:n/2] {
		drops.Go(func() error { return s.Drop(p.id(), 0) })
	}
	if err := drops.Wait(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return s.Run(ctx) })
	var slowest atomic.Int64
	var reads int
	start := time.Now()
	want := before - size*n/2*8/10
	for onDisk(t, dir) > want && time.Since(start) < 5*time.Minute {
		from := time.Now()
		p, row := ps[n/2+reads%(n/2)], reads%16
		b, err := s.ReadBlock(p.id(), 0, row, nil)
		if err != nil || !bytes.Equal(b, p.cell(0, row)) {
			t.Fatalf("a living block: %v", err)
		}
		slowest.Store(max(slowest.Load(), int64(time.Since(from))))
		reads++
	}
	t.Logf("%d MiB, then %d MiB on disk after %v; %d reads meanwhile, the slowest took %v",
		before>>20, onDisk(t, dir)>>20, time.Since(start), reads, time.Duration(slowest.Load()))
	if got := onDisk(t, dir); got > want {
		t.Errorf("got %d bytes on disk, want at most %d of %d", got, want, before)
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	for _, p := range ps[n/2:] {
		p.check(t, s, 0)
	}
}

func TestWritersGoOnWhileSpaceIsReclaimed(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{size: 16 << 20})
	rnd := seeded(t)
	var ps []*sample
	for range 12 {
		ps = append(ps, newSample(t, rnd, 5<<20, erasure.Scheme{K: 1}, 1))
	}
	var g errgroup.Group
	for i := range 3 {
		g.Go(func() error {
			for _, p := range ps[i*4 : i*4+4] {
				for range 2 {
					if err := p.put(t, s, 0, PutID{1}); err != nil {
						return err
					}
					if err := p.compare(s, 0); err != nil {
						return err
					}
					if err := s.Drop(p.id(), 0); err != nil {
						return err
					}
				}
				if err := p.put(t, s, 0, PutID{1}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for range 4 {
		if err := s.Reclaim(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		p.check(t, s, 0)
	}
}

// damage flips a byte in the first block of p's shard 0 in whichever value log
// file it lies.
func damage(tb testing.TB, dir string, needle []byte) {
	tb.Helper()
	names, err := logFiles(filepath.Join(dir, "blocks"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		at := bytes.Index(b, needle[:64])
		if at < 0 {
			continue
		}
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{^b[at+40]}, int64(at+40)); err != nil {
			tb.Fatal(err)
		}
		return
	}
	tb.Fatal("the block is in no file")
}

func TestDamagedBlockIsDetectedAndCostsNoOther(t *testing.T) {
	for _, tc := range []struct {
		name   string
		closed bool
	}{{"while open", false}, {"while closed", true}} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(dir, Options{size: 16 << 20})
			if err != nil {
				t.Fatal(err)
			}
			rnd := seeded(t)
			var ps []*sample
			for range 10 { // two files, the second half full
				p := newSample(t, rnd, 3<<20, erasure.Scheme{K: 1, M: 1}, 1)
				if err := p.put(t, s, 0, PutID{}); err != nil {
					t.Fatal(err)
				}
				ps = append(ps, p)
			}
			reopen := func() {
				t.Helper()
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = Open(dir, Options{size: 16 << 20}); err != nil {
					t.Fatal(err)
				}
			}
			if tc.closed {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			damage(t, dir, ps[0].cell(0, 3))
			damage(t, dir, ps[9].cell(0, 3))
			if tc.closed {
				if s, err = Open(dir, Options{size: 16 << 20}); err != nil {
					t.Fatal(err)
				}
			}
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}()
			for round := range 3 {
				for i, p := range ps {
					if round > 0 && (i == 1 || i == 2 || i == 3) {
						continue
					}
					bad := i == 0 || i == 9
					for row := range p.m.Geometry().Rows {
						b, err := s.ReadBlock(p.id(), 0, row, nil)
						if bad && row == 3 {
							wantErr(t, err, ErrCorrupt)
							wantErr(t, err, pack.ErrCorrupt)
						} else if err != nil || !bytes.Equal(b, p.cell(0, row)) {
							t.Fatalf("round %d: pack %d, row %d: %v", round, i, row, err)
						}
					}
					if h, err := s.Holding(p.id()); err != nil || h.Damaged != bad {
						t.Errorf("round %d: pack %d: got %+v, %v", round, i, h, err)
					}
				}
				if round == 0 { // the file with the damage has garbage then
					for _, p := range ps[1:4] {
						if err := s.Drop(p.id(), 0); err != nil {
							t.Fatal(err)
						}
					}
					if err := s.Reclaim(t.Context()); err != nil {
						t.Fatal(err)
					}
					continue
				}
				reopen()
			}
			// What is damaged can be stored anew.
			if err := ps[0].put(t, s, 0, PutID{}); err != nil {
				t.Fatal(err)
			}
			ps[0].check(t, s, 0)
			if h, err := s.Holding(ps[0].id()); err != nil || h.Damaged {
				t.Errorf("got %+v, %v", h, err)
			}
		})
	}
}

func TestWrongBlockIsDetected(t *testing.T) {
	s := openStore(t, t.TempDir(), Options{})
	p := newSample(t, rand.New(rand.NewPCG(1, 1)), 1<<20, scheme, 1)
	if err := p.put(t, s, 1, PutID{}); err != nil {
		t.Fatal(err)
	}
	err := s.update(func(txn *badger.Txn) error { return txn.Set(blockKey(1, 0), p.cell(1, 1)) })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err = s.ReadBlock(p.id(), 1, 0, nil)
		wantErr(t, err, ErrCorrupt)
	}
	if want := "read pack " + p.id().Short() + ": shard 1, row 0"; !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got error %q, want it to begin with %q", err, want)
	}
	if _, err := s.ReadBlock(p.id(), 1, 1, nil); err != nil {
		t.Error(err)
	}
	if h, err := s.Holding(p.id()); err != nil || !h.Damaged {
		t.Errorf("got %+v, %v", h, err)
	}
}

func TestScanFindsEveryEntry(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, Options{})
	p := newSample(t, rand.New(rand.NewPCG(1, 1)), 2<<20, scheme, 1)
	for i := range p.m.Geometry().N() {
		if err := p.put(t, s, i, PutID{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.reopen(nil); err != nil {
		t.Fatal(err)
	}
	names, err := logFiles(s.blocksDir())
	if err != nil {
		t.Fatal(err)
	}
	sc, err := scanLog(names[0])
	if err != nil {
		t.Fatal(err)
	}
	g, want := p.m.Geometry(), 0
	for i := range g.N() {
		want += g.ShardRows(i) + 1 // and the manifest
	}
	if fi, err := os.Stat(names[0]); err != nil || sc.good < want || sc.damage != 0 || sc.end != fi.Size() {
		t.Errorf("got %+v, want at least %d entries in %d bytes", sc, want, fi.Size())
	}
}
