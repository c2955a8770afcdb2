package node

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

// memNet is a network in memory: engines whose doors lead to each other. What
// the engines run is the code that runs over libp2p.
type memNet struct {
	t     testing.TB
	rand  *rand.Rand
	nodes []*memNode
	log   *logs
	ahead atomic.Int64   // how far the stores' clock is ahead of the machine's, in ns
	wire  func(b []byte) // sees all that is sent; nil: nobody looks
}

// memNode is a peer of a memNet, and what is wrong with it.
type memNode struct {
	*engine

	server *server
	wrap   func(wire.Handler) wire.Handler                 // lies
	late   atomic.Pointer[func(wire.Handler) wire.Handler] // the same, for tests in which it may be asked while that changes
	group  string                                          // of its address
	down   atomic.Bool
	hang   atomic.Bool  // accepts streams and says nothing
	far    atomic.Int64 // how long a stream to it takes to open, in ns
	sent   atomic.Int64 // bytes that it sent on streams that it opened
	got    atomic.Int64 // and those that came on them

	mu      sync.Mutex
	streams map[net.Conn]bool // that it has opened; guarded by mu
}

// kill ends all streams of a node, none of which it opens from now on: as if its
// process had been killed.
func (n *memNode) kill() {
	n.down.Store(true)
	n.mu.Lock()
	defer n.mu.Unlock()
	for s := range n.streams {
		s.Close()
	}
}

// logs keeps what was logged.
type logs struct {
	mu    sync.Mutex
	lines []slog.Record
}

func (l *logs) Enabled(context.Context, slog.Level) bool { return true }
func (l *logs) Handle(_ context.Context, r slog.Record) error {

	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, r)
	return nil
}
func (l *logs) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logs) WithGroup(string) slog.Handler      { return l }

// names tells whether a line of the log names the peer.
func (l *logs) names(p peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.lines {
		found := false
		r.Attrs(func(a slog.Attr) bool {
			id, ok := a.Value.Any().(peer.ID)
			found = found || ok && id == p
			return true
		})
		if found {
			return true
		}
	}
	return false
}

var memNetwork = pack.Network{1, 2, 3}

// newMemNet makes a network of n holders.
func newMemNet(t testing.TB, seed uint64, n int, capacity int64) *memNet {
	t.Helper()
	t.Logf("seed %d", seed)
	m := &memNet{t: t, rand: rand.New(rand.NewPCG(seed, 0)), log: new(logs)}
	for range n {
		m.add(true, capacity, "")
	}
	return m
}

func (m *memNet) add(holder bool, capacity int64, zone string) *memNode {
	m.t.Helper()
	var seed [ed25519.SeedSize]byte
	for i := 0; i < len(seed); i += 8 {
		binary.BigEndian.PutUint64(seed[i:], m.rand.Uint64())
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
	if err != nil {
		m.t.Fatal(err)
	}
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		m.t.Fatal(err)
	}
	s, err := store.Open("", store.Options{
		InMemory: true, Capacity: capacity,
		Now: func() time.Time { return time.Now().Add(time.Duration(m.ahead.Load())) },
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { s.Close() })
	e := &engine{
		lists: volume.NewLists(40 << 10), // so little that most is forgotten
		self:  id, holder: holder, network: memNetwork, zone: zone, clock: realClock{}, store: s,
		peers: newPeerTable(), packs: newPackTable(), buffers: new(buffers), log: slog.New(m.log),
		stall: 3 * time.Second, rand: rand.New(rand.NewPCG(m.rand.Uint64(), 1)),
	}
	node := &memNode{engine: e}
	node.server = newServer(e, nil)
	e.dial = memDialer{m, node}
	e.dir = memDirectory{m, node}
	e.keeper = newKeeper(e, repair.Config{})
	m.nodes = append(m.nodes, node)
	return node
}

// see shows what is sent to who looks.
func (m *memNet) see(b []byte) {
	if m.wire != nil {
		m.wire(b)
	}
}

func (m *memNet) client() *memNode { return m.add(false, 0, "") }

func (m *memNet) find(p peer.ID) *memNode {
	i := slices.IndexFunc(m.nodes, func(n *memNode) bool { return n.self == p })
	if i < 0 {
		return nil
	}
	return m.nodes[i]
}

// holders gives the nodes that take part as holders.
func (m *memNet) holders() []*memNode {
	return slices.DeleteFunc(slices.Clone(m.nodes), func(n *memNode) bool { return !n.holder })
}

// node gives the node a Put and Get of its own, as Open would.
// node gives a node whose puts go into no volume.
func (n *memNode) node() *Node {
	out := n.homeOf(volume.Seed{byte(n.self[5])})
	out.loose = true
	return out
}

// homeOf gives a node whose home has a seed.
func (n *memNode) homeOf(s volume.Seed) *Node {
	out := &Node{engine: n.engine, store: n.engine.store, log: n.engine.log, seed: s}
	if err := out.loadVolumes(); err != nil {
		panic(err)
	}
	return out
}

// alsoOf gives a node without puts into volumes, of the owner that another is of.
func (n *memNode) alsoOf(o *Node) *Node {
	out := n.homeOf(o.seed)
	out.loose = true
	return out
}

type memDialer struct {
	net  *memNet
	from *memNode
}

func (d memDialer) Open(ctx context.Context, p peer.ID) (stream, error) {
	to := d.net.find(p)
	if to == nil || to.down.Load() || d.from.down.Load() {
		return nil, errors.New("no route to peer")
	}
	if err := sleep(ctx, realClock{}, time.Duration(to.far.Load())); err != nil {
		return nil, err
	}
	a, b := net.Pipe()
	go func() {
		defer b.Close()
		if to.hang.Load() {
			io.Copy(io.Discard, b)
			return
		}
		var h wire.Handler = to.server
		if to.wrap != nil {
			h = to.wrap(h)
		}
		if f := to.late.Load(); f != nil {
			h = (*f)(h)
		}
		wire.Serve(context.Background(), b, string(d.from.self), wire.Version, h)
	}()
	d.from.mu.Lock()
	defer d.from.mu.Unlock()
	if d.from.streams == nil {
		d.from.streams = make(map[net.Conn]bool)
	}
	d.from.streams[a] = true
	return memStream{a, &d}, nil
}

func (d memDialer) Group(p peer.ID) string { return d.net.find(p).group }

type memStream struct {
	net.Conn

	by *memDialer // nil: nobody looks at it
}

func (s memStream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	if s.by != nil {
		s.by.from.sent.Add(int64(n))
		s.by.net.see(b)
	}
	return n, err
}

func (s memStream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if s.by != nil {
		s.by.from.got.Add(int64(n))
		s.by.net.see(b[:n])
	}
	return n, err
}

func (s memStream) Close() error {
	if s.by != nil {
		s.by.from.mu.Lock()
		delete(s.by.from.streams, s.Conn)
		s.by.from.mu.Unlock()
	}
	return s.Conn.Close()
}

func (s memStream) Reset() error { return s.Close() }

// memDirectory knows who is there, and who holds nothing.
type memDirectory struct {
	net  *memNet
	from *memNode
}

func (d memDirectory) Walk(_ context.Context, id [32]byte) iter.Seq2[peer.ID, error] {
	var all []peer.ID
	for _, n := range d.net.holders() {
		if !n.down.Load() {
			all = append(all, n.self)
		}
	}
	slices.SortFunc(all, func(a, b peer.ID) int { return dht.Compare(id, a, b) })
	return func(yield func(peer.ID, error) bool) {
		for _, p := range all {
			if !yield(p, nil) {
				return
			}
		}
	}
}

// first gives the first n of some peers.
func first(peers iter.Seq2[peer.ID, error], n int) (out []peer.ID) {
	for p := range peers {
		if out = append(out, p); len(out) == n {
			break
		}
	}
	return out
}

func (d memDirectory) Closest(ctx context.Context, id [32]byte, n int) ([]peer.ID, error) {
	out := first(d.Walk(ctx, id), n)
	if len(out) == 0 {
		return nil, dht.ErrNoPeers
	}
	return out, nil
}

func (d memDirectory) Compare(id [32]byte, a, b peer.ID) int { return dht.Compare(id, a, b) }

func (d memDirectory) Holders(context.Context, [32]byte) iter.Seq2[peer.AddrInfo, error] {
	return func(func(peer.AddrInfo, error) bool) {}
}
func (d memDirectory) AddLocal(context.Context, [32]byte) error    { return nil }
func (d memDirectory) Announce(context.Context, ...[32]byte) error { return nil }

// random gives n bytes that compress badly.
func random(seed uint64, n int) []byte {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// get fetches a link whole.
func get(ctx context.Context, n *Node, link string) ([]byte, FileInfo, error) {
	var b writer
	var info FileInfo
	err := n.Get(ctx, GetRequest{Source: link, Length: -1}, func(i FileInfo) (io.Writer, error) {
		info = i
		return &b, nil
	}, nil)
	return b.b, info, err
}

type writer struct{ b []byte }

func (w *writer) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }
