package member

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// MaxDenied is the most entries of a deny list.
const MaxDenied = 1024

// MaxDenyLen is the length of the longest encoded deny list.
const MaxDenyLen = 4 + 1 + 32 + 8 + 2 + MaxDenied*denyEntryLen + ed25519.SignatureSize

const denyEntryLen = 32 + 1 + 8

const denyMagic = "pfDN"

// Denied is one expelled peer.
type Denied struct {
	Peer        Key
	WithInvited bool   // those that it vouched for or invited are expelled too
	Time        uint64 // unix ms; what it vouches for after that is refused
}

// DenyList is who has been expelled from a network, signed by the network's
// key. Of two lists the one with the higher number counts. A nil list denies
// nobody.
type DenyList struct {
	Network Network
	Number  uint64
	Entries []Denied // sorted by peer, each once
	Sig     [ed25519.SignatureSize]byte
}

// NewDenyList returns the list that follows last (nil: none), with e added
// or changed, signed by the network's key.
func NewDenyList(network ed25519.PrivateKey, last *DenyList, now time.Time, e ...Denied) (*DenyList, error) {
	l := &DenyList{Network: NetworkOf(KeyOf(network)), Number: max(millis(now), last.number()+1)}
	if last != nil {
		l.Entries = slices.Clone(last.Entries)
	}
	for _, d := range e {
		i, found := l.find(d.Peer)
		if !found {
			l.Entries = slices.Insert(l.Entries, i, d)
			continue
		}
		// The first date stands: a second expulsion must not make valid
		// what the first has made void.
		d.Time = min(d.Time, l.Entries[i].Time)
		d.WithInvited = d.WithInvited || l.Entries[i].WithInvited
		l.Entries[i] = d
	}
	if len(l.Entries) > MaxDenied {
		return nil, fmt.Errorf("deny list: more than %d entries", MaxDenied)
	}
	l.Sig = [64]byte(ed25519.Sign(network, signed(domainDeny, l.Network, l.body())))
	return l, nil
}

func (l *DenyList) number() uint64 {
	if l == nil {
		return 0
	}
	return l.Number
}

func (l *DenyList) find(k Key) (int, bool) {
	if l == nil {
		return 0, false
	}
	return slices.BinarySearchFunc(l.Entries, k, func(d Denied, k Key) int { return bytes.Compare(d.Peer[:], k[:]) })
}

// Newer tells whether l replaces than.
func (l *DenyList) Newer(than *DenyList) bool { return l.number() > than.number() }

// Verify tells whether l belongs to the network with this key.
func (l *DenyList) Verify(network Key) error {
	if l.Network != NetworkOf(network) {
		return ErrNetwork
	}
	if !ed25519.Verify(network[:], signed(domainDeny, l.Network, l.body()), l.Sig[:]) {
		return ErrSignature
	}
	return nil
}

// Check tells whether c's subject, or somebody who vouched for it, is
// denied. The error wraps ErrExpelled.
func (l *DenyList) Check(c Chain) error {
	if l == nil || len(l.Entries) == 0 {
		return nil
	}
	if _, found := l.find(c.Subject()); found {
		return ErrExpelled
	}
	for i := range c {
		for _, voucher := range [...]Key{c[i].Issuer, c[i].Inviter} {
			j, found := l.find(voucher)
			if found && (l.Entries[j].WithInvited || c[i].Issued > l.Entries[j].Time) {
				return fmt.Errorf("%w: vouched for by an expelled peer", ErrExpelled)
			}
		}
	}
	return nil
}

// body returns the fields after the network's ID and before the signature.
func (l *DenyList) body() []byte {
	b := make([]byte, 0, 8+2+len(l.Entries)*denyEntryLen)
	b = binary.BigEndian.AppendUint64(b, l.Number)
	b = binary.BigEndian.AppendUint16(b, uint16(len(l.Entries)))
	for _, d := range l.Entries {
		b = append(b, d.Peer[:]...)
		var flags byte
		if d.WithInvited {
			flags = 1
		}
		b = append(b, flags)
		b = binary.BigEndian.AppendUint64(b, d.Time)
	}
	return b
}

// Encode returns l as it is kept and sent.
func (l *DenyList) Encode() []byte {
	b := append([]byte(denyMagic), version)
	b = append(b, l.Network[:]...)
	b = append(b, l.body()...)
	return append(b, l.Sig[:]...)
}

// DecodeDenyList decodes what Encode gives. It verifies no signature.
func DecodeDenyList(b []byte) (*DenyList, error) {
	d := decoder{what: "deny list", b: b}
	d.header(denyMagic)
	l := &DenyList{Network: d.key(), Number: d.uint64()}
	n := int(d.uint16())
	if n > MaxDenied || n*denyEntryLen > len(d.b) {
		d.fail("%d entries", n)
		n = 0
	}
	if d.err == nil && l.Number == 0 {
		d.fail("number 0")
	}
	l.Entries = make([]Denied, n)
	for i := range l.Entries {
		e := &l.Entries[i]
		e.Peer = d.key()
		flags := d.byte()
		e.Time = d.uint64()
		if d.err == nil && flags > 1 {
			d.fail("flags %#x", flags)
		}
		e.WithInvited = flags == 1
		if i > 0 && d.err == nil && bytes.Compare(l.Entries[i-1].Peer[:], e.Peer[:]) >= 0 {
			d.fail("entries not sorted")
		}
	}
	l.Sig = d.sig()
	if err := d.end(); err != nil {
		return nil, err
	}
	return l, nil
}
