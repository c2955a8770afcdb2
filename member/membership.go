package member

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Credentials are what a home keeps about its place in a network.
type Credentials struct {
	Open    bool
	Network Network            // of an open network
	Key     Key                // the network's public key; zero where it is open
	Self    ed25519.PrivateKey // the peer's own
	Chain   Chain              // its own; empty until it is admitted
	Deny    *DenyList          // the newest known; nil: none
}

const (
	credentialsMagic = "pfCR"
)

// Encode returns c as it is kept in a file that only its owner can read: it
// holds the peer's private key.
func (c *Credentials) Encode() []byte {
	b := append([]byte(credentialsMagic), version, 0)
	if c.Open {
		b[5] = inviteOpen
		b = append(b, c.Network[:]...)
	} else {
		b = append(b, c.Key[:]...)
	}
	b = append(b, c.Self.Seed()...)
	b = c.Chain.append(b)
	var deny []byte
	if c.Deny != nil {
		deny = c.Deny.Encode()
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(deny)))
	return append(b, deny...)
}

// DecodeCredentials decodes what Encode gives. It verifies no signature.
func DecodeCredentials(b []byte) (*Credentials, error) {
	d := decoder{what: "credentials", b: b}
	d.header(credentialsMagic)
	c := &Credentials{}
	flags := d.byte()
	anchor := d.key()
	switch {
	case d.err != nil:
	case flags == inviteOpen:
		c.Open, c.Network = true, anchor
	case flags == 0:
		c.Key, c.Network = anchor, NetworkOf(anchor)
	default:
		d.fail("flags %#x", flags)
	}
	seed := d.key()
	c.Self = ed25519.NewKeyFromSeed(seed[:])
	c.Chain = d.chain()
	n := d.uint32()
	if n > MaxDenyLen {
		d.fail("deny list of %d bytes", n)
	} else if n > 0 {
		list := d.take(int(n))
		if d.err == nil {
			var err error
			if c.Deny, err = DecodeDenyList(list); err != nil {
				d.err = fmt.Errorf("credentials: %w", err)
			}
		}
	}
	if d.err == nil && c.Open && (len(c.Chain) > 0 || c.Deny != nil) {
		d.fail("an open network has no certificates")
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return c, nil
}

// NewCredentials returns those of the founder of a new private network, and
// the network's private key, which no node needs but to expel.
func NewCredentials(self ed25519.PrivateKey, now time.Time) (*Credentials, ed25519.PrivateKey, error) {
	pub, network, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	key := Key(pub)
	return &Credentials{Network: NetworkOf(key), Key: key, Self: self, Chain: Found(network, KeyOf(self), now)}, network, nil
}

// Credentials returns those of a newcomer that holds in. Of a private
// network it still has to be admitted.
func (in *Invite) Credentials(self ed25519.PrivateKey) *Credentials {
	return &Credentials{Open: in.Open, Network: in.Network, Key: in.Key, Self: self}
}

// Membership is one node's place in a network, safe for concurrent use.
type Membership struct {
	open    bool
	network Network
	key     Key
	self    ed25519.PrivateKey
	now     func() time.Time

	mu    sync.Mutex
	chain Chain
	deny  *DenyList
	hooks map[int]func()
	next  int
}

// New returns the membership that c describes. now is the clock, nil for the
// machine's. The chain is checked: one that does not hold is an error, and so
// is a node that knows to have been expelled.
func New(c *Credentials, now func() time.Time) (*Membership, error) {
	if now == nil {
		now = time.Now
	}
	m := &Membership{open: c.Open, network: c.Network, key: c.Key, self: c.Self, now: now, hooks: map[int]func(){}}
	if m.open {
		return m, nil
	}
	if c.Key.IsZero() {
		return nil, errors.New("membership: a private network needs its key")
	}
	m.network = NetworkOf(c.Key)
	if c.Deny != nil {
		if err := c.Deny.Verify(c.Key); err != nil {
			return nil, fmt.Errorf("membership: deny list: %w", err)
		}
		m.deny = c.Deny
	}
	if len(c.Chain) > 0 {
		if err := m.SetChain(c.Chain); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Open tells whether the network is open: no chains, everybody belongs.
func (m *Membership) Open() bool { return m.open }

// Network returns the network's ID.
func (m *Membership) Network() Network { return m.network }

// Secret returns what only those who were invited know: the network's public
// key, or its ID where it is open. The gate's greeting is keyed by it.
func (m *Membership) Secret() [32]byte {
	if m.open {
		return m.network
	}
	return m.key
}

// Self returns the node's own key.
func (m *Membership) Self() Key { return KeyOf(m.self) }

// Chain returns the node's own chain, empty until it is admitted.
func (m *Membership) Chain() Chain {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.chain
}

// Deny returns the newest known deny list, nil if there is none.
func (m *Membership) Deny() *DenyList {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.deny
}

// Admitted tells whether the node can prove its membership.
func (m *Membership) Admitted() bool { return m.open || len(m.Chain()) > 0 }

// Credentials returns what a home keeps, as of now.
func (m *Membership) Credentials() *Credentials {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &Credentials{Open: m.open, Network: m.network, Key: m.key, Self: m.self, Chain: m.chain, Deny: m.deny}
}

// SetChain makes c the node's own chain.
func (m *Membership) SetChain(c Chain) error {
	if err := m.Check(c, m.Self()); err != nil {
		return fmt.Errorf("own certificates: %w", err)
	}
	m.mu.Lock()
	m.chain = slices.Clone(c)
	m.mu.Unlock()
	m.changed()
	return nil
}

// Check tells whether c makes subject a member. The error wraps ErrRefused.
func (m *Membership) Check(c Chain, subject Key) error {
	if m.open {
		return nil
	}
	return c.Verify(m.key, subject, m.now(), m.Deny())
}

// Update takes l over if it is newer than what is known, and tells whether
// it was. A list that is not the network's is an error.
func (m *Membership) Update(l *DenyList) (changed bool, err error) {
	if m.open {
		return false, ErrNetwork
	}
	if !l.Newer(m.Deny()) {
		return false, nil
	}
	if err := l.Verify(m.key); err != nil {
		return false, fmt.Errorf("deny list: %w", err)
	}
	m.mu.Lock()
	if changed = l.Newer(m.deny); changed {
		m.deny = l
	}
	m.mu.Unlock()
	if changed {
		m.changed()
	}
	return changed, nil
}

// Admit returns the chain that makes newcomer a member by p: this node's own
// and one certificate more. Where this node is itself vouched for by the
// newcomer (which then comes back), the newcomer's old chain is returned.
func (m *Membership) Admit(p *Proof, newcomer Key) (Chain, error) {
	if m.open {
		return nil, nil
	}
	now := m.now()
	if err := p.Verify(m.key, newcomer, now, m.Deny()); err != nil {
		return nil, err
	}
	own := m.Chain()
	if err := m.Check(own, m.Self()); err != nil {
		return nil, err
	}
	for i := range own {
		if own[i].Subject == newcomer {
			return slices.Clone(own[:i+1]), nil
		}
	}
	if len(own) >= MaxChain {
		return nil, fmt.Errorf("%w: ask another member to admit you", ErrTooLong)
	}
	// Dated no earlier than the certificate it rests on, whatever the clock.
	issued := max(millis(now), own[len(own)-1].Issued)
	return append(slices.Clone(own), newCert(m.network, KindPeer, newcomer, p.Invite.Issuer, m.self, issued, 0)), nil
}

// Invite returns a new invite that holds for life (0: InviteLife) and names
// addrs, multiaddrs with a peer ID, of which at most MaxAddrs are used.
func (m *Membership) Invite(life time.Duration, addrs []string) (*Invite, error) {
	if life == 0 {
		life = InviteLife
	}
	if life < time.Millisecond {
		return nil, fmt.Errorf("invite: a life of %v", life)
	}
	addrs = slices.Clone(addrs[:min(len(addrs), MaxAddrs)])
	for _, a := range addrs {
		if err := checkAddr(a); err != nil {
			return nil, fmt.Errorf("invite: %w", err)
		}
	}
	if m.open {
		return &Invite{Open: true, Network: m.network, Addrs: addrs}, nil
	}
	own := m.Chain()
	if err := m.Check(own, m.Self()); err != nil {
		return nil, fmt.Errorf("invite: %w", err)
	}
	return newInvite(m.key, own, m.self, m.now(), life, addrs), nil
}

// OnChange calls f, from the goroutine that makes the change, whenever the
// chain or the deny list changes, until stop is called.
func (m *Membership) OnChange(f func()) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := m.next
	m.next++
	m.hooks[id] = f
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.hooks, id)
	}
}

func (m *Membership) changed() {
	m.mu.Lock()
	hooks := make([]func(), 0, len(m.hooks))
	for _, f := range m.hooks {
		hooks = append(hooks, f)
	}
	m.mu.Unlock()
	for _, f := range hooks {
		f()
	}
}
