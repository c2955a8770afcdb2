package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/member"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// parcel is a pack with all of its shards.
type parcel struct {
	m      *pack.Manifest
	g      erasure.Geometry
	data   []byte
	parity []byte
}

// newParcel codes a pack of an owner of its own, under memNetwork.
func newParcel(t *testing.T, size int, s erasure.Scheme, number uint64) *parcel {
	t.Helper()
	owner := testOwner()
	p := &parcel{data: random(uint64(size), size)}
	content := pack.NewContent(p.data)
	p.g = erasure.NewGeometry(size, s)
	p.parity = make([]byte, p.g.ParityLen())
	hashes, err := pack.Code(content, p.data, s, p.parity)
	if err != nil {
		t.Fatal(err)
	}
	st := pack.NewState(memNetwork, pack.Owner(owner.Public().(ed25519.PublicKey)), content, s, false, number, hashes)
	st.Sign(owner)
	p.m = &pack.Manifest{Content: content, State: *st}
	return p
}

// testOwner owns the parcels.
func testOwner() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) }

// deleted is the state that deletes p.
func (p *parcel) deleted(number uint64) *pack.State {
	st := &pack.State{Network: memNetwork, Owner: p.m.State.Owner, Content: p.m.State.Content, Number: number, Deleted: true}
	st.Sign(testOwner())
	return st
}

// give has a server take a shard of p from a peer.
func (p *parcel) give(s *server, from string, q wire.StoreRequest) error {
	q.Manifest = p.m
	w, err := s.Store(context.Background(), from, &q)
	if err != nil {
		return err
	}
	for row := range p.g.ShardRows(q.Shard) {
		if err := w.Write(row, p.g.Cell(p.data, p.parity, q.Shard, row)); err != nil {
			w.Abort()
			return err
		}
	}
	return w.Commit()
}

func TestOnlyThoseConcernedSayWhoHoldsAPack(t *testing.T) {
	const putter, coholder, stranger = "putter", "coholder", "stranger"
	p := newParcel(t, 64<<10, erasure.Scheme{K: 2, M: 2}, 10)
	renewed := newParcel(t, 64<<10, erasure.Scheme{K: 2, M: 2}, 11)
	type who struct {
		name, from string
		number     uint64
		shard      int // that this node is said to hold
		want       error
	}
	refused := []who{
		{"a stranger", stranger, 10, 1, wire.ErrDenied},
		{"one who is no holder yet", coholder, 10, 1, wire.ErrDenied},
		{"a list that names another shard", putter, 10, 2, wire.ErrDenied},
	}
	tests := []struct {
		name string
		ask  []who
	}{
		{"who put it", append(refused, who{"the putter", putter, 10, 1, nil}, who{"a holder then", coholder, 10, 1, nil}, who{"a stranger then", stranger, 10, 1, wire.ErrDenied})},
		{"who renewed it", []who{{"the putter", putter, 10, 1, nil}, {"renewed", stranger, 11, 1, nil}, {"the putter of before", putter, 11, 1, wire.ErrDenied}}},
		{"this node itself", append(refused, who{"this node", "", 10, 1, nil})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newMemNet(t, 61, 1, 0).nodes[0]
			if err := p.give(n.server, putter, wire.StoreRequest{Put: [16]byte{7}, Shard: 1}); err != nil {
				t.Fatal(err)
			}
			for _, w := range tt.ask {
				if w.name == "renewed" {
					if err := renewed.give(n.server, w.from, wire.StoreRequest{Put: [16]byte{8}, Shard: 1}); !errors.Is(err, wire.ErrHave) {
						t.Fatal(err)
					}
				}
				hs := []wire.Holder{{Peer: string(n.self), Shard: w.shard}}
				if w.from != stranger {
					hs = append(hs, wire.Holder{Peer: coholder, Shard: 0})
				}
				if w.from == "" {
					w.from = string(n.self)
				}
				if err := n.server.Holders(t.Context(), w.from, wire.PackHolders{ID: p.m.ID(), Number: w.number, Holders: hs}); !errors.Is(err, w.want) {
					t.Errorf("%s: got %v, want %v", w.name, err, w.want)
				}
			}
		})
	}
}

func TestHaveTellsTheCodingAndTheDamage(t *testing.T) {
	n, home := alone(t)
	n.engine.network = memNetwork
	p := newParcel(t, 12<<10, erasure.Scheme{K: 8, M: 1}, 10) // of three blocks: k′ is 3
	if err := p.give(n.server, "putter", wire.StoreRequest{Shard: 1}); err != nil {
		t.Fatal(err)
	}
	want := wire.Holding{Held: true, Number: 10, Shard: 1, K: 3, M: 1}
	check := func() {
		t.Helper()
		hs, err := n.server.Have(t.Context(), "anyone", []pack.ID{{1}, p.m.ID()})
		if err != nil || len(hs) != 2 || hs[0] != (wire.Holding{}) || hs[1] != want {
			t.Errorf("got %+v, %v, want nothing and %+v", hs, err, want)
		}
	}
	check()
	files, err := filepath.Glob(filepath.Join(home.storeDir(), "blocks", "*.vlog"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(b, p.data[4<<10:8<<10]); at >= 0 {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte{^b[at]}, int64(at))
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	q := wire.ReadRequest{ID: p.m.ID(), K: 3, M: 1, Shard: 1, Count: 1}
	if _, err := n.server.ReadBlock(t.Context(), "anyone", q, 0, nil); !errors.Is(err, wire.ErrCorrupt) {
		t.Fatalf("got %v, want %v", err, wire.ErrCorrupt)
	}
	proof := wire.ProveRequest{ID: p.m.ID(), K: 3, M: 1, Shard: 1}
	if _, err := n.server.Prove(t.Context(), "anyone", proof); !errors.Is(err, wire.ErrCorrupt) {
		t.Errorf("prove: got %v, want %v", err, wire.ErrCorrupt)
	}
	want.Damaged = true
	check()
}

func TestFactsTellWhichOpeningOfTheStoreItIs(t *testing.T) {
	n := newMemNet(t, 61, 1, 0).nodes[0]
	f, err := n.server.Facts(t.Context(), "anyone")
	if err != nil || f.Boot != n.store.Boot() || f.Boot == 0 {
		t.Errorf("got %d, %v, want %d", f.Boot, err, n.store.Boot())
	}
}

func TestSweepsAreNeverRarerThanTheStoreHasThem(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{
		0: 0, 24 * time.Hour: 0, 16 * time.Minute: 0, 8 * time.Minute: time.Minute, time.Millisecond: 100 * time.Millisecond,
	} {
		if got := sweepEvery(ttl); got != want {
			t.Errorf("%v: got %v, want %v", ttl, got, want)
		}
	}
}

// prover asks n for proofs of blocks of p, and verifies them as one does who
// has the manifest and no block.
func prover(t *testing.T, from, n *memNode, p *parcel) func(q wire.ProveRequest) (chunk []byte, err error) {
	return func(q wire.ProveRequest) ([]byte, error) {
		t.Helper()
		s, err := from.dial.Open(t.Context(), n.self)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		proof, err := wire.Prove(s, q)
		if err != nil {
			return nil, err
		}
		return digest.VerifyProof(p.m.BlockHash(q.Shard, q.Row), p.g.CellLen(q.Shard, q.Row), q.Off, proof)
	}
}

func TestBlocksAreProven(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int
		s    erasure.Scheme
	}{
		{"one short block", 1000, erasure.Scheme{K: 1}},
		{"of three blocks", 12 << 10, erasure.Scheme{K: 8, M: 2}}, // k′ is 3
		{"short last block", 1_000_001, erasure.Scheme{K: 4, M: 2}},
		{"large blocks", 9 << 20, erasure.Scheme{K: 2, M: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemNet(t, 151, 1, 0)
			n := m.nodes[0]
			p := newParcel(t, tt.size, tt.s, 10)
			ask := prover(t, m.client(), n, p)
			for shard := range p.g.N() {
				if err := p.give(n.server, "putter", wire.StoreRequest{Put: [16]byte{1}, Shard: shard}); err != nil {
					t.Fatal(err)
				}
				row := p.g.ShardRows(shard) - 1
				b := p.g.Cell(p.data, p.parity, shard, row)
				for _, off := range []int{0, len(b) / 2, len(b) - 1} {
					chunk, err := ask(wire.ProveRequest{ID: p.m.ID(), K: p.g.K, M: p.g.M, Shard: shard, Row: row, Off: off})
					at := off / 1024 * 1024
					if err != nil || !bytes.Equal(chunk, b[at:min(at+1024, len(b))]) {
						t.Errorf("shard %d, byte %d of %d: got %d bytes, %v", shard, off, len(b), len(chunk), err)
					}
				}
			}
		})
	}
}

func TestNoProofOfWhatIsNotThere(t *testing.T) {
	m := newMemNet(t, 157, 1, 0)
	p := newParcel(t, 12<<10, erasure.Scheme{K: 8, M: 2}, 10)
	if err := p.give(m.nodes[0].server, "putter", wire.StoreRequest{Put: [16]byte{1}, Shard: 1}); err != nil {
		t.Fatal(err)
	}
	ask := prover(t, m.client(), m.nodes[0], p)
	good := wire.ProveRequest{ID: p.m.ID(), K: 3, M: 2, Shard: 1}
	for _, tt := range []struct {
		name string
		edit func(q *wire.ProveRequest)
		want wire.Code
	}{
		{"what is there", func(*wire.ProveRequest) {}, 0},
		{"another pack", func(q *wire.ProveRequest) { q.ID[0]++ }, wire.NotFound},
		{"another shard", func(q *wire.ProveRequest) { q.Shard = 0 }, wire.NotFound},
		{"another row", func(q *wire.ProveRequest) { q.Row = 1 }, wire.NotFound},
		{"beyond the block", func(q *wire.ProveRequest) { q.Off = 4 << 10 }, wire.NotFound},
		{"another coding", func(q *wire.ProveRequest) { q.K = 4 }, wire.OtherCoding},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := good
			tt.edit(&q)
			if _, err := ask(q); wire.CodeOf(err) != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// bluffer proves what it makes up.
type bluffer struct {
	wire.Handler

	prove func(h wire.Handler, q wire.ProveRequest) ([]byte, error)
}

func (b bluffer) Prove(_ context.Context, _ string, q wire.ProveRequest) ([]byte, error) {
	return b.prove(b.Handler, q)
}

func TestNoBluffIsAProof(t *testing.T) {
	m := newMemNet(t, 163, 1, 0)
	n := m.nodes[0]
	p := newParcel(t, 300<<10, erasure.Scheme{K: 2, M: 1}, 10)
	if err := p.give(n.server, "putter", wire.StoreRequest{Put: [16]byte{1}, Shard: 1}); err != nil {
		t.Fatal(err)
	}
	q := wire.ProveRequest{ID: p.m.ID(), K: 2, M: 1, Shard: 1, Row: 3, Off: 2000}
	block := p.g.Cell(p.data, p.parity, 1, 3)
	ask := prover(t, m.client(), n, p)
	if _, err := ask(q); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		prove func(h wire.Handler, q wire.ProveRequest) ([]byte, error)
	}{
		{"a changed chunk", func(h wire.Handler, q wire.ProveRequest) ([]byte, error) {
			proof, err := h.Prove(t.Context(), "", q)
			if err == nil {
				proof[len(proof)-1] ^= 1
			}
			return proof, err
		}},
		{"the only chunk that was kept", func(h wire.Handler, q wire.ProveRequest) ([]byte, error) {
			q.Off = 0
			return h.Prove(t.Context(), "", q)
		}},
		{"another block", func(h wire.Handler, q wire.ProveRequest) ([]byte, error) {
			q.Row = 2
			return h.Prove(t.Context(), "", q)
		}},
		{"a block lost but for the chunk", func(_ wire.Handler, q wire.ProveRequest) ([]byte, error) {
			b := make([]byte, len(block))
			copy(b[1024:], block[1024:2048])
			return digest.Prove(b, q.Off), nil
		}},
		{"the digests without the chunk", func(h wire.Handler, q wire.ProveRequest) ([]byte, error) {
			proof, err := h.Prove(t.Context(), "", q)
			return proof[:len(proof)-1024], err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n.wrap = func(h wire.Handler) wire.Handler { return bluffer{h, tt.prove} }
			if chunk, err := ask(q); !errors.Is(err, digest.ErrProof) || chunk != nil {
				t.Errorf("got %d bytes, %v, want %v", len(chunk), err, digest.ErrProof)
			}
		})
	}
}

func TestTheNewestStateIsGiven(t *testing.T) {
	n := newMemNet(t, 61, 1, 0).nodes[0]
	p := newParcel(t, 64<<10, erasure.Scheme{K: 2, M: 2}, 10)
	want := func(number uint64, deleted bool) {
		t.Helper()
		st, err := n.server.NewestState(t.Context(), "anyone", p.m.ID())
		if err != nil {
			t.Fatal(err)
		}
		if st.Number != number || st.Deleted != deleted || st.Verify() != nil || st.ID() != p.m.ID() {
			t.Errorf("got state %d, deleted %v, want %d, %v", st.Number, st.Deleted, number, deleted)
		}
	}
	if _, err := n.server.NewestState(t.Context(), "anyone", p.m.ID()); !errors.Is(err, wire.ErrNotFound) {
		t.Errorf("of nothing: got %v, want %v", err, wire.ErrNotFound)
	}
	if err := p.give(n.server, "putter", wire.StoreRequest{Shard: 1}); err != nil {
		t.Fatal(err)
	}
	want(10, false)
	if err := n.server.State(t.Context(), "anyone", p.deleted(11)); err != nil {
		t.Fatal(err)
	}
	want(11, true)
}

func TestAStrangerHandsNothingOver(t *testing.T) {
	n := newMemNet(t, 61, 1, 0).nodes[0]
	p := newParcel(t, 64<<10, erasure.Scheme{K: 2, M: 2}, 10)
	list := []wire.Holder{{Peer: string(n.self), Shard: 1}, {Peer: "friend", Shard: 0}}
	for _, step := range []struct {
		name, from string
		shard      int
		put        bool
		want       error
	}{
		{"put", "putter", 1, true, nil},
		{"a provisional shard", "stranger", 1, false, wire.ErrDenied},
		{"another's put", "stranger", 1, true, wire.ErrHave},
		{"by its putter", "putter", 1, false, wire.ErrHave},
		{"another shard", "stranger", 2, false, wire.ErrDenied},
		{"by a holder", "friend", 1, false, wire.ErrHave},
		{"a second shard", "friend", 2, false, wire.ErrAnother},
	} {
		q := wire.StoreRequest{Shard: step.shard, Holders: list}
		if step.put {
			q = wire.StoreRequest{Shard: step.shard, Put: [16]byte{1}}
		}
		if err := p.give(n.server, step.from, q); !errors.Is(err, step.want) {
			t.Errorf("%s: got %v, want %v", step.name, err, step.want)
		}
		if err := n.server.GiveUp(t.Context(), "stranger", [16]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryConfirmedShardIsAnnounced(t *testing.T) {
	m := newMemNet(t, 67, 4, 0)
	var mu sync.Mutex
	told := make(map[peer.ID]map[pack.ID]bool)
	for _, n := range m.nodes {
		told[n.self] = make(map[pack.ID]bool)
		n.announce = func(id pack.ID) {
			mu.Lock()
			defer mu.Unlock()
			told[n.self][id] = true
		}
	}
	put(t, m.nodes[0].node(), "f", random(1, 1<<20), &erasure.Scheme{K: 2, M: 2}) // one shard each, the putter's own too
	p := newParcel(t, 64<<10, erasure.Scheme{K: 2, M: 2}, 10)
	if err := p.give(m.nodes[3].server, "friend", wire.StoreRequest{Shard: 1, Holders: []wire.Holder{{Peer: "friend", Shard: 0}}}); err != nil {
		t.Fatal(err)
	}
	for i, n := range m.nodes {
		for h := range n.store.Packs(t.Context()) {
			if !told[n.self][h.ID] {
				t.Errorf("node %d: pack %s is not announced", i, h.ID.Short())
			}
		}
	}
}

func TestBlocksOfTheCodingAskedFor(t *testing.T) {
	n := newMemNet(t, 71, 1, 0).nodes[0]
	// 12 KiB are three blocks: at 8+2 the pack's own k is 3.
	old, now := newParcel(t, 12<<10, erasure.Scheme{K: 8, M: 2}, 10), newParcel(t, 12<<10, erasure.Scheme{K: 2, M: 1}, 11)
	for _, p := range []*parcel{old, now} {
		if err := p.give(n.server, "putter", wire.StoreRequest{Put: [16]byte{1}, Shard: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []*parcel{old, now} {
		q := wire.ReadRequest{ID: p.m.ID(), K: p.g.K, M: p.g.M, Shard: 1, Count: 1}
		b, err := n.server.ReadBlock(t.Context(), "", q, 0, nil)
		if err != nil || !bytes.Equal(b, p.g.Cell(p.data, p.parity, 1, 0)) {
			t.Errorf("%d+%d: got %d bytes, %v", q.K, q.M, len(b), err)
		}
		q.Shard = 0
		if _, err := n.server.ReadBlock(t.Context(), "", q, 0, nil); !errors.Is(err, wire.ErrNotFound) {
			t.Errorf("%d+%d, a shard that is not here: got %v, want %v", q.K, q.M, err, wire.ErrNotFound)
		}
	}
	q := wire.ReadRequest{ID: old.m.ID(), K: 3, M: 5, Shard: 1, Count: 1}
	if _, err := n.server.ReadBlock(t.Context(), "", q, 0, nil); !errors.Is(err, wire.ErrOtherCoding) {
		t.Errorf("3+5: got %v, want %v", err, wire.ErrOtherCoding)
	}
}

// ask sends facts to an admission as a peer and gives what comes of it.
func ask(a *admission, from peer.ID, h wire.Handler) error {
	c, s := net.Pipe()
	go func() {
		defer s.Close()
		a.serve(context.Background(), memStream{Conn: s}, from, wire.Version, h)
	}()
	defer c.Close()
	_, err := wire.GetFacts(c)
	return err
}

func TestOneMemberStopsNobodyElse(t *testing.T) {
	h := newMemNet(t, 79, 1, 0).nodes[0].server
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(realClock{})
		var wg sync.WaitGroup
		defer wg.Wait()
		var mu sync.Mutex
		var crowded, silent int
		for range requestsPerPeer + waitingPerPeer + 3 {
			c, s := net.Pipe() // opened, and nothing said
			defer c.Close()
			wg.Go(func() {
				defer s.Close()
				err := a.serve(t.Context(), memStream{Conn: s}, "bad", wire.Version, h)
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, errCrowded) {
					crowded++
				} else if errors.Is(err, os.ErrDeadlineExceeded) {
					silent++
				}
			})
		}
		synctest.Wait()
		if mu.Lock(); crowded != 3 {
			t.Errorf("%d streams reset, want those above what waits: 3", crowded)
		}
		mu.Unlock()
		begun := time.Now()
		if err := ask(a, "good", h); err != nil || time.Since(begun) > 0 {
			t.Errorf("another peer: %v after %v", err, time.Since(begun))
		}
		time.Sleep(openTimeout) // of the test's own clock
		synctest.Wait()
		if mu.Lock(); silent != requestsPerPeer {
			t.Errorf("%d of the silent streams ended after %v, want %d", silent, openTimeout, requestsPerPeer)
		}
		mu.Unlock()
		wg.Wait()
		if got := len(a.peers.peers); got != 0 {
			t.Errorf("%d peers are remembered who ask for nothing", got)
		}
	})
}

func TestStoresWaitForTheirTurn(t *testing.T) {
	e := newMemNet(t, 83, 1, 0).nodes[0].engine
	synctest.Test(t, func(t *testing.T) {
		s := newServer(e, nil)
		var wg sync.WaitGroup
		busy := make(map[string]int)
		var mu sync.Mutex
		var turns []func()
		begin := func(from string) {
			wg.Go(func() {
				done, err := s.turn(t.Context(), from)
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, wire.ErrBusy) {
					busy[from]++
				} else if err == nil {
					turns = append(turns, done)
				} else {
					t.Error(err)
				}
			})
		}
		check := func(when string, inside, of, refused int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for _, b := range busy {
				n += b
			}
			if len(turns) != inside || n != refused {
				t.Errorf("%s: %d of %d have a turn, %d are refused; want %d, %d", when, len(turns), of, n, inside, refused)
			}
		}
		all := storesPerPeer + storesPerPeerWaiting + 1
		for range all {
			begin("greedy")
		}
		check("one peer", storesPerPeer, all, 1)
		for i := range storesAtOnce - storesPerPeer + storesWaiting + 2 {
			begin(fmt.Sprint(i))
		}
		check("many", storesAtOnce, 0, 3)
		if err := ask(newAdmission(realClock{}), "other", s); err != nil {
			t.Errorf("a question meanwhile: %v", err)
		}
		mu.Lock()
		turns[storesPerPeer]() // not of the greedy one: its next would be refused at once
		mu.Unlock()
		check("one gone", storesAtOnce+1, 0, 3)
		time.Sleep(busyAfter)
		check("late", storesAtOnce+1, 0, 3+storesPerPeerWaiting+storesWaiting-1)
		wg.Wait()
		if n := s.waiting.Load(); n != 0 {
			t.Errorf("%d wait", n)
		}
	})
}

func TestCodesOfCauses(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Code
	}{
		{wire.ErrNotMember, Refused}, {wire.ErrDenied, Refused}, {wire.ErrOtherNetwork, Refused}, {wire.ErrQuota, Refused},
		{wire.Refuse(wire.Full, "x"), NoPeers}, {wire.ErrNotFound, NotFound},
		{wire.ErrCorrupt, Corrupt}, {wire.Refuse(wire.Signature, ""), Corrupt},
		{wire.ErrBusy, Failed}, {wire.Refuse(wire.Internal, ""), Failed}, {wire.ErrOtherCoding, Failed}, {wire.ErrOld, Failed},
		{wire.Refuse(wire.Malformed, ""), Failed}, {wire.Refuse(wire.Unsupported, ""), Failed},
		{member.ErrExpelled, Refused}, {volume.ErrNetwork, Refused},
		{store.ErrFull, NoPeers}, {store.ErrCorrupt, Corrupt}, {dht.ErrNoPeers, NoPeers},
		{pack.ErrSignature, Corrupt}, {volume.ErrLink, Usage}, {context.Canceled, Interrupted}, {io.EOF, Failed},
	} {
		if got := CodeOf(fmt.Errorf("12D3: %w", c.err)); got != c.want {
			t.Errorf("%v: got %d, want %d", c.err, got, c.want)
		}
	}
}

func TestGetChecksTheRangeFirst(t *testing.T) {
	m := newMemNet(t, 89, 3, 0)
	res := put(t, m.nodes[0].node(), "f", []byte("hello"), nil)
	for _, r := range [][2]int64{{-1, -1}, {0, -2}} {
		err := m.nodes[1].node().Get(t.Context(), GetRequest{Source: res.Link, Offset: r[0], Length: r[1]},
			func(FileInfo) (io.Writer, error) { t.Error("something is to be written"); return io.Discard, nil }, nil)
		if CodeOf(err) != Usage {
			t.Errorf("%v: got %v, want code %d", r, err, Usage)
		}
	}
}

func TestStatEndsWithItsContext(t *testing.T) {
	m := newMemNet(t, 97, 3, 0)
	res := put(t, m.nodes[0].node(), "f", random(3, 3<<20), nil)
	n := m.nodes[1].node()
	st, err := n.Stat(t.Context(), res.Link)
	if err != nil || st.Live != 3 || st.Packs == 0 {
		t.Fatalf("got %+v, %v", st, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, o := range m.nodes {
		o.wrap = func(h wire.Handler) wire.Handler { return interrupter{h, cancel} }
	}
	if st, err := n.Stat(ctx, res.Link); CodeOf(err) != Interrupted || st != (Stat{}) {
		t.Errorf("got %+v, %v; want code %d", st, err, Interrupted)
	}
}

// interrupter does something when it is asked what it holds.
type interrupter struct {
	wire.Handler

	do func()
}

func (i interrupter) Have(ctx context.Context, from string, ids []pack.ID) ([]wire.Holding, error) {
	i.do()
	return i.Handler.Have(ctx, from, ids)
}

func TestSecretsOfAnEarlierHomeStay(t *testing.T) {
	other := HomeAt(t.TempDir())
	if _, err := Init(other, true); err != nil {
		t.Fatal(err)
	}
	invite, err := MakeInvite(other, 0, []string{"/ip4/127.0.0.1/tcp/1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"volume.seed", "network.key"} {
		h := HomeAt(t.TempDir())
		path := filepath.Join(h.Config, file)
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Init(h, false)
		if CodeOf(err) != Failed || HintOf(err) == "" {
			t.Errorf("%s, init: got %v, want code %d and a hint", file, err, Failed)
		}
		if _, err = Join(t.Context(), h, invite, Config{}); CodeOf(err) != Failed || HintOf(err) == "" {
			t.Errorf("%s, join: got %v, want code %d and a hint", file, err, Failed)
		}
		if b, err := os.ReadFile(path); string(b) != "precious" {
			t.Errorf("%s: now %q, %v", file, b, err)
		}
	}
}

func TestAHomeIsItsOwnersAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("permission bits are Unix's")
	}
	dir := t.TempDir()
	h := Home{Config: filepath.Join(dir, "config"), Data: filepath.Join(dir, "data")}
	for _, d := range []string{h.Config, h.Data} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Init(h, false); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{h.Config, h.Data} {
		if info, err := os.Stat(d); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: got %v, %v; want 0700", d, info.Mode(), err)
		}
	}
}

// alone opens the node of a new private network.
func alone(t *testing.T) (*Node, Home) {
	t.Helper()
	h := HomeAt(t.TempDir())
	if _, err := Init(h, false); err != nil {
		t.Fatal(err)
	}
	n, err := Open(h, Config{Settings: Settings{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true, NoPort: true}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n, h
}

func TestADenyListLearnedAtTheGateIsSavedAndPassedOn(t *testing.T) {
	n, h := alone(t)
	key, err := h.networkKey()
	if err != nil {
		t.Fatal(err)
	}
	for number := range 2 { // before it runs, and while it does
		l, err := member.NewDenyList(key, n.member.Deny(), time.Now(), member.Denied{Peer: member.Key{byte(number + 1)}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.member.Update(l); err != nil { // what the gate does
			t.Fatal(err)
		}
		c, err := h.credentials()
		if err != nil || c.Deny == nil || c.Deny.Number != l.Number {
			t.Fatalf("saved: got %+v, %v; want list %d", c.Deny, err, l.Number)
		}
		if number == 0 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- n.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}()
		}
		for n.spread.Load() != l.Number {
			if sleep(t.Context(), realClock{}, time.Millisecond) != nil {
				t.Fatal("not passed on")
			}
		}
	}
}

func TestDroppedPacksAreNotAnnouncedAnyMore(t *testing.T) {
	n, _ := alone(t)
	n.engine.network = memNetwork
	announced := func() int {
		r, err := n.store.Datastore("dht").Query(t.Context(), query.Query{Prefix: "/announced", KeysOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		all, err := r.Rest()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	none := announced()
	p := newParcel(t, 12<<10, erasure.Scheme{K: 2, M: 1}, 10)
	self := string(n.swarm.ID())
	if err := p.give(n.server, self, wire.StoreRequest{Put: [16]byte{1}, Shard: 1}); err != nil {
		t.Fatal(err)
	}
	err := n.server.Holders(t.Context(), self, wire.PackHolders{ID: p.m.ID(), Number: 10, Holders: []wire.Holder{{Peer: self, Shard: 1}}})
	if err != nil {
		t.Fatal(err)
	}
	if announced() <= none {
		t.Fatal("the pack is not announced")
	}
	if err := n.server.State(t.Context(), self, p.deleted(11)); err != nil {
		t.Fatal(err)
	}
	n.announce(p.m.ID()) // one that was under way
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.withdraw(ctx); err != nil {
		t.Fatal(err)
	}
	if got := announced(); got != none {
		t.Errorf("%d keys are announced, want %d", got, none)
	}
}

// Two peers repair a pack at a time, and bring different shards of it.
func TestOneShardAtATimeIsHandedOver(t *testing.T) {
	n := newMemNet(t, 157, 1, 0).nodes[0]
	p := newParcel(t, 64<<10, erasure.Scheme{K: 2, M: 2}, 10)
	bring := func(shard int) (wire.ShardWriter, error) {
		list := []wire.Holder{{Peer: string(n.self), Shard: shard}, {Peer: "repairer", Shard: 0}}
		return n.server.Store(t.Context(), "repairer", &wire.StoreRequest{Manifest: p.m, Shard: shard, Holders: list})
	}
	first, err := bring(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bring(2); !errors.Is(err, wire.ErrAnother) {
		t.Errorf("while another comes in: got %v, want %v", err, wire.ErrAnother)
	}
	first.Abort()
	second, err := bring(2)
	if err != nil {
		t.Fatalf("after the first was given up: %v", err)
	}
	for row := range p.g.ShardRows(2) {
		if err := second.Write(row, p.g.Cell(p.data, p.parity, 2, row)); err != nil {
			t.Fatal(err)
		}
	}
	if err := second.Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := bring(1); !errors.Is(err, wire.ErrAnother) {
		t.Errorf("when another is held: got %v, want %v", err, wire.ErrAnother)
	}
	if len(n.server.taking) != 0 {
		t.Errorf("%d packs are still being taken", len(n.server.taking))
	}
}
