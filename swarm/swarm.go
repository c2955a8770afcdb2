// Package swarm builds the libp2p host that a node talks through, and keeps
// strangers out of it.
//
// Every transport is wrapped by a gate. After a connection's security
// handshake and before the connection is handed to libp2p, both ends prove on
// its first stream that they belong to the network (docs/protocol.md has the
// exchange). A stranger so reaches no protocol at all, not even identify, and
// nothing above the swarm needs to know of membership. What the gate learns,
// a peer's certificates and a newer deny list, it keeps and passes on.
//
// TCP carries TLS with its records coalesced and one muxer with large
// messages: the fastest of the transports by a factor of three, so it is
// dialed first and QUIC is for where TCP does not get through.
//
// New returns a host that listens; Close ends it and everything it started.
package swarm

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/tcpreuse"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/p2pfs/p2pfs/member"
)

// DefaultPort is where a node listens, TCP and UDP, unless told otherwise. A
// fixed port is found again after a restart and can be opened in a router.
const DefaultPort = 4017

// Config says how to build a swarm. Only Key is needed.
type Config struct {
	Key ed25519.PrivateKey // the peer's own

	// Listen are multiaddrs. Nil is DefaultPort on all interfaces, or any
	// free port where another home has taken that; empty is none.
	Listen []string

	// Membership is asked by the gate. Nil leaves the gate away: for tests
	// of what stands above.
	Membership *member.Membership

	NATPortMap bool // ask the router to open the port
	MDNS       bool // find peers of this network on the LAN, and be found

	// LowWater and HighWater bound the connections: above the second, idle
	// ones are closed down to the first. 0 is the default.
	LowWater, HighWater int

	Log *slog.Logger // nil: none

	// Options are added last. A simulated network takes QUIC's place by
	// one (libp2p.QUICReuse). They must not add transports: those would
	// bypass the gate.
	Options []libp2p.Option
}

// Connections are kept to this many by default. One costs about 150 KiB and
// ten goroutines with both its ends, and a network of up to a hundred nodes is
// a full mesh.
const (
	defaultLowWater  = 128
	defaultHighWater = 192
)

// Swarm is a libp2p host behind a gate.
type Swarm struct {
	Host host.Host

	gate   *gate // nil without membership
	member *member.Membership
	log    *slog.Logger
	stop   func() // ends the subscription to membership changes

	mdns   *finder
	ctx    context.Context // of the dials that mDNS starts
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a swarm that listens.
func New(c Config) (*Swarm, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	key, err := crypto.UnmarshalEd25519PrivateKey(c.Key)
	if err != nil {
		return nil, fmt.Errorf("swarm: key: %w", err)
	}
	s := &Swarm{member: c.Membership, log: c.Log, stop: func() {}}
	if c.Membership != nil {
		if c.Membership.Self() != member.KeyOf(c.Key) {
			return nil, errors.New("swarm: the membership is another peer's")
		}
		s.gate = newGate(c.Membership, c.Log)
	}
	listen := c.Listen
	if listen == nil {
		port := DefaultPort
		if !free(port) {
			port = 0
		}
		listen = listenOn(port)
	}
	if s.Host, err = s.newHost(c, key, listen); err != nil {
		return nil, fmt.Errorf("swarm: %w", err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.gate != nil {
		s.stop = c.Membership.OnChange(s.gate.enforce)
	}
	if c.MDNS {
		s.mdns = s.newFinder()
	}
	return s, nil
}

// listenOn returns the addresses for one port on all interfaces.
func listenOn(port int) []string {
	return []string{
		fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", port),
		fmt.Sprintf("/ip4/0.0.0.0/udp/%d/quic-v1", port),
		fmt.Sprintf("/ip6/::/tcp/%d", port),
		fmt.Sprintf("/ip6/::/udp/%d/quic-v1", port),
	}
}

// free tells whether nobody listens on port. libp2p itself would be content
// with one protocol of the two.
func free(port int) bool {
	t, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	defer t.Close()
	u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	u.Close()
	return true
}

func (s *Swarm) newHost(c Config, key crypto.PrivKey, listen []string) (host.Host, error) {
	low, high := c.LowWater, c.HighWater
	if high == 0 {
		low, high = defaultLowWater, defaultHighWater
	}
	resources, err := newResources(high)
	if err != nil {
		return nil, err
	}
	conns, err := newConnManager(low, high)
	if err != nil {
		resources.Close()
		return nil, err
	}
	o := []libp2p.Option{
		libp2p.Identity(key),
		libp2p.ListenAddrStrings(listen...),
		libp2p.Security(tlsID, newCorkTLS),
		libp2p.Muxer(muxerID, newMuxer()),
		libp2p.Transport(s.newTCP),
		libp2p.Transport(s.newQUIC),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(conns),
		libp2p.SwarmOpts(swarm.WithDialRanker(rankDials)),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
		libp2p.UserAgent("p2pfs"),
	}
	if len(listen) == 0 {
		o = append(o, libp2p.NoListenAddrs)
	}
	if c.NATPortMap {
		o = append(o, libp2p.NATPortMap())
	}
	return libp2p.New(append(o, c.Options...)...)
}

// newTCP is libp2p's constructor of the TCP transport, gated. Ports are not
// shared (SO_REUSEPORT): two homes on one machine would both take the default
// port, and each get half of the other's connections.
func (s *Swarm) newTCP(u transport.Upgrader, r network.ResourceManager, shared *tcpreuse.ConnMgr) (transport.Transport, error) {
	t, err := tcp.NewTCPTransport(u, r, shared, tcp.DisableReuseport())
	if err != nil {
		return nil, err
	}
	return s.gate.wrap(t), nil
}

// newQUIC is libp2p's constructor of the QUIC transport, gated.
func (s *Swarm) newQUIC(key crypto.PrivKey, m *quicreuse.ConnManager, psk pnet.PSK, g connmgr.ConnectionGater, r network.ResourceManager) (transport.Transport, error) {
	t, err := libp2pquic.NewTransport(key, m, psk, g, r)
	if err != nil {
		return nil, err
	}
	return s.gate.wrap(t), nil
}

// Close ends the host, its connections and all goroutines.
func (s *Swarm) Close() error {
	s.stop()
	s.cancel()
	if s.mdns != nil {
		s.mdns.close()
	}
	// First of all the network, and what its streams are still busy with: when
	// libp2p's host closes, what watches addresses ends first and leaves its queue
	// of peers that have identified themselves. Once that is full the next one waits
	// with a lock in its hand that the rest of the host needs in order to end.
	err := s.Host.Network().Close()
	s.idle()
	err = errors.Join(err, s.Host.Close())
	s.wg.Wait()
	return err
}

// idle waits until no stream that came in is being served, or for idleMost.
func (s *Swarm) idle() {
	for end := time.Now().Add(idleMost); time.Now().Before(end); time.Sleep(idlePause) {
		streams := 0
		err := s.Host.Network().ResourceManager().ViewSystem(func(r network.ResourceScope) error {
			streams = r.Stat().NumStreamsInbound
			return nil
		})
		if err != nil || streams == 0 {
			return
		}
	}
}

// A stream of a network that has closed is reset: whoever serves it notices at
// once, and may have to finish what it does.
const (
	idleMost  = 5 * time.Second
	idlePause = 5 * time.Millisecond
)

// ID returns the peer's own ID.
func (s *Swarm) ID() peer.ID { return s.Host.ID() }

// Addrs returns the addresses at which the peer may be reached, with its ID,
// as an invite carries them.
func (s *Swarm) Addrs() []string {
	var out []string
	for _, a := range s.Host.Addrs() {
		out = append(out, a.String()+"/p2p/"+s.Host.ID().String())
	}
	return out
}

// Connect connects to a peer unless it is already. Where the gate of either
// end refuses, the error wraps a *Refusal.
func (s *Swarm) Connect(ctx context.Context, p peer.AddrInfo) error {
	err := s.connect(ctx, p)
	if err == nil {
		return nil
	}
	// libp2p may report a dial that it does not repeat so soon after one
	// that was refused; the reason of that one is what matters.
	var r *Refusal
	if !errors.As(err, &r) {
		if r = s.Refused(p.ID); r != nil && errors.Is(err, swarm.ErrDialBackoff) {
			return fmt.Errorf("connect to %s: %w", p.ID, r)
		}
	}
	return fmt.Errorf("connect to %s: %w", p.ID, err)
}

// connect is libp2p's Connect, except that it is content with a connection
// that comes about otherwise: libp2p tries the addresses known at first to the
// end, even when the peer has been found on the LAN meanwhile or has dialed us.
func (s *Swarm) connect(ctx context.Context, p peer.AddrInfo) error {
	connected := func() bool { return s.Host.Network().Connectedness(p.ID) == network.Connected }
	if connected() {
		return s.Host.Connect(ctx, p) // which takes note of the addresses
	}
	sub, err := s.Host.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		return err
	}
	dial, cancel := context.WithCancel(ctx)
	defer cancel()
	var watch sync.WaitGroup
	watch.Go(func() {
		for e := range sub.Out() {
			if e.(event.EvtPeerIdentificationCompleted).Peer == p.ID {
				cancel()
			}
		}
	})
	err = s.Host.Connect(dial, p)
	sub.Close()
	watch.Wait()
	if err != nil && dial.Err() != nil && ctx.Err() == nil && connected() {
		return nil
	}
	return err
}

// Refused returns why the last dial of p was refused by a gate, nil if it was
// not.
func (s *Swarm) Refused(p peer.ID) *Refusal {
	if s.gate == nil {
		return nil
	}
	return s.gate.lastRefusal(p)
}

// Chain returns the certificates of a connected peer, nil if it is not
// connected or the network has none.
func (s *Swarm) Chain(p peer.ID) member.Chain {
	if s.gate == nil {
		return nil
	}
	return s.gate.chainOf(p)
}

// Join makes this peer, whose membership is not admitted yet, a member by an
// invite: it asks the peers that the invite names, all at once, and with
// Config.MDNS any member on the LAN. It returns the chain to keep, nil for an
// open network, which then is joined when any member is connected.
func (s *Swarm) Join(ctx context.Context, in *member.Invite) (member.Chain, error) {
	if s.gate == nil || s.member.Network() != in.Network || s.member.Open() != in.Open {
		return nil, member.ErrNetwork
	}
	if s.member.Admitted() && !in.Open {
		return s.member.Chain(), nil
	}
	peers, err := addrInfos(in.Addrs)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.gate.setInvite(in)
	defer s.gate.setInvite(nil)

	// Once one dial has passed the gate the others are called off; the
	// chain is read when all have ended, lest it changes after.
	results := make(chan error, len(peers))
	var dials sync.WaitGroup
	done := func() (member.Chain, error) {
		cancel()
		dials.Wait()
		return s.member.Chain(), nil
	}
	for _, p := range peers {
		dials.Go(func() {
			s.forgive(p.ID)
			results <- s.Connect(ctx, p)
		})
	}
	var errs []error
	for pending := len(peers); ; {
		if pending == 0 && (s.mdns == nil || final(errs)) {
			if len(errs) == 0 {
				errs = append(errs, errors.New("the invite names no address"))
			}
			return nil, errors.Join(errs...)
		}
		select {
		case err := <-results:
			pending--
			if err == nil {
				return done()
			}
			errs = append(errs, err)
		case <-s.found():
			if s.member.Admitted() {
				return done()
			}
		case <-ctx.Done():
			dials.Wait()
			return nil, errors.Join(append(errs, ctx.Err())...)
		}
	}
}

// found returns a channel that tells of connections that mDNS made, nil
// without mDNS.
func (s *Swarm) found() <-chan struct{} {
	if s.mdns == nil {
		return nil
	}
	return s.mdns.connected
}

// final tells whether a verdict is among errs that no other member will
// answer differently.
func final(errs []error) bool {
	return slices.ContainsFunc(errs, func(err error) bool {
		return errors.Is(err, member.ErrExpired) || errors.Is(err, member.ErrExpelled) || errors.Is(err, member.ErrSignature)
	})
}

// addrInfos groups multiaddrs with peer IDs by peer.
func addrInfos(addrs []string) ([]peer.AddrInfo, error) {
	var out []ma.Multiaddr
	for _, a := range addrs {
		m, err := ma.NewMultiaddr(a)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w", a, err)
		}
		out = append(out, m)
	}
	return peer.AddrInfosFromP2pAddrs(out...)
}

// Remember adds addresses of peers that were known in an earlier life.
func (s *Swarm) Remember(peers ...peer.AddrInfo) {
	for _, p := range peers {
		s.Host.Peerstore().AddAddrs(p.ID, p.Addrs, peerstore.RecentlyConnectedAddrTTL)
	}
}

// KeyOf returns the public key in an Ed25519 peer's ID.
func KeyOf(p peer.ID) (member.Key, error) {
	k, err := p.ExtractPublicKey()
	if err != nil {
		return member.Key{}, fmt.Errorf("peer %s: %w", p, err)
	}
	return rawKey(k)
}

func rawKey(k crypto.PubKey) (member.Key, error) {
	if k == nil || k.Type() != crypto.Ed25519 {
		return member.Key{}, errors.New("not an Ed25519 key")
	}
	b, err := k.Raw()
	if err != nil {
		return member.Key{}, err
	}
	return member.Key(b), nil
}

// PeerOf returns the ID of the peer with the given key.
func PeerOf(k member.Key) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(k[:])
	if err != nil {
		return "", err
	}
	return peer.IDFromPublicKey(pub)
}

// gateTimeout is how long a handshake at the gate may take: the four messages
// need two round trips.
const gateTimeout = 10 * time.Second
