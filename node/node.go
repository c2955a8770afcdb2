// Package node is a p2pfs peer: it puts files into the network and gets them
// back, and holds shards for others.
//
// Open takes a home into use, Node.Run makes it take part until its context
// ends. What places packs (put.go, place.go) and fetches them (locate.go,
// fetch.go) is an engine that meets the world only through the doors of
// doors.go; node.go puts libp2p, the DHT and the store behind
// them. serve.go answers other peers.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/dht"
	"github.com/p2pfs/p2pfs/member"
	"github.com/p2pfs/p2pfs/pack"
	"github.com/p2pfs/p2pfs/repair"
	"github.com/p2pfs/p2pfs/store"
	"github.com/p2pfs/p2pfs/swarm"
	"github.com/p2pfs/p2pfs/volume"
	"github.com/p2pfs/p2pfs/wire"
)

const (
	// connectWait is how long Run waits for a first connection before the
	// node counts as ready alone.
	connectWait = 5 * time.Second

	// joinWait is how long a newcomer looks for a member that admits it.
	joinWait = 30 * time.Second

	// rememberEvery is how often the known peers are written down.
	rememberEvery = time.Minute

	// rememberedPeers bounds the list: enough to find a network again of
	// which most has gone.
	rememberedPeers = 256

	// DefaultGrace is how long a pack may wait for a holder that is away
	// before its shard is rebuilt, DefaultProbe how often holders are asked
	// whether they are there, DefaultAudit how long it takes until a sample
	// of each shard held elsewhere has been asked for, DefaultSettle how long
	// peers must have been there before packs grow onto them.
	DefaultGrace  = repair.DefaultGrace
	DefaultProbe  = repair.DefaultProbe
	DefaultAudit  = repair.DefaultAudit
	DefaultSettle = 24 * time.Hour

	peersKey = "peers" // of the list in the store
)

// Settings are what a home's config.toml holds.
type Settings struct {
	Zone     string   // where the node stands, in its operator's words
	Capacity int64    // bytes to hold for others at most; 0: what the disk gives
	Listen   []string // multiaddrs
	NoMDNS   bool     // do not look for peers on the LAN
	NoPort   bool     // do not ask the router to open a port
}

// Config says how a node runs. The zero value, but for Log, is good.
type Config struct {
	Settings

	Client         bool          // hold nothing for others, accept no connections
	Version        string        // of the program
	ProvisionalTTL time.Duration // how long shards of a put that went silent are kept; 0: a day
	Grace          time.Duration // how long a holder may be away before repair is due; 0: DefaultGrace
	Probe          time.Duration // how often holders are asked whether they are there; 0: DefaultProbe
	Audit          time.Duration // how long one round of samples takes; 0: DefaultAudit
	Settle         time.Duration // how long peers must have been there, or away, before packs follow; 0: DefaultSettle, negative: they never do
	RepairRate     int64         // bytes a second that repairs may move; 0: no bound
	DyingFor       time.Duration // how long packs are kept to which nothing in their volume refers; 0: DyingFor
	Metrics        string        // HOST:PORT of the Prometheus endpoint; "": none
	Log            *slog.Logger

	// How a simulated network gets under the node: Swarm, if not nil, may
	// change how its swarm is built, Store opens its store (nil: store.Open).
	Swarm func(*swarm.Config)
	Store func(dir string, o store.Options) (*store.Store, error)
}

// Node is a peer.
type Node struct {
	home    Home
	config  Config
	log     *slog.Logger
	seed    volume.Seed
	member  *member.Membership
	swarm   *swarm.Swarm
	dht     *dht.DHT
	store   *store.Store
	engine  *engine
	server  *server
	ready   chan struct{}
	running chan struct{} // closed when Run has returned
	began   time.Time
	dropped *dropped
	metrics net.Listener // nil: none are served
	forget  func()       // ends the following of the membership

	parents parents // what puts build on
	volumes volumes // that the home has a right to
	loose   bool    // puts without a target go into no volume: tests only
	packLen int     // the greatest length of a pack in bytes; 0: see packBytes: tests only

	left      chan struct{} // closed when all shards have been handed over
	leaveOnce sync.Once

	saving sync.Mutex    // held while the credentials are saved, so that the last saved are the newest
	news   chan struct{} // the membership has changed
	spread atomic.Uint64 // number of the last deny list that was passed on

	sent, received atomic.Int64
	reach          atomic.Value // string
}

// Open takes the home into use: keys, store, a host that listens. The home is
// locked until Close.
func Open(h Home, c Config) (*Node, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	cred, err := h.credentials()
	if err != nil {
		return nil, err
	}
	seed, err := h.seed()
	if err != nil {
		return nil, err
	}
	m, err := member.New(cred, nil)
	if err != nil {
		return nil, &Error{Code: Refused, Err: fmt.Errorf("membership: %w", err)}
	}
	n := &Node{
		home: h, config: c, log: c.Log, seed: seed, member: m,
		ready: make(chan struct{}), running: make(chan struct{}), began: time.Now(),
		dropped: &dropped{wake: make(chan struct{}, 1)}, news: make(chan struct{}, 1),
		left: make(chan struct{}),
	}
	if cred.Deny != nil {
		n.spread.Store(cred.Deny.Number)
	}
	n.reach.Store("unknown")
	open := c.Store
	if open == nil {
		open = store.Open
	}
	if n.store, err = open(h.storeDir(), store.Options{
		Capacity: c.Capacity, Log: c.Log, ProvisionalTTL: c.ProvisionalTTL,
		SweepEvery: sweepEvery(c.ProvisionalTTL), Dropped: n.dropped.add, Seal: seed.Keys().Catalog,
	}); err != nil {
		if errors.Is(err, store.ErrLocked) {
			return nil, fail(Failed, "another p2pfs uses it; wait for it to end, or use another --home", "home %s is in use", h.Data)
		}
		return nil, fmt.Errorf("open the store: %w", err)
	}
	n.forget = m.OnChange(n.membershipChanged)
	if c.Metrics != "" {
		n.metrics, err = listenMetrics(c.Metrics)
	}
	if err == nil {
		err = n.start()
	}
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// sweepEvery shortens the store's sweeps with the day of provisional shards; 0
// leaves them at what the store does by itself.
func sweepEvery(ttl time.Duration) time.Duration {
	if ttl == 0 || ttl >= 16*time.Minute {
		return 0
	}
	return max(ttl/8, 100*time.Millisecond)
}

// start makes host, DHT and engine.
func (n *Node) start() error {
	cred := n.member.Credentials()
	c := swarm.Config{
		Key: cred.Self, Listen: n.config.Listen, Membership: n.member,
		NATPortMap: !n.config.NoPort, MDNS: !n.config.NoMDNS, Log: n.log,
	}
	if n.config.Client {
		c.Listen, c.NATPortMap = []string{}, false
	}
	if n.config.Swarm != nil {
		n.config.Swarm(&c)
	}
	var err error
	if n.swarm, err = swarm.New(c); err != nil {
		return err
	}
	n.remembered(func(p peer.AddrInfo) { n.swarm.Remember(p) })
	id := pack.Network(n.member.Network())
	if n.dht, err = dht.New(n.swarm.Host, dht.Config{
		Prefix: "/p2pfs/" + id.Short(), Server: !n.config.Client, Log: n.log,
		Bootstrap: n.bootstrap, Datastore: n.store.Datastore("dht"),
	}); err != nil {
		return err
	}
	n.engine = &engine{
		self: n.swarm.ID(), holder: !n.config.Client, network: id, zone: n.config.Zone, version: n.config.Version,
		dial: hostDialer{n}, dir: n.dht, clock: realClock{}, store: n.store,
		peers: newPeerTable(), packs: newPackTable(), buffers: new(buffers), lists: volume.NewLists(listsHeld), log: n.log, stall: stallTimeout,
		rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), announce: n.announce,
	}
	n.engine.keeper = newKeeper(n.engine, n.config.repairConfig())
	if err := n.loadVolumes(); err != nil {
		return fmt.Errorf("read the volumes of the home: %w", err)
	}
	n.server = newServer(n.engine, n.takeDenyList)
	n.server.holds = n.serves
	return nil
}

// Close frees the home. Run must have returned.
func (n *Node) Close() error {
	var errs []error
	if n.forget != nil {
		defer n.forget()
	}
	if n.metrics != nil {
		_ = n.metrics.Close() // closed already, if Run was called
	}
	if n.dht != nil {
		errs = append(errs, n.dht.Close())
	}
	if n.swarm != nil {
		errs = append(errs, n.swarm.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	return errors.Join(errs...)
}

// Ready is closed when the node has joined, or knows that it is alone.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// ID is the node's peer ID.
func (n *Node) ID() string { return n.swarm.ID().String() }

// Addrs are the addresses at which it may be reached, with its ID.
func (n *Node) Addrs() []string { return n.swarm.Addrs() }

// Run takes part in the network until ctx ends, or until the node has left
// ([Node.Leave]). Everything it started has ended when it returns.
func (n *Node) Run(ctx context.Context) error {
	defer close(n.running)
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	g, ctx := errgroup.WithContext(ctx)
	if n.engine.holder {
		n.serve(ctx, g)
	}
	g.Go(func() error { return ended(ctx, n.dht.Run(ctx)) })
	g.Go(func() error { return n.watchReach(ctx) })
	g.Go(func() error { return n.spreadNews(ctx) })
	g.Go(func() error { return n.withdraw(ctx) })
	g.Go(func() error {
		select {
		case <-n.left:
			leave()
		case <-ctx.Done():
		}
		return nil
	})
	if n.metrics != nil {
		g.Go(func() error { return n.serveMetrics(ctx, n.metrics) })
	}
	if !n.config.Client {
		g.Go(func() error { return ended(ctx, n.store.Run(ctx)) })
		g.Go(func() error { return n.passHeads(ctx, passEvery(n.config.Grace)) })
		g.Go(func() error {
			select {
			case <-n.ready: // who is not connected yet is not away
				n.engine.keeper.Run(ctx)
			case <-ctx.Done():
			}
			return nil
		})
		if n.config.Settle >= 0 {
			g.Go(func() error { return n.grow(ctx) })
		}
	}
	g.Go(func() error {
		n.connect(ctx)
		close(n.ready)
		for sleep(ctx, n.engine.clock, rememberEvery) == nil {
			n.rememberPeers()
		}
		n.rememberPeers()
		return nil
	})
	return g.Wait()
}

// ended drops the errors of work that ended because it was told to.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connect connects to known peers, and waits until one is there, all have
// failed, or connectWait is over. One is enough, the other dials end with it:
// the DHT finds the others, and dials on while few are known.
func (n *Node) connect(run context.Context) {
	peers := n.bootstrap()
	rand.Shuffle(len(peers), func(i, j int) { peers[i], peers[j] = peers[j], peers[i] })
	if len(peers) == 0 && n.config.NoMDNS {
		return
	}
	ctx, cancel := context.WithTimeout(run, connectWait)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(8)
	for _, p := range peers {
		g.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			if err := n.swarm.Connect(ctx, p); err != nil {
				n.log.Debug("peer not reached", "peer", p.ID, "err", err)
				return nil
			}
			cancel()
			return nil
		})
	}
	g.Wait()
	if len(n.swarm.Host.Network().Peers()) == 0 && !n.config.Client {
		return // alone, until others come
	}
	// The DHT knows a peer only once it has said what it serves; a client may
	// still be found by one on the LAN.
	wait, cancel := context.WithTimeout(run, connectWait)
	defer cancel()
	for len(n.dht.Peers()) == 0 && (len(n.swarm.Host.Network().Peers()) > 0 || !n.config.NoMDNS) {
		if sleep(wait, n.engine.clock, 10*time.Millisecond) != nil {
			return
		}
	}
}

// bootstrap gives the peers to find the network by: those of earlier days and
// those that the invite named.
func (n *Node) bootstrap() []peer.AddrInfo {
	known := make(map[peer.ID]peer.AddrInfo)
	n.remembered(func(p peer.AddrInfo) { known[p.ID] = p })
	b, err := os.ReadFile(n.home.bootstrapFile())
	if err == nil {
		for _, p := range addrInfos(strings.Fields(string(b))) {
			if old, ok := known[p.ID]; ok {
				p.Addrs = ma.Unique(append(old.Addrs, p.Addrs...))
			}
			known[p.ID] = p
		}
	}
	delete(known, n.swarm.ID())
	out := make([]peer.AddrInfo, 0, len(known))
	for _, p := range known {
		out = append(out, p)
	}
	return out
}

func (h Home) bootstrapFile() string { return filepath.Join(h.Config, "bootstrap") }

func addrInfos(texts []string) []peer.AddrInfo {
	var addrs []ma.Multiaddr
	for _, t := range texts {
		if a, err := ma.NewMultiaddr(t); err == nil {
			addrs = append(addrs, a)
		}
	}
	infos, err := peer.AddrInfosFromP2pAddrs(addrs...)
	if err != nil {
		return nil
	}
	return infos
}

// rememberedPeer is a peer as the store keeps it.
type rememberedPeer struct {
	Addrs []string  `json:"addrs"` // with the peer's ID
	Seen  time.Time `json:"seen"`
	Zone  string    `json:"zone,omitempty"`
}

func (n *Node) remembered(each func(peer.AddrInfo)) {
	for _, r := range n.loadPeers() {
		for _, p := range addrInfos(r.Addrs) {
			each(p)
		}
	}
}

func (n *Node) loadPeers() []rememberedPeer {
	b, err := n.store.Get(peersKey)
	if err != nil {
		return nil
	}
	var list []rememberedPeer
	if err := json.Unmarshal(b, &list); err != nil {
		n.log.Warn("list of remembered peers is damaged, starting a new one", "err", err)
	}
	return list
}

// rememberPeers writes down who is connected, before those of earlier days.
func (n *Node) rememberPeers() {
	h := n.swarm.Host
	var list []rememberedPeer
	have := make(map[peer.ID]bool)
	for _, p := range h.Network().Peers() {
		addrs := h.Peerstore().Addrs(p)
		if len(addrs) == 0 || have[p] || !n.serves(p) {
			continue
		}
		have[p] = true
		r := rememberedPeer{Seen: time.Now(), Zone: n.engine.peers.state(p).facts.Zone}
		for _, a := range addrs {
			if text := a.String() + "/p2p/" + p.String(); len(text) <= member.MaxAddrLen && len(r.Addrs) < 8 {
				r.Addrs = append(r.Addrs, text)
			}
		}
		if len(r.Addrs) > 0 {
			list = append(list, r)
		}
	}
	for _, r := range n.loadPeers() {
		if infos := addrInfos(r.Addrs); len(infos) == 1 && !have[infos[0].ID] && len(list) < rememberedPeers {
			list = append(list, r)
		}
	}
	b, err := json.Marshal(list[:min(len(list), rememberedPeers)])
	if err == nil {
		err = n.store.Set(peersKey, b)
	}
	if err != nil {
		n.log.Warn("peers not remembered", "err", err)
	}
}

// serves tells whether a connected peer takes part as a holder: clients speak
// nothing that others could ask.
func (n *Node) serves(p peer.ID) bool {
	ok, err := n.swarm.Host.Peerstore().SupportsProtocols(p, protocol.ID(wire.Protocol(wire.Version)))
	return err == nil && len(ok) > 0
}

// serve answers peers until ctx ends.
func (n *Node) serve(ctx context.Context, g *errgroup.Group) {
	admission := newAdmission(n.engine.clock)
	var wg sync.WaitGroup
	var mu sync.Mutex
	closed := false
	for _, v := range wire.Versions() {
		n.swarm.Host.SetStreamHandler(protocol.ID(wire.Protocol(v)), func(s network.Stream) {
			mu.Lock()
			if closed {
				mu.Unlock()
				s.Reset()
				return
			}
			wg.Add(1)
			mu.Unlock()
			defer wg.Done()
			defer s.Close()
			from := s.Conn().RemotePeer()
			err := admission.serve(ctx, &counter{stream: s, n: n}, from, v, n.server)
			switch {
			case err == nil || ctx.Err() != nil:
			case errors.Is(err, errCrowded):
				n.log.Debug("request not served", "peer", from, "err", err)
			default:
				n.log.Info("request failed", "peer", from, "err", err)
			}
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		for _, v := range wire.Versions() {
			n.swarm.Host.RemoveStreamHandler(protocol.ID(wire.Protocol(v)))
		}
		mu.Lock()
		closed = true
		mu.Unlock()
		wg.Wait()
		return nil
	})
}

// counter counts the bytes of a stream.
type counter struct {
	stream

	n *Node
}

func (c *counter) Read(b []byte) (int, error) {
	k, err := c.stream.Read(b)
	c.n.received.Add(int64(k))
	return k, err
}

func (c *counter) Write(b []byte) (int, error) {
	k, err := c.stream.Write(b)
	c.n.sent.Add(int64(k))
	return k, err
}

// hostDialer opens streams over libp2p.
type hostDialer struct{ n *Node }

func (d hostDialer) Open(ctx context.Context, p peer.ID) (stream, error) {
	h := d.n.swarm.Host
	if h.Network().Connectedness(p) != network.Connected && len(h.Peerstore().Addrs(p)) == 0 {
		info, err := d.n.dht.FindPeer(ctx, p)
		if err != nil {
			return nil, fmt.Errorf("no address known: %w", err)
		}
		h.Peerstore().AddAddrs(p, info.Addrs, peerstore.TempAddrTTL)
	}
	s, err := h.NewStream(ctx, p, protocol.ID(wire.Protocol(wire.Version)))
	if err != nil {
		if r := d.n.swarm.Refused(p); r != nil {
			return nil, r
		}
		return nil, err
	}
	return &counter{stream: s, n: d.n}, nil
}

func (d hostDialer) Group(p peer.ID) string {
	for _, c := range d.n.swarm.Host.Network().ConnsToPeer(p) {
		if ip, err := manet.ToIP(c.RemoteMultiaddr()); err == nil {
			if a, ok := netip.AddrFromSlice(ip); ok {
				return addressGroup(a)
			}
		}
	}
	return ""
}

// announce makes the network know of a pack held here.
func (n *Node) announce(id pack.ID) {
	if err := n.dht.Announce(context.Background(), id); err != nil {
		n.log.Warn("pack not announced", "pack", id, "err", err)
	}
	if !n.holds(id) { // it went while it was announced
		n.dropped.add(id)
	}
}

// holds tells whether a shard of a pack is here.
func (n *Node) holds(id pack.ID) bool {
	h, err := n.store.Holding(id) // a shard goes before a tombstone
	return err == nil && !h.Deleted || err != nil && !errors.Is(err, store.ErrNotFound)
}

// withdraw ends the announcing of packs of which the last shard has gone,
// until ctx ends.
func (n *Node) withdraw(ctx context.Context) error {
	for ended := false; !ended; {
		select {
		case <-n.dropped.wake:
		case <-ctx.Done():
			ended = true
		}
		var ids [][32]byte
		for _, id := range n.dropped.take() {
			if !n.holds(id) {
				ids = append(ids, id)
			}
		}
		if len(ids) == 0 {
			continue
		}
		if err := n.dht.Withdraw(context.WithoutCancel(ctx), ids...); err != nil {
			n.log.Warn("packs not withdrawn", "packs", len(ids), "err", err)
		}
	}
	return nil
}

// dropped gathers the packs of which nothing is left here.
type dropped struct {
	wake chan struct{} // there are some

	mu  sync.Mutex
	ids []pack.ID
}

func (d *dropped) add(id pack.ID) {
	d.mu.Lock()
	d.ids = append(d.ids, id)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dropped) take() []pack.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := d.ids
	d.ids = nil
	return ids
}

// membershipChanged keeps new credentials and has a new deny list passed on.
func (n *Node) membershipChanged() {
	n.saving.Lock()
	err := n.home.saveCredentials(n.member.Credentials())
	n.saving.Unlock()
	if err != nil {
		n.log.Error("membership not saved", "err", err)
	}
	select {
	case n.news <- struct{}{}:
	default: // what is to come of it will see this change as well
	}
}

// spreadNews passes every new deny list on until ctx ends, whether it came
// from a peer's request or at the gate.
func (n *Node) spreadNews(ctx context.Context) error {
	for {
		select {
		case <-n.news:
		case <-ctx.Done():
			return nil
		}
		l := n.member.Deny()
		if l == nil || l.Number <= n.spread.Load() {
			continue
		}
		n.spread.Store(l.Number)
		n.log.Info("new deny list", "number", l.Number, "expelled", len(l.Entries))
		n.spreadDenyList(ctx, l.Encode())
	}
}

// takeDenyList takes a deny list from a peer; a new one is passed on.
func (n *Node) takeDenyList(b []byte) error {
	l, err := member.DecodeDenyList(b)
	if err != nil {
		return wire.Refuse(wire.Malformed, "bad deny list")
	}
	if _, err := n.member.Update(l); err != nil {
		return wire.Refuse(wire.Signature, "deny list: not of this network")
	}
	return nil
}

// spreadDenyList gives a deny list to every connected peer; those not here now
// get it at the gate when they come.
func (n *Node) spreadDenyList(ctx context.Context, b []byte) int {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var told atomic.Int32
	var g errgroup.Group
	g.SetLimit(32)
	for _, p := range n.swarm.Host.Network().Peers() {
		if !n.serves(p) {
			continue
		}
		g.Go(func() error {
			if err := n.engine.call(ctx, p, askTimeout, func(s stream) error { return wire.Deny(s, b) }); err == nil {
				told.Add(1)
			}
			return nil
		})
	}
	g.Wait()
	return int(told.Load())
}

// Invite makes an invite that names this node and others that are here now,
// so that it works although this node is gone.
func (n *Node) Invite(_ context.Context, life time.Duration) (string, error) {
	addrs := n.swarm.Addrs()
	if n.config.Client {
		addrs = nil
	}
	addrs = addrs[:min(len(addrs), member.MaxAddrs/2)]
	h := n.swarm.Host
	for _, p := range h.Network().Peers() {
		if !n.serves(p) {
			continue
		}
		for _, a := range h.Peerstore().Addrs(p) {
			text := a.String() + "/p2p/" + p.String()
			if _, err := a.ValueForProtocol(ma.P_TCP); err == nil && len(addrs) < member.MaxAddrs && len(text) <= member.MaxAddrLen {
				addrs = append(addrs, text)
				break
			}
		}
	}
	in, err := n.member.Invite(life, addrs)
	if err != nil {
		return "", &Error{Code: Refused, Err: err}
	}
	return in.String(), nil
}

// Expel takes a peer, and those it invited if asked, out of the network. Only
// the founder's home can.
func (n *Node) Expel(ctx context.Context, who string, withInvited bool) error {
	key, err := n.home.networkKey()
	if err != nil {
		return err
	}
	if key == nil {
		return fail(Refused, "ask the founder of the network", "only the founder's home can expel: it alone has the network's key")
	}
	p, err := n.findPeer(ctx, who)
	if err != nil {
		return err
	}
	if p == n.swarm.ID() {
		return fail(Usage, "", "the founder cannot expel itself")
	}
	k, err := swarm.KeyOf(p)
	if err != nil {
		return err
	}
	now := time.Now()
	l, err := member.NewDenyList(key, n.member.Deny(), now, member.Denied{Peer: k, WithInvited: withInvited, Time: uint64(now.UnixMilli())})
	if err != nil {
		return err
	}
	n.spread.Store(l.Number)
	told := n.spreadDenyList(ctx, l.Encode()) // before the peer's connection goes: it may as well know
	if _, err := n.member.Update(l); err != nil {
		return err
	}
	n.log.Info("peer expelled", "peer", p, "with_invited", withInvited, "told", told)
	return nil
}

// findPeer reads a peer ID, or the end of one as it is shown to people.
func (n *Node) findPeer(ctx context.Context, who string) (peer.ID, error) {
	if p, err := peer.Decode(who); err == nil {
		return p, nil
	}
	peers, err := n.Peers(ctx)
	if err != nil {
		return "", err
	}
	peers = slices.DeleteFunc(peers, func(p Peer) bool { return len(who) < 6 || !strings.HasSuffix(p.ID, who) })
	if len(peers) != 1 {
		return "", fail(Usage, "give the whole ID; 'p2pfs peers --json' shows it", "%q names %d known peers", who, len(peers))
	}
	return peer.Decode(peers[0].ID)
}

// Join makes a home in the network of an invite. Of the Config it needs what
// says how others are reached.
func Join(ctx context.Context, h Home, invite string, c Config) (string, error) {
	in, err := member.ParseInvite(invite)
	if err != nil {
		return "", &Error{Code: Usage, Hint: "an invite begins with " + member.InvitePrefix + " and is one word; copy it whole", Err: err}
	}
	if err := h.vacant(); err != nil {
		return "", err
	}
	self, err := newKey()
	if err != nil {
		return "", err
	}
	m, err := member.New(in.Credentials(self), nil)
	if err != nil {
		return "", &Error{Code: Refused, Err: err}
	}
	if !in.Open {
		sc := swarm.Config{Key: self, Listen: []string{}, Membership: m, MDNS: !c.NoMDNS, Log: c.Log}
		if c.Swarm != nil {
			c.Swarm(&sc)
		}
		sw, err := swarm.New(sc)
		if err != nil {
			return "", err
		}
		reach, cancel := context.WithTimeout(ctx, joinWait)
		_, err = sw.Join(reach, in)
		cancel()
		if cerr := sw.Close(); err == nil {
			err = cerr
		}
		switch {
		case errors.Is(err, member.ErrRefused):
			return "", &Error{Code: Refused, Hint: "ask a member for a new invite", Err: err}
		case err != nil && ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled):
			return "", &Error{Code: Interrupted, Err: err}
		case err != nil:
			return "", &Error{Code: NoPeers, Hint: "one of the nodes that the invite names, or another on this LAN, must run", Err: err}
		}
	}
	if err := h.makeDirs(); err != nil {
		return "", err
	}
	if err := writeSecret(h.bootstrapFile(), []byte(strings.Join(in.Addrs, "\n")+"\n")); err != nil {
		return "", err
	}
	created, err := h.create(m.Credentials(), nil)
	if err != nil {
		return "", err
	}
	return created.PeerID, nil
}
