package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/wire"
)

func put(t testing.TB, n *Node, name string, data []byte, s *erasure.Scheme) PutResult {
	t.Helper()
	res, err := n.Put(t.Context(), PutRequest{Name: name, Mode: 0o644, ModTime: time.Unix(1700000000, 5), Size: int64(len(data)), Redundancy: s},
		bytes.NewReader(data), nil)
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	return res
}

func TestPutSurvivesThePromisedLosses(t *testing.T) {
	for _, size := range []int{0, 1, 5000, 300 << 10, 5 << 20, 40 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			m := newMemNet(t, uint64(size), 20, 0)
			data := random(1, size)
			res := put(t, m.client().node(), "file", data, nil)
			// A small pack has fewer data shards than 8, never less parity.
			if res.Stored != res.N || res.Partial || res.Survives < 12 || size > 4<<20 && res.N != 20 {
				t.Fatalf("put: got %+v, want all shards and to survive 12", res)
			}
			getter := m.client().node()
			nodes := m.holders()
			m.rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
			for _, n := range nodes[:12] {
				n.down.Store(true)
			}
			got, info, err := get(t.Context(), getter, res.Link)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, data) || info.Name != "file" || info.Size != int64(size) || !info.ModTime.Equal(time.Unix(1700000000, 5)) {
				t.Errorf("got %d bytes %s of %+v, want %d bytes %s", len(got), sum(got), info, size, sum(data))
			}
		})
	}
}

func TestOneLossTooManyIsShort(t *testing.T) {
	m := newMemNet(t, 3, 20, 0)
	data := random(2, 9<<20)
	res := put(t, m.client().node(), "file", data, nil)
	getter := m.client().node()
	for _, n := range m.holders()[:13] {
		n.down.Store(true)
	}
	got, _, err := get(t.Context(), getter, res.Link)
	if CodeOf(err) != Short || HintOf(err) == "" {
		t.Errorf("got %v (code %d), want code %d", err, CodeOf(err), Short)
	}
	if len(got) != 0 {
		t.Errorf("got %d bytes, want none", len(got))
	}
}

func TestAutomaticRedundancyFollowsThePeers(t *testing.T) {
	for _, c := range []struct{ nodes, k, n int }{{1, 1, 1}, {2, 1, 2}, {3, 1, 3}, {4, 1, 3}, {5, 2, 5}, {9, 2, 5}, {10, 4, 10}, {21, 8, 20}} {
		t.Run(fmt.Sprint(c.nodes), func(t *testing.T) {
			m := newMemNet(t, 7, c.nodes, 0)
			res := put(t, m.nodes[0].node(), "file", random(3, 3<<20), nil)
			// The pack that survives the fewest losses is the data's.
			if res.K != c.k || res.N != c.n || res.Stored != c.n {
				t.Errorf("got %d of %d, stored %d; want %d of %d", res.K, res.N, res.Stored, c.k, c.n)
			}
			if (c.nodes == 1) != (res.Warning != "" && res.Survives == 0) {
				t.Errorf("warning %q, survives %d", res.Warning, res.Survives)
			}
			st, err := m.nodes[0].node().Stat(t.Context(), res.Link)
			if err != nil {
				t.Fatal(err)
			}
			if st.Live != c.n || st.K != c.k || st.Survives != c.n-c.k {
				t.Errorf("stat: got %+v", st)
			}
		})
	}
}

// liar is a handler that misbehaves.
type liar struct {
	wire.Handler

	read  func(b []byte) []byte
	store func() (wire.ShardWriter, error)
}

func (l liar) ReadBlock(ctx context.Context, from string, q wire.ReadRequest, row int, dst []byte) ([]byte, error) {
	b, err := l.Handler.ReadBlock(ctx, from, q, row, dst)
	if err == nil && l.read != nil {
		b = l.read(b)
	}
	return b, err
}

func (l liar) Store(ctx context.Context, from string, q *wire.StoreRequest) (wire.ShardWriter, error) {
	if l.store != nil {
		return l.store()
	}
	return l.Handler.Store(ctx, from, q)
}

// thrower acknowledges and throws away.
type thrower struct{}

func (thrower) Write(int, []byte) error { return nil }
func (thrower) Commit() error           { return nil }
func (thrower) Abort()                  {}

func TestBadHoldersAreWorkedAroundAndNamed(t *testing.T) {
	data := random(4, 6<<20)
	scheme := &erasure.Scheme{K: 4, M: 2}
	tests := []struct {
		name  string
		spoil func(n *memNode)
	}{
		{"wrong bytes", func(n *memNode) {
			n.wrap = func(h wire.Handler) wire.Handler {
				return liar{Handler: h, read: func(b []byte) []byte { b[len(b)/2] ^= 1; return b }}
			}
		}},
		{"hangs", func(n *memNode) { n.hang.Store(true) }},
		{"down", func(n *memNode) { n.down.Store(true) }},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			m := newMemNet(t, 11, 6, 0)
			res := put(t, m.client().node(), "file", data, scheme)
			// Two holders go bad: those of data shards of the content.
			getter := m.client()
			if _, _, err := get(t.Context(), getter.node(), res.Link); err != nil {
				t.Fatal(err)
			}
			var bad []*memNode
			for _, k := range getter.packs.known {
				if k.geometry.K == 4 {
					for s := range 2 {
						n := m.find(k.holders[s][0])
						c.spoil(n)
						bad = append(bad, n)
					}
				}
			}
			getter.packs = newPackTable()
			got, _, err := get(t.Context(), getter.node(), res.Link)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, data) {
				t.Error("wrong bytes came out")
			}
			for _, n := range bad {
				if c.name != "down" && !m.log.names(n.self) {
					t.Errorf("%s is not in the log", short(n.self))
				}
			}
		})
	}
}

func TestPutGoesElsewhereWhenAHolderIsBad(t *testing.T) {
	data := random(5, 3<<20)
	scheme := &erasure.Scheme{K: 2, M: 2}
	full := func(h wire.Handler) wire.Handler {
		return liar{Handler: h, store: func() (wire.ShardWriter, error) { return nil, wire.Refuse(wire.Full, "no space left") }}
	}
	for _, c := range []struct {
		name  string
		spoil func(n *memNode)
	}{
		{"full", func(n *memNode) { n.wrap = full }},
		{"hangs", func(n *memNode) { n.hang.Store(true) }},
		{"vanishes", func(n *memNode) {
			n.wrap = func(h wire.Handler) wire.Handler {
				return liar{Handler: h, store: func() (wire.ShardWriter, error) { return nil, errors.New("disk on fire") }}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMemNet(t, 13, 8, 0)
			for _, n := range m.nodes[:2] {
				n.stall = time.Second
				c.spoil(n)
			}
			client := m.client()
			client.stall = time.Second
			res := put(t, client.node(), "file", data, scheme)
			if res.Stored != 4 || res.Partial {
				t.Errorf("got %+v, want 4 of 4 stored", res)
			}
			got, _, err := get(t.Context(), m.client().node(), res.Link)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("get: %v", err)
			}
		})
	}
}

func TestAcknowledgedAndThrownAwayIsSeenByStatAndSurvived(t *testing.T) {
	m := newMemNet(t, 17, 6, 0)
	bad := m.nodes[3]
	bad.wrap = func(h wire.Handler) wire.Handler {
		return thrownAway{liar{Handler: h, store: func() (wire.ShardWriter, error) { return thrower{}, nil }}}
	}
	data := random(6, 5<<20)
	res := put(t, m.client().node(), "file", data, &erasure.Scheme{K: 4, M: 2})
	got, _, err := get(t.Context(), m.client().node(), res.Link)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("get: %v", err)
	}
	st, err := m.client().node().Stat(t.Context(), res.Link)
	if err != nil {
		t.Fatal(err)
	}
	if st.Live != 5 {
		t.Errorf("live: got %d, want 5: one holder threw its shard away", st.Live)
	}
}

// thrownAway confirms what it never kept.
type thrownAway struct{ liar }

func (thrownAway) Holders(context.Context, string, wire.PackHolders) error { return nil }

func TestTooFewPeersIsAnErrorThatKeepsNothing(t *testing.T) {
	m := newMemNet(t, 19, 4, 0)
	client := m.client().node()
	_, err := client.Put(t.Context(), PutRequest{Name: "f", Size: -1, Redundancy: &erasure.Scheme{K: 4, M: 6}}, bytes.NewReader(random(7, 1<<20)), nil)
	if CodeOf(err) != NoPeers {
		t.Errorf("4 of 10 peers: got %v (code %d), want code %d", err, CodeOf(err), NoPeers)
	}
	for _, n := range m.holders() {
		if u := n.store.Usage(); u.Shards != 0 {
			t.Errorf("%d shards left behind", u.Shards)
		}
	}
	m2 := newMemNet(t, 23, 9, 0)
	res, err := m2.client().node().Put(t.Context(), PutRequest{Name: "f", Size: -1, Redundancy: &erasure.Scheme{K: 4, M: 6}}, bytes.NewReader(random(7, 1<<20)), nil)
	if err != nil || !res.Partial || res.Stored != 9 || res.N != 10 {
		t.Errorf("9 of 10 peers: got %+v, %v; want partial, 9 of 10", res, err)
	}
	empty := newMemNet(t, 29, 0, 0)
	_, err = empty.client().node().Put(t.Context(), PutRequest{Name: "f", Size: -1}, bytes.NewReader(random(7, 1<<20)), nil)
	if CodeOf(err) != NoPeers {
		t.Errorf("no peers: got %v (code %d), want code %d", err, CodeOf(err), NoPeers)
	}
}

func TestFullPeersAreNotChosen(t *testing.T) {
	m := newMemNet(t, 31, 5, 0)
	for range 5 {
		m.add(true, 1<<20, "")
	}
	res := put(t, m.client().node(), "file", random(8, 20<<20), nil)
	if res.N != 5 || res.K != 2 {
		t.Errorf("got %d of %d, want 2 of 5: five of ten peers have room", res.K, res.N)
	}
}

func TestPutAgainIsTheSameLinkAndRevives(t *testing.T) {
	m := newMemNet(t, 37, 5, 0)
	client := m.client().node()
	data := random(9, 4<<20)
	a := put(t, client, "file", data, nil)
	b := put(t, client, "file", data, nil)
	if a.Link != b.Link {
		t.Errorf("got %s, then %s", a.Link, b.Link)
	}
	// The owner deletes every pack; a put afterwards brings it back.
	keys := client.seed.Keys()
	for h := range m.nodes[0].store.Packs(t.Context()) {
		man, err := m.nodes[0].store.Manifest(h.ID)
		if err != nil {
			t.Fatal(err)
		}
		dead := &pack.State{Network: memNetwork, Owner: man.State.Owner, Content: man.State.Content,
			Number: uint64(time.Now().Add(time.Hour).UnixMilli()), Deleted: true}
		dead.Sign(keys.Owner)
		for _, n := range m.holders() {
			if err := n.server.State(t.Context(), "", dead); err != nil && !errors.Is(err, wire.ErrNotFound) {
				t.Fatal(err)
			}
		}
	}
	if _, _, err := get(t.Context(), m.client().node(), a.Link); CodeOf(err) != NotFound {
		t.Fatalf("get of a deleted file: got %v, want code %d", err, NotFound)
	}
	c := put(t, client, "file", data, nil)
	got, _, err := get(t.Context(), m.client().node(), c.Link)
	if err != nil || !bytes.Equal(got, data) || c.Link != a.Link {
		t.Errorf("put after a delete: %v", err)
	}
}

func TestRangesAreReadAlone(t *testing.T) {
	m := newMemNet(t, 41, 6, 0)
	data := random(10, 30<<20)
	res := put(t, m.client().node(), "file", data, &erasure.Scheme{K: 4, M: 2})
	client := m.client().node()
	for _, r := range [][2]int64{{0, 1}, {12345678, 128 << 10}, {int64(len(data)) - 5, 100}, {int64(len(data)), 3}, {3 << 20, 0}} {
		var w writer
		if err := client.Get(t.Context(), GetRequest{Source: res.Link, Offset: r[0], Length: r[1]},
			func(FileInfo) (io.Writer, error) { return &w, nil }, nil); err != nil {
			t.Fatal(err)
		}
		want := data[min(r[0], int64(len(data))):min(r[0]+r[1], int64(len(data)))]
		if !bytes.Equal(w.b, want) {
			t.Errorf("range %d+%d: got %d bytes, want %d", r[0], r[1], len(w.b), len(want))
		}
	}
}

// What peers send each other below their connections' encryption shows nothing
// of a file. The same bytes put as a pack without sealing are seen, so the
// search would see them.
func TestNothingPlainIsSent(t *testing.T) {
	const marker = "Xylophon-Quarzsand"
	m := newMemNet(t, 53, 6, 0)
	var mu sync.Mutex
	var sent bytes.Buffer
	m.wire = func(b []byte) {
		mu.Lock()
		defer mu.Unlock()
		sent.Write(b)
	}
	seen := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		defer sent.Reset()
		return sent.Len(), bytes.Contains(sent.Bytes(), []byte(marker))
	}
	data := random(12, 2<<20)
	for off := 0; off < len(data); off += 5000 {
		copy(data[off:], marker)
	}
	client := m.client()
	res := put(t, client.node(), marker, data, &erasure.Scheme{K: 4, M: 2})
	if _, _, err := get(t.Context(), m.client().node(), res.Link); err != nil {
		t.Fatal(err)
	}
	if n, found := seen(); found || n < 4<<20 {
		t.Errorf("marker seen: %v, in %d bytes; want none in more than 4 MiB", found, n)
	}
	keys := client.node().seed.Keys()
	p := client.newPutter(t.Context(), keys.Owner, &erasure.Scheme{K: 4, M: 2}, 0)
	defer p.end()
	if _, err := p.PutPack(t.Context(), data, false, func() {}); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, found := seen(); !found {
		t.Error("unsealed bytes pass and are not seen: the search is blind")
	}
}

func TestForeignAndMalformedLinks(t *testing.T) {
	m := newMemNet(t, 43, 3, 0)
	res := put(t, m.nodes[0].node(), "f", []byte("hello"), nil)
	n := m.nodes[1].node()
	if _, _, err := get(t.Context(), n, res.Link[:len(res.Link)-1]); CodeOf(err) != Usage {
		t.Errorf("cut link: got %v, want code %d", err, Usage)
	}
	foreign := m.add(true, 0, "").node()
	foreign.engine.network = pack.Network{9}
	if _, _, err := get(t.Context(), foreign, res.Link); CodeOf(err) != Refused {
		t.Errorf("other network: got %v, want code %d", err, Refused)
	}
}

func TestGetEndsWithItsContext(t *testing.T) {
	m := newMemNet(t, 47, 3, 0)
	res := put(t, m.client().node(), "f", random(1, 2<<20), nil)
	for _, n := range m.nodes {
		n.hang.Store(true)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, _, err := get(ctx, m.client().node(), res.Link)
	if CodeOf(err) != Interrupted {
		t.Errorf("got %v (code %d), want code %d", err, CodeOf(err), Interrupted)
	}
}

func TestAddressGroups(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1": "", "10.1.2.3": "", "192.168.1.1": "", "169.254.1.1": "", "::1": "", "fd00::1": "", "fe80::1": "",
		"203.0.113.7": "203.0.0.0/16", "::ffff:203.0.113.7": "203.0.0.0/16", "2001:db8:1:2::3": "2001:db8::/32",
	} {
		if got := addressGroup(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}

func TestShardsSpreadOverZonesAlsoWhenOneRefuses(t *testing.T) {
	m := newMemNet(t, 59, 0, 0)
	for i := range 12 {
		m.add(true, 0, []string{"attic", "cellar", "office"}[i%3]).group = []string{"203.0.0.0/16", ""}[i%2]
	}
	m.nodes[0].wrap = func(h wire.Handler) wire.Handler {
		return liar{Handler: h, store: func() (wire.ShardWriter, error) { return nil, wire.ErrFull }}
	}
	res := put(t, m.client().node(), "f", random(13, 3<<20), &erasure.Scheme{K: 2, M: 3})
	in := make(repair.Crowd)
	for _, n := range m.holdersOf(t, res.Link, 2) {
		in.Add(repair.Candidate{Zones: repair.Zones(n.zone, n.group)}, 1)
	}
	for z, k := range in {
		if k > 3 {
			t.Errorf("%d shards in %s, want 3 at most", k, z)
		}
	}
}
