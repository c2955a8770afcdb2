package swarm

import (
	"context"
	"net"
	"sync"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

const (
	tlsID   = libp2ptls.ID
	muxerID = yamux.ID
)

const (
	// maxMessage is the most that the muxer puts in one message. Larger
	// ones cost fewer copies and system calls (64 KiB: 2.7 CPU seconds a
	// GiB, both ends; 1 MiB: 2.3), and hold up other streams for longer.
	maxMessage = 1 << 20
	// maxWindow is the most that a stream's receiver lets arrive unread,
	// and so bounds what the streams of one peer can make us hold: 80 MB/s
	// a stream at a round trip of 50 ms.
	maxWindow = 4 << 20
)

// newMuxer returns libp2p's yamux with larger messages.
func newMuxer() network.Multiplexer {
	y := *yamux.DefaultTransport
	y.MaxMessageSize = maxMessage
	y.MaxStreamWindowSize = maxWindow
	return &y
}

// corkTLS is libp2p's TLS over connections that gather the records of one
// write into one system call, and read many at once. What goes over the wire
// is plain /tls/1.0.0.
type corkTLS struct{ *libp2ptls.Transport }

func newCorkTLS(id protocol.ID, key crypto.PrivKey, muxers []upgrader.StreamMuxer) (*corkTLS, error) {
	t, err := libp2ptls.New(id, key, muxers)
	if err != nil {
		return nil, err
	}
	return &corkTLS{t}, nil
}

// SecureInbound is the server's handshake.
func (t *corkTLS) SecureInbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	k := &cork{Conn: c}
	s, err := t.Transport.SecureInbound(ctx, k, p)
	if err != nil {
		return nil, err
	}
	return &corkConn{SecureConn: s, cork: k}, nil
}

// SecureOutbound is the client's handshake.
func (t *corkTLS) SecureOutbound(ctx context.Context, c net.Conn, p peer.ID) (sec.SecureConn, error) {
	k := &cork{Conn: c}
	s, err := t.Transport.SecureOutbound(ctx, k, p)
	if err != nil {
		return nil, err
	}
	return &corkConn{SecureConn: s, cork: k}, nil
}

// corkConn corks the connection below TLS for the length of one large write.
type corkConn struct {
	sec.SecureConn
	cork *cork

	mu sync.Mutex // one corked write at a time
}

// smallWrite is what fits one TLS record: there is nothing to gather.
const smallWrite = 16 << 10

func (c *corkConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) <= smallWrite {
		return c.SecureConn.Write(p)
	}
	c.cork.hold()
	n, err := c.SecureConn.Write(p)
	if e := c.cork.flush(); err == nil && e != nil {
		n, err = 0, e
	}
	return n, err
}

const (
	// gather is the most that one system call writes: a full message of
	// the muxer with its header and the overhead of its TLS records.
	gather = maxMessage + 16<<10
	// readAhead is how much is read at once while data pours in.
	readAhead = 256 << 10
)

// Buffers exist only while data moves: an idle connection has none.
var (
	gatherPool = sync.Pool{New: func() any { b := make([]byte, 0, gather); return &b }}
	readPool   = sync.Pool{New: func() any { b := make([]byte, readAhead); return &b }}
)

// cork is a connection whose writes can be held back for a moment and whose
// reads go ahead. Reads come from one goroutine at a time, as TLS's do.
type cork struct {
	net.Conn

	// Of the reader.
	buf  *[]byte // from readPool, nil unless it holds unread bytes
	next []byte  // the unread bytes, a part of buf
	more bool    // the last read filled all it was given

	mu   sync.Mutex
	on   bool
	held *[]byte // from gatherPool, nil unless it holds bytes
}

// Read reads ahead where the read before was filled to the brim. Where it was
// not, it reads into p directly: that read may well wait for long, and must
// not keep a buffer meanwhile.
func (k *cork) Read(p []byte) (int, error) {
	if k.buf == nil {
		if !k.more || len(p) >= readAhead {
			n, err := k.Conn.Read(p)
			k.more = n == len(p)
			return n, err
		}
		k.buf = readPool.Get().(*[]byte)
		n, err := k.Conn.Read(*k.buf)
		k.next = (*k.buf)[:n]
		k.more = n == readAhead
		if n == 0 {
			k.release()
			return 0, err
		}
		// err, if any, comes again with the next read.
	}
	n := copy(p, k.next)
	if k.next = k.next[n:]; len(k.next) == 0 {
		k.release()
	}
	return n, nil
}

func (k *cork) release() {
	readPool.Put(k.buf)
	k.buf, k.next = nil, nil
}

// Write writes, or holds p back while corked.
func (k *cork) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.on {
		return k.Conn.Write(p)
	}
	if k.held == nil {
		k.held = gatherPool.Get().(*[]byte)
	}
	if len(*k.held)+len(p) > gather {
		if err := k.writeHeld(); err != nil {
			return 0, err
		}
		if len(p) > gather {
			return k.Conn.Write(p)
		}
		k.held = gatherPool.Get().(*[]byte)
	}
	*k.held = append(*k.held, p...)
	return len(p), nil
}

// hold corks the connection.
func (k *cork) hold() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.on = true
}

// flush uncorks it and writes what was held back.
func (k *cork) flush() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.on = false
	return k.writeHeld()
}

func (k *cork) writeHeld() error {
	if k.held == nil {
		return nil
	}
	_, err := k.Conn.Write(*k.held)
	*k.held = (*k.held)[:0]
	gatherPool.Put(k.held)
	k.held = nil
	return err
}

// Close closes the connection. A buffer with unread bytes is left to the
// garbage collector: the reader may be using it.
func (k *cork) Close() error { return k.Conn.Close() }
