package swarm

import (
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	lconnmgr "github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
)

// Limits on what peers can make us keep, in libp2p's accounts. There a
// stream counts 256 KiB from the start, used or not, and a window may grow
// only while less than half of the memory is booked.
const (
	memorySystem = 384 << 20
	memoryPeer   = 32 << 20
	memoryNew    = 64 << 20 // connections and streams still in their handshakes
	streamsPeer  = 512
	connsPeer    = 8
	// connsPerIP lets a lab or a family behind one address in: libp2p's
	// default is 8 connections and one new one in five seconds.
	connsPerIP = 128
)

// newResources returns libp2p's resource manager for a node that keeps up to
// high connections.
func newResources(high int) (network.ResourceManager, error) {
	conns := rcmgr.LimitVal(2*high + 128) // the connection manager trims late
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: conns, ConnsInbound: conns * 3 / 4, ConnsOutbound: conns,
			Streams: 16 * conns, StreamsInbound: 8 * conns, StreamsOutbound: 16 * conns,
			FD: conns, Memory: memorySystem,
		},
		Transient: rcmgr.ResourceLimits{
			Conns: 384, ConnsInbound: 256, ConnsOutbound: 256,
			Streams: 512, StreamsInbound: 384, StreamsOutbound: 384,
			FD: 384, Memory: memoryNew,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: connsPeer, ConnsInbound: connsPeer, ConnsOutbound: connsPeer,
			Streams: streamsPeer, StreamsInbound: streamsPeer / 2, StreamsOutbound: streamsPeer,
			FD: connsPeer, Memory: memoryPeer,
		},
		Conn: rcmgr.ResourceLimits{Memory: memoryPeer},
	}
	limiter := rcmgr.NewFixedLimiter(limits.Build(rcmgr.InfiniteLimits))
	subnets := func(bits ...int) (c []rcmgr.ConnLimitPerSubnet, r []rate.SubnetLimit) {
		n := connsPerIP
		for _, b := range slices.Backward(bits) {
			c = append(c, rcmgr.ConnLimitPerSubnet{PrefixLength: b, ConnCount: n})
			r = append(r, rate.SubnetLimit{PrefixLength: b, Limit: rate.Limit{RPS: float64(n) / 8, Burst: 2 * n}})
			n *= 4
		}
		return c, r
	}
	c4, r4 := subnets(32)
	c6, r6 := subnets(48, 56)
	return rcmgr.NewResourceManager(limiter,
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(c4, c6),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: []rate.PrefixLimit{
				{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
				{Prefix: netip.MustParsePrefix("::1/128")},
			},
			SubnetRateLimiter: rate.SubnetLimiter{IPv4SubnetLimits: r4, IPv6SubnetLimits: r6, GracePeriod: time.Minute},
		}),
	)
}

func newConnManager(low, high int) (connmgr.ConnManager, error) {
	return lconnmgr.NewConnManager(low, high, lconnmgr.WithGracePeriod(time.Minute))
}

// quicDelay is how long after the last TCP address QUIC ones are dialed: bulk
// over QUIC costs three times the CPU.
const quicDelay = 300 * time.Millisecond

// rankDials orders dials: libp2p's own order within TCP, then the same within
// QUIC.
func rankDials(addrs []ma.Multiaddr) []network.AddrDelay {
	var first, later []ma.Multiaddr
	for _, a := range addrs {
		if _, err := a.ValueForProtocol(ma.P_TCP); err == nil {
			first = append(first, a)
		} else {
			later = append(later, a)
		}
	}
	ranked := swarm.DefaultDialRanker(first)
	var offset time.Duration
	for _, d := range ranked {
		offset = max(offset, d.Delay+quicDelay)
	}
	for _, d := range swarm.DefaultDialRanker(later) {
		ranked = append(ranked, network.AddrDelay{Addr: d.Addr, Delay: offset + d.Delay})
	}
	return ranked
}
