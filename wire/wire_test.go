package wire

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample is a pack in memory with its manifest.
type sample struct {
	data, parity []byte
	manifest     *pack.Manifest
	geometry     erasure.Geometry
}

// newSample makes a pack of n bytes, the same for the same seed.
func newSample(tb testing.TB, seed byte, n int, s erasure.Scheme) *sample {
	tb.Helper()
	p := &sample{data: make([]byte, n)}
	rand.NewChaCha8([32]byte{seed}).Read(p.data)
	c := pack.NewContent(p.data)
	p.geometry = erasure.NewGeometry(n, s)
	if p.geometry.K > 1 {
		p.parity = make([]byte, p.geometry.ParityLen())
	}
	hashes, err := pack.Code(c, p.data, s, p.parity)
	if err != nil {
		tb.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	st := pack.NewState(pack.Network{1}, pack.Owner(key.Public().(ed25519.PublicKey)), c, s, true, 1_800_000_000_000, hashes)
	st.Sign(key)
	p.manifest = &pack.Manifest{Content: c, State: *st}
	if err := p.manifest.Verify(pack.Network{1}, p.manifest.ID()); err != nil {
		tb.Fatal(err)
	}
	return p
}

func (p *sample) cell(shard int) func(row int) []byte {
	return func(row int) []byte { return p.geometry.Cell(p.data, p.parity, shard, row) }
}

// shard is the bytes of a shard.
func (p *sample) shard(shard int) []byte {
	var b []byte
	for row := range p.geometry.ShardRows(shard) {
		b = append(b, p.cell(shard)(row)...)
	}
	return b
}

// request gives the request to store a shard, not provisional.
func (p *sample) request(shard int) *StoreRequest {
	return &StoreRequest{Manifest: p.manifest, Shard: shard}
}

// memory is a Handler on maps. Its errors, where set, are what the methods
// answer with.
type memory struct {
	storeErr, readErr, otherErr error
	writeErr                    map[int]error // by row
	commitErr                   error
	proof                       []byte // what it proves all with; nil: what is true

	mu      sync.Mutex
	calls   []string // what was asked, as text
	shards  map[string]map[int][]byte
	packs   map[pack.ID]*pack.Manifest
	deleted map[pack.ID]*pack.State
	aborted int
	have    []Holding
	facts   Facts
	heads   map[pack.Owner][][]byte
}

func newMemory(ps ...*sample) *memory {
	m := &memory{shards: map[string]map[int][]byte{}, packs: map[pack.ID]*pack.Manifest{}}
	for _, p := range ps {
		m.packs[p.manifest.ID()] = p.manifest
		for shard := range p.geometry.N() {
			rows := map[int][]byte{}
			for row := range p.geometry.ShardRows(shard) {
				rows[row] = p.cell(shard)(row)
			}
			m.shards[shardKey(p.manifest.ID(), shard)] = rows
		}
	}
	return m
}

func shardKey(id pack.ID, shard int) string { return fmt.Sprintf("%s/%d", id, shard) }

func (m *memory) called(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

// bytes gives a shard as it was stored.
func (m *memory) bytes(id pack.ID, shard int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	rows := m.shards[shardKey(id, shard)]
	var b []byte
	for _, row := range slices.Sorted(maps.Keys(rows)) {
		b = append(b, rows[row]...)
	}
	return b
}

func (m *memory) Store(_ context.Context, from string, q *StoreRequest) (ShardWriter, error) {
	m.called("store %s %s/%d put %x holders %v", from, q.Manifest.ID().Short(), q.Shard, q.Put[:2], q.Holders)
	if m.storeErr != nil {
		return nil, m.storeErr
	}
	return &memoryWriter{m: m, key: shardKey(q.Manifest.ID(), q.Shard), rows: map[int][]byte{}}, nil
}

type memoryWriter struct {
	m    *memory
	key  string
	rows map[int][]byte
}

func (w *memoryWriter) Write(row int, b []byte) error {
	if err := w.m.writeErr[row]; err != nil {
		return err
	}
	if row != len(w.rows) {
		return fmt.Errorf("got row %d, want %d", row, len(w.rows))
	}
	w.rows[row] = bytes.Clone(b)
	return nil
}

func (w *memoryWriter) Commit() error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	if w.m.commitErr != nil {
		return w.m.commitErr
	}
	w.m.shards[w.key] = w.rows
	return nil
}

func (w *memoryWriter) Abort() {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.m.aborted++
}

func (m *memory) ReadBlock(_ context.Context, _ string, q ReadRequest, row int, dst []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.readErr != nil {
		return dst, m.readErr
	}
	b, ok := m.shards[shardKey(q.ID, q.Shard)][row]
	if !ok {
		return dst, ErrNotFound
	}
	if b == nil {
		return dst, fmt.Errorf("row %d: %w", row, pack.ErrCorrupt)
	}
	return append(dst, b...), nil
}

func (m *memory) Prove(ctx context.Context, from string, q ProveRequest) ([]byte, error) {
	if m.proof != nil {
		return m.proof, nil
	}
	b, err := m.ReadBlock(ctx, from, ReadRequest{ID: q.ID, Shard: q.Shard}, q.Row, nil)
	if err == nil && q.Off >= len(b) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	return digest.Prove(b, q.Off), nil
}

func (m *memory) Have(_ context.Context, _ string, ids []pack.ID) ([]Holding, error) {
	if m.have != nil || m.otherErr != nil {
		return m.have, m.otherErr
	}
	return make([]Holding, len(ids)), nil
}

func (m *memory) Manifest(_ context.Context, _ string, id pack.ID) (*pack.Manifest, error) {
	p, ok := m.packs[id]
	if !ok {
		return nil, Refuse(NotFound, "pack %s", id.Short())
	}
	return p, m.otherErr
}

func (m *memory) Holders(_ context.Context, _ string, p PackHolders) error {
	m.called("holders %s %d %v", p.ID.Short(), p.Number, p.Holders)
	if _, ok := m.packs[p.ID]; !ok {
		return ErrNotFound
	}
	return m.otherErr
}

func (m *memory) State(_ context.Context, _ string, st *pack.State) error {
	m.called("state %s %d", st.ID().Short(), st.Number)
	return m.otherErr
}

func (m *memory) NewestState(_ context.Context, _ string, id pack.ID) (*pack.State, error) {
	if m.otherErr != nil {
		return nil, m.otherErr
	}
	if st, ok := m.deleted[id]; ok {
		return st, nil
	}
	p, ok := m.packs[id]
	if !ok {
		return nil, ErrNotFound
	}
	return &p.State, nil
}

func (m *memory) Facts(context.Context, string) (Facts, error) { return m.facts, m.otherErr }

func (m *memory) Alive(_ context.Context, _ string, put [16]byte) error {
	m.called("alive %x", put)
	return m.otherErr
}

func (m *memory) GiveUp(_ context.Context, _ string, put [16]byte) error {
	m.called("give up %x", put)
	return m.otherErr
}

func (m *memory) Deny(_ context.Context, from string, list []byte) error {
	m.called("deny %s %q", from, list)
	return m.otherErr
}

func (m *memory) Heads(_ context.Context, from string, owner pack.Owner) ([][]byte, error) {
	m.called("heads %s %s", from, owner.Short())
	return m.heads[owner], m.otherErr
}

func (m *memory) PutHead(_ context.Context, from string, head []byte) error {
	m.called("put head %s %q", from, head)
	return m.otherErr
}

// transports are the streams that the tests run on: one without any buffer,
// where each Write waits for a Read, and one with the system's.
var transports = map[string]func(testing.TB) (a, b net.Conn){
	"pipe": func(testing.TB) (a, b net.Conn) { return net.Pipe() },
	"tcp":  tcpPair,
}

func tcpPair(tb testing.TB) (a, b net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		tb.Fatal(err)
	}
	return a, b
}

// onEach runs test on each transport.
func onEach(t *testing.T, test func(t *testing.T, open func(testing.TB) (a, b net.Conn))) {
	for name, open := range transports {
		t.Run(name, func(t *testing.T) { test(t, open) })
	}
}

// patience bounds what would otherwise hang for ever.
const patience = 20 * time.Second

// against runs peer on one end of a stream and gives the other, and a function
// that closes it and gives what peer returned.
func against(tb testing.TB, open func(testing.TB) (a, b net.Conn), peer func(net.Conn) error) (conn net.Conn, end func() error) {
	tb.Helper()
	a, b := open(tb)
	for _, c := range []net.Conn{a, b} {
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			tb.Fatal(err)
		}
	}
	done := make(chan error, 1)
	go func() {
		defer b.Close()
		done <- peer(b)
	}()
	end = sync.OnceValue(func() error {
		a.Close()
		return <-done
	})
	tb.Cleanup(func() { end() })
	return a, end
}

// serving is against [Serve].
func serving(tb testing.TB, open func(testing.TB) (a, b net.Conn), h Handler) (conn net.Conn, end func() error) {
	tb.Helper()
	return against(tb, open, func(c net.Conn) error { return Serve(context.Background(), c, "alice", Version, h) })
}

func TestShardStoredIsTheShardRead(t *testing.T) {
	onEach(t, func(t *testing.T, open func(testing.TB) (a, b net.Conn)) {
		for _, tt := range []struct {
			name string
			len  int
			s    erasure.Scheme
		}{
			{"one block", 4096, erasure.Scheme{K: 1}},
			{"copies", 300_000, erasure.Scheme{K: 1, M: 2}},
			{"short last block", 1_000_001, erasure.Scheme{K: 4, M: 2}},
			{"one data shard of eight", 5000, erasure.Scheme{K: 8, M: 3}},
			{"large blocks", 9 << 20, erasure.Scheme{K: 2, M: 1}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				p := newSample(t, 1, tt.len, tt.s)
				h := newMemory()
				for shard := range p.geometry.N() {
					conn, end := serving(t, open, h)
					have, err := Store(conn, p.request(shard), p.cell(shard))
					if have || err != nil {
						t.Fatalf("store shard %d: got %v, %v", shard, have, err)
					}
					if err := end(); err != nil {
						t.Fatalf("serve: %v", err)
					}
					if !bytes.Equal(h.bytes(p.manifest.ID(), shard), p.shard(shard)) {
						t.Fatalf("shard %d is stored with other bytes", shard)
					}
					if got := readShard(t, open, h, p, shard); !bytes.Equal(got, p.shard(shard)) {
						t.Fatalf("shard %d is read with other bytes", shard)
					}
				}
			})
		}
	})
}

// readShard reads all blocks of a shard.
func readShard(t *testing.T, open func(testing.TB) (a, b net.Conn), h Handler, p *sample, shard int) []byte {
	t.Helper()
	conn, end := serving(t, open, h)
	var got []byte
	q := ReadRequest{ID: p.manifest.ID(), K: p.geometry.K, M: p.geometry.M, Shard: shard, Count: p.geometry.ShardRows(shard)}
	err := Read(conn, q,
		func(row int) int { return p.geometry.CellLen(shard, row) },
		func(int) []byte { return make([]byte, MaxBlock) },
		func(row int, b []byte, err error) {
			if err != nil {
				t.Errorf("row %d: %v", row, err)
			}
			got = append(got, b...)
		})
	if err != nil {
		t.Fatalf("read shard %d: %v", shard, err)
	}
	if err := end(); err != nil {
		t.Fatalf("serve: %v", err)
	}
	return got
}

func TestWhatIsAskedArrives(t *testing.T) {
	p := newSample(t, 2, 200_000, erasure.Scheme{K: 4, M: 2})
	holdings := []Holding{
		{},
		{Held: true, Number: 7, Shard: 5, K: 4, M: 2},
		{Held: true, Provisional: true, Number: 1 << 60, Shard: 255, K: 1, M: 255},
		{Deleted: true, Number: 9},
		{Held: true, Damaged: true, Number: 3, Shard: 1, K: 1, M: 1},
	}
	facts := Facts{Free: 1, Capacity: 1 << 63, Held: 3, Shards: 4, Zone: "cellar", Version: "v1.2.3", Now: time.UnixMilli(1_900_000_000_123).UTC(), Boot: 1<<64 - 1}
	other := pack.ID{9}
	tombstone := p.manifest.State.Tombstone(99)
	deleted := newSample(t, 19, 4096, erasure.Scheme{K: 1}).manifest.State.Tombstone(98)
	list := []Holder{{"carol", 3}, {"bob", 3}, {strings.Repeat("x", MaxPeer), 0}}
	heads := map[pack.Owner][][]byte{{7}: {[]byte("b"), []byte("ab"), []byte("a")}}
	onEach(t, func(t *testing.T, open func(testing.TB) (a, b net.Conn)) {
		for _, tt := range []struct {
			name string
			ask  func(io.ReadWriter) (any, error)
			want any
			call string // what the handler is to be asked
		}{
			{"have", func(rw io.ReadWriter) (any, error) { return Have(rw, make([]pack.ID, 5)) }, holdings, ""},
			{"proof", func(rw io.ReadWriter) (any, error) {
				return Prove(rw, ProveRequest{ID: p.manifest.ID(), K: 4, M: 2, Shard: 5, Row: 2, Off: 2100})
			}, digest.Prove(p.cell(5)(2), 2100), ""},
			{"manifest", func(rw io.ReadWriter) (any, error) { return Manifest(rw, p.manifest.ID()) }, p.manifest, ""},
			{"facts", func(rw io.ReadWriter) (any, error) { return GetFacts(rw) }, facts, ""},
			{"state", func(rw io.ReadWriter) (any, error) { return nil, State(rw, &p.manifest.State) }, nil,
				fmt.Sprintf("state %s %d", p.manifest.ID().Short(), p.manifest.State.Number)},
			{"deletion", func(rw io.ReadWriter) (any, error) { return nil, State(rw, tombstone) }, nil,
				fmt.Sprintf("state %s 99", p.manifest.ID().Short())},
			{"newest state", func(rw io.ReadWriter) (any, error) { return GetState(rw, p.manifest.ID()) }, &p.manifest.State, ""},
			{"newest state, deleted", func(rw io.ReadWriter) (any, error) { return GetState(rw, deleted.ID()) }, deleted, ""},
			{"newest state of nothing", func(rw io.ReadWriter) (any, error) {
				st, err := GetState(rw, other)
				if st != nil {
					return st, err
				}
				return CodeOf(err), nil
			}, NotFound, ""},
			{"alive", func(rw io.ReadWriter) (any, error) { return nil, Alive(rw, [16]byte{0xab}) }, nil,
				"alive ab" + strings.Repeat("00", 15)},
			{"give up", func(rw io.ReadWriter) (any, error) { return nil, GiveUp(rw, [16]byte{0xab}) }, nil,
				"give up ab" + strings.Repeat("00", 15)},
			{"deny", func(rw io.ReadWriter) (any, error) { return nil, Deny(rw, []byte("eve")) }, nil, `deny alice "eve"`},
			{"heads", func(rw io.ReadWriter) (any, error) { return Heads(rw, pack.Owner{7}) },
				[][]byte{[]byte("a"), []byte("ab"), []byte("b")}, "heads alice 07000000"},
			{"heads of nothing", func(rw io.ReadWriter) (any, error) { return Heads(rw, pack.Owner{8}) }, [][]byte(nil), "heads alice 08000000"},
			{"put head", func(rw io.ReadWriter) (any, error) { return nil, PutHead(rw, []byte("new")) }, nil, `put head alice "new"`},
			{"holders", func(rw io.ReadWriter) (any, error) {
				return nil, Holders(rw, []PackHolders{{ID: p.manifest.ID(), Number: 5, Holders: list}})
			}, nil, fmt.Sprintf("holders %s 5 [{%s 0} {bob 3} {carol 3}]", p.manifest.ID().Short(), strings.Repeat("x", MaxPeer))},
			{"some holders", func(rw io.ReadWriter) (any, error) {
				err := Holders(rw, []PackHolders{{p.manifest.ID(), 5, list}, {other, 6, list}, {p.manifest.ID(), 7, list}})
				if e, ok := errors.AsType[*HoldersError](err); ok {
					return e.Codes, nil
				}
				return nil, err
			}, []Code{0, NotFound, 0}, fmt.Sprintf("holders %s 6 [{%s 0} {bob 3} {carol 3}]", other.Short(), strings.Repeat("x", MaxPeer))},
			{"hand-over", func(rw io.ReadWriter) (any, error) {
				q := p.request(1)
				q.Holders = list[:2]
				return Store(rw, q, p.cell(1))
			}, false, fmt.Sprintf("store alice %s/1 put 0000 holders [{bob 3} {carol 3}]", p.manifest.ID().Short())},
			{"provisional", func(rw io.ReadWriter) (any, error) {
				q := p.request(0)
				q.Put = [16]byte{1, 2}
				return Store(rw, q, p.cell(0))
			}, false, fmt.Sprintf("store alice %s/0 put 0102 holders []", p.manifest.ID().Short())},
		} {
			t.Run(tt.name, func(t *testing.T) {
				h := newMemory(p)
				h.have, h.facts, h.heads = holdings, facts, heads
				h.deleted = map[pack.ID]*pack.State{deleted.ID(): deleted}
				conn, end := serving(t, open, h)
				got, err := tt.ask(conn)
				if err != nil {
					t.Fatal(err)
				}
				if err := end(); err != nil {
					t.Errorf("serve: %v", err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("answer (-want +got):\n%s", diff)
				}
				if tt.call != "" && !slices.Contains(h.calls, tt.call) {
					t.Errorf("handler was asked %q, want %q", h.calls, tt.call)
				}
			})
		}
	})
}

func TestShardHeldAlreadyIsNotSent(t *testing.T) {
	p := newSample(t, 3, 100_000, erasure.Scheme{K: 2, M: 1})
	h := newMemory()
	h.storeErr = fmt.Errorf("begin: %w", ErrHave)
	conn, end := serving(t, transports["pipe"], h)
	have, err := Store(conn, p.request(2), func(int) []byte { t.Error("asked for a block"); return nil })
	if !have || err != nil {
		t.Errorf("got %v, %v, want true, nil", have, err)
	}
	if err := end(); err != nil {
		t.Errorf("serve: %v", err)
	}
}

func TestRefusalReachesTheSenderAtEveryStage(t *testing.T) {
	p := newSample(t, 4, 6<<20, erasure.Scheme{K: 1, M: 1}) // 96 blocks of 64 KiB
	disk := errors.New("input/output error on /dev/sda")
	onEach(t, func(t *testing.T, open func(testing.TB) (a, b net.Conn)) {
		for _, tt := range []struct {
			name    string
			set     func(*memory)
			want    Refusal
			aborted int
			fault   error // what Serve is to return
		}{
			{"at once", func(m *memory) { m.storeErr = Refuse(Full, "%d bytes left", 12) }, Refusal{Full, "12 bytes left"}, 0, nil},
			{"at once, wrapped", func(m *memory) { m.storeErr = fmt.Errorf("/home/x: %w", ErrQuota) }, Refusal{Quota, ""}, 0, nil},
			{"at once, own fault", func(m *memory) { m.storeErr = disk }, Refusal{Internal, ""}, 0, disk},
			{"first block", func(m *memory) { m.writeErr = map[int]error{0: ErrFull} }, Refusal{Full, ""}, 1, nil},
			{"halfway", func(m *memory) { m.writeErr = map[int]error{48: disk} }, Refusal{Internal, ""}, 1, disk},
			{"last block", func(m *memory) { m.writeErr = map[int]error{95: ErrFull} }, Refusal{Full, ""}, 1, nil},
			{"at the end", func(m *memory) { m.commitErr = disk }, Refusal{Internal, ""}, 0, disk},
		} {
			t.Run(tt.name, func(t *testing.T) {
				h := newMemory()
				tt.set(h)
				conn, end := serving(t, open, h)
				have, err := Store(conn, p.request(1), p.cell(1))
				r, ok := errors.AsType[*Refusal](err)
				if !ok || have {
					t.Fatalf("got %v, %v, want a refusal", have, err)
				}
				if diff := cmp.Diff(tt.want, *r); diff != "" {
					t.Errorf("refusal (-want +got):\n%s", diff)
				}
				if err := end(); !errors.Is(err, tt.fault) || (tt.fault == nil && err != nil) {
					t.Errorf("serve: got %v, want %v", err, tt.fault)
				}
				if h.aborted != tt.aborted || len(h.shards) != 0 {
					t.Errorf("got %d writers aborted, %d shards kept, want %d, 0", h.aborted, len(h.shards), tt.aborted)
				}
			})
		}
	})
}

func TestRefusalComesOutOfEveryQuestion(t *testing.T) {
	p := newSample(t, 5, 4096, erasure.Scheme{K: 1})
	asks := map[string]func(io.ReadWriter) error{
		"have":         func(rw io.ReadWriter) error { _, err := Have(rw, []pack.ID{{}}); return err },
		"manifest":     func(rw io.ReadWriter) error { _, err := Manifest(rw, p.manifest.ID()); return err },
		"facts":        func(rw io.ReadWriter) error { _, err := GetFacts(rw); return err },
		"state":        func(rw io.ReadWriter) error { return State(rw, &p.manifest.State) },
		"newest state": func(rw io.ReadWriter) error { _, err := GetState(rw, p.manifest.ID()); return err },
		"alive":        func(rw io.ReadWriter) error { return Alive(rw, [16]byte{1}) },
		"deny":         func(rw io.ReadWriter) error { return Deny(rw, []byte{1}) },
		"heads":        func(rw io.ReadWriter) error { _, err := Heads(rw, pack.Owner{}); return err },
		"put head":     func(rw io.ReadWriter) error { return PutHead(rw, []byte{1}) },
		"read": func(rw io.ReadWriter) error {
			return Read(rw, ReadRequest{K: 1, Count: 3}, nil, nil, nil)
		},
		"prove": func(rw io.ReadWriter) error { _, err := Prove(rw, ProveRequest{K: 1}); return err },
		"holders": func(rw io.ReadWriter) error {
			err := Holders(rw, []PackHolders{{p.manifest.ID(), 1, []Holder{{"bob", 1}}}})
			if e, ok := errors.AsType[*HoldersError](err); ok {
				return &Refusal{Code: e.Codes[0]}
			}
			return err
		},
	}
	for name, ask := range asks {
		t.Run(name, func(t *testing.T) {
			h := newMemory(p)
			h.otherErr, h.readErr = ErrNotMember, ErrNotMember
			conn, end := serving(t, transports["pipe"], h)
			if err := ask(conn); !errors.Is(err, ErrNotMember) || errors.Is(err, ErrFull) {
				t.Errorf("got %v, want %v", err, ErrNotMember)
			}
			if err := end(); err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
}

func TestDamagedBlockLeavesTheOthersReadable(t *testing.T) {
	p := newSample(t, 6, 2<<20, erasure.Scheme{K: 1})
	h := newMemory(p)
	h.shards[shardKey(p.manifest.ID(), 0)][3] = nil
	delete(h.shards[shardKey(p.manifest.ID(), 0)], 5)
	conn, end := serving(t, transports["tcp"], h)
	want := map[int]Code{3: Corrupt, 5: NotFound}
	next := 2
	err := Read(conn, ReadRequest{ID: p.manifest.ID(), K: 1, Row: 2, Count: 100},
		func(row int) int { return p.geometry.CellLen(0, row) },
		func(int) []byte { return make([]byte, MaxBlock) },
		func(row int, b []byte, err error) {
			if row != next {
				t.Errorf("got row %d, want %d", row, next)
			}
			next++
			switch {
			case want[row] != 0:
				if CodeOf(err) != want[row] || b != nil {
					t.Errorf("row %d: got %d bytes, %v, want %v", row, len(b), err, want[row])
				}
			case err != nil || p.manifest.VerifyBlock(0, row, b) != nil:
				t.Errorf("row %d: %v, %v", row, err, p.manifest.VerifyBlock(0, row, b))
			}
		})
	if err != nil || next != 102 {
		t.Errorf("got %v after row %d, want nil, 102", err, next)
	}
	if err := end(); !errors.Is(err, pack.ErrCorrupt) {
		t.Errorf("serve: got %v, want %v", err, pack.ErrCorrupt)
	}
}

func TestBlockThatCannotBeReadIsNotProven(t *testing.T) {
	p := newSample(t, 6, 2<<20, erasure.Scheme{K: 1})
	h := newMemory(p)
	h.shards[shardKey(p.manifest.ID(), 0)][3] = nil
	delete(h.shards[shardKey(p.manifest.ID(), 0)], 5)
	disk := errors.New("input/output error on /dev/sda")
	for _, tt := range []struct {
		name     string
		row, off int
		err      error
		proof    []byte
		want     Refusal
		fault    bool // Serve is to return an error
	}{
		{"damaged", 3, 0, nil, nil, Refusal{Corrupt, "prove pack " + p.manifest.ID().Short() + ", shard 0, row 3: row 3: corrupt data"}, true},
		{"not there", 5, 0, nil, nil, Refusal{NotFound, ""}, false},
		{"beyond the block", 0, MaxBlock - 1, nil, nil, Refusal{NotFound, ""}, false},
		{"other coding", 0, 0, ErrOtherCoding, nil, Refusal{OtherCoding, ""}, false},
		{"own fault", 0, 0, disk, nil, Refusal{Internal, ""}, true},
		{"no proof", 0, 0, nil, []byte{}, Refusal{Internal, ""}, true},
		{"proof too long", 0, 0, nil, make([]byte, digest.MaxProof+1), Refusal{Internal, ""}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h.readErr, h.proof = tt.err, tt.proof
			conn, end := serving(t, transports["pipe"], h)
			_, err := Prove(conn, ProveRequest{ID: p.manifest.ID(), K: 1, Row: tt.row, Off: tt.off})
			r, ok := errors.AsType[*Refusal](err)
			if !ok {
				t.Fatalf("got %v, want a refusal", err)
			}
			if diff := cmp.Diff(tt.want, *r); diff != "" {
				t.Errorf("refusal (-want +got):\n%s", diff)
			}
			if err := end(); (err != nil) != tt.fault {
				t.Errorf("serve: got %v", err)
			}
		})
	}
}

func TestSenderOfAWrongBlockIsRefused(t *testing.T) {
	p := newSample(t, 7, 8<<20, erasure.Scheme{K: 2, M: 1})
	onEach(t, func(t *testing.T, open func(testing.TB) (a, b net.Conn)) {
		for _, shard := range []int{0, 2} {
			h := newMemory()
			conn, end := serving(t, open, h)
			have, err := Store(conn, p.request(shard), func(row int) []byte {
				b := p.cell(shard)(row)
				if row == 1 {
					b = bytes.Clone(b)
					b[len(b)-1] ^= 1
				}
				return b
			})
			if have || !errors.Is(err, ErrCorrupt) && CodeOf(err) != Corrupt {
				t.Errorf("got %v, %v, want %v", have, err, ErrCorrupt)
			}
			if err := end(); !errors.Is(err, pack.ErrCorrupt) {
				t.Errorf("serve: got %v, want %v", err, pack.ErrCorrupt)
			}
			if h.aborted != 1 || len(h.shards) != 0 {
				t.Errorf("got %d writers aborted, %d shards kept, want 1, 0", h.aborted, len(h.shards))
			}
		}
	})
}

// frame makes a frame of any kind.
func frame(typ byte, head ...byte) []byte { return seal(append(newFrame(typ, 0), head...)) }

// mustEncode gives a whole frame of what an encode function gave.
func mustEncode(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return seal(b)
}

func TestBrokenRequestIsRefused(t *testing.T) {
	p := newSample(t, 8, 100_000, erasure.Scheme{K: 2, M: 1})
	store := mustEncode(p.request(0).encode())
	newer := bytes.Clone(store)
	newer[frameLen+storeFixed+2+4] = 200 // the manifest's version
	handOver := mustEncode((&StoreRequest{Manifest: p.manifest, Holders: []Holder{{"bob", 1}}}).encode())
	handOver[frameLen] = 1
	read := mustEncode((&ReadRequest{K: 2, M: 1, Count: 128}).encode())
	prove := mustEncode((&ProveRequest{K: 2, M: 1, Row: 127, Off: MaxBlock - 1}).encode())
	list := mustEncode((&PackHolders{Holders: []Holder{{"a", 1}, {"b", 1}}}).encode())
	unordered := bytes.Replace(list, []byte("\x01\x01a\x01\x01b"), []byte("\x01\x01b\x01\x01a"), 1)
	edit := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	for _, tt := range []struct {
		name string
		send []byte
		want Code
	}{
		{"unknown request", frame(0x7f, 1, 2, 3), Unsupported},
		{"a reply", frame(replyOK), Unsupported},
		{"list without request", list, Unsupported},
		{"endless header", []byte{typeStore, 0xff, 0xff, 0xff}, Malformed},
		{"endless unknown header", []byte{0x7f, 1, 0, 1}, Malformed},
		{"too long", frame(typeAlive, make([]byte, 17)...), Malformed},
		{"too short", frame(typeAlive, make([]byte, 15)...), Malformed},
		{"alive without put", frame(typeAlive, make([]byte, 16)...), Malformed},
		{"facts with header", frame(typeFacts, 1), Malformed},
		{"have of nothing", frame(typeHave), Malformed},
		{"have of half an ID", frame(typeHave, make([]byte, 48)...), Malformed},
		{"manifest of half an ID", frame(typeManifest, make([]byte, 16)...), Malformed},
		{"deny without list", frame(typeDeny), Malformed},
		{"heads of half a key", frame(typeHeads, make([]byte, 16)...), Malformed},
		{"heads of a key and more", frame(typeHeads, make([]byte, 33)...), Malformed},
		{"put no head", frame(typePutHead), Malformed},
		{"put an endless head", []byte{typePutHead, 0, 0x10, 1}, Malformed},
		{"newest state of half an ID", frame(typeGetState, make([]byte, 16)...), Malformed},
		{"state of noise", frame(typeState, make([]byte, 300)...), Malformed},
		{"store of nothing", frame(typeStore), Malformed},
		{"store: shard that is not there", edit(store, frameLen+16, 3), Malformed},
		{"store: provisional hand-over", handOver, Malformed},
		{"store: manifest of the future", newer, Unsupported},
		{"store: manifest cut off", frame(typeStore, store[frameLen:len(store)-1]...), Malformed},
		{"store: manifest and more", frame(typeStore, append(bytes.Clone(store[frameLen:]), 0)...), Malformed},
		{"read: no rows", edit(read, len(read)-1, 0), Malformed},
		{"read: rows beyond", edit(read, len(read)-2, 1), Malformed},
		{"read: shard that is not there", edit(read, len(read)-3, 3), Malformed},
		{"read: no coding", edit(read, frameLen+33, 0), Malformed},
		{"prove: row beyond", edit(prove, len(prove)-5, 128), Malformed},
		{"prove: shard that is not there", edit(prove, len(prove)-6, 3), Malformed},
		{"prove: no coding", edit(prove, frameLen+33, 0), Malformed},
		{"prove: beyond all blocks", edit(prove, len(prove)-3, 4), Malformed},
		{"prove: far beyond all blocks", edit(prove, len(prove)-4, 0xff), Malformed},
		{"prove: cut off", frame(typeProve, prove[frameLen:len(prove)-1]...), Malformed},
		{"prove: and more", frame(typeProve, append(bytes.Clone(prove[frameLen:]), 0)...), Malformed},
		{"holders of none", frame(typeHolders, 0, 0), Malformed},
		{"holders of 257", frame(typeHolders, 1, 1), Malformed},
		{"holders: another frame", slices.Concat(frame(typeHolders, 0, 1), frame(typeFacts)), Malformed},
		{"holders: not in order", slices.Concat(frame(typeHolders, 0, 1), unordered), Malformed},
		{"holders: endless", slices.Concat(frame(typeHolders, 0, 1), []byte{typeList, 0xff, 0, 0}), Malformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newMemory(p)
			conn, end := serving(t, transports["pipe"], h)
			go conn.Write(tt.send) // what is too long is not read to its end
			_, _, err := readReply(conn)
			r, ok := errors.AsType[*Refusal](err)
			if !ok || r.Code != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if err := end(); (tt.want == Malformed) != errors.Is(err, ErrProtocol) {
				t.Errorf("serve: got %v", err)
			}
			if len(h.calls) > 0 {
				t.Errorf("handler was asked %q", h.calls)
			}
		})
	}
}

func TestStreamThatEndsEarlyKeepsNothing(t *testing.T) {
	p := newSample(t, 9, 1<<20, erasure.Scheme{K: 2, M: 1})
	store := mustEncode(p.request(0).encode())
	for _, n := range []int{0, 1, frameLen, len(store) - 1, len(store)} {
		h := newMemory()
		conn, end := serving(t, transports["tcp"], h)
		if _, err := conn.Write(store[:n]); err != nil {
			t.Fatal(err)
		}
		if n == len(store) {
			if _, _, err := readReply(conn, replyGo); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write(p.shard(0)[:300_000]); err != nil {
				t.Fatal(err)
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if _, _, err := readReply(conn); CodeOf(err) != Malformed {
				t.Errorf("got %v, want %v", err, Malformed)
			}
		}
		if err := end(); (err == nil) != (n == 0) {
			t.Errorf("serve of %d bytes: got %v", n, err)
		}
		if len(h.shards) != 0 || (n == len(store)) != (h.aborted == 1) {
			t.Errorf("after %d bytes: %d shards kept, %d writers aborted", n, len(h.shards), h.aborted)
		}
	}
}

// lying reads the request whole and answers with what it is given.
func lying(answer ...byte) func(net.Conn) error {
	return func(c net.Conn) error {
		if _, _, err := readFrame(c, func(byte) int { return 1 << 20 }); err != nil {
			return err
		}
		_, err := c.Write(answer)
		return err
	}
}

func TestLyingPeerIsNamed(t *testing.T) {
	p := newSample(t, 10, 1<<20, erasure.Scheme{K: 2, M: 1})
	id := p.manifest.ID()
	// Blocks apart from each other go out one by one, with a look at the
	// reply before each.
	apart := func(row int) []byte { return slices.Clone(p.cell(0)(row)) }
	store := func(rw io.ReadWriter) error { _, err := Store(rw, p.request(0), apart); return err }
	// More than a connection takes in before the reply is looked at.
	big := newSample(t, 15, 16<<20, erasure.Scheme{K: 1})
	storeBig := func(rw io.ReadWriter) error { _, err := Store(rw, big.request(0), big.cell(0)); return err }
	have := func(rw io.ReadWriter) error { _, err := Have(rw, make([]pack.ID, 2)); return err }
	manifest := func(rw io.ReadWriter) error { _, err := Manifest(rw, id); return err }
	state := func(rw io.ReadWriter) error { _, err := GetState(rw, id); return err }
	facts := func(rw io.ReadWriter) error { _, err := GetFacts(rw); return err }
	read := func(rw io.ReadWriter) error {
		return Read(rw, ReadRequest{ID: id, K: 2, M: 1, Count: 2},
			func(int) int { return 8 }, func(int) []byte { return make([]byte, 8) }, func(int, []byte, error) {})
	}
	prove := func(rw io.ReadWriter) error { _, err := Prove(rw, ProveRequest{ID: id, K: 2, M: 1}); return err }
	heads := func(rw io.ReadWriter) error { _, err := Heads(rw, pack.Owner{1}); return err }
	manyHeads := []byte{MaxTips + 1}
	for i := range MaxTips + 1 {
		manyHeads = append(manyHeads, 0, 1, byte(i))
	}
	longHead := append([]byte{1, 0x10, 1}, make([]byte, MaxHead+1)...)
	other := newSample(t, 11, 4096, erasure.Scheme{K: 1}).manifest
	zone := append(make([]byte, 48), "\x03\x1b[m\x00"...)
	for _, tt := range []struct {
		name   string
		ask    func(io.ReadWriter) error
		answer []byte
		want   error
	}{
		{"nothing", store, nil, io.ErrUnexpectedEOF},
		{"half a frame", store, []byte{replyGo, 0}, io.ErrUnexpectedEOF},
		{"another reply", store, frame(replyOK), ErrProtocol},
		{"reply that does not exist", facts, frame(0x99), ErrProtocol},
		{"request", facts, frame(typeFacts), ErrProtocol},
		{"endless reply", store, []byte{replyGo, 0xff, 0xff, 0xff}, ErrProtocol},
		{"endless refusal", have, []byte{replyRefused, 0, 1, 3}, ErrProtocol},
		{"refusal without code", have, frame(replyRefused), ErrProtocol},
		{"refusal with code 0", have, frame(replyRefused, 0, 0), ErrProtocol},
		{"acknowledged before sent", storeBig, slices.Concat(frame(replyGo), frame(replyOK)), ErrProtocol},
		{"too few holdings", have, frame(replyHoldings, 0), ErrProtocol},
		{"too many holdings", have, frame(replyHoldings, 0, 0, 0), ErrProtocol},
		{"unknown status", have, frame(replyHoldings, 0, 9), ErrProtocol},
		{"impossible shard", have, frame(replyHoldings, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 3, 0, 2, 0, 1), ErrProtocol},
		{"noise for a manifest", manifest, frame(replyManifest, make([]byte, 100)...), pack.ErrCorrupt},
		{"another manifest", manifest, frame(replyManifest, other.Encode()...), ErrProtocol},
		{"endless manifest", manifest, []byte{replyManifest, 1, 0, 1}, ErrProtocol},
		{"noise for a state", state, frame(replyState, make([]byte, 100)...), pack.ErrCorrupt},
		{"another state", state, frame(replyState, other.State.Encode()...), ErrProtocol},
		{"a manifest for a state", state, frame(replyManifest, other.Encode()...), ErrProtocol},
		{"endless state", state, []byte{replyState, 1, 0, 1}, ErrProtocol},
		{"facts cut off", facts, frame(replyFacts, make([]byte, 49)...), ErrProtocol},
		{"facts and more", facts, frame(replyFacts, make([]byte, 51)...), ErrProtocol},
		{"zone that moves the cursor", facts, frame(replyFacts, zone...), ErrProtocol},
		{"clock beyond all time", facts, frame(replyFacts, append(bytes.Repeat([]byte{0xff}, 48), 0, 0)...), ErrProtocol},
		{"no count of heads", heads, frame(replyHeads), ErrProtocol},
		{"too few heads", heads, frame(replyHeads, 2, 0, 1, 7), ErrProtocol},
		{"heads and more", heads, frame(replyHeads, 1, 0, 1, 7, 0), ErrProtocol},
		{"heads not in order", heads, frame(replyHeads, 2, 0, 1, 7, 0, 1, 6), ErrProtocol},
		{"a head twice", heads, frame(replyHeads, 2, 0, 1, 7, 0, 1, 7), ErrProtocol},
		{"an empty head", heads, frame(replyHeads, 1, 0, 0), ErrProtocol},
		{"too many heads", heads, frame(replyHeads, manyHeads...), ErrProtocol},
		{"a head too long", heads, frame(replyHeads, longHead...), ErrProtocol},
		{"endless heads", heads, []byte{replyHeads, 1, 0, 0x22}, ErrProtocol},
		{"an acknowledgement for heads", heads, frame(replyOK), ErrProtocol},
		{"no proof", prove, frame(replyProof), ErrProtocol},
		{"endless proof", prove, []byte{replyProof, 0, byte((digest.MaxProof + 1) >> 8), byte((digest.MaxProof + 1) & 0xff)}, ErrProtocol},
		{"proof cut off", prove, []byte{replyProof, 0, 1, 0, 1, 2, 3}, io.ErrUnexpectedEOF},
		{"a block for a proof", prove, frame(replyOK), ErrProtocol},
		{"blocks cut off", read, slices.Concat(frame(replyOK), make([]byte, 12)), io.ErrUnexpectedEOF},
		{"no blocks", read, frame(replyOK), io.ErrUnexpectedEOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, end := against(t, transports["tcp"], lying(tt.answer...))
			if err := tt.ask(conn); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			} else if _, ok := errors.AsType[*Refusal](err); ok {
				t.Errorf("got the refusal %v", err)
			}
			end()
		})
	}
}

func TestPeerThatDropsOutHalfwayEndsTheStore(t *testing.T) {
	p := newSample(t, 12, 16<<20, erasure.Scheme{K: 1})
	onEach(t, func(t *testing.T, open func(testing.TB) (a, b net.Conn)) {
		conn, _ := against(t, open, func(c net.Conn) error {
			if err := lying(frame(replyGo)...)(c); err != nil {
				return err
			}
			_, err := io.CopyN(io.Discard, c, 1<<20)
			return err
		})
		if _, err := Store(conn, p.request(0), p.cell(0)); err == nil {
			t.Error("got nil, want an error")
		} else if _, ok := errors.AsType[*Refusal](err); ok {
			t.Errorf("got the refusal %v", err)
		}
	})
}

func TestClosingTheStreamEndsEveryWait(t *testing.T) {
	p := newSample(t, 13, 16<<20, erasure.Scheme{K: 1})
	onEach(t, func(t *testing.T, open func(testing.TB) (a, b net.Conn)) {
		for _, answer := range [][]byte{nil, frame(replyGo)} {
			silent := make(chan struct{})
			answered := make(chan struct{})
			conn, _ := against(t, open, func(c net.Conn) error {
				err := lying(answer...)(c)
				close(answered)
				<-silent // takes nothing more, says nothing more
				return err
			})
			result := make(chan error, 1)
			go func() {
				_, err := Store(conn, p.request(0), p.cell(0))
				result <- err
			}()
			<-answered
			conn.Close()
			if err := <-result; err == nil {
				t.Error("got nil, want an error")
			}
			close(silent)
		}
	})
}

func TestExpiredDeadlineEndsTheServer(t *testing.T) {
	p := newSample(t, 14, 1<<20, erasure.Scheme{K: 1})
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	h := newMemory()
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), b, "alice", Version, h) }()
	if _, err := a.Write(mustEncode(p.request(0).encode())); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readReply(a, replyGo); err != nil {
		t.Fatal(err)
	}
	b.SetDeadline(time.Unix(1, 0))
	if err := <-done; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
	}
	if h.aborted != 1 {
		t.Errorf("got %d writers aborted, want 1", h.aborted)
	}
}

func TestRequestsThatCannotBeSentAreNotSent(t *testing.T) {
	p := newSample(t, 15, 4096, erasure.Scheme{K: 1})
	longName := strings.Repeat("x", MaxPeer+1)
	many := make([]Holder, MaxHolders+1)
	for i := range many {
		many[i] = Holder{fmt.Sprint(i), 1}
	}
	provisional := &StoreRequest{Put: [16]byte{1}, Manifest: p.manifest, Holders: []Holder{{"bob", 0}}}
	for name, ask := range map[string]func(io.ReadWriter) error{
		"store a shard that is not": func(rw io.ReadWriter) error { _, err := Store(rw, p.request(1), nil); return err },
		"provisional hand-over":     func(rw io.ReadWriter) error { _, err := Store(rw, provisional, nil); return err },
		"have of none":              func(rw io.ReadWriter) error { _, err := Have(rw, nil); return err },
		"have of too many":          func(rw io.ReadWriter) error { _, err := Have(rw, make([]pack.ID, MaxIDs+1)); return err },
		"holders of none":           func(rw io.ReadWriter) error { return Holders(rw, nil) },
		"holders of too many":       func(rw io.ReadWriter) error { return Holders(rw, make([]PackHolders, MaxPacks+1)) },
		"no holders":                func(rw io.ReadWriter) error { return Holders(rw, make([]PackHolders, 1)) },
		"too many holders":          func(rw io.ReadWriter) error { return Holders(rw, []PackHolders{{Holders: many}}) },
		"holder twice": func(rw io.ReadWriter) error {
			return Holders(rw, []PackHolders{{Holders: []Holder{{"b", 1}, {"b", 1}}}})
		},
		"holder without ID":     func(rw io.ReadWriter) error { return Holders(rw, []PackHolders{{Holders: []Holder{{"", 1}}}}) },
		"holder with a long ID": func(rw io.ReadWriter) error { return Holders(rw, []PackHolders{{Holders: []Holder{{longName, 1}}}}) },
		"holder of shard 256":   func(rw io.ReadWriter) error { return Holders(rw, []PackHolders{{Holders: []Holder{{"b", 256}}}}) },
		"read of no rows":       func(rw io.ReadWriter) error { return Read(rw, ReadRequest{K: 1}, nil, nil, nil) },
		"read of too many rows": func(rw io.ReadWriter) error { return Read(rw, ReadRequest{K: 1, Row: 1, Count: 128}, nil, nil, nil) },
		"proof of no coding":    func(rw io.ReadWriter) error { _, err := Prove(rw, ProveRequest{}); return err },
		"proof of no shard":     func(rw io.ReadWriter) error { _, err := Prove(rw, ProveRequest{K: 1, Shard: 1}); return err },
		"proof of no row":       func(rw io.ReadWriter) error { _, err := Prove(rw, ProveRequest{K: 1, Row: MaxBlocks}); return err },
		"proof of no byte":      func(rw io.ReadWriter) error { _, err := Prove(rw, ProveRequest{K: 1, Off: MaxBlock}); return err },
		"proof before a block":  func(rw io.ReadWriter) error { _, err := Prove(rw, ProveRequest{K: 1, Off: -1}); return err },
		"give up without put":   func(rw io.ReadWriter) error { return GiveUp(rw, [16]byte{}) },
		"alive without put":     func(rw io.ReadWriter) error { return Alive(rw, [16]byte{}) },
		"empty deny list":       func(rw io.ReadWriter) error { return Deny(rw, nil) },
		"no head":               func(rw io.ReadWriter) error { return PutHead(rw, nil) },
		"endless head":          func(rw io.ReadWriter) error { return PutHead(rw, make([]byte, MaxHead+1)) },
		"endless deny list":     func(rw io.ReadWriter) error { return Deny(rw, make([]byte, MaxList+1)) },
	} {
		t.Run(name, func(t *testing.T) {
			var sent bytes.Buffer
			if err := ask(&sent); err == nil || sent.Len() > 0 {
				t.Errorf("got %v with %d bytes sent, want an error and none", err, sent.Len())
			}
		})
	}
}

func TestLargestMessagesFit(t *testing.T) {
	hs := make([]Holder, MaxHolders)
	for i := range hs {
		hs[i] = Holder{fmt.Sprintf("%0*d", MaxPeer, i), i}
	}
	lists := make([]PackHolders, MaxPacks)
	for i := range lists {
		lists[i] = PackHolders{ID: pack.ID{byte(i)}, Number: 1, Holders: hs}
	}
	facts := Facts{Zone: strings.Repeat("ä", 100), Version: strings.Repeat("v", 100), Now: time.UnixMilli(0).UTC()}
	owner := pack.Owner{1}
	heads := make([][]byte, MaxTips)
	for i := range heads {
		heads[i] = bytes.Repeat([]byte{byte(i)}, MaxHead)
	}
	have := make([]Holding, MaxIDs)
	for i := range have {
		have[i] = Holding{Held: true, K: 256, Shard: 255, Number: 1<<64 - 1}
	}
	// As many hashes as a manifest takes, in small blocks.
	p := newSample(t, 16, 512<<10, erasure.Scheme{K: 8, M: 110})
	if n := len(p.manifest.Encode()); n < 59<<10 {
		t.Fatalf("the manifest has only %d bytes", n)
	}
	onEach(t, func(t *testing.T, open func(testing.TB) (a, b net.Conn)) {
		h := newMemory(p)
		h.have, h.facts, h.proof = have, facts, bytes.Repeat([]byte{7}, digest.MaxProof)
		h.heads = map[pack.Owner][][]byte{owner: heads}
		ask := func(fn func(io.ReadWriter) error) {
			t.Helper()
			conn, end := serving(t, open, h)
			err := fn(conn)
			if e, ok := errors.AsType[*HoldersError](err); ok && len(e.Codes) == MaxPacks {
				err = nil // they are of packs that are not there
			}
			if err := errors.Join(err, end()); err != nil {
				t.Error(err)
			}
		}
		ask(func(rw io.ReadWriter) error { return Holders(rw, lists) })
		ask(func(rw io.ReadWriter) error { return Deny(rw, make([]byte, MaxList)) })
		ask(func(rw io.ReadWriter) error {
			got, err := Prove(rw, ProveRequest{K: 256, Shard: 255, Row: MaxBlocks - 1, Off: MaxBlock - 1})
			return errors.Join(err, same(h.proof, got))
		})
		ask(func(rw io.ReadWriter) error {
			got, err := Heads(rw, owner)
			return errors.Join(err, same(heads, got))
		})
		ask(func(rw io.ReadWriter) error { return PutHead(rw, heads[0]) })
		ask(func(rw io.ReadWriter) error { _, err := Manifest(rw, p.manifest.ID()); return err })
		ask(func(rw io.ReadWriter) error { return State(rw, &p.manifest.State) })
		ask(func(rw io.ReadWriter) error { _, err := GetState(rw, p.manifest.ID()); return err })
		ask(func(rw io.ReadWriter) error {
			got, err := Have(rw, make([]pack.ID, MaxIDs))
			return errors.Join(err, same(have, got))
		})
		ask(func(rw io.ReadWriter) error {
			got, err := GetFacts(rw)
			want := Facts{Zone: strings.Repeat("ä", 32), Version: strings.Repeat("v", 64), Now: facts.Now}
			return errors.Join(err, same(want, got))
		})
		ask(func(rw io.ReadWriter) error {
			_, err := Store(rw, &StoreRequest{Manifest: p.manifest, Shard: 117, Holders: hs}, p.cell(117))
			return err
		})
	})
}

// same says as an error where got is not want.
func same(want, got any) error {
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("(-want +got):\n%s", diff)
	}
	return nil
}

func TestOneReplyTakesFewWrites(t *testing.T) {
	p := newSample(t, 17, 32<<20, erasure.Scheme{K: 8, M: 1})
	h := newMemory(p)
	var c counter
	err := Serve(context.Background(), struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(mustEncode((&ReadRequest{ID: p.manifest.ID(), K: 8, M: 1, Count: 16}).encode())), &c}, "alice", 1, h)
	if err != nil || c.n != 4+16*(1+MaxBlock) || c.writes != 4 {
		t.Errorf("got %d bytes in %d writes, %v, want 4 MiB in 4, nil", c.n, c.writes, err)
	}
}

// counter counts what is written to it.
type counter struct{ n, writes int }

func (c *counter) Write(b []byte) (int, error) {
	c.n += len(b)
	c.writes++
	return len(b), nil
}

func TestGatherKeepsBytesInOrderAndCopiesOnlySmallBlocks(t *testing.T) {
	big := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{1}).Read(big)
	cut := func(size int, capped bool) (cells [][]byte) {
		for i := 0; i < len(big); i += size {
			c := big[i:min(i+size, len(big))]
			if capped {
				c = slices.Clip(c)
			}
			cells = append(cells, c)
		}
		return cells
	}
	for _, tt := range []struct {
		name   string
		cells  [][]byte
		pieces int
	}{
		{"none", nil, 0},
		{"one buffer", cut(256<<10, false), 5},
		{"odd sizes of one buffer", cut(100_000, false), 6},
		{"single blocks", cut(256<<10, true), 20},
		{"small single blocks", cut(4<<10, true), 20},
		{"odd single blocks", cut(100_000, true), 26},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []byte
			n := 0
			for b := range gather(tt.cells) {
				if len(b) > maxWrite {
					t.Errorf("a piece of %d bytes", len(b))
				}
				got = append(got, b...)
				n++
			}
			if want := slices.Concat(tt.cells...); !bytes.Equal(got, want) {
				t.Error("other bytes came out")
			}
			if n != tt.pieces {
				t.Errorf("got %d pieces, want %d", n, tt.pieces)
			}
		})
	}
}

func TestErrorsBecomeCodes(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Refusal
	}{
		{Refuse(Full, "x"), Refusal{Full, "x"}},
		{fmt.Errorf("secret: %w", Refuse(Old, "is %d", 3)), Refusal{Old, "is 3"}},
		{fmt.Errorf("secret: %w", ErrBusy), Refusal{Busy, ""}},
		{fmt.Errorf("a: %w", pack.ErrVersion), Refusal{Unsupported, "a: " + pack.ErrVersion.Error()}},
		{fmt.Errorf("a: %w", pack.ErrSignature), Refusal{Signature, "a: " + pack.ErrSignature.Error()}},
		{fmt.Errorf("a: %w", pack.ErrCorrupt), Refusal{Corrupt, "a: " + pack.ErrCorrupt.Error()}},
		{fmt.Errorf("%w: %w", ErrProtocol, pack.ErrCorrupt), Refusal{Malformed, "peer broke the protocol: corrupt data"}},
		{fmt.Errorf("secret: %w", context.Canceled), Refusal{Busy, ""}},
		{errors.New("secret"), Refusal{Internal, ""}},
		{&Refusal{}, Refusal{Internal, ""}},
	} {
		if diff := cmp.Diff(tt.want, *refusalOf(tt.err)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.err, diff)
		}
		if got := CodeOf(tt.err); got != tt.want.Code {
			t.Errorf("%v: got %v, want %v", tt.err, got, tt.want.Code)
		}
	}
	if got := CodeOf(nil); got != 0 {
		t.Errorf("nil: got %v, want 0", got)
	}
}

func TestAnyHoldingsArriveAsTheyAre(t *testing.T) {
	holding := rapid.Custom(func(t *rapid.T) Holding {
		number := rapid.Uint64().Draw(t, "number")
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return Holding{}
		case 1:
			return Holding{Deleted: true, Number: number}
		}
		n := rapid.IntRange(1, maxShards).Draw(t, "n")
		k := rapid.IntRange(1, n).Draw(t, "k")
		return Holding{Held: true, Number: number, Shard: rapid.IntRange(0, n-1).Draw(t, "shard"), K: k, M: n - k,
			Provisional: rapid.Bool().Draw(t, "provisional"), Damaged: rapid.Bool().Draw(t, "damaged")}
	})
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(holding, 1, 20).Draw(t, "holdings")
		got, err := decodeHoldings(mustEncode(encodeHoldings(want))[frameLen:], len(want))
		for i := range want {
			want[i].Damaged = want[i].Damaged && !want[i].Provisional
		}
		if err := errors.Join(err, same(want, got)); err != nil {
			t.Error(err)
		}
	})
}

func TestAnyProveRequestArrivesAsItIs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, maxShards).Draw(t, "n")
		k := rapid.IntRange(1, n).Draw(t, "k")
		want := ProveRequest{ID: pack.ID(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id")), K: k, M: n - k,
			Shard: rapid.IntRange(0, n-1).Draw(t, "shard"), Row: rapid.IntRange(0, MaxBlocks-1).Draw(t, "row"),
			Off: rapid.IntRange(0, MaxBlock-1).Draw(t, "off")}
		got, err := decodeProve(mustEncode(want.encode())[frameLen:])
		if err := errors.Join(err, same(want, got)); err != nil {
			t.Error(err)
		}
	})
}

func TestAnyHeadsArriveAsTheyAre(t *testing.T) {
	head := rapid.SliceOfN(rapid.Byte(), 1, 40)
	rapid.Check(t, func(t *rapid.T) {
		said := rapid.SliceOfNDistinct(head, 0, MaxTips, func(h []byte) string { return string(h) }).Draw(t, "heads")
		before := slices.Clone(said)
		got, err := decodeHeads(mustEncode(encodeHeads(said))[frameLen:])
		if diff := cmp.Diff(before, said); diff != "" {
			t.Errorf("encoding changed what it was given (-want +got):\n%s", diff)
		}
		slices.SortFunc(said, bytes.Compare)
		if err != nil || !slices.EqualFunc(got, said, bytes.Equal) {
			t.Errorf("got %x, %v, want %x", got, err, said)
		}
	})
}

func TestHeadsThatCannotBeSaidAreAFaultOfOurOwn(t *testing.T) {
	many := make([][]byte, MaxTips+1)
	for i := range many {
		many[i] = []byte{byte(i)}
	}
	for name, heads := range map[string][][]byte{
		"too many": many, "one twice": {{1}, {2}, {1}}, "an empty one": {{1}, {}}, "a long one": {make([]byte, MaxHead+1)},
	} {
		t.Run(name, func(t *testing.T) {
			h := newMemory()
			h.heads = map[pack.Owner][][]byte{{1}: heads}
			conn, end := serving(t, transports["pipe"], h)
			if _, err := Heads(conn, pack.Owner{1}); CodeOf(err) != Internal {
				t.Errorf("got %v, want %v", err, Internal)
			}
			if err := end(); err == nil {
				t.Error("serve: got nil, want the fault")
			}
		})
	}
}

func TestAnyFactsArriveAsTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.Uint64()
		want := Facts{Free: number.Draw(t, "free"), Capacity: number.Draw(t, "capacity"), Held: number.Draw(t, "held"),
			Shards: number.Draw(t, "shards"), Boot: number.Draw(t, "boot"),
			Zone: rapid.String().Draw(t, "zone"), Version: rapid.String().Draw(t, "version"),
			Now: time.UnixMilli(rapid.Int64Range(0, 1<<50-1).Draw(t, "now")).UTC()}
		got, err := decodeFacts(mustEncode(want.encode())[frameLen:])
		want.Zone, want.Version = clean(want.Zone, MaxName), clean(want.Version, MaxName)
		if err := errors.Join(err, same(want, got)); err != nil {
			t.Error(err)
		}
	})
}

func TestReasonIsFitForPeople(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "no space: 3 GiB of 3 GiB", "no space: 3 GiB of 3 GiB"},
		{"other scripts", "kein Platz für Günther 你好", "kein Platz für Günther 你好"},
		{"control", "a\x1b[2Jb\nc\x00", "a?[2Jb?c?"},
		{"reversed", "a\u202eb", "a?b"},
		{"not UTF-8", "a\xff\xfeb", "a?b"},
		{"long", strings.Repeat("é", 200), strings.Repeat("é", 128)},
		{"cut within a rune", "a" + strings.Repeat("é", 200), "a" + strings.Repeat("é", 127)},
		{"very long", strings.Repeat("x", 1<<20), strings.Repeat("x", 256)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := clean(tt.in, MaxReason); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			// A peer that does not clean what it sends is not shown raw.
			head := append([]byte{0, byte(Full)}, tt.in[:min(len(tt.in), MaxReason)]...)
			r, err := decodeRefusal(head)
			if err != nil || clean(r.Reason, MaxReason) != r.Reason {
				t.Errorf("got %q, %v", r.Reason, err)
			}
		})
	}
}

func TestEveryCodeHasWords(t *testing.T) {
	for c := Internal; c <= OtherNetwork; c++ {
		if strings.HasPrefix(c.String(), "code ") {
			t.Errorf("code %d has none", uint16(c))
		}
	}
	if got, want := (&Refusal{Code: 999, Reason: "so"}).Error(), "refused: code 999: so"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
