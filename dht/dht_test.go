package dht_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	dssync "github.com/ipfs/go-datastore/sync"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/member"
	"github.com/p2pfs/p2pfs/swarm"
)

const (
	overTCP  = "/ip4/127.0.0.1/tcp/0"
	overQUIC = "/ip4/127.0.0.1/udp/0/quic-v1"
)

// node is a member with a DHT.
type node struct {
	*dht.DHT
	swarm *swarm.Swarm
	m     *member.Membership
	store ds.Batching

	cancel context.CancelFunc
	done   chan error
}

// options of a node; the zero value is a server that knows nobody.
type options struct {
	creds  *member.Credentials
	join   *member.Invite
	know   func() []peer.AddrInfo
	client bool
	store  ds.Batching
	listen []string
}

func newKey(t testing.TB) ed25519.PrivateKey {
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return priv
}

func start(t testing.TB, o options) *node {
	t.Helper()
	if o.join != nil {
		o.creds = o.join.Credentials(newKey(t))
	}
	if o.listen == nil {
		o.listen = []string{overTCP}
	}
	if o.store == nil {
		o.store = dssync.MutexWrap(ds.NewMapDatastore())
	}
	m, err := member.New(o.creds, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := swarm.New(swarm.Config{Key: o.creds.Self, Listen: o.listen, Membership: m})
	if err != nil {
		t.Fatal(err)
	}
	d, err := dht.New(s.Host, dht.Config{
		Prefix: "/p2pfs/" + m.Network().Short(), Server: !o.client, Bootstrap: o.know,
		Datastore: o.store, Delay: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{DHT: d, swarm: s, m: m, store: o.store, cancel: cancel, done: make(chan error, 1)}
	t.Cleanup(func() { n.stop(t) })
	if o.join != nil {
		if _, err := s.Join(t.Context(), o.join); err != nil {
			t.Fatal(err)
		}
	}
	go func() { n.done <- d.Run(ctx) }()
	return n
}

func (n *node) stop(t testing.TB) {
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	if err := <-n.done; err != nil {
		t.Error(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := n.swarm.Close(); err != nil {
		t.Error(err)
	}
}

// stop stops nodes side by side.
func stop(t testing.TB, nodes ...*node) {
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() { n.stop(t) })
	}
	wg.Wait()
}

func (n *node) info() peer.AddrInfo {
	return peer.AddrInfo{ID: n.swarm.ID(), Addrs: n.swarm.Host.Network().ListenAddresses()}
}

func founder(t testing.TB) *node {
	c, _, err := member.NewCredentials(newKey(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return start(t, options{creds: c, listen: []string{overTCP, overQUIC}})
}

func (n *node) invite(t testing.TB) *member.Invite {
	in, err := n.m.Invite(0, n.swarm.Addrs())
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// waitFor waits until ok, which nothing announces.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

// meet waits until every node has every server in its table.
func meet(t testing.TB, nodes ...*node) {
	t.Helper()
	waitFor(t, "all nodes to meet", func() bool {
		for _, n := range nodes {
			if len(n.Peers()) < len(nodes)-1 {
				return false
			}
		}
		return true
	})
}

func holders(t testing.TB, n *node, id dht.ID) []peer.ID {
	t.Helper()
	var out []peer.ID
	for p, err := range n.Holders(t.Context(), id) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p.ID)
	}
	return out
}

// TestAllFindEachOtherWhateverTheOrder: members that remember one or two
// others are started in random order, the founder never; all meet, agree on
// who is closest, and find what one announces.
func TestAllFindEachOtherWhateverTheOrder(t *testing.T) {
	const nodes = 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))

	// The network is made first, then all go away and come back, at
	// addresses of their own from the first time.
	f := founder(t)
	var creds []*member.Credentials
	var infos []peer.AddrInfo
	var all []*node
	for i := range nodes {
		by := f
		if i > 0 {
			by = all[rng.IntN(len(all))] // a newcomer joins through any member
		}
		n := start(t, options{join: by.invite(t)})
		all = append(all, n)
		creds = append(creds, n.m.Credentials())
		infos = append(infos, n.info())
	}
	stop(t, append(all, f)...)
	all = make([]*node, nodes)
	for _, i := range rng.Perm(nodes) {
		var listen []string
		for _, a := range infos[i].Addrs {
			listen = append(listen, a.String())
		}
		know := []peer.AddrInfo{f.info(), infos[(i+1)%nodes]}
		all[i] = start(t, options{creds: creds[i], listen: listen, know: func() []peer.AddrInfo { return know }})
	}
	meet(t, all...)

	id := dht.ID{1, 2, 3}
	var want []peer.ID
	for _, n := range all {
		want = append(want, n.swarm.ID())
	}
	slices.SortFunc(want, func(a, b peer.ID) int { return dht.Compare(id, a, b) })
	// A peer that was slow to answer, on a busy machine, is left out of a
	// lookup and soon back.
	for i, n := range all {
		for _, k := range []int{3, nodes} {
			waitFor(t, fmt.Sprintf("node %d to know the %d closest", i, k), func() bool {
				got, err := n.Closest(t.Context(), id, k)
				return err == nil && slices.Equal(got, want[:k])
			})
		}
	}
	client := start(t, options{join: all[3].invite(t), client: true})
	waitFor(t, "the client to see all", func() bool {
		got, err := client.Closest(t.Context(), id, 2*nodes)
		return err == nil && slices.Equal(got, want)
	})
	if n := all[3].Peers(); slices.Contains(n, client.swarm.ID()) {
		t.Error("a client is in a routing table")
	}

	// Announced on one, found from all.
	a := all[0]
	if err := a.Announce(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, n := range append(all[1:], client) {
		wg.Go(func() {
			waitFor(t, "the record", func() bool { return slices.Contains(holders(t, n, id), a.swarm.ID()) })
		})
	}
	wg.Wait()
}

// TestAloneAServerIsItsOwnNeighbour, and a client has none.
func TestAloneAServerIsItsOwnNeighbour(t *testing.T) {
	f := founder(t)
	got, err := f.Closest(t.Context(), dht.ID{1}, 20)
	if err != nil || !slices.Equal(got, []peer.ID{f.swarm.ID()}) {
		t.Errorf("got %v, %v, want itself", got, err)
	}
	c := start(t, options{creds: f.m.Credentials(), client: true, listen: []string{}})
	if got, err := c.Closest(t.Context(), dht.ID{1}, 20); !errors.Is(err, dht.ErrNoPeers) {
		t.Errorf("got %v, %v, want %v", got, err, dht.ErrNoPeers)
	}
}

// TestALocalRecordIsFoundAtOnce, before anything is announced.
func TestALocalRecordIsFoundAtOnce(t *testing.T) {
	f := founder(t)
	a, b := start(t, options{join: f.invite(t)}), start(t, options{join: f.invite(t)})
	if err := a.AddLocal(t.Context(), dht.ID{9}); err != nil {
		t.Fatal(err)
	}
	meet(t, f, a, b)
	if got := holders(t, b, dht.ID{9}); !slices.Equal(got, []peer.ID{a.swarm.ID()}) {
		t.Errorf("got %v, want %s", got, a.swarm.ID())
	}
	if got := holders(t, b, dht.ID{8}); len(got) != 0 {
		t.Errorf("got %v for what nobody holds", got)
	}
}

// TestRecordsOutliveARestart: those a node keeps for others, and what it
// announces itself, without being told again.
func TestRecordsOutliveARestart(t *testing.T) {
	f := founder(t)
	a, b := start(t, options{join: f.invite(t)}), start(t, options{join: f.invite(t)})
	meet(t, f, a, b)
	var ids []dht.ID
	for i := range 30 {
		ids = append(ids, dht.ID{byte(i), 1})
	}
	if err := a.Announce(t.Context(), ids...); err != nil {
		t.Fatal(err)
	}
	if err := a.Withdraw(t.Context(), ids[29]); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "b to keep the records", func() bool {
		// The announcer is asked last of all: it is not connected.
		return len(holders(t, b, ids[0])) == 1 && len(holders(t, b, ids[28])) == 1
	})
	waitFor(t, "b to hold them itself", func() bool { return records(t, b.store) >= 29 })
	creds, store := b.m.Credentials(), b.store
	a.stop(t)
	f.stop(t)
	b.stop(t)
	b = start(t, options{creds: creds, store: store})
	for _, id := range ids[:29] {
		if got := holders(t, b, id); !slices.Equal(got, []peer.ID{a.swarm.ID()}) {
			t.Fatalf("got %v, want %s", got, a.swarm.ID())
		}
	}
	// What a announced it announces again to a network that forgot, but
	// not what it withdrew.
	b.stop(t)
	b = start(t, options{creds: creds})
	back := start(t, options{creds: a.m.Credentials(), store: a.store, know: func() []peer.AddrInfo { return []peer.AddrInfo{b.info()} }})
	waitFor(t, "them to meet", func() bool { return len(b.Peers()) == 1 && len(back.Peers()) == 1 })
	if got := holders(t, b, ids[0]); !slices.Equal(got, []peer.ID{a.swarm.ID()}) {
		t.Errorf("got %v, want %s", got, a.swarm.ID())
	}
}

// records counts the provider records in a datastore.
func records(t testing.TB, s ds.Batching) int {
	n := 0
	r, err := s.Query(t.Context(), query.Query{Prefix: "/records/providers"})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for e := range r.Next() {
		if e.Error == nil {
			n++
		}
	}
	return n
}

// TestStrangersGetNoAnswer: no DHT protocol, no record, no list of peers, on
// either transport; the same with membership gets all of them.
func TestStrangersGetNoAnswer(t *testing.T) {
	f := founder(t)
	a := start(t, options{join: f.invite(t), listen: []string{overTCP, overQUIC}})
	meet(t, f, a)
	id := dht.ID{5}
	if err := f.Announce(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	other := founder(t)
	for _, addr := range f.info().Addrs {
		target := peer.AddrInfo{ID: f.swarm.ID(), Addrs: nil}
		target.Addrs = append(target.Addrs, addr)
		name := fmt.Sprint(addr.Protocols()[1].Name)
		for _, c := range []struct {
			name   string
			creds  *member.Credentials
			member bool
		}{
			{"without certificates", f.invite(t).Credentials(newKey(t)), false},
			{"of another network", other.m.Credentials(), false},
			{"a member", a.m.Credentials(), true},
		} {
			t.Run(name+" "+c.name, func(t *testing.T) {
				if c.member {
					a.stop(t)
				}
				m, err := member.New(c.creds, nil)
				if err != nil {
					t.Fatal(err)
				}
				s, err := swarm.New(swarm.Config{Key: c.creds.Self, Listen: []string{}, Membership: m})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				// A client of the right protocol, whatever its network.
				d, err := dht.New(s.Host, dht.Config{Prefix: "/p2pfs/" + f.m.Network().Short()})
				if err != nil {
					t.Fatal(err)
				}
				defer d.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				err = s.Connect(ctx, target)
				if (err == nil) != c.member {
					t.Errorf("connect: got %v, want member %v", err, c.member)
				}
				if c.member {
					waitFor(t, "the table", func() bool { return len(d.Peers()) > 0 })
				}
				st, err := s.Host.NewStream(network.WithNoDial(ctx, "probe"), f.swarm.ID(), protocol.ID("/p2pfs/"+f.m.Network().Short()+"/kad/1.0.0"))
				if (err == nil) != c.member {
					t.Errorf("stream: got %v, want member %v", err, c.member)
				}
				if err == nil {
					st.Reset()
				}
				found := 0
				for p, err := range d.Holders(ctx, id) {
					if err == nil && p.ID == f.swarm.ID() {
						found++
					}
				}
				if (found > 0) != c.member || (len(d.Peers()) > 0) != c.member {
					t.Errorf("found %d holders, %d peers, want member %v", found, len(d.Peers()), c.member)
				}
				if got, _ := s.Host.Peerstore().GetProtocols(f.swarm.ID()); (len(got) > 0) != c.member {
					t.Errorf("learned protocols %v, want member %v", got, c.member)
				}
			})
		}
	}
}
