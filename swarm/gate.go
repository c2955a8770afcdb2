package swarm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"

	"github.com/p2pfs/p2pfs/member"
)

const (
	// maxPending is how many inbound handshakes a listener's gate has under
	// way at most. Above it one that has proven nothing yet makes room, so
	// that strangers who connect and say nothing do not shut members out.
	maxPending = 64
	// maxRefusals is how many peers' last refusals are remembered.
	maxRefusals = 256
)

// gate lets members through. A nil gate lets everybody through.
type gate struct {
	member *member.Membership
	log    *slog.Logger

	mu       sync.Mutex
	conns    map[*conn]struct{} // those let through
	refusals map[peer.ID]*Refusal
	invite   *member.Invite // while this peer joins
}

func newGate(m *member.Membership, log *slog.Logger) *gate {
	return &gate{member: m, log: log, conns: map[*conn]struct{}{}, refusals: map[peer.ID]*Refusal{}}
}

func (g *gate) setInvite(in *member.Invite) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.invite = in
}

func (g *gate) lastRefusal(p peer.ID) *Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refusals[p]
}

// remember keeps r, or forgets where r is nil, as p's last refusal.
func (g *gate) remember(p peer.ID, r *Refusal) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r == nil {
		delete(g.refusals, p)
		return
	}
	for q := range g.refusals {
		if len(g.refusals) < maxRefusals {
			break
		}
		delete(g.refusals, q)
	}
	g.refusals[p] = r
}

func (g *gate) chainOf(p peer.ID) member.Chain {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		if c.RemotePeer() == p {
			return c.chain
		}
	}
	return nil
}

// enforce closes the connections of those who are members no more.
func (g *gate) enforce() {
	if g.member.Open() || !g.member.Admitted() {
		return
	}
	g.mu.Lock()
	conns := make([]*conn, 0, len(g.conns))
	for c := range g.conns {
		conns = append(conns, c)
	}
	g.mu.Unlock()
	for _, c := range conns {
		if err := g.member.Check(c.chain, c.key); err != nil {
			g.log.Info("peer is not a member any more", "peer", c.RemotePeer(), "err", err)
			c.CloseWithError(network.ConnGated)
		}
	}
}

// wrap returns t with the gate before every connection.
func (g *gate) wrap(t transport.Transport) transport.Transport {
	if g == nil {
		return t
	}
	w := &gatedTransport{Transport: t, gate: g}
	if u, ok := t.(transport.DialUpdater); ok {
		return &updatingTransport{gatedTransport: w, updater: u}
	}
	return w
}

// gatedTransport is a transport whose connections have passed the gate.
type gatedTransport struct {
	transport.Transport
	gate *gate
}

// updatingTransport is one that also tells how a dial gets on, which libp2p
// uses to hold back other addresses while TCP does its handshakes.
type updatingTransport struct {
	*gatedTransport
	updater transport.DialUpdater
}

var (
	_ transport.Transport   = (*gatedTransport)(nil)
	_ transport.DialUpdater = (*updatingTransport)(nil)
)

func (t *gatedTransport) Dial(ctx context.Context, addr ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	c, err := t.Transport.Dial(ctx, addr, p)
	if err != nil {
		return nil, err
	}
	return t.gate.outbound(ctx, c)
}

func (t *updatingTransport) DialWithUpdates(ctx context.Context, addr ma.Multiaddr, p peer.ID, ch chan<- transport.DialUpdate) (transport.CapableConn, error) {
	c, err := t.updater.DialWithUpdates(ctx, addr, p, ch)
	if err != nil {
		return nil, err
	}
	return t.gate.outbound(ctx, c)
}

func (t *gatedTransport) Listen(addr ma.Multiaddr) (transport.Listener, error) {
	l, err := t.Transport.Listen(addr)
	if err != nil {
		return nil, err
	}
	return newListener(l, t.gate), nil
}

// ListenOrder passes on what libp2p sorts its listeners by.
func (t *gatedTransport) ListenOrder() int {
	if o, ok := t.Transport.(interface{ ListenOrder() int }); ok {
		return o.ListenOrder()
	}
	return 0
}

// Close passes on libp2p's optional close of a transport.
func (t *gatedTransport) Close() error {
	if c, ok := t.Transport.(interface{ Close() error }); ok {
		return c.Close()
	}
	return nil
}

func (t *gatedTransport) String() string { return fmt.Sprintf("gated %v", t.Transport) }

// conn is a connection that has passed the gate.
type conn struct {
	transport.CapableConn
	gate  *gate
	key   member.Key
	chain member.Chain
}

// admit returns c as one that has passed.
func (g *gate) admit(c transport.CapableConn, key member.Key, chain member.Chain) *conn {
	m := &conn{CapableConn: c, gate: g, key: key, chain: chain}
	g.mu.Lock()
	g.conns[m] = struct{}{}
	g.mu.Unlock()
	// A deny list may have come between the verdict and the line above.
	if err := g.member.Check(chain, key); err != nil {
		m.CloseWithError(network.ConnGated)
	}
	return m
}

func (c *conn) forget() {
	c.gate.mu.Lock()
	defer c.gate.mu.Unlock()
	delete(c.gate.conns, c)
}

// Close closes the connection.
func (c *conn) Close() error {
	c.forget()
	return c.CapableConn.Close()
}

// CloseWithError closes the connection and tells the other end why.
func (c *conn) CloseWithError(code network.ConnErrorCode) error {
	c.forget()
	return c.CapableConn.CloseWithError(code)
}

// Stat passes on the transport's own statistics, which embedding hides.
func (c *conn) Stat() network.ConnStats {
	if s, ok := c.CapableConn.(network.ConnStat); ok {
		return s.Stat()
	}
	return network.ConnStats{}
}

// outbound passes the gate as the dialer, or closes c.
func (g *gate) outbound(ctx context.Context, c transport.CapableConn) (transport.CapableConn, error) {
	ctx, cancel := context.WithTimeout(ctx, gateTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	key, chain, err := g.dialHandshake(ctx, c)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		g.remember(c.RemotePeer(), nil)
		return g.admit(c, key, chain), nil
	}
	c.CloseWithError(network.ConnGated)
	var r *Refusal
	if errors.As(err, &r) {
		g.remember(c.RemotePeer(), r)
		return nil, err
	}
	return nil, fmt.Errorf("gate: %w", err)
}

// listener hands out connections that have passed the gate.
type listener struct {
	transport.Listener
	gate   *gate
	passed chan transport.CapableConn
	done   chan struct{} // closed when accept has ended, after err is set
	err    error
	ctx    context.Context // ends handshakes under way
	cancel context.CancelFunc

	mu      sync.Mutex
	pending map[*pending]struct{}
}

// pending is an inbound handshake.
type pending struct {
	conn   transport.CapableConn
	proven bool // knows the network; guarded by listener.mu
}

func newListener(inner transport.Listener, g *gate) *listener {
	l := &listener{
		Listener: inner,
		gate:     g,
		passed:   make(chan transport.CapableConn),
		done:     make(chan struct{}),
		pending:  map[*pending]struct{}{},
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	go l.accept()
	return l
}

// accept runs the handshakes of all inbound connections until the inner
// listener ends.
func (l *listener) accept() {
	var wg sync.WaitGroup
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			l.err = err
			break
		}
		p := &pending{conn: c}
		if !l.enter(p) {
			c.CloseWithError(network.ConnRateLimited)
			continue
		}
		wg.Go(func() { l.handshake(p) })
	}
	l.cancel()
	wg.Wait()
	close(l.done)
}

// enter adds p to those pending and makes room for it where there is none.
func (l *listener) enter(p *pending) bool {
	l.mu.Lock()
	var evicted *pending
	if len(l.pending) >= maxPending {
		for q := range l.pending { // in random order
			if !q.proven {
				evicted = q
				break
			}
		}
		if evicted == nil {
			l.mu.Unlock()
			return false
		}
		delete(l.pending, evicted)
	}
	l.pending[p] = struct{}{}
	l.mu.Unlock()
	if evicted != nil {
		evicted.conn.CloseWithError(network.ConnRateLimited)
	}
	return true
}

func (l *listener) handshake(p *pending) {
	defer func() {
		l.mu.Lock()
		delete(l.pending, p)
		l.mu.Unlock()
	}()
	ctx, cancel := context.WithTimeout(l.ctx, gateTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	key, chain, err := l.gate.acceptHandshake(p.conn, func() {
		l.mu.Lock()
		p.proven = true
		l.mu.Unlock()
	})
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		l.gate.log.Debug("peer refused at the gate", "peer", p.conn.RemotePeer(), "addr", p.conn.RemoteMultiaddr(), "err", err)
		p.conn.CloseWithError(network.ConnGated)
		return
	}
	c := l.gate.admit(p.conn, key, chain)
	select {
	case l.passed <- c:
	case <-l.ctx.Done():
		c.Close()
	}
}

// Accept returns the next connection that has passed the gate.
func (l *listener) Accept() (transport.CapableConn, error) {
	for {
		select {
		case c := <-l.passed:
			if !c.IsClosed() {
				return c, nil
			}
			c.Close()
		case <-l.done:
			return nil, l.err
		}
	}
}

// Close ends the listener and the handshakes under way.
func (l *listener) Close() error {
	err := l.Listener.Close()
	l.cancel()
	<-l.done
	return err
}

// Addr and Multiaddr are the inner listener's.
var _ interface {
	Addr() net.Addr
	Multiaddr() ma.Multiaddr
} = (*listener)(nil)

// deadline is when a handshake that begins now must have ended.
func deadline() time.Time { return time.Now().Add(gateTimeout) }
