package swarm

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/member"
)

// The handshake at the gate, on the connection's first stream, which the
// dialer opens. Each message is a frame: type (1 byte), length of the body (4),
// body.
//
//	dialer → listener  hello    magic, version, MAC
//	listener → dialer  hello    magic, version, MAC
//	dialer → listener  claim    what, number of its deny list, chain or proof
//	listener → dialer  verdict  code; chains; deny list where newer
//	dialer → listener  end      code; deny list where newer
//
// The MAC is keyed by what only those who were invited know and covers who
// dials whom. A listener that gets a wrong one closes without a word: it has
// sent nothing by which to tell that it is a node at all.
const (
	gateMagic   = "pfGT"
	gateVersion = 1

	contextGate = "p2pfs 2026-11 gate"
)

// Types of frames. Add at the end, never reorder; likewise below.
const (
	frameHello   = 1
	frameClaim   = 2
	frameVerdict = 3
	frameEnd     = 4
)

// What a claim brings.
const (
	claimNothing = 0 // in an open network
	claimChain   = 1
	claimProof   = 2 // of an invite
)

const (
	helloLen   = 4 + 1 + 32
	maxClaim   = 1 + 8 + max(member.MaxChainLen, member.MaxProofLen)
	maxReason  = 200
	maxVerdict = 1 + 2*(2+member.MaxChainLen) + 8 + 4 + member.MaxDenyLen
	maxEnd     = 1 + max(maxReason, 4+member.MaxDenyLen)
)

// Codes of a verdict.
const (
	codeOK        = 0
	codeOther     = 1
	codeExpired   = 2
	codeExpelled  = 3
	codeNetwork   = 4
	codeSignature = 5
	codeChain     = 6
	codeTooLong   = 7
	codeTime      = 8
	codeNoChain   = 9 // the one who says so is not a member yet
	codeMalformed = 10
	codeVersion   = 11
)

// codes maps verdicts to codes and back.
var codes = []struct {
	code byte
	err  error
}{
	{codeExpired, member.ErrExpired},
	{codeExpelled, member.ErrExpelled},
	{codeNetwork, member.ErrNetwork},
	{codeSignature, member.ErrSignature},
	{codeTooLong, member.ErrTooLong},
	{codeTime, member.ErrTime},
	{codeNoChain, member.ErrNoChain},
	{codeChain, member.ErrChain},
	{codeMalformed, member.ErrMalformed},
	{codeVersion, member.ErrVersion},
	{codeOther, member.ErrRefused},
}

// ErrStranger is a peer that does not know the network, or does not let on
// that it does.
var ErrStranger = fmt.Errorf("%w: the peer does not answer as one of this network", member.ErrRefused)

// Refusal is a verdict at a gate. It wraps one of package member's errors, or
// ErrStranger.
type Refusal struct {
	Peer   peer.ID // the other end
	Theirs bool    // the other end refused us; else we refused it
	Reason string  // in the words of the one who refused
	Err    error
}

// Error says who refused whom and why.
func (r *Refusal) Error() string {
	if r.Theirs {
		return fmt.Sprintf("refused by %s: %s", r.Peer, r.Reason)
	}
	return fmt.Sprintf("refused %s: %s", r.Peer, r.Reason)
}

// Unwrap returns the verdict.
func (r *Refusal) Unwrap() error { return r.Err }

// refuse returns the refusal of p for err.
func refuse(p peer.ID, err error) *Refusal {
	return &Refusal{Peer: p, Reason: err.Error(), Err: err}
}

// mac returns what proves that one knows the network, as the dialer or as the
// listener of a connection between these two.
func (g *gate) mac(version byte, listens bool, dialer, listener member.Key) [32]byte {
	secret := g.member.Secret()
	key := digest.Derive(contextGate, secret[:])
	role := []byte{'d', version}
	if listens {
		role[0] = 'l'
	}
	return digest.Keyed(&key, role, dialer[:], listener[:])
}

func (g *gate) hello(version byte, listens bool, dialer, listener member.Key) []byte {
	mac := g.mac(version, listens, dialer, listener)
	return append(append([]byte(gateMagic), version), mac[:]...)
}

// checkHello returns the version in a hello whose MAC is right.
func (g *gate) checkHello(b []byte, listens bool, dialer, listener member.Key) (byte, error) {
	if len(b) != helloLen || string(b[:4]) != gateMagic || b[4] == 0 {
		return 0, ErrStranger
	}
	mac := g.mac(b[4], listens, dialer, listener)
	if subtle.ConstantTimeCompare(mac[:], b[5:]) != 1 {
		return 0, ErrStranger
	}
	return b[4], nil
}

// dialHandshake passes the gate of c's other end, and it ours.
func (g *gate) dialHandshake(ctx context.Context, c transport.CapableConn) (member.Key, member.Chain, error) {
	var none member.Key
	other := c.RemotePeer()
	theirs, err := rawKey(c.RemotePublicKey())
	if err != nil {
		return none, nil, refuse(other, fmt.Errorf("%w: %v", member.ErrRefused, err))
	}
	own := g.member.Self()
	s, err := c.OpenStream(ctx)
	if err != nil {
		return none, nil, err
	}
	s.SetDeadline(deadline())

	// Hello, both ways.
	if err := writeFrame(s, frameHello, g.hello(gateVersion, false, own, theirs)); err != nil {
		return none, nil, err
	}
	b, err := readFrame(s, frameHello, helloLen)
	if err != nil {
		if ctx.Err() != nil {
			return none, nil, ctx.Err()
		}
		return none, nil, refuse(other, ErrStranger)
	}
	version, err := g.checkHello(b, true, own, theirs)
	if err != nil {
		return none, nil, refuse(other, err)
	}
	if version > gateVersion {
		return none, nil, refuse(other, member.ErrVersion)
	}

	// Claim.
	claim, err := g.claim(own)
	if err != nil {
		return none, nil, refuse(other, err)
	}
	if err := writeFrame(s, frameClaim, claim); err != nil {
		return none, nil, err
	}

	// Verdict.
	b, err = readFrame(s, frameVerdict, maxVerdict)
	if err != nil {
		return none, nil, err
	}
	v, err := decodeVerdict(b)
	if err != nil {
		return none, nil, refuse(other, err)
	}
	if v.refusal != nil {
		v.refusal.Peer = other
		return none, nil, v.refusal
	}
	end, verdict := g.judge(v, theirs)
	if err := writeFrame(s, frameEnd, end); err != nil {
		return none, nil, err
	}
	if err := finish(s); err != nil {
		return none, nil, err
	}
	if verdict != nil {
		return none, nil, refuse(other, verdict)
	}
	return theirs, v.chain, nil
}

// claim returns what the dialer has to show.
func (g *gate) claim(own member.Key) ([]byte, error) {
	g.mu.Lock()
	in := g.invite
	g.mu.Unlock()
	chain := g.member.Chain()
	b := []byte{claimNothing}
	b = binary.BigEndian.AppendUint64(b, number(g.member.Deny()))
	switch {
	case g.member.Open():
		return b, nil
	case len(chain) > 0:
		b[0] = claimChain
		return append(b, chain.Encode()...), nil
	case in != nil:
		b[0] = claimProof
		return append(b, in.Prove(own).Encode()...), nil
	}
	return nil, member.ErrNoChain
}

// verdict is a listener's answer to a claim.
type verdict struct {
	refusal *Refusal     // instead of all the rest
	fresh   member.Chain // the dialer's new chain, where it showed an invite
	chain   member.Chain // the listener's own
	number  uint64       // of the listener's deny list
	deny    *member.DenyList
}

func encodeRefusal(err error) []byte {
	var code byte
	for _, c := range codes {
		if errors.Is(err, c.err) {
			code = c.code
			break
		}
	}
	if code == codeOK {
		code, err = codeOther, member.ErrRefused
	}
	reason := err.Error()
	return append([]byte{code}, reason[:min(len(reason), maxReason)]...)
}

func decodeRefusal(b []byte) (*Refusal, error) {
	if len(b) < 1 || b[0] == codeOK || len(b) > 1+maxReason {
		return nil, member.ErrMalformed
	}
	r := &Refusal{Theirs: true, Err: member.ErrRefused}
	for _, c := range codes {
		if c.code == b[0] {
			r.Err = c.err
		}
	}
	// The words come from outside and go to a terminal.
	r.Reason = strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, string(b[1:]))
	if r.Reason == "" {
		r.Reason = r.Err.Error()
	}
	return r, nil
}

func (v *verdict) encode() []byte {
	b := []byte{codeOK}
	for _, c := range []member.Chain{v.fresh, v.chain} {
		var e []byte
		if len(c) > 0 {
			e = c.Encode()
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(e)))
		b = append(b, e...)
	}
	b = binary.BigEndian.AppendUint64(b, v.number)
	return appendDeny(b, v.deny)
}

func decodeVerdict(b []byte) (*verdict, error) {
	if len(b) > 0 && b[0] != codeOK {
		r, err := decodeRefusal(b)
		return &verdict{refusal: r}, err
	}
	if len(b) == 0 {
		return nil, member.ErrMalformed
	}
	b = b[1:]
	v := &verdict{}
	for _, c := range []*member.Chain{&v.fresh, &v.chain} {
		if len(b) < 2 {
			return nil, member.ErrMalformed
		}
		n := int(binary.BigEndian.Uint16(b))
		b = b[2:]
		if n > len(b) {
			return nil, member.ErrMalformed
		}
		if n > 0 {
			var err error
			if *c, err = member.DecodeChain(b[:n]); err != nil {
				return nil, err
			}
			if len(*c) == 0 { // encoded as length 0, not as an empty chain
				return nil, member.ErrMalformed
			}
		}
		b = b[n:]
	}
	if len(b) < 8 {
		return nil, member.ErrMalformed
	}
	v.number = binary.BigEndian.Uint64(b)
	var err error
	v.deny, err = decodeDeny(b[8:])
	return v, err
}

// appendDeny appends a list's length and encoding, 0 where there is none.
func appendDeny(b []byte, l *member.DenyList) []byte {
	if l == nil {
		return binary.BigEndian.AppendUint32(b, 0)
	}
	e := l.Encode()
	return append(binary.BigEndian.AppendUint32(b, uint32(len(e))), e...)
}

// decodeDeny decodes what appendDeny appends and nothing more.
func decodeDeny(b []byte) (*member.DenyList, error) {
	if len(b) < 4 || int(binary.BigEndian.Uint32(b)) != len(b)-4 {
		return nil, member.ErrMalformed
	}
	if len(b) == 4 {
		return nil, nil
	}
	return member.DecodeDenyList(b[4:])
}

func number(l *member.DenyList) uint64 {
	if l == nil {
		return 0
	}
	return l.Number
}

// judge takes over what a verdict brings and returns the dialer's last word,
// with the error that it tells.
func (g *gate) judge(v *verdict, listener member.Key) ([]byte, error) {
	err := func() error {
		if g.member.Open() {
			if len(v.chain) > 0 || len(v.fresh) > 0 || v.deny != nil {
				return member.ErrMalformed
			}
			return nil
		}
		if v.deny != nil {
			if _, err := g.member.Update(v.deny); err != nil {
				return err
			}
		}
		if err := g.member.Check(v.chain, listener); err != nil {
			return err
		}
		if len(v.fresh) > 0 && !g.member.Admitted() {
			return g.member.SetChain(v.fresh)
		}
		if !g.member.Admitted() {
			return member.ErrNoChain
		}
		return nil
	}()
	if err != nil {
		return encodeRefusal(err), err
	}
	var newer *member.DenyList
	if l := g.member.Deny(); number(l) > v.number {
		newer = l
	}
	return appendDeny([]byte{codeOK}, newer), nil
}

// acceptHandshake is the listener's side. proven is called once the dialer
// has shown that it knows the network.
func (g *gate) acceptHandshake(c transport.CapableConn, proven func()) (member.Key, member.Chain, error) {
	var none member.Key
	theirs, err := rawKey(c.RemotePublicKey())
	if err != nil {
		return none, nil, err
	}
	own := g.member.Self()
	s, err := c.AcceptStream()
	if err != nil {
		return none, nil, err
	}
	s.SetDeadline(deadline())

	// Hello, both ways. Nothing is said to one that gets it wrong.
	b, err := readFrame(s, frameHello, helloLen)
	if err != nil {
		return none, nil, err
	}
	version, err := g.checkHello(b, false, theirs, own)
	if err != nil {
		return none, nil, err
	}
	proven()
	if err := writeFrame(s, frameHello, g.hello(min(version, gateVersion), true, theirs, own)); err != nil {
		return none, nil, err
	}

	// Claim.
	b, err = readFrame(s, frameClaim, maxClaim)
	if err != nil {
		return none, nil, err
	}
	v, chain, refused := g.hear(b, theirs)
	answer := encodeRefusal(refused)
	if refused == nil {
		answer = v.encode()
	}
	if err := writeFrame(s, frameVerdict, answer); err != nil {
		return none, nil, err
	}
	if refused != nil {
		// The reason must get through before the connection closes, which
		// on QUIC overtakes data: wait until the dialer has hung up.
		s.CloseWrite()
		io.Copy(io.Discard, io.LimitReader(s, 1))
		return none, nil, refused
	}

	// The dialer's last word.
	b, err = readFrame(s, frameEnd, maxEnd)
	if err != nil {
		return none, nil, err
	}
	if err := finish(s); err != nil {
		return none, nil, err
	}
	if len(b) == 0 {
		return none, nil, member.ErrMalformed
	}
	if b[0] != codeOK {
		r, err := decodeRefusal(b)
		if err != nil {
			return none, nil, err
		}
		r.Peer = c.RemotePeer()
		return none, nil, r
	}
	list, err := decodeDeny(b[1:])
	if err != nil {
		return none, nil, err
	}
	if list != nil {
		if _, err := g.member.Update(list); err != nil {
			return none, nil, err
		}
		if err := g.member.Check(chain, theirs); err != nil {
			return none, nil, err
		}
	}
	return theirs, chain, nil
}

// hear judges a claim. It returns the answer and the claimant's chain, or why
// it is refused.
func (g *gate) hear(b []byte, claimant member.Key) (*verdict, member.Chain, error) {
	if len(b) < 9 {
		return nil, nil, member.ErrMalformed
	}
	what, theirs, body := b[0], binary.BigEndian.Uint64(b[1:]), b[9:]
	if g.member.Open() {
		if what != claimNothing || len(body) > 0 {
			return nil, nil, member.ErrNetwork
		}
		return &verdict{}, nil, nil
	}
	v := &verdict{chain: g.member.Chain()}
	if len(v.chain) == 0 {
		return nil, nil, member.ErrNoChain
	}
	if l := g.member.Deny(); l != nil {
		v.number = l.Number
		if l.Number > theirs {
			v.deny = l
		}
	}
	switch what {
	case claimChain:
		chain, err := member.DecodeChain(body)
		if err != nil {
			return nil, nil, err
		}
		return v, chain, g.member.Check(chain, claimant)
	case claimProof:
		p, err := member.DecodeProof(body)
		if err != nil {
			return nil, nil, err
		}
		if v.fresh, err = g.member.Admit(p, claimant); err != nil {
			return nil, nil, err
		}
		// One that comes back may be denied by what its old chain says.
		return v, v.fresh, g.member.Check(v.fresh, claimant)
	}
	return nil, nil, member.ErrMalformed
}

// finish ends this side of the stream and waits for the end of the other, so
// that the stream is gone when the connection is handed on. CloseWrite, not
// Close: QUIC would count the other's last bytes as an error.
func finish(s network.MuxedStream) error {
	if err := s.CloseWrite(); err != nil {
		return err
	}
	var b [1]byte
	if n, err := s.Read(b[:]); n != 0 || err != io.EOF {
		if err == nil || err == io.EOF {
			err = member.ErrMalformed
		}
		return err
	}
	return nil
}

func writeFrame(w io.Writer, typ byte, body []byte) error {
	b := make([]byte, 0, 5+len(body))
	b = append(b, typ)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readFrame reads a frame of the given type with a body of at most limit
// bytes. The body is taken in as it comes, so that a length alone makes
// nobody allocate.
func readFrame(r io.Reader, typ byte, limit int) ([]byte, error) {
	var h [5]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if h[0] != typ || n > uint32(limit) {
		return nil, fmt.Errorf("gate: frame: %w", member.ErrMalformed)
	}
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < int(n) {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
