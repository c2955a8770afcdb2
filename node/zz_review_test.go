package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/wire"
)

type rev struct {
	wire.Handler
	have  func(ids []pack.ID, hs []wire.Holding) []wire.Holding
	store func() error
	read  func(ctx context.Context, q wire.ReadRequest, b []byte) ([]byte, error)
}

func (l rev) Have(ctx context.Context, from string, ids []pack.ID) ([]wire.Holding, error) {
	hs, err := l.Handler.Have(ctx, from, ids)
	if err == nil && l.have != nil {
		hs = l.have(ids, hs)
	}
	return hs, err
}
func (l rev) Store(ctx context.Context, from string, q *wire.StoreRequest) (wire.ShardWriter, error) {
	if l.store != nil {
		if err := l.store(); err != nil {
			return nil, err
		}
	}
	return l.Handler.Store(ctx, from, q)
}
func (l rev) ReadBlock(ctx context.Context, from string, q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	b, err := l.Handler.ReadBlock(ctx, from, q, row, dst)
	if err == nil && l.read != nil {
		return l.read(ctx, q, b)
	}
	return b, err
}

// T1: one liar
func TestZZLiarNumber(t *testing.T) {
	m := newMemNet(t, 11, 6, 0)
	data := random(4, 6<<20)
	res := put(t, m.client().node(), "file", data, &erasure.Scheme{K: 4, M: 2})
	liarN := m.add(true, 0, "")
	liarN.wrap = func(h wire.Handler) wire.Handler {
		return rev{Handler: h, have: func(ids []pack.ID, hs []wire.Holding) []wire.Holding {
			for i := range hs {
				hs[i] = wire.Holding{Held: true, Number: math.MaxUint64, Shard: 0, K: 1, M: 0}
			}
			return hs
		}}
	}
	for i := range 3 {
		_, _, err := get(t.Context(), m.client().node(), res.Link)
		t.Logf("try %d: %v code %d", i, err, CodeOf(err))
	}
}

// T2: a liar makes owner sign max number
func TestZZLiarOld(t *testing.T) {
	m := newMemNet(t, 11, 6, 0)
	liarN := m.nodes[2]
	liarN.wrap = func(h wire.Handler) wire.Handler {
		return rev{Handler: h, store: func() error { return wire.Refuse(wire.Old, "x") }, have: func(ids []pack.ID, hs []wire.Holding) []wire.Holding {
			for i := range hs {
				hs[i] = wire.Holding{Deleted: true, Number: math.MaxUint64 - 1}
			}
			return hs
		}}
	}
	res, err := m.client().node().Put(t.Context(), PutRequest{Name: "f", Size: -1, Redundancy: &erasure.Scheme{K: 2, M: 4}}, bytes.NewReader(random(4, 3<<20)), nil)
	t.Logf("%+v %v", res, err)
	for h := range m.nodes[0].store.Packs(t.Context()) {
		t.Logf("pack %s number %d (max %v)", h.ID.Short(), h.Number, h.Number == math.MaxUint64)
	}
}

func spoilFirstData(t *testing.T, m *memNet, link string, f func(n *memNode, shard, k int)) {
	g := m.client()
	if _, _, err := get(t.Context(), g.node(), link); err != nil {
		t.Fatal(err)
	}
	for _, k := range g.packs.known {
		if k.geometry.K == 4 {
			for _, n := range m.holders() {
				man, err := n.store.Holding(k.manifest.ID())
				if err == nil {
					f(n, man.Shard, 4)
				}
			}
		}
	}
}

// T3: wrong bytes + parity far away
func TestZZWideSearch(t *testing.T) {
	for _, mode := range []string{"wrong", "hang"} {
		t.Run(mode, func(t *testing.T) {
			m := newMemNet(t, 11, 6, 0)
			data := random(4, 6<<20)
			res := put(t, m.client().node(), "file", data, &erasure.Scheme{K: 4, M: 2})
			spoilFirstData(t, m, res.Link, func(n *memNode, shard, k int) {
				switch {
				case shard >= k:
					n.wrap = func(h wire.Handler) wire.Handler {
						return rev{Handler: h, have: func(ids []pack.ID, hs []wire.Holding) []wire.Holding {
							time.Sleep(60 * time.Millisecond)
							return hs
						}}
					}
				case shard == 0:
					n.wrap = func(h wire.Handler) wire.Handler {
						return rev{Handler: h, read: func(ctx context.Context, q wire.ReadRequest, b []byte) ([]byte, error) {
							if q.K != 4 {
								return b, nil
							}
							if mode == "hang" {
								time.Sleep(20 * time.Second)
							}
							b[len(b)/2] ^= 1
							return b, nil
						}}
					}
				}
			})
			bad := 0
			for i := range 4 {
				c := m.client()
				// no bulk: the file has one data pack, asked in bulk; drop notes
				begun := time.Now()
				_, _, err := get(t.Context(), c.node(), res.Link)
				t.Logf("try %d: %v code %d %v", i, err, CodeOf(err), time.Since(begun).Round(time.Millisecond))
				if err != nil {
					bad++
				}
			}
		})
	}
}

// same on source directly: no askAll
func TestZZWideSearchSource(t *testing.T) {
	for _, mode := range []string{"wrong", "hang"} {
		t.Run(mode, func(t *testing.T) {
			m := newMemNet(t, 11, 6, 0)
			data := random(4, 6<<20)
			res := put(t, m.client().node(), "file", data, &erasure.Scheme{K: 4, M: 2})
			var id pack.ID
			var ln int
			g := m.client()
			get(t.Context(), g.node(), res.Link)
			for i, k := range g.packs.known {
				if k.geometry.K == 4 {
					id, ln = i, k.geometry.Len
				}
			}
			for _, n := range m.holders() {
				h, err := n.store.Holding(id)
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case h.Shard >= 4:
					n.wrap = func(h wire.Handler) wire.Handler {
						return rev{Handler: h, have: func(ids []pack.ID, hs []wire.Holding) []wire.Holding {
							time.Sleep(60 * time.Millisecond)
							return hs
						}}
					}
				case h.Shard == 0:
					n.wrap = func(h wire.Handler) wire.Handler {
						return rev{Handler: h, read: func(ctx context.Context, q wire.ReadRequest, b []byte) ([]byte, error) {
							if mode == "hang" {
								time.Sleep(20 * time.Second)
							}
							b[len(b)/2] ^= 1
							return b, nil
						}}
					}
				}
			}
			for i := range 4 {
				c := m.client()
				begun := time.Now()
				r, _ := source{c.engine}.Open(t.Context(), id, 0, ln)
				_, err := r.Bytes(t.Context(), 0, ln)
				r.Close()
				t.Logf("try %d: %v code %d %v", i, err, CodeOf(err), time.Since(begun).Round(time.Millisecond))
			}
		})
	}
}

// T5
func TestZZOtherCoding(t *testing.T) {
	m := newMemNet(t, 11, 8, 0)
	data := random(4, 6<<20)
	owner := m.client().node()
	res := put(t, owner, "file", data, &erasure.Scheme{K: 4, M: 4})
	g := m.client().node()
	_, _, err := get(t.Context(), g, res.Link)
	t.Log("first", err)
	res2 := put(t, owner, "file", data, &erasure.Scheme{K: 2, M: 6})
	if res2.Link != res.Link {
		t.Log("links differ")
	}
	for i := range 3 {
		_, _, err = get(t.Context(), g, res.Link)
		t.Logf("after re-put %d: %v code %d", i, err, CodeOf(err))
	}
}

// T6
func TestZZTwoPuts(t *testing.T) {
	for i := range 6 {
		m := newMemNet(t, uint64(50+i), 6, 0)
		owner := m.client().node()
		data := random(4, 9<<20)
		var wg sync.WaitGroup
		var links [2]string
		for j := range 2 {
			wg.Go(func() {
				res, err := owner.Put(t.Context(), PutRequest{Name: "file", Size: -1, ModTime: time.Unix(1, 0), Redundancy: &erasure.Scheme{K: 4, M: 2}}, bytes.NewReader(data), nil)
				t.Logf("round %d put %d: partial %v stored %d, %v code %d", i, j, res.Partial, res.Stored, err, CodeOf(err))
				links[j] = res.Link
			})
			time.Sleep(20 * time.Millisecond)
		}
		wg.Wait()
		for _, l := range links {
			if l != "" {
				_, _, err := get(t.Context(), m.client().node(), l)
				st, _ := m.client().node().Stat(t.Context(), l)
				t.Logf("  get %v live %d", err, st.Live)
			}
		}
		prov := 0
		for _, n := range m.holders() {
			for h := range n.store.Packs(t.Context()) {
				if h.Provisional {
					prov++
				}
			}
		}
		t.Logf("  provisional left %d", prov)
	}
}

// T9
func TestZZExpiry(t *testing.T) {
	m := newMemNet(t, 11, 5, 0)
	owner := m.client().node()
	data := random(4, 3<<20)
	res := put(t, owner, "file", data, nil)
	_, err := owner.Put(t.Context(), PutRequest{Name: "other name", Size: -1, Expires: time.Second}, bytes.NewReader(data), nil)
	t.Log(err)
	time.Sleep(1200 * time.Millisecond)
	for _, n := range m.holders() {
		n.store.Sweep(t.Context())
	}
	_, _, err = get(t.Context(), m.client().node(), res.Link)
	t.Logf("the first, permanent link: %v code %d", err, CodeOf(err))
}

// T8 slow line
type slowStream struct {
	stream
}

func (s slowStream) Write(b []byte) (int, error) { return s.stream.Write(b) }

func TestZZPatientWrite(t *testing.T) {
	a, b := net.Pipe()
	go func() {
		buf := make([]byte, 16<<10)
		for {
			if _, err := b.Read(buf); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond) // 320 KB/s, always moving
		}
	}()
	p := &patient{stream: memStream{a}, stall: time.Second}
	n, err := p.Write(make([]byte, 1<<20))
	t.Logf("wrote %d, %v", n, err)
}

func TestZZCtx(t *testing.T) {
	m := newMemNet(t, 47, 3, 0)
	res := put(t, m.client().node(), "f", random(1, 2<<20), nil)
	c := m.client().node()
	codes := map[Code]int{}
	pc := map[Code]int{}
	for _, n := range m.nodes {
		n.hang.Store(true)
	}
	for range 30 {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, cancel)
		_, _, err := get(ctx, m.client().node(), res.Link)
		codes[CodeOf(err)]++
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(5*time.Millisecond, cancel)
		_, err = m.client().node().Put(ctx, PutRequest{Name: "f", Size: -1}, bytes.NewReader(random(1, 100<<10)), nil)
		pc[CodeOf(err)]++
	}
	t.Log("get codes", codes, "put codes", pc)
	// stat
	for _, n := range m.nodes {
		n.hang.Store(false)
	}
	c = m.client().node()
	get(t.Context(), c, res.Link)
	for _, n := range m.nodes {
		n.hang.Store(true)
	}
	l, _ := c.link(res.Link)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := c.engine.locate(ctx, l.Root.Pack, effort{all: true})
	t.Logf("locate cancelled: %v code %d", err, CodeOf(err))
}

func TestZZInit(t *testing.T) {
	h := HomeAt(filepath.Join(t.TempDir(), "h"))
	if _, err := Init(h, false); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(h.seedFile())
	os.Remove(h.credentialsFile())
	_, err := Init(h, false)
	b, _ := os.ReadFile(h.seedFile())
	t.Logf("second init: %v, seed kept: %v", err, bytes.Equal(a, b))
	d := filepath.Join(t.TempDir(), "x")
	os.Mkdir(d, 0o755)
	os.Chmod(d, 0o755)
	_, err = Init(HomeAt(d), false)
	s, _ := os.Stat(d)
	t.Logf("%v mode %v", err, s.Mode())
}

// corrupt blocks in different rows on two holders, k+1 live
func TestZZRowWise(t *testing.T) {
	m := newMemNet(t, 11, 6, 0)
	data := random(4, 6<<20)
	res := put(t, m.client().node(), "file", data, &erasure.Scheme{K: 4, M: 2})
	g := m.client()
	get(t.Context(), g.node(), res.Link)
	var id pack.ID
	var ln int
	for i, k := range g.packs.known {
		if k.geometry.K == 4 {
			id, ln = i, k.geometry.Len
		}
	}
	for _, n := range m.holders() {
		h, _ := n.store.Holding(id)
		switch h.Shard {
		case 5:
			n.down.Store(true)
		case 0, 1:
			n.wrap = func(hh wire.Handler) wire.Handler {
				return rowSpoiler{hh, h.Shard}
			}
		}
	}
	c := m.client()
	r, _ := source{c.engine}.Open(t.Context(), id, 0, ln)
	_, err := r.Bytes(t.Context(), 0, ln)
	r.Close()
	t.Logf("5 of 6 live, one damaged block on each of two, other rows: %v code %d", err, CodeOf(err))
}

type rowSpoiler struct {
	wire.Handler
	row int
}

func (l rowSpoiler) ReadBlock(ctx context.Context, from string, q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	if row == l.row {
		return nil, wire.ErrCorrupt
	}
	return l.Handler.ReadBlock(ctx, from, q, row, dst)
}

var _ = errors.New
var _ = fmt.Sprint
var _ = io.EOF
var _ peer.ID
