package member

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"time"
)

// MaxChain is the most certificates a chain may have. A member that far from
// the founder can admit nobody; a newcomer then asks another member.
const MaxChain = 64

// certLen is the length of an encoded certificate.
const certLen = 2 + 3*32 + 2*8 + ed25519.SignatureSize

// Certificates are dated by the clock of who issued them. A date before
// earliest cannot be, one more than maxSkew ahead of the verifier's clock, or
// that much before the certificate it rests on, is not believed: expulsion
// goes by these dates.
const (
	earliest = 1767225600000 // 2026-01-01T00:00:00Z
	maxSkew  = 24 * time.Hour
)

// Kind tells what a certificate's subject is.
type Kind uint8

// Kinds, as encoded: add at the end, never reorder.
const (
	KindPeer   Kind = 1 // a peer: a link of a chain
	KindInvite Kind = 2 // an invite key: signs newcomers' keys until it expires
)

// Cert is a signed statement of a member (or the network key) about a key.
type Cert struct {
	Kind    Kind
	Subject Key
	Issuer  Key
	Inviter Key    // who made the invite through which the peer came in; zero if none
	Issued  uint64 // unix ms, by the issuer's clock
	Expires uint64 // unix ms; of a peer's certificate 0
	Sig     [ed25519.SignatureSize]byte
}

// newCert returns a certificate issued and signed by priv.
func newCert(n Network, kind Kind, subject, inviter Key, priv ed25519.PrivateKey, issued, expires uint64) Cert {
	c := Cert{Kind: kind, Subject: subject, Issuer: KeyOf(priv), Inviter: inviter, Issued: issued, Expires: expires}
	c.Sig = [64]byte(ed25519.Sign(priv, signed(domainCert, n, c.body())))
	return c
}

// body returns what the signature covers.
func (c *Cert) body() []byte {
	b := make([]byte, 0, certLen)
	b = append(b, version, byte(c.Kind))
	b = append(b, c.Subject[:]...)
	b = append(b, c.Issuer[:]...)
	b = append(b, c.Inviter[:]...)
	b = binary.BigEndian.AppendUint64(b, c.Issued)
	return binary.BigEndian.AppendUint64(b, c.Expires)
}

// append appends c's encoding to b.
func (c *Cert) append(b []byte) []byte {
	return append(append(b, c.body()...), c.Sig[:]...)
}

// decodeCert decodes the certificate of exactly certLen bytes.
func decodeCert(b []byte) (Cert, error) {
	var c Cert
	if len(b) != certLen {
		return c, fmt.Errorf("certificate: %w: %d bytes", ErrMalformed, len(b))
	}
	if b[0] != version {
		return c, fmt.Errorf("certificate: version %d: %w", b[0], versionErr(b[0]))
	}
	c.Kind = Kind(b[1])
	copy(c.Subject[:], b[2:])
	copy(c.Issuer[:], b[34:])
	copy(c.Inviter[:], b[66:])
	c.Issued = binary.BigEndian.Uint64(b[98:])
	c.Expires = binary.BigEndian.Uint64(b[106:])
	copy(c.Sig[:], b[114:])
	return c, c.check()
}

// check tells whether c's fields fit its kind.
func (c *Cert) check() error {
	switch {
	case c.Kind == KindPeer && c.Expires == 0:
	case c.Kind == KindInvite && c.Expires > c.Issued && c.Inviter.IsZero():
	default:
		return fmt.Errorf("certificate: %w: kind %d", ErrMalformed, c.Kind)
	}
	if c.Subject.IsZero() || c.Issuer.IsZero() {
		return fmt.Errorf("certificate: %w: no subject or issuer", ErrMalformed)
	}
	return nil
}

// verify tells whether c's signature and dates hold. Whether the issuer had
// the right to issue it is the chain's matter.
func (c *Cert) verify(n Network, now time.Time) error {
	if err := c.check(); err != nil {
		return err
	}
	if c.Issued < earliest || c.Issued > millis(now.Add(maxSkew)) {
		return ErrTime
	}
	if !ed25519.Verify(c.Issuer[:], signed(domainCert, n, c.body()), c.Sig[:]) {
		return ErrSignature
	}
	return nil
}

// Chain is the certificates that lead from a network's key to a peer's.
type Chain []Cert

// Found returns the founder's chain: one certificate, by the network key.
func Found(network ed25519.PrivateKey, founder Key, now time.Time) Chain {
	n := NetworkOf(KeyOf(network))
	return Chain{newCert(n, KindPeer, founder, Key{}, network, millis(now), 0)}
}

// Subject returns the key that c leads to, zero where c is empty.
func (c Chain) Subject() Key {
	if len(c) == 0 {
		return Key{}
	}
	return c[len(c)-1].Subject
}

// Verify tells whether c leads from the network's key to subject and neither
// is denied: deny may be nil. The error wraps ErrRefused.
func (c Chain) Verify(network, subject Key, now time.Time, deny *DenyList) error {
	switch {
	case len(c) == 0:
		return ErrNoChain
	case len(c) > MaxChain:
		return ErrTooLong
	case c.Subject() != subject:
		return ErrChain
	case c[0].Issuer != network:
		return ErrNetwork
	}
	n := NetworkOf(network)
	issuer := network
	seen := map[Key]bool{network: true}
	for i := range c {
		t := &c[i]
		if t.Kind != KindPeer || t.Issuer != issuer || seen[t.Subject] {
			return ErrChain
		}
		if i > 0 && t.Issued+uint64(maxSkew.Milliseconds()) < c[i-1].Issued {
			return ErrTime
		}
		if err := t.verify(n, now); err != nil {
			return err
		}
		seen[t.Subject] = true
		issuer = t.Subject
	}
	return deny.Check(c)
}

// chainMagic begins a chain that stands alone, MaxChainLen is the length of
// the longest.
const (
	chainMagic  = "pfCH"
	MaxChainLen = 4 + 1 + 1 + MaxChain*certLen
)

// Encode returns c as it is kept and sent.
func (c Chain) Encode() []byte {
	b := make([]byte, 0, 6+len(c)*certLen)
	b = append(b, chainMagic...)
	b = append(b, version)
	return c.append(b)
}

// append appends the number of certificates and each of them.
func (c Chain) append(b []byte) []byte {
	b = append(b, byte(len(c)))
	for i := range c {
		b = c[i].append(b)
	}
	return b
}

// DecodeChain decodes what Encode gives. It verifies no signature.
func DecodeChain(b []byte) (Chain, error) {
	d := decoder{what: "certificate chain", b: b}
	d.header(chainMagic)
	c := d.chain()
	return c, d.end()
}
