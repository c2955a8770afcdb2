package swarm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/p2pfs/p2pfs/member"
)

// Transports that every claim about strangers must hold on.
const (
	overTCP  = "/ip4/127.0.0.1/tcp/0"
	overQUIC = "/ip4/127.0.0.1/udp/0/quic-v1"
)

var overBoth = []string{overTCP, overQUIC}

func onEach(t *testing.T, f func(t *testing.T, listen string)) {
	for name, listen := range map[string]string{"tcp": overTCP, "quic": overQUIC} {
		t.Run(name, func(t *testing.T) { t.Parallel(); f(t, listen) })
	}
}

func newKey(t testing.TB) ed25519.PrivateKey {
	_, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return priv
}

// node is a swarm with its membership.
type node struct {
	*Swarm
	m *member.Membership
}

// founder starts the first node of a new network.
func founder(t testing.TB, listen ...string) (*node, ed25519.PrivateKey) {
	t.Helper()
	c, network, err := member.NewCredentials(newKey(t), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return start(t, c, listen...), network
}

func start(t testing.TB, c *member.Credentials, listen ...string) *node {
	t.Helper()
	m, err := member.New(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if listen == nil {
		listen = []string{}
	}
	s, err := New(Config{Key: c.Self, Listen: listen, Membership: m})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &node{s, m}
}

func (n *node) info() peer.AddrInfo {
	return peer.AddrInfo{ID: n.ID(), Addrs: n.Host.Network().ListenAddresses()}
}

func (n *node) invite(t testing.TB, life time.Duration, at ...*node) *member.Invite {
	t.Helper()
	var addrs []string
	for _, a := range at {
		addrs = append(addrs, a.Addrs()...)
	}
	in, err := n.m.Invite(life, addrs)
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// join starts a node that joins by in.
func join(t testing.TB, in *member.Invite, listen ...string) *node {
	t.Helper()
	n := start(t, in.Credentials(newKey(t)), listen...)
	if _, err := n.Join(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestMembersConnectAndIdentify(t *testing.T) {
	onEach(t, func(t *testing.T, listen string) {
		f, _ := founder(t, listen)
		a := join(t, f.invite(t, 0, f), listen)
		b := join(t, f.invite(t, 0, a), listen) // admitted by a
		if err := b.Connect(t.Context(), f.info()); err != nil {
			t.Fatal(err)
		}
		if err := probe(t, b.Host, f.info()); err != nil {
			t.Error(err)
		}
		chain := f.Chain(b.ID())
		if len(chain) != 3 || chain[2].Issuer != a.m.Self() || chain[2].Inviter != f.m.Self() {
			t.Errorf("got chain %v, want founder, a, b by the founder's invite", chain)
		}
	})
}

// probe tries what a stranger would: to learn p's protocols, open a stream,
// ping. It returns an error where all of it fails.
func probe(t *testing.T, h host.Host, p peer.AddrInfo) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	err := h.Connect(ctx, p)
	if err != nil {
		err = fmt.Errorf("connect: %w", err)
	} else if s, e := h.NewStream(ctx, p.ID, "/ipfs/ping/1.0.0"); e != nil {
		err = fmt.Errorf("stream: %w", e)
	} else {
		s.SetDeadline(time.Now().Add(3 * time.Second))
		if _, e := s.Write(make([]byte, 32)); e != nil {
			err = fmt.Errorf("write: %w", e)
		} else if _, e := io.ReadFull(s, make([]byte, 32)); e != nil {
			err = fmt.Errorf("read: %w", e)
		}
	}
	if protocols, _ := h.Peerstore().GetProtocols(p.ID); len(protocols) > 0 {
		return nil
	}
	if v, _ := h.Peerstore().Get(p.ID, "AgentVersion"); v != nil {
		return nil
	}
	if err == nil {
		return errors.New("no protocols learned")
	}
	return err
}

// plainHost is a libp2p host without a gate: a stranger as the world has them.
func plainHost(t testing.TB, key ed25519.PrivateKey, listen ...string) host.Host {
	t.Helper()
	k, err := crypto.UnmarshalEd25519PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	o := []libp2p.Option{libp2p.Identity(k), libp2p.ListenAddrStrings(listen...), libp2p.DisableMetrics(), libp2p.DisableRelay(),
		libp2p.Transport(tcp.NewTCPTransport), libp2p.Transport(libp2pquic.NewTransport), libp2p.Security(libp2ptls.ID, libp2ptls.New)}
	if len(listen) == 0 {
		o = append(o, libp2p.NoListenAddrs)
	}
	h, err := libp2p.New(o...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func TestStrangersGetNothing(t *testing.T) {
	onEach(t, func(t *testing.T, listen string) {
		f, network := founder(t, listen)
		other, _ := founder(t, listen)
		var streams atomic.Int32
		f.Host.SetStreamHandler("/p2pfs/test", func(s network_Stream) { streams.Add(1); s.Close() })

		expired := f.invite(t, time.Millisecond)
		time.Sleep(2 * time.Millisecond) // the invite's own end
		good := f.invite(t, 0, f)
		expelled := join(t, good, listen)
		list, err := member.NewDenyList(network, nil, time.Now(), member.Denied{Peer: expelled.m.Self(), Time: uint64(time.Now().UnixMilli())})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.m.Update(list); err != nil {
			t.Fatal(err)
		}
		expelled.Close()
		expelled = start(t, expelled.m.Credentials(), listen) // has forgotten what it learned
		for _, c := range []struct {
			name string
			host host.Host
			want error
		}{
			{"without any gate", plainHost(t, newKey(t), listen), nil},
			{"of another network", other.Host, ErrStranger},
			{"with the network's key and no chain", start(t, good.Credentials(newKey(t)), listen).Host, member.ErrNoChain},
			{"expelled", expelled.Host, member.ErrExpelled},
		} {
			t.Run(c.name, func(t *testing.T) {
				err := probe(t, c.host, f.info())
				if err == nil {
					t.Fatal("the stranger learned something")
				}
				if c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				// The other way round: strangers that are dialed.
				if len(c.host.Network().ListenAddresses()) > 0 {
					f.Host.Peerstore().RemovePeer(c.host.ID())
					f.Host.Peerstore().ClearAddrs(c.host.ID())
					if err := probe(t, f.Host, peer.AddrInfo{ID: c.host.ID(), Addrs: c.host.Network().ListenAddresses()}); err == nil {
						t.Error("a node accepted a stranger that it dialed")
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if s, err := c.host.NewStream(ctx, f.ID(), "/p2pfs/test"); err == nil {
					s.Write([]byte("x"))
					s.SetReadDeadline(time.Now().Add(time.Second))
					s.Read(make([]byte, 1))
				}
			})
		}
		t.Run("with an expired invite", func(t *testing.T) {
			n := start(t, expired.Credentials(newKey(t)))
			expired.Addrs = f.Addrs()
			if _, err := n.Join(t.Context(), expired); !errors.Is(err, member.ErrExpired) {
				t.Errorf("got %v, want %v", err, member.ErrExpired)
			}
			if n.m.Admitted() {
				t.Error("admitted")
			}
		})
		t.Run("with an invite of an expelled peer", func(t *testing.T) {
			in := expelled.invite(t, 0, f)
			n := start(t, in.Credentials(newKey(t)))
			if _, err := n.Join(t.Context(), in); !errors.Is(err, member.ErrExpelled) {
				t.Errorf("got %v, want %v", err, member.ErrExpelled)
			}
		})
		t.Run("members only then", func(t *testing.T) {
			if n := streams.Load(); n != 0 {
				t.Errorf("strangers opened %d streams", n)
			}
			m := join(t, f.invite(t, 0, f), listen)
			if err := probe(t, m.Host, f.info()); err != nil {
				t.Errorf("a member got nothing either: %v", err)
			}
			s, err := m.Host.NewStream(t.Context(), f.ID(), "/p2pfs/test")
			if err != nil {
				t.Fatal(err)
			}
			s.Write([]byte("x"))
			io.ReadAll(s)
			if n := streams.Load(); n != 1 {
				t.Errorf("got %d streams, want 1", n)
			}
		})
	})
}

// network_Stream keeps the name network free for a network's key.
type network_Stream = network.Stream

// TestLiarsGetNothing: one that knows the network's key, from an invite that
// it found, and shows what is not its own.
func TestLiarsGetNothing(t *testing.T) {
	onEach(t, func(t *testing.T, listen string) {
		f, _ := founder(t, listen)
		other, _ := founder(t, listen)
		in := f.invite(t, 0, f)
		tampered := f.m.Chain()
		tampered = append(tampered, tampered[0])
		tampered[1].Issuer, tampered[1].Subject = f.m.Self(), member.Key{7}
		proof := in.Prove(member.Key{7})
		for _, c := range []struct {
			name  string
			what  byte
			claim []byte
			want  error // nil: accepted
		}{
			{"nothing", claimNothing, nil, member.ErrMalformed},
			{"rubbish", claimChain, []byte("rubbish"), member.ErrMalformed},
			{"a member's chain", claimChain, f.m.Chain().Encode(), member.ErrChain},
			{"another network's chain", claimChain, other.m.Chain().Encode(), member.ErrChain},
			{"a made up chain", claimChain, tampered.Encode(), member.ErrChain},
			{"somebody's proof", claimProof, proof.Encode(), member.ErrSignature},
			{"another network's proof", claimProof, other.invite(t, 0).Prove(member.Key{7}).Encode(), member.ErrNetwork},
			{"its own proof", claimProof, nil, nil}, // so that the test can fail
		} {
			t.Run(c.name, func(t *testing.T) {
				key := newKey(t)
				m, err := member.New(in.Credentials(key), nil)
				if err != nil {
					t.Fatal(err)
				}
				if c.want == nil {
					c.claim = in.Prove(m.Self()).Encode()
				}
				conn := rawDial(t, key, f.info())
				s, err := conn.OpenStream(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				s.SetDeadline(time.Now().Add(5 * time.Second))
				writeFrame(s, frameHello, newGate(m, nil).hello(gateVersion, false, m.Self(), f.m.Self()))
				if _, err := readFrame(s, frameHello, helloLen); err != nil {
					t.Fatal(err)
				}
				writeFrame(s, frameClaim, append(append([]byte{c.what}, make([]byte, 8)...), c.claim...))
				b, err := readFrame(s, frameVerdict, maxVerdict)
				if err != nil {
					t.Fatal(err)
				}
				v, err := decodeVerdict(b)
				if err != nil {
					t.Fatal(err)
				}
				if c.want == nil {
					if v.refusal != nil {
						t.Error(v.refusal)
					}
					return
				}
				if v.refusal == nil || !errors.Is(v.refusal, c.want) {
					t.Errorf("got %v, want %v", v.refusal, c.want)
				}
				if len(v.chain) > 0 || v.deny != nil {
					t.Error("a liar was told the members' certificates")
				}
				// It ends its word as if it were accepted, and goes on.
				writeFrame(s, frameEnd, appendDeny([]byte{codeOK}, nil))
				s.CloseWrite()
				if s, err := conn.OpenStream(t.Context()); err == nil {
					s.SetDeadline(time.Now().Add(5 * time.Second))
					s.Write([]byte("\x13/multistream/1.0.0\n"))
					if b, err := io.ReadAll(s); len(b) > 0 || err == nil {
						t.Errorf("got %q, %v", b, err)
					}
				}
			})
		}
	})
}

// TestAListenerIsSilentToStrangers: one that does not know the network is sent
// not one byte on the gate's stream.
func TestAListenerIsSilentToStrangers(t *testing.T) {
	onEach(t, func(t *testing.T, listen string) {
		f, _ := founder(t, listen)
		c := rawDial(t, newKey(t), f.info())
		s, err := c.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(5 * time.Second))
		if err := writeFrame(s, frameHello, append([]byte(gateMagic+"\x01"), make([]byte, 32)...)); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(s); len(b) > 0 || err == nil {
			t.Errorf("got %x, %v, want nothing and a closed connection", b, err)
		}
	})
}

// rawDial connects up to the gate and no further.
func rawDial(t testing.TB, key ed25519.PrivateKey, p peer.AddrInfo) transport.CapableConn {
	t.Helper()
	h := plainHost(t, key)
	sw := h.Network().(interface {
		TransportForDialing(ma.Multiaddr) transport.Transport
	})
	c, err := sw.TransportForDialing(p.Addrs[0]).Dial(t.Context(), p.Addrs[0], p.ID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestPendingHandshakesAreBounded: strangers who connect and say nothing do
// not keep members out.
func TestPendingHandshakesAreBounded(t *testing.T) {
	f, _ := founder(t, overTCP)
	a := join(t, f.invite(t, 0, f))
	a.Close()
	h := plainHost(t, newKey(t))
	sw := h.Network().(interface {
		TransportForDialing(ma.Multiaddr) transport.Transport
	})
	addr := f.info().Addrs[0]
	for range connsPeer * 2 { // the resource manager keeps one peer to that
		c, err := sw.TransportForDialing(addr).Dial(t.Context(), addr, f.ID())
		if err == nil {
			defer c.Close()
		}
	}
	again := start(t, a.m.Credentials())
	if err := again.Connect(t.Context(), f.info()); err != nil {
		t.Error(err)
	}
}

func TestEvictionSparesTheProven(t *testing.T) {
	l := &listener{pending: map[*pending]struct{}{}}
	for range maxPending {
		l.pending[&pending{conn: closeCounter{}, proven: true}] = struct{}{}
	}
	if l.enter(&pending{conn: closeCounter{}}) {
		t.Error("entered although all are proven")
	}
	var closed int
	for p := range l.pending {
		p.proven, p.conn = false, closeCounter{n: &closed}
	}
	if !l.enter(&pending{conn: closeCounter{}}) || closed != 1 || len(l.pending) != maxPending {
		t.Errorf("closed %d, pending %d, want 1, %d", closed, len(l.pending), maxPending)
	}
}

type closeCounter struct {
	transport.CapableConn
	n *int
}

func (c closeCounter) CloseWithError(network.ConnErrorCode) error { *c.n++; return nil }

// TestExpulsionClosesConnections, of the expelled and of nobody else, and the
// list goes on to whoever connects.
func TestExpulsionClosesConnections(t *testing.T) {
	onEach(t, func(t *testing.T, listen string) {
		f, key := founder(t, listen)
		a := join(t, f.invite(t, 0, f), listen)
		b := join(t, f.invite(t, 0, f), listen)
		if err := a.Connect(t.Context(), b.info()); err != nil {
			t.Fatal(err)
		}
		list, err := member.NewDenyList(key, nil, time.Now(), member.Denied{Peer: a.m.Self(), Time: uint64(time.Now().UnixMilli())})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.m.Update(list); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the expelled peer to be gone", func() bool { return f.Host.Network().Connectedness(a.ID()) != network.Connected })
		if f.Host.Network().Connectedness(b.ID()) != network.Connected {
			t.Error("a member in good standing was disconnected")
		}
		// b hears of it when it connects anew, and drops a too.
		b.Host.Network().ClosePeer(f.ID())
		waitFor(t, "b to be gone", func() bool { return f.Host.Network().Connectedness(b.ID()) != network.Connected })
		if err := b.Connect(t.Context(), f.info()); err != nil {
			t.Fatal(err)
		}
		if got := b.m.Deny(); got == nil || got.Number != list.Number {
			t.Errorf("got list %v, want number %d", got, list.Number)
		}
		waitFor(t, "a to be gone from b", func() bool { return b.Host.Network().Connectedness(a.ID()) != network.Connected })
		// And the dialer's newer list reaches the listener.
		c := join(t, f.invite(t, 0, b), listen)
		old := c.m.Credentials()
		old.Deny = nil
		c.Close()
		waitFor(t, "c to be gone", func() bool { return b.Host.Network().Connectedness(c.ID()) != network.Connected })
		c = start(t, old, listen)
		if err := b.Connect(t.Context(), c.info()); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the list to arrive", func() bool { l := c.m.Deny(); return l != nil && l.Number == list.Number })
	})
}

// waitFor waits until ok, which nothing announces, or the test's end.
// A host ends although many have just identified themselves when its network
// closes, which without care blocks libp2p's own end for ever.
func TestCloseEndsWhilePeersIdentifyThemselves(t *testing.T) {
	a, _ := founder(t, overTCP)
	b := join(t, a.invite(t, time.Hour, a), overTCP)
	identified, err := a.Host.EventBus().Emitter(new(event.EvtPeerIdentificationCompleted))
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	over := a.Host.Network().(interface{ Done() <-chan struct{} }).Done()
	a.Host.SetStreamHandler("/test", func(s network.Stream) { // as identify's would
		close(begun)
		<-over
		for range 100 {
			_ = identified.Emit(event.EvtPeerIdentificationCompleted{Peer: b.ID(), Conn: s.Conn()})
		}
		_ = s.Reset()
	})
	if err := b.Connect(t.Context(), a.info()); err != nil {
		t.Fatal(err)
	}
	s, err := b.Host.NewStream(t.Context(), a.ID(), "/test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte{0}); err != nil { // protocols are agreed on late
		t.Fatal(err)
	}
	<-begun
	closed := make(chan error, 1)
	go func() { closed <- a.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it does not end")
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func TestOpenNetworks(t *testing.T) {
	id := member.OpenNetwork()
	open := func(n member.Network) *node {
		return start(t, &member.Credentials{Open: true, Network: n, Self: newKey(t)}, overBoth...)
	}
	a := open(id)
	in := a.invite(t, 0, a)
	b := start(t, in.Credentials(newKey(t)), overBoth...)
	if _, err := b.Join(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if err := probe(t, b.Host, a.info()); err != nil {
		t.Error(err)
	}
	if err := probe(t, open(member.OpenNetwork()).Host, a.info()); !errors.Is(err, ErrStranger) {
		t.Errorf("got %v, want %v", err, ErrStranger)
	}
	private, _ := founder(t, overBoth...)
	if err := probe(t, private.Host, a.info()); !errors.Is(err, ErrStranger) {
		t.Errorf("got %v, want %v", err, ErrStranger)
	}
}

func TestJoinAsksAllAddresses(t *testing.T) {
	f, _ := founder(t, overTCP)
	gone, _ := founder(t, overTCP)
	in := f.invite(t, 0, gone, f)
	gone.Close()
	n := start(t, in.Credentials(newKey(t)))
	chain, err := n.Join(t.Context(), in)
	if err != nil || len(chain) != 2 {
		t.Fatalf("got %d certificates, %v", len(chain), err)
	}
	again, err := n.Join(t.Context(), in)
	if err != nil || len(again) != 2 {
		t.Errorf("again: got %v", err)
	}
	nobody := f.invite(t, 0)
	n = start(t, nobody.Credentials(newKey(t)))
	if _, err := n.Join(t.Context(), nobody); err == nil {
		t.Error("joined by nobody")
	}
}

// TestRefusalsAreRemembered: libp2p does not dial again so soon, and the
// reason is still told.
func TestRefusalsAreRemembered(t *testing.T) {
	f, _ := founder(t, overTCP)
	n := start(t, f.invite(t, 0, f).Credentials(newKey(t)))
	for range 2 {
		if err := n.Connect(t.Context(), f.info()); !errors.Is(err, member.ErrNoChain) {
			t.Errorf("got %v, want %v", err, member.ErrNoChain)
		}
	}
	if r := n.Refused(f.ID()); r == nil || r.Theirs {
		t.Errorf("got %+v", r)
	}
}

func TestTheDefaultPortGivesWay(t *testing.T) {
	var swarms []*Swarm
	for range 2 {
		s, err := New(Config{Key: newKey(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		swarms = append(swarms, s)
	}
	seen := map[string]bool{}
	for _, s := range swarms {
		tcp := 0
		for _, a := range s.Host.Network().ListenAddresses() {
			if seen[a.String()] {
				t.Errorf("both listen on %s", a)
			}
			seen[a.String()] = true
			if strings.Contains(a.String(), "/tcp/") {
				tcp++
			}
		}
		if tcp == 0 {
			t.Error("no TCP")
		}
	}
}

func TestPortsAreNotShared(t *testing.T) {
	f, _ := founder(t, overTCP)
	taken := f.info().Addrs[0].String()
	k := newKey(t)
	if s, err := New(Config{Key: k, Listen: []string{taken}}); err == nil {
		s.Close()
		t.Error("two swarms listen on one port")
	}
}

func TestTCPIsPreferred(t *testing.T) {
	var in []ma.Multiaddr
	for _, a := range []string{
		"/ip4/192.0.2.1/udp/4017/quic-v1", "/ip4/192.168.1.2/udp/4017/quic-v1", "/ip6/2001:db8::1/udp/4017/quic-v1",
		"/ip4/192.0.2.1/tcp/4017", "/ip4/192.168.1.2/tcp/4017", "/ip6/2001:db8::1/tcp/4017",
	} {
		in = append(in, ma.StringCast(a))
	}
	got := rankDials(in)
	if len(got) != len(in) {
		t.Fatalf("got %d addresses, want %d", len(got), len(in))
	}
	var last time.Duration
	for i, d := range got {
		isTCP := strings.Contains(d.Addr.String(), "/tcp/")
		if isTCP != (i < 3) {
			t.Errorf("%s is number %d", d.Addr, i)
		}
		if isTCP {
			last = max(last, d.Delay)
		} else if d.Delay < last+quicDelay {
			t.Errorf("%s after %v, TCP after %v", d.Addr, d.Delay, last)
		}
	}
	if got := rankDials(in[:1]); len(got) != 1 || got[0].Delay != 0 {
		t.Errorf("QUIC alone: got %v, want no delay", got)
	}
}

func TestPeerIDsAreKeys(t *testing.T) {
	k := member.KeyOf(newKey(t))
	p, err := PeerOf(k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := KeyOf(p); err != nil || got != k {
		t.Errorf("got %v, %v, want %v", got, err, k)
	}
	if _, err := KeyOf("x"); err == nil {
		t.Error("a bad peer ID has a key")
	}
}

// TestMDNSStartsWithoutAddresses: a node on loopback only, or one that does
// not listen, does without or with what it has.
func TestMDNSStartsWithoutAddresses(t *testing.T) {
	for _, listen := range [][]string{{}, {overTCP}} {
		s, err := New(Config{Key: newKey(t), Listen: listen, MDNS: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	a, b := serviceName(member.Network{1}), serviceName(member.Network{2})
	if a == b || strings.Contains(a, "0100") {
		t.Errorf("got %s and %s", a, b)
	}
}

// TestMDNSRecords: what is announced is understood, and of what strangers
// announce only what can be dialed as it stands, and not without end.
func TestMDNSRecords(t *testing.T) {
	p, err := PeerOf(member.KeyOf(newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	addrs := []ma.Multiaddr{
		ma.StringCast("/ip4/198.51.100.1/tcp/4017"),
		ma.StringCast("/ip6/2001:db8::1/udp/4017/quic-v1"),
	}
	text, ips := records(p, addrs)
	got := answers(text)
	if len(got) != 1 || got[0].ID != p || !slices.EqualFunc(got[0].Addrs, addrs, ma.Multiaddr.Equal) {
		t.Errorf("got %v of %v, want %v", got, text, addrs)
	}
	if !slices.Equal(ips, []string{"198.51.100.1", "2001:db8::1"}) {
		t.Errorf("got IP addresses %v", ips)
	}
	if text, _ := records(p, nil); len(text) != 0 {
		t.Errorf("got %v to announce of no address", text)
	}

	id := "/p2p/" + p.String()
	bad := []string{
		"", "x", "/ip4/198.51.100.1/tcp/1" + id,
		"dnsaddr=", "dnsaddr=/", "dnsaddr=x", "dnsaddr=" + id,
		"dnsaddr=/ip4/198.51.100.1/tcp/1",
		"dnsaddr=/dns4/example.com/tcp/1" + id,
		"dnsaddr=/dnsaddr/example.com" + id,
	}
	if got := answers(bad); len(got) != 0 {
		t.Errorf("got %v of what is not to be dialed", got)
	}
	many := bad
	for port := range 2 * maxFound {
		many = append(many, fmt.Sprintf("dnsaddr=/ip4/198.51.100.1/tcp/%d%s", port+1, id))
	}
	if got := answers(many); len(got) != 1 || len(got[0].Addrs) != maxFound {
		t.Errorf("got %v, want the first %d addresses", got, maxFound)
	}
}

// TestPlainTLSInteroperates: a peer with libp2p's own TLS is understood.
func TestPlainTLSInteroperates(t *testing.T) {
	s, err := New(Config{Key: newKey(t), Listen: []string{overTCP}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Host.SetStreamHandler("/echo", func(s network.Stream) { io.Copy(s, s); s.Close() })
	h := plainHost(t, newKey(t))
	if err := h.Connect(t.Context(), peer.AddrInfo{ID: s.ID(), Addrs: s.Host.Network().ListenAddresses()}); err != nil {
		t.Fatal(err)
	}
	st, err := h.NewStream(t.Context(), s.ID(), "/echo")
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 5<<20)
	rand.Read(want)
	go func() { st.Write(want); st.CloseWrite() }()
	got, err := io.ReadAll(st)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
	}
}

// TestCorkKeepsBytesAndBuffers: whatever the sizes of reads and writes, all
// bytes arrive, and an idle connection keeps no buffer.
func TestCorkKeepsBytesAndBuffers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w, r := &cork{Conn: out}, &cork{Conn: in}
	want := make([]byte, 9<<20)
	rand.Read(want)
	done := make(chan struct{})
	go func() {
		defer close(done)
		left := want
		for i := 0; len(left) > 0; i++ {
			n := min(len(left), []int{1, 100, 16 << 10, 300 << 10, 2 << 20}[i%5])
			w.hold()
			for p := left[:n]; len(p) > 0; {
				m := min(len(p), 17000)
				w.Write(p[:m])
				p = p[m:]
			}
			w.flush()
			left = left[n:]
		}
		w.Close()
	}()
	var got []byte
	for i := 0; ; i++ {
		p := make([]byte, []int{5, 600, 16 << 10, 1 << 20}[i%4])
		n, err := r.Read(p)
		got = append(got, p[:n]...)
		if err != nil {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, want %d", len(got), len(want))
	}
	<-done
	if r.buf != nil || w.held != nil {
		t.Error("a buffer is kept")
	}
}

func FuzzVerdict(f *testing.F) {
	c, network, err := member.NewCredentials(ed25519.NewKeyFromSeed(make([]byte, 32)), time.UnixMilli(1800000000000))
	if err != nil {
		f.Fatal(err)
	}
	l, _ := member.NewDenyList(network, nil, time.UnixMilli(1800000000000), member.Denied{Peer: member.Key{1}})
	f.Add((&verdict{}).encode())
	f.Add((&verdict{chain: c.Chain, fresh: c.Chain, number: l.Number, deny: l}).encode())
	f.Add(encodeRefusal(member.ErrExpired))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeVerdict(b)
		if err != nil || v.refusal != nil {
			return
		}
		if e := v.encode(); !bytes.Equal(e, b) {
			t.Errorf("decoded %x, encoded %x", b, e)
		}
	})
}

// FuzzFrames feeds the listener's side whatever a dialer that knows the
// network may send after its hello.
func FuzzFrames(f *testing.F) {
	c, _, err := member.NewCredentials(ed25519.NewKeyFromSeed(make([]byte, 32)), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	m, err := member.New(c, nil)
	if err != nil {
		f.Fatal(err)
	}
	g := newGate(m, nil)
	claim, _ := g.claim(m.Self())
	f.Add(claim)
	in, _ := m.Invite(0, nil)
	f.Add(append(append([]byte{claimProof}, make([]byte, 8)...), in.Prove(member.Key{1}).Encode()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, chain, err := g.hear(b, member.Key{1}); err == nil && chain.Subject() != (member.Key{1}) {
			t.Errorf("a stranger's claim %x was accepted", b)
		}
		decodeDeny(b)
		decodeRefusal(b)
		readFrame(bytes.NewReader(b), frameClaim, maxClaim)
	})
}

func TestRefusalReasonsAreHarmless(t *testing.T) {
	for _, c := range codes {
		r, err := decodeRefusal(encodeRefusal(fmt.Errorf("\x1b[31mred: %w", c.err)))
		if err != nil || !errors.Is(r, c.err) {
			t.Errorf("got %v, %v, want %v", r, err, c.err)
		}
		if strings.ContainsRune(r.Error(), 0x1b) {
			t.Errorf("got %q", r.Error())
		}
	}
	if r, err := decodeRefusal([]byte{200, 'x'}); err != nil || !errors.Is(r, member.ErrRefused) {
		t.Errorf("a code from the future: got %v, %v", r, err)
	}
}

// Throughput over loopback of one connection, corked TLS against libp2p's.
func BenchmarkTCP(b *testing.B) {
	for _, corked := range []bool{true, false} {
		for _, streams := range []int{1, 8} {
			b.Run(fmt.Sprintf("corked=%v/streams=%d", corked, streams), func(b *testing.B) { benchmark(b, corked, streams) })
		}
	}
}

func benchmark(b *testing.B, corked bool, streams int) {
	var from, to host.Host
	if corked {
		f, _ := founder(b, overTCP)
		a := join(b, f.invite(b, 0, f))
		from, to = a.Host, f.Host
	} else {
		to, from = plainHost(b, newKey(b), overTCP), plainHost(b, newKey(b))
		if err := from.Connect(b.Context(), peer.AddrInfo{ID: to.ID(), Addrs: to.Network().ListenAddresses()}); err != nil {
			b.Fatal(err)
		}
	}
	to.SetStreamHandler("/bench", func(s network.Stream) {
		buf := make([]byte, 256<<10)
		for {
			if _, err := s.Read(buf); err != nil {
				break
			}
		}
		s.Close()
	})
	const size = 16 << 20 // a stream, an iteration
	block := make([]byte, 256<<10)
	rand.Read(block)
	b.SetBytes(int64(streams) * size)
	b.ResetTimer()
	for range b.N {
		done := make(chan error, streams)
		for range streams {
			go func() {
				s, err := from.NewStream(b.Context(), to.ID(), "/bench")
				if err != nil {
					done <- err
					return
				}
				for range size / len(block) {
					if _, err := s.Write(block); err != nil {
						done <- err
						return
					}
				}
				s.CloseWrite()
				_, err = s.Read(make([]byte, 1)) // its end
				if err == io.EOF {
					err = nil
				}
				done <- err
			}()
		}
		for range streams {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
	}
}
