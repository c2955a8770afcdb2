package node

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"golang.org/x/sync/errgroup"

	"github.com/p2pfs/p2pfs/swarm"
)

// Peers lists the known peers: those connected, asked for their facts now,
// and those remembered.
func (n *Node) Peers(ctx context.Context) ([]Peer, error) {
	h := n.swarm.Host
	n.meet(ctx)
	connected := h.Network().Peers()
	offers := n.engine.accepting(ctx, slices.DeleteFunc(slices.Clone(connected), func(p peer.ID) bool { return !n.serves(p) }))
	said := make(map[peer.ID]offer)
	for _, o := range offers {
		said[o.peer] = o
	}
	var out []Peer
	have := make(map[peer.ID]bool)
	for _, p := range connected {
		have[p] = true
		o, holds := said[p]
		e := Peer{ID: p.String(), Connected: true, LastSeen: time.Now(), Client: !holds, Addrs: []string{}}
		for _, c := range h.Network().ConnsToPeer(p) {
			e.Addrs = append(e.Addrs, c.RemoteMultiaddr().String())
		}
		if holds && o.err == nil {
			e.Zone, e.Version = o.facts.Zone, o.facts.Version
			e.HeldBytes, e.FreeBytes = int64(o.facts.Held), int64(o.facts.Free)
		}
		e.LatencyMS = float64(n.engine.peers.state(p).latency.Microseconds()) / 1000
		if chain := n.swarm.Chain(p); len(chain) > 1 {
			if v, err := swarm.PeerOf(chain[len(chain)-1].Issuer); err == nil {
				e.Voucher = v.String()
			}
		}
		out = append(out, e)
	}
	for _, r := range n.loadPeers() {
		for _, p := range addrInfos(r.Addrs) {
			if have[p.ID] || p.ID == n.swarm.ID() {
				continue
			}
			have[p.ID] = true
			e := Peer{ID: p.ID.String(), LastSeen: r.Seen, Zone: r.Zone, Addrs: []string{}}
			for _, a := range p.Addrs {
				e.Addrs = append(e.Addrs, a.String())
			}
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b Peer) int {
		if a.Connected != b.Connected {
			if a.Connected {
				return -1
			}
			return 1
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, ctx.Err()
}

// meetWait bounds how long a list of peers waits for those that are not
// connected yet.
const meetWait = 2 * time.Second

// meet connects to known peers, and waits until all that are connected have
// said what they serve.
func (n *Node) meet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, meetWait)
	defer cancel()
	h := n.swarm.Host
	known := n.dht.Peers()
	for _, p := range n.bootstrap() {
		known = append(known, p.ID)
	}
	var g errgroup.Group
	g.SetLimit(16)
	for _, p := range known[:min(len(known), rememberedPeers)] {
		if h.Network().Connectedness(p) == network.Connected {
			continue
		}
		g.Go(func() error {
			n.swarm.Connect(ctx, h.Peerstore().PeerInfo(p)) // away if not
			return nil
		})
	}
	g.Wait()
	ids, ok := h.(interface{ IDService() identify.IDService })
	if !ok {
		return
	}
	for _, c := range h.Network().Conns() {
		select {
		case <-ids.IDService().IdentifyWait(c):
		case <-ctx.Done():
			return
		}
	}
}

// Status describes this node.
func (n *Node) Status(context.Context) (Status, error) {
	u := n.store.Usage()
	s := Status{
		ID: n.ID(), Version: n.config.Version, Network: n.engine.network.String(), Open: n.member.Open(),
		Running: !n.config.Client, Addrs: n.Addrs(), Zone: n.config.Zone, Reachability: n.reach.Load().(string),
		Shards: u.Shards, HeldBytes: u.Held, CapacityBytes: u.Capacity, FreeBytes: u.Free,
		SentBytes: n.sent.Load(), ReceivedBytes: n.received.Load(), Seconds: time.Since(n.began).Seconds(),
	}
	k := n.upkeep()
	s.Repairs, s.Repaired, s.RepairFailed = int(k.Running), k.Repaired, k.RepairFailed
	s.Suspected, s.Due, s.Unplaced = k.PeersSuspected+k.PeersGone, k.Due, k.Unplaced
	s.Audits, s.AuditFailed = k.Audits, k.AuditsFailed
	if key, err := n.home.networkKey(); err == nil && key != nil {
		s.Founder = true
	}
	for _, p := range n.swarm.Host.Network().Peers() {
		if n.serves(p) {
			s.Peers++
		}
	}
	return s, nil
}

// watchReach follows what libp2p finds out about being reachable from outside.
func (n *Node) watchReach(ctx context.Context) error {
	sub, err := n.swarm.Host.EventBus().Subscribe(new(event.EvtLocalReachabilityChanged))
	if err != nil {
		return err
	}
	defer sub.Close()
	for {
		select {
		case e, ok := <-sub.Out():
			if !ok {
				return nil
			}
			switch e.(event.EvtLocalReachabilityChanged).Reachability {
			case network.ReachabilityPublic:
				n.reach.Store("public")
			case network.ReachabilityPrivate:
				n.reach.Store("private")
			default:
				n.reach.Store("unknown")
			}
		case <-ctx.Done():
			return nil
		}
	}
}
