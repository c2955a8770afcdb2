package member

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/p2pfs/p2pfs/internal/digest"
)

const (
	// InvitePrefix begins the text of every invite.
	InvitePrefix = "p2pfs-invite:"
	// InviteLife is how long an invite holds unless said otherwise: long
	// enough to reach a friend, short enough that one found in an old mail
	// is worth nothing.
	InviteLife = 7 * 24 * time.Hour
	// MaxAddrs is the most addresses in an invite, MaxAddrLen the length of
	// the longest.
	MaxAddrs   = 16
	MaxAddrLen = 256
)

const (
	inviteOpen      = 1 // flag: the network is open
	inviteSum       = 4 // bytes of the checksum
	contextInvite   = "p2pfs 2026-11 invite checksum"
	maxInviteBinary = 2 + 32 + 1 + (MaxChain+1)*certLen + 32 + 1 + MaxAddrs*(2+MaxAddrLen) + inviteSum
)

// Invite is the right to join a network, until it expires. Whoever has it can
// join, any number of times: it is passed on like a password.
type Invite struct {
	Open    bool
	Network Network
	// The fields below down to Seed are of private networks only.
	Key   Key   // the network's public key
	Chain Chain // the issuer's
	Cert  Cert  // the issuer's word for the invite key
	Seed  [ed25519.SeedSize]byte

	Addrs []string // multiaddrs of members, with /p2p/ID, to ask first
}

// newInvite returns an invite issued by priv, whose chain is given.
func newInvite(network Key, chain Chain, priv ed25519.PrivateKey, now time.Time, life time.Duration, addrs []string) *Invite {
	in := &Invite{Network: NetworkOf(network), Key: network, Chain: chain, Addrs: addrs}
	rand.Read(in.Seed[:])
	subject := KeyOf(ed25519.NewKeyFromSeed(in.Seed[:]))
	in.Cert = newCert(in.Network, KindInvite, subject, Key{}, priv, millis(now), millis(now.Add(life)))
	return in
}

// Expires returns when in ends; the zero time where it never does.
func (in *Invite) Expires() time.Time {
	if in.Open {
		return time.Time{}
	}
	return time.UnixMilli(int64(in.Cert.Expires))
}

// Verify tells whether in is sound and still holds. The member that admits
// decides by its own clock and deny list.
func (in *Invite) Verify(now time.Time) error {
	if in.Open {
		return nil
	}
	if err := in.Chain.Verify(in.Key, in.Cert.Issuer, now, nil); err != nil {
		return err
	}
	if KeyOf(ed25519.NewKeyFromSeed(in.Seed[:])) != in.Cert.Subject {
		return ErrSignature
	}
	if err := in.Cert.verify(in.Network, now); err != nil {
		return err
	}
	if millis(now) >= in.Cert.Expires {
		return ErrExpired
	}
	return nil
}

// String returns in as one line of text.
func (in *Invite) String() string {
	b := []byte{version, 0}
	if in.Open {
		b[1] = inviteOpen
		b = append(b, in.Network[:]...)
	} else {
		b = append(b, in.Key[:]...)
		b = in.Chain.append(b)
		b = in.Cert.append(b)
		b = append(b, in.Seed[:]...)
	}
	b = append(b, byte(len(in.Addrs)))
	for _, a := range in.Addrs {
		b = binary.BigEndian.AppendUint16(b, uint16(len(a)))
		b = append(b, a...)
	}
	sum := digest.Derive(contextInvite, b)
	b = append(b, sum[:inviteSum]...)
	return InvitePrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseInvite reads the text of an invite; white space around it does not
// matter. It verifies the checksum, no signature.
func ParseInvite(text string) (*Invite, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(text), InvitePrefix)
	if !ok {
		return nil, fmt.Errorf("invite: %w: does not begin with %q", ErrMalformed, InvitePrefix)
	}
	if len(text) > base64.RawURLEncoding.EncodedLen(maxInviteBinary) {
		return nil, fmt.Errorf("invite: %w: too long", ErrMalformed)
	}
	// The decoder skips line breaks, which would give a second text for
	// the same invite.
	if strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("invite: %w: more than one line", ErrMalformed)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("invite: %w: %v", ErrMalformed, err)
	}
	if len(b) > 0 && b[0] > version {
		return nil, fmt.Errorf("invite: version %d: %w", b[0], ErrVersion)
	}
	if len(b) < inviteSum {
		return nil, fmt.Errorf("invite: %w: cut short", ErrMalformed)
	}
	body := b[:len(b)-inviteSum]
	sum := digest.Derive(contextInvite, body)
	if string(sum[:inviteSum]) != string(b[len(body):]) {
		return nil, fmt.Errorf("invite: %w: the checksum does not fit: mistyped or cut short", ErrMalformed)
	}
	return decodeInvite(body)
}

func decodeInvite(body []byte) (*Invite, error) {
	d := decoder{what: "invite", b: body}
	d.version()
	in := &Invite{}
	switch flags := d.byte(); {
	case d.err != nil:
	case flags == inviteOpen:
		in.Open = true
		in.Network = d.key()
	case flags == 0:
		in.Key = d.key()
		in.Network = NetworkOf(in.Key)
		in.Chain = d.chain()
		in.Cert = d.cert()
		in.Seed = d.key()
		if d.err == nil && (len(in.Chain) == 0 || in.Cert.Kind != KindInvite) {
			d.fail("no issuer")
		}
	default:
		d.fail("flags %#x", flags)
	}
	n := int(d.byte())
	if n > MaxAddrs {
		d.fail("%d addresses", n)
		n = 0
	}
	for range n {
		a := string(d.take(int(d.uint16())))
		if d.err != nil {
			break
		}
		if err := checkAddr(a); err != nil {
			d.fail("%v", err)
		}
		in.Addrs = append(in.Addrs, a)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return in, nil
}

// checkAddr tells whether a may be a multiaddr with a peer ID. What it means
// is the swarm's matter.
func checkAddr(a string) error {
	if len(a) > MaxAddrLen {
		return fmt.Errorf("address of %d bytes", len(a))
	}
	if !strings.HasPrefix(a, "/") || !strings.Contains(a, "/p2p/") {
		return fmt.Errorf("address %.40q has no peer ID", a)
	}
	for i := range len(a) {
		if a[i] <= ' ' || a[i] > '~' {
			return fmt.Errorf("address %.40q", a)
		}
	}
	return nil
}

// Proof is what a newcomer shows to be admitted: the invite without its
// private key, and a signature by that key over the newcomer's own. Seen by
// others it helps nobody else.
type Proof struct {
	Chain  Chain // of the invite's issuer
	Invite Cert
	Sig    [ed25519.SignatureSize]byte
}

// proofMagic begins an encoded proof; MaxProofLen is the longest.
const (
	proofMagic  = "pfPR"
	MaxProofLen = 4 + 1 + 1 + (MaxChain+1)*certLen + ed25519.SignatureSize
)

// Prove returns the proof for the newcomer with the given key.
func (in *Invite) Prove(newcomer Key) *Proof {
	priv := ed25519.NewKeyFromSeed(in.Seed[:])
	p := &Proof{Chain: in.Chain, Invite: in.Cert}
	p.Sig = [64]byte(ed25519.Sign(priv, signed(domainProof, in.Network, newcomer[:])))
	return p
}

// Verify tells whether p lets newcomer in, by the verifier's clock and list.
func (p *Proof) Verify(network, newcomer Key, now time.Time, deny *DenyList) error {
	if err := p.Chain.Verify(network, p.Invite.Issuer, now, deny); err != nil {
		return err
	}
	n := NetworkOf(network)
	if p.Invite.Kind != KindInvite {
		return ErrChain
	}
	if err := p.Invite.verify(n, now); err != nil {
		return err
	}
	if !ed25519.Verify(p.Invite.Subject[:], signed(domainProof, n, newcomer[:]), p.Sig[:]) {
		return ErrSignature
	}
	if millis(now) >= p.Invite.Expires {
		return ErrExpired
	}
	if _, found := deny.find(newcomer); found {
		return ErrExpelled
	}
	return nil
}

// Encode returns p as it is sent.
func (p *Proof) Encode() []byte {
	b := append([]byte(proofMagic), version)
	b = p.Chain.append(b)
	b = p.Invite.append(b)
	return append(b, p.Sig[:]...)
}

// DecodeProof decodes what Encode gives. It verifies no signature.
func DecodeProof(b []byte) (*Proof, error) {
	d := decoder{what: "invite proof", b: b}
	d.header(proofMagic)
	p := &Proof{Chain: d.chain(), Invite: d.cert(), Sig: d.sig()}
	if err := d.end(); err != nil {
		return nil, err
	}
	return p, nil
}
