// Package dht finds who holds a pack and who is closest to it. Kademlia stays
// inside: callers see pack IDs and peers.
//
// It is go-libp2p-kad-dht under a protocol of the network's own. Nodes that
// hold for others answer queries (Server); clients only ask. A node announces
// the packs it holds by a sweep over the key space, one lookup a region and
// not one a pack, and again every [Interval]; what it announces outlives a
// restart. A lookup that reaches a holder finds it from the moment it has
// called AddLocal, announced or not.
//
// The key of a pack in the DHT is the multihash of its ID: the bytes 0x1e 0x20
// (BLAKE3, 32 bytes) and the ID. Its place in the key space is the SHA-256 of
// these 34 bytes, a peer's that of its ID, the distance between two the number
// that their XOR is.
//
// New makes a DHT that answers and asks; Run keeps it connected and announces,
// until its context ends.
package dht

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	ds "github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/namespace"
	dssync "github.com/ipfs/go-datastore/sync"
	kad "github.com/libp2p/go-libp2p-kad-dht"
	"github.com/libp2p/go-libp2p-kad-dht/provider"
	"github.com/libp2p/go-libp2p-kad-dht/provider/keystore"
	"github.com/libp2p/go-libp2p-kad-dht/records"
	kb "github.com/libp2p/go-libp2p-kbucket"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multihash"
)

// ID is a pack's ID.
type ID = [32]byte

const (
	// Width is how many peers one lookup finds, and how many keep a record:
	// Kademlia's k. All nodes of a network must agree on it.
	Width = 20
	// Interval is how often everything is announced again. Records hold
	// for Validity, so one missed round leaves none out.
	Interval = 22 * time.Hour
	Validity = 48 * time.Hour
	// announceDelay gathers new announcements before they are sent: each
	// round costs lookups, whatever the number of packs. Until then the
	// holder's own record answers.
	announceDelay = 5 * time.Second
	// announceBatch is the most packs announced in one round.
	announceBatch = 4096
)

// ErrNoPeers is a lookup by a node that knows nobody to ask.
var ErrNoPeers = errors.New("no peers to ask")

// Config says how to build a DHT.
type Config struct {
	// Prefix is the protocol's prefix, one for each network:
	// "/p2pfs/3f2a9c01".
	Prefix string
	// Server answers others and announces. Else the node is a client.
	Server bool
	// Bootstrap gives peers to connect to while few are known: those
	// remembered and those of the invite. Nil: none.
	Bootstrap func() []peer.AddrInfo
	// Datastore keeps records and what is announced; nil keeps them in
	// memory.
	Datastore ds.Batching
	// Interval is how often all is announced again, Delay how long new
	// announcements are gathered. 0 is the default.
	Interval time.Duration
	Delay    time.Duration
	Log      *slog.Logger // nil: none
}

// DHT is one node's view of who holds what.
type DHT struct {
	host   host.Host
	server bool
	kad    *kad.IpfsDHT
	keys   keystore.Keystore
	store  ds.Batching
	config Config
	log    *slog.Logger

	ask  *sweepRouter
	wake chan struct{} // there is something to announce, or a peer

	mu       sync.Mutex
	pending  map[ID]struct{} // not announced yet
	provider *provider.SweepingProvider
	closed   bool
}

// New returns a DHT on h. Close ends it; the host stays.
func New(h host.Host, c Config) (*DHT, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Interval == 0 {
		c.Interval = Interval
	}
	if c.Delay == 0 {
		c.Delay = announceDelay
	}
	if c.Prefix == "" {
		return nil, errors.New("dht: no protocol prefix")
	}
	store := c.Datastore
	if store == nil {
		store = dssync.MutexWrap(ds.NewMapDatastore())
	}
	mode := kad.ModeClient
	if c.Server {
		mode = kad.ModeServer
	}
	k, err := kad.New(h,
		kad.Mode(mode),
		kad.ProtocolPrefix(protocol.ID(c.Prefix)),
		kad.BucketSize(Width),
		kad.Datastore(namespace.Wrap(store, ds.NewKey("/records"))),
		kad.DisableValues(),
		kad.ProviderManagerOpts(records.ProvideValidity(Validity)),
		kad.RoutingTableRefreshPeriod(10*time.Minute),
	)
	if err != nil {
		return nil, fmt.Errorf("dht: %w", err)
	}
	d := &DHT{host: h, server: c.Server, kad: k, store: store, config: c, log: c.Log, ask: &sweepRouter{kad: k},
		wake: make(chan struct{}, 1), pending: map[ID]struct{}{}}
	if c.Server {
		d.keys, err = keystore.NewKeystore(namespace.Wrap(store, ds.NewKey("/announced")))
		if err != nil {
			k.Close()
			return nil, fmt.Errorf("dht: %w", err)
		}
	}
	return d, nil
}

// Close ends the DHT, after Run has ended or before it began.
func (d *DHT) Close() error {
	d.mu.Lock()
	p := d.provider
	d.provider, d.closed = nil, true
	d.mu.Unlock()
	var errs []error
	if p != nil {
		d.ask.end()
		errs = append(errs, p.Close())
	}
	if d.keys != nil {
		errs = append(errs, d.keys.Close())
	}
	errs = append(errs, d.kad.Close())
	return errors.Join(errs...)
}

// key returns the DHT's key of a pack.
func key(id ID) multihash.Multihash {
	return append(multihash.Multihash{multihash.BLAKE3, byte(len(id))}, id[:]...)
}

// place returns where id lies in the key space.
func place(id ID) kb.ID { return kb.ConvertKey(string(key(id))) }

// Compare tells which of two peers is closer to id: negative if a is, positive
// if b is, 0 only if they are the same.
func Compare(id ID, a, b peer.ID) int {
	t := place(id)
	return slices.Compare(kb.Xor(kb.ConvertPeerID(a), t), kb.Xor(kb.ConvertPeerID(b), t))
}

// Distance returns how far p is from id, as a big-endian number.
func Distance(id ID, p peer.ID) [32]byte {
	return [32]byte(kb.Xor(kb.ConvertPeerID(p), place(id)))
}

// Peers returns the peers in the routing table: servers that answered not long
// ago. In a network of not much more than Width nodes that is all of them.
func (d *DHT) Peers() []peer.ID { return d.kad.RoutingTable().ListPeers() }

// Refresh looks the neighbourhood over now and not at the next interval.
func (d *DHT) Refresh(ctx context.Context) error {
	select {
	case err := <-d.kad.ForceRefresh():
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Closest returns the n servers closest to id, the nearest first, fewer where
// the network is smaller. The node itself is among them if it is a server and
// near enough. With nobody else known a server gets itself, a client
// ErrNoPeers.
func (d *DHT) Closest(ctx context.Context, id ID, n int) ([]peer.ID, error) {
	var out []peer.ID
	for p, err := range d.Walk(ctx, id) {
		if err != nil {
			return out, err
		}
		if out = append(out, p); len(out) == n {
			break
		}
	}
	return out, nil
}

// Holders yields the peers that announced id as they are found, the node
// itself too if it holds it. An error ends it.
func (d *DHT) Holders(ctx context.Context, id ID) iter.Seq2[peer.AddrInfo, error] {
	return func(yield func(peer.AddrInfo, error) bool) {
		lookup, cancel := context.WithCancel(ctx)
		found := d.kad.FindProvidersAsync(lookup, cid.NewCidV1(cid.Raw, key(id)), 0)
		defer func() {
			cancel()
			for range found { // until the lookup has ended
			}
		}()
		seen := map[peer.ID]bool{} // reported again when addresses become known
		for p := range found {
			if seen[p.ID] {
				continue
			}
			seen[p.ID] = true
			if !yield(p, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(peer.AddrInfo{}, err)
		}
	}
}

// AddLocal writes the node's own record for id, so that a lookup that reaches
// this node finds it at once. It announces nothing.
func (d *DHT) AddLocal(ctx context.Context, id ID) error {
	err := d.kad.ProviderStore().AddProvider(ctx, key(id), peer.AddrInfo{ID: d.host.ID()})
	if err != nil {
		return fmt.Errorf("dht: own record: %w", err)
	}
	return nil
}

// Announce makes ids known as held here: now by the node's own records, soon
// to the peers closest to each, and again every interval, also after a
// restart, until Withdraw. A client announces nothing.
func (d *DHT) Announce(ctx context.Context, ids ...ID) error {
	if !d.server {
		return nil
	}
	keys := make([]multihash.Multihash, len(ids))
	for i, id := range ids {
		if err := d.AddLocal(ctx, id); err != nil {
			return err
		}
		keys[i] = key(id)
	}
	if _, err := d.keys.Put(ctx, keys...); err != nil {
		return fmt.Errorf("dht: announce: %w", err)
	}
	d.mu.Lock()
	for _, id := range ids {
		d.pending[id] = struct{}{}
	}
	d.mu.Unlock()
	d.poke()
	return nil
}

// Withdraw ends the announcing of ids. The records that are out run out by
// themselves.
func (d *DHT) Withdraw(ctx context.Context, ids ...ID) error {
	if !d.server {
		return nil
	}
	keys := make([]multihash.Multihash, len(ids))
	d.mu.Lock()
	for i, id := range ids {
		delete(d.pending, id)
		keys[i] = key(id)
	}
	p := d.provider
	d.mu.Unlock()
	var err error
	if p != nil {
		err = p.StopProviding(keys...)
	} else {
		err = d.keys.Delete(ctx, keys...)
	}
	if err != nil {
		return fmt.Errorf("dht: withdraw: %w", err)
	}
	return nil
}

func (d *DHT) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run connects the node and keeps it so, and announces, until ctx ends.
func (d *DHT) Run(ctx context.Context) error {
	sub, err := d.host.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted), eventbus.BufSize(64))
	if err != nil {
		return fmt.Errorf("dht: %w", err)
	}
	defer sub.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { d.connect(ctx) })

	// Announcements wait for company, then for more of their kind. A small
	// table is a network that may just be coming up: looks around, at ever
	// longer intervals since it last grew, find those that came meanwhile
	// long before the regular ones.
	var timer, look <-chan time.Time
	size, pause := 0, lookDelay
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sub.Out():
			d.poke()
			if n := len(d.Peers()); look == nil || n != size && n < 2*Width {
				size, pause = n, lookDelay
				look = time.After(pause)
			}
		case <-look:
			n := len(d.Peers())
			if n > 0 {
				d.kad.RefreshRoutingTable()
			}
			if pause *= 2; n != size {
				size, pause = n, lookDelay
			}
			look = nil
			if n < 2*Width && pause < lookMost {
				look = time.After(pause)
			}
		case <-d.wake:
			if timer == nil && d.server && len(d.Peers()) > 0 {
				timer = time.After(d.config.Delay)
			}
		case <-timer:
			timer = nil
			if d.announce(ctx) {
				d.poke()
			}
		}
	}
}

// announce hands what is pending to the sweeping provider, which is made when
// there is somebody to announce to: made before, it would probe for peers at
// ever longer intervals. It tells whether more is pending.
func (d *DHT) announce(ctx context.Context) (more bool) {
	n, err := d.keys.Size(ctx)
	if err != nil {
		if ctx.Err() == nil {
			d.log.Error("announce", "err", err)
		}
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || n == 0 {
		return false
	}
	if d.provider == nil {
		p, err := d.newProvider()
		if err != nil {
			d.log.Error("announcing does not start", "err", err)
			return false
		}
		d.provider = p
	}
	var keys []multihash.Multihash
	for id := range d.pending {
		if len(keys) == announceBatch {
			break
		}
		keys = append(keys, key(id))
		delete(d.pending, id)
	}
	if len(keys) > 0 {
		// The keys are in the keystore already; force sends them out.
		if err := d.provider.StartProviding(true, keys...); err != nil {
			d.log.Warn("announce", "packs", len(keys), "err", err)
		}
	}
	return len(d.pending) > 0
}

func (d *DHT) newProvider() (*provider.SweepingProvider, error) {
	return provider.New(
		provider.WithHost(d.host),
		provider.WithRouter(d.ask),
		provider.WithMessageSender(d.kad.MessageSender()),
		provider.WithSelfAddrs(d.host.Addrs),
		provider.WithAddLocalRecord(func(h multihash.Multihash) error {
			return d.kad.ProviderStore().AddProvider(context.Background(), h, peer.AddrInfo{ID: d.host.ID()})
		}),
		provider.WithReplicationFactor(Width),
		provider.WithReprovideInterval(d.config.Interval),
		provider.WithMaxReprovideDelay(max(d.config.Interval/20, time.Second)),
		provider.WithKeystore(d.keys),
		provider.WithDatastore(namespace.Wrap(d.store, ds.NewKey("/sweep"))),
		provider.WithResumeCycle(true),
		provider.WithMaxWorkers(2),
		provider.WithDedicatedPeriodicWorkers(1),
		provider.WithDedicatedBurstWorkers(1),
	)
}

// How a node gets to know others.
const (
	// fewPeers is how small the routing table may get before the bootstrap
	// peers are asked again.
	fewPeers       = 8
	bootstrapFirst = time.Second
	bootstrapMost  = 2 * time.Minute
	bootstrapAlone = 20 * time.Second // most, where nobody is known
	lookDelay      = 300 * time.Millisecond
	lookMost       = 5 * time.Minute
	bootstrapPeers = 8 // dialed at a time
	// missedEvery is how often, with jitter, some of the bootstrap peers that
	// are not connected are dialed although enough others are known: each
	// part of a network that was divided may have enough of its own.
	missedEvery = 2 * time.Minute
	missedPeers = 2
	dialTime       = 15 * time.Second
)

// connect dials bootstrap peers while few are known, at once and then after
// ever longer pauses, with jitter, so that it does not matter which node of a
// network is started first, and now and then one that is missed. A peer that does not answer holds up no other.
func (d *DHT) connect(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	dials := dials{busy: map[peer.ID]bool{}}
	pause := bootstrapFirst
	missed := time.Now().Add(rand.N(missedEvery))
	for ctx.Err() == nil {
		before := len(d.Peers())
		most := bootstrapPeers
		if before >= fewPeers {
			most = 0
			if now := time.Now(); now.After(missed) {
				most, missed = missedPeers, now.Add(missedEvery/2+rand.N(missedEvery))
			}
		}
		if most > 0 && d.config.Bootstrap != nil {
			for _, p := range dials.take(d.host, d.config.Bootstrap(), most) {
				wg.Go(func() {
					defer dials.done(p.ID)
					d.dial(ctx, p)
				})
			}
		}
		// A small network stays below fewPeers for good: the pause grows.
		wait := pause/2 + rand.N(pause)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		switch n := len(d.Peers()); {
		case n >= fewPeers || n > before:
			pause = bootstrapFirst
		case n == 0:
			pause = min(2*pause, bootstrapAlone)
		default:
			pause = min(2*pause, bootstrapMost)
		}
	}
}

func (d *DHT) dial(ctx context.Context, p peer.AddrInfo) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	// libp2p's own pauses after a failed dial would come on top of ours.
	if s, ok := d.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(p.ID)
	}
	if err := d.host.Connect(ctx, p); err != nil {
		d.log.Debug("bootstrap peer", "peer", p.ID, "err", err)
	}
}

// dials are the bootstrap peers being dialed.
type dials struct {
	mu   sync.Mutex
	busy map[peer.ID]bool
}

// take returns some of peers, at most as many as said and in random order, that
// are neither connected nor being dialed, and counts them as such.
func (d *dials) take(h host.Host, peers []peer.AddrInfo, most int) (out []peer.AddrInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, i := range rand.Perm(len(peers)) {
		p := peers[i]
		if len(d.busy) >= bootstrapPeers || len(out) >= most {
			break
		}
		if p.ID == h.ID() || d.busy[p.ID] || h.Network().Connectedness(p.ID) == network.Connected {
			continue
		}
		d.busy[p.ID] = true
		out = append(out, p)
	}
	return out
}

func (d *dials) done(p peer.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.busy, p)
}
