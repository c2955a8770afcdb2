package simnet

import (
	"hash/fnv"
	"io"
	"net"
	"time"

	"encoding/binary"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	sim "github.com/marcopolo/simnet"

	"github.com/p2pfs/p2pfs/swarm"
)

// What links are like: round trips as on a continent and between two, lines as
// at home and in a lab.
const (
	minTrip = 10 * time.Millisecond // there and back
	maxTrip = 150 * time.Millisecond
	minRate = 20e6 // bits a second, each way
	maxRate = 200e6
)

// ipOf gives a host's address. Each is in a /16 of its own: nodes take those of
// one for one house.
func ipOf(host int) net.IP { return net.IPv4(byte(40+host/200), byte(host%200), 1, 1) }

// settle gives a node's host its place.
func (w *World) settle(n *Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.here[ipOf(n.host).String()] = place{host: n.host}
}

// cut takes a host off the network, or puts it on again.
func (w *World) cut(n *Node, dead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.here[ipOf(n.host).String()] = place{host: n.host, dead: dead}
}

// Partition divides the network: no packet passes between the groups. Nodes in
// none of them are together in one more.
func (w *World) Partition(groups ...[]*Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.side = map[int]int{}
	for i, g := range groups {
		for _, n := range g {
			w.side[n.host] = i + 1
		}
	}
}

// Heal ends a partition.
func (w *World) Heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.side = nil
}

// passes tells whether a packet gets from one host to another.
func (w *World) passes(from, to net.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a, known := w.here[from.(*net.UDPAddr).IP.String()]
	b, there := w.here[to.(*net.UDPAddr).IP.String()]
	return known && there && !a.dead && !b.dead && w.side[a.host] == w.side[b.host]
}

// latency is how long a packet is on its way: half the round trip between two
// hosts, which is drawn from the seed.
func (w *World) latency(p *sim.Packet) time.Duration {
	a, b := p.From.(*net.UDPAddr).IP.To4(), p.To.(*net.UDPAddr).IP.To4()
	x, y := binary.BigEndian.Uint32(a), binary.BigEndian.Uint32(b)
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint64(nil, w.Seed))
	h.Write(binary.BigEndian.AppendUint32(nil, min(x, y)))
	h.Write(binary.BigEndian.AppendUint32(nil, max(x, y)))
	return (minTrip + time.Duration(h.Sum64()%uint64(maxTrip-minTrip))) / 2
}

// link is a host's line to the network, for one life of its node.
type link struct {
	n    *Node
	quic []io.Closer
}

func (n *Node) link() *link { return &link{n: n} }

// under puts the line under a swarm.
func (l *link) under(c *swarm.Config) {
	c.Options = append(c.Options,
		libp2p.QUICReuse(quicreuse.NewConnManager,
			func(m *quicreuse.ConnManager) error {
				l.quic = append(l.quic, m) // libp2p closes only those it has made itself
				return nil
			},
			quicreuse.OverrideSourceIPSelector(func() (quicreuse.SourceIPSelector, error) { return l, nil }),
			quicreuse.OverrideListenUDP(func(_ string, a *net.UDPAddr) (net.PacketConn, error) { return l.endpoint(a), nil }),
		))
}

// PreferredSourceIPForDestination is the host's only address.
func (l *link) PreferredSourceIPForDestination(*net.UDPAddr) (net.IP, error) {
	return ipOf(l.n.host), nil
}

// endpoint makes what stands for a UDP socket.
func (l *link) endpoint(a *net.UDPAddr) net.PacketConn {
	w := l.n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	port := a.Port
	if port == 0 {
		w.ends++
		port = 20000 + w.ends
	}
	rate := sim.LinkSettings{BitsPerSecond: l.n.rate}
	at := &net.UDPAddr{IP: ipOf(l.n.host), Port: port}
	return &endpoint{w.net.NewEndpoint(at, sim.NodeBiDiLinkSettings{Downlink: rate, Uplink: rate}), w}
}

func (l *link) close() {
	for _, q := range l.quic {
		q.Close()
	}
}

// endpoint loses the packets that do not pass.
type endpoint struct {
	*sim.SimConn
	w *World
}

func (e *endpoint) WriteTo(b []byte, to net.Addr) (int, error) {
	at := *to.(*net.UDPAddr)
	at.IP = at.IP.To16() // simnet takes the two forms of an address for two
	if !e.w.passes(e.LocalAddr(), &at) {
		return len(b), nil
	}
	return e.SimConn.WriteTo(b, &at)
}
