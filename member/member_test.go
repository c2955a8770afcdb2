package member

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden vectors")

// epoch is when the tests take place.
var epoch = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func keyFor(name string) ed25519.PrivateKey {
	var seed [32]byte
	copy(seed[:], name)
	return ed25519.NewKeyFromSeed(seed[:])
}

// world is a network with a founder, and the members that tests add.
type world struct {
	t       testing.TB
	network ed25519.PrivateKey
	now     time.Time
	members map[string]*Membership
}

func newWorld(t testing.TB, network string) *world {
	w := &world{t: t, network: keyFor(network), now: epoch, members: map[string]*Membership{}}
	self := keyFor("founder")
	w.add("founder", &Credentials{Key: KeyOf(w.network), Self: self, Chain: Found(w.network, KeyOf(self), w.now)})
	return w
}

func (w *world) add(name string, c *Credentials) *Membership {
	w.t.Helper()
	m, err := New(c, func() time.Time { return w.now })
	if err != nil {
		w.t.Fatal(err)
	}
	w.members[name] = m
	return m
}

func (w *world) invite(by string) *Invite {
	w.t.Helper()
	in, err := w.members[by].Invite(0, []string{"/ip4/192.0.2.1/tcp/4017/p2p/12D3KooWexample"})
	if err != nil {
		w.t.Fatal(err)
	}
	return in
}

// join lets name in by an invite of one member, admitted by another.
func (w *world) join(name, inviter, admitter string) *Membership {
	w.t.Helper()
	in := w.invite(inviter)
	self := keyFor(name)
	c := in.Credentials(self)
	var err error
	c.Chain, err = w.members[admitter].Admit(in.Prove(KeyOf(self)), KeyOf(self))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.add(name, c)
}

func (w *world) deny(e ...Denied) *DenyList {
	w.t.Helper()
	l, err := NewDenyList(w.network, nil, w.now, e...)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func TestMembersVerifyEachOther(t *testing.T) {
	w := newWorld(t, "network")
	w.join("ann", "founder", "founder")
	w.now = w.now.Add(time.Hour)
	w.join("bob", "founder", "ann")
	w.join("cid", "bob", "ann")
	for an, a := range w.members {
		for bn, b := range w.members {
			if err := a.Check(b.Chain(), b.Self()); err != nil {
				t.Errorf("%s does not accept %s: %v", an, bn, err)
			}
		}
	}
	cid := w.members["cid"].Chain()
	if got, want := len(cid), 3; got != want {
		t.Errorf("got %d certificates, want %d", got, want)
	}
	if got, want := cid[2].Inviter, w.members["bob"].Self(); got != want {
		t.Errorf("got inviter %s, want bob %s", got.Short(), want.Short())
	}
}

// TestTheFounderIsNotNeeded: an invite holds with any member.
func TestTheFounderIsNotNeeded(t *testing.T) {
	w := newWorld(t, "network")
	w.join("ann", "founder", "founder")
	in := w.invite("founder")
	delete(w.members, "founder")
	key := KeyOf(keyFor("bob"))
	chain, err := w.members["ann"].Admit(in.Prove(key), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.members["ann"].Check(chain, key); err != nil {
		t.Error(err)
	}
}

func TestOneThatComesBackKeepsItsChain(t *testing.T) {
	w := newWorld(t, "network")
	ann := w.join("ann", "founder", "founder")
	w.join("bob", "ann", "ann")
	chain, err := w.members["bob"].Admit(w.invite("bob").Prove(ann.Self()), ann.Self())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(chain, ann.Chain()); d != "" {
		t.Error(d)
	}
}

func TestBadProofsAreRefused(t *testing.T) {
	w := newWorld(t, "network")
	w.join("ann", "founder", "founder")
	other := newWorld(t, "other network")
	newcomer := KeyOf(keyFor("newcomer"))
	edit := func(f func(p *Proof)) *Proof {
		p := w.invite("ann").Prove(newcomer)
		p.Chain = append(Chain(nil), p.Chain...)
		f(p)
		return p
	}
	for _, c := range []struct {
		name  string
		proof *Proof
		wait  time.Duration
		deny  []Denied
		want  error
	}{
		{name: "good", proof: edit(func(*Proof) {})},
		{name: "just in time", proof: edit(func(*Proof) {}), wait: InviteLife - time.Millisecond},
		{name: "expired", proof: edit(func(*Proof) {}), wait: InviteLife, want: ErrExpired},
		{name: "expired before expelled", proof: edit(func(*Proof) {}), wait: InviteLife, want: ErrExpired},
		{name: "another network's", proof: other.invite("founder").Prove(newcomer), want: ErrNetwork},
		{name: "shown by another", proof: w.invite("ann").Prove(KeyOf(keyFor("thief"))), want: ErrSignature},
		{name: "expiry moved", proof: edit(func(p *Proof) { p.Invite.Expires++ }), want: ErrSignature},
		{name: "invite key changed", proof: edit(func(p *Proof) { p.Invite.Subject[0]++ }), want: ErrSignature},
		{name: "issuer not of the chain", proof: edit(func(p *Proof) { p.Invite.Issuer[0]++ }), want: ErrChain},
		{name: "a peer's certificate as invite", proof: edit(func(p *Proof) { p.Invite = p.Chain[1]; p.Chain = p.Chain[:1] }), want: ErrChain},
		{name: "signature changed", proof: edit(func(p *Proof) { p.Sig[10]++ }), want: ErrSignature},
		{name: "no chain", proof: edit(func(p *Proof) { p.Chain = nil }), want: ErrNoChain},
		{name: "issuer expelled", proof: edit(func(*Proof) {}), deny: []Denied{{Peer: KeyOf(keyFor("ann"))}}, want: ErrExpelled},
		{name: "newcomer expelled", proof: edit(func(*Proof) {}), deny: []Denied{{Peer: newcomer}}, want: ErrExpelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.proof.Verify(KeyOf(w.network), newcomer, w.now.Add(c.wait), w.deny(c.deny...))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if c.want != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("%v does not wrap ErrRefused", err)
			}
		})
	}
}

func TestBadChainsAreRefused(t *testing.T) {
	w := newWorld(t, "network")
	w.join("ann", "founder", "founder")
	w.join("bob", "ann", "ann")
	other := newWorld(t, "other network")
	good := w.members["bob"].Chain()
	bob := good.Subject()
	n := NetworkOf(KeyOf(w.network))
	edit := func(f func(c Chain) Chain) Chain { return f(append(Chain(nil), good...)) }
	extend := func(c Chain, by string, c2 Cert) Chain { return append(append(Chain(nil), c...), c2) }
	ms := millis(epoch)

	long := append(Chain(nil), w.members["founder"].Chain()...)
	last := "founder"
	for i := range MaxChain {
		name := "long" + strings.Repeat("x", i)
		if len(name) > 32 {
			name = name[:28] + string(rune('A'+i/26)) + string(rune('a'+i%26))
		}
		long = append(long, newCert(n, KindPeer, KeyOf(keyFor(name)), Key{}, keyFor(last), ms, 0))
		last = name
	}
	for _, c := range []struct {
		name    string
		chain   Chain
		subject Key
		want    error
	}{
		{"good", good, bob, nil},
		{"as long as may be", long[:MaxChain], long[MaxChain-1].Subject, nil},
		{"too long", long, long.Subject(), ErrTooLong},
		{"empty", nil, bob, ErrNoChain},
		{"somebody else's", good, KeyOf(keyFor("ann")), ErrChain},
		{"cut at the front", good[1:], bob, ErrNetwork},
		{"another network's", other.members["founder"].Chain(), KeyOf(keyFor("founder")), ErrNetwork},
		{"middle left out", edit(func(c Chain) Chain { return append(c[:1], c[2]) }), bob, ErrChain},
		{"subject changed", edit(func(c Chain) Chain { c[2].Subject[0]++; return c }), Key(append([]byte{bob[0] + 1}, bob[1:]...)), ErrSignature},
		{"date changed", edit(func(c Chain) Chain { c[1].Issued--; return c }), bob, ErrSignature},
		{"inviter changed", edit(func(c Chain) Chain { c[2].Inviter = Key{}; return c }), bob, ErrSignature},
		{"signature changed", edit(func(c Chain) Chain { c[0].Sig[0]++; return c }), bob, ErrSignature},
		{"self-issued", Chain{newCert(n, KindPeer, bob, Key{}, keyFor("bob"), ms, 0)}, bob, ErrNetwork},
		{"over an invite key", extend(good[:1], "", newCert(n, KindInvite, bob, Key{}, keyFor("founder"), ms, ms+1000)), bob, ErrChain},
		{"signed for another network", Chain{good[0], newCert(NetworkOf(KeyOf(other.network)), KindPeer, bob, Key{}, keyFor("founder"), ms, 0)}, bob, ErrSignature},
		{"in a circle", extend(extend(good, "", newCert(n, KindPeer, KeyOf(keyFor("ann")), Key{}, keyFor("bob"), ms, 0)), "", newCert(n, KindPeer, bob, Key{}, keyFor("ann"), ms, 0)), bob, ErrChain},
		{"from the future", extend(good[:1], "", newCert(n, KindPeer, bob, Key{}, keyFor("founder"), ms+25*3600*1000, 0)), bob, ErrTime},
		{"a clock an hour ahead", extend(good[:1], "", newCert(n, KindPeer, bob, Key{}, keyFor("founder"), ms+3600*1000, 0)), bob, nil},
		{"from before p2pfs", extend(good[:1], "", newCert(n, KindPeer, bob, Key{}, keyFor("founder"), 0, 0)), bob, ErrTime},
		{"older than what it rests on", extend(good[:1], "", newCert(n, KindPeer, bob, Key{}, keyFor("founder"), ms-25*3600*1000, 0)), bob, ErrTime},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.chain.Verify(KeyOf(w.network), c.subject, epoch, nil)
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestExpulsion(t *testing.T) {
	w := newWorld(t, "network")
	w.join("ann", "founder", "founder")
	w.join("bob", "ann", "ann")     // vouched for by ann
	w.join("cid", "ann", "founder") // invited by ann
	w.now = w.now.Add(time.Hour)    // ann is expelled
	at := millis(w.now) - 1         //
	w.join("dan", "ann", "ann")     // vouched for by ann, afterwards
	w.join("eve", "ann", "founder") // invited by ann, admitted afterwards
	w.join("fay", "bob", "bob")     // two steps from ann, afterwards
	ann := w.members["ann"].Self()
	for _, c := range []struct {
		name string
		deny []Denied
		out  string // those that are out
	}{
		{"nobody", nil, ""},
		{"a stranger", []Denied{{Peer: Key{1}, Time: at}}, ""},
		{"ann", []Denied{{Peer: ann, Time: at}}, "ann dan eve"},
		{"ann with invited", []Denied{{Peer: ann, WithInvited: true, Time: at}}, "ann bob cid dan eve fay"},
		{"fay and cid", []Denied{{Peer: KeyOf(keyFor("fay")), Time: at}, {Peer: KeyOf(keyFor("cid")), Time: at}}, "cid fay"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := w.deny(c.deny...)
			for name, m := range w.members {
				err := m.Chain().Verify(KeyOf(w.network), m.Self(), w.now, l)
				if got, want := errors.Is(err, ErrExpelled), strings.Contains(c.out, name); got != want {
					t.Errorf("%s: got %v, want expelled %v", name, err, want)
				}
			}
		})
	}
}

func TestTheNewestDenyListWins(t *testing.T) {
	w := newWorld(t, "network")
	ann := w.join("ann", "founder", "founder")
	bob := KeyOf(keyFor("bob"))
	first := w.deny(Denied{Peer: bob, Time: 5})
	second, err := NewDenyList(w.network, first, epoch.Add(-time.Hour), Denied{Peer: bob, WithInvited: true, Time: 9}, Denied{Peer: Key{1}})
	if err != nil {
		t.Fatal(err)
	}
	if second.Number != first.Number+1 {
		t.Errorf("got number %d, want %d: a clock that went back must not matter", second.Number, first.Number+1)
	}
	if d := cmp.Diff(second.Entries, []Denied{{Peer: Key{1}}, {Peer: bob, WithInvited: true, Time: 5}}, cmp.Transformer("sort", func(d []Denied) map[Key]Denied {
		m := map[Key]Denied{}
		for _, e := range d {
			m[e.Peer] = e
		}
		return m
	})); d != "" {
		t.Error(d)
	}
	calls := 0
	defer ann.OnChange(func() { calls++ })()
	for _, c := range []struct {
		name string
		list *DenyList
		want bool
	}{{"first", first, true}, {"again", first, false}, {"second", second, true}, {"back", first, false}} {
		if got, err := ann.Update(c.list); got != c.want || err != nil {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, err, c.want)
		}
	}
	if calls != 2 {
		t.Errorf("got %d calls, want 2", calls)
	}
	forged := *second
	forged.Number++
	if _, err := ann.Update(&forged); !errors.Is(err, ErrSignature) {
		t.Errorf("forged: got %v, want %v", err, ErrSignature)
	}
	other, _ := NewDenyList(keyFor("other"), nil, epoch.Add(time.Hour))
	if _, err := ann.Update(other); !errors.Is(err, ErrNetwork) {
		t.Errorf("another network's: got %v, want %v", err, ErrNetwork)
	}
}

func TestADenyListIsBounded(t *testing.T) {
	var e []Denied
	for i := range MaxDenied {
		var k Key
		binary.BigEndian.PutUint16(k[:], uint16(i))
		e = append(e, Denied{Peer: k})
	}
	l, err := NewDenyList(keyFor("network"), nil, epoch, e...)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(l.Encode()); got != MaxDenyLen {
		t.Errorf("got %d bytes, want %d", got, MaxDenyLen)
	}
	if _, err := DecodeDenyList(l.Encode()); err != nil {
		t.Error(err)
	}
	if _, err := NewDenyList(keyFor("network"), l, epoch, Denied{Peer: Key{255}}); err == nil {
		t.Error("one entry more was accepted")
	}
}

func TestAnExpelledNodeKnows(t *testing.T) {
	w := newWorld(t, "network")
	ann := w.join("ann", "founder", "founder")
	c := ann.Credentials()
	c.Deny = w.deny(Denied{Peer: ann.Self()})
	if _, err := New(c, func() time.Time { return epoch }); !errors.Is(err, ErrExpelled) {
		t.Errorf("got %v, want %v", err, ErrExpelled)
	}
}

func TestAChainAtItsEndAdmitsNobody(t *testing.T) {
	w := newWorld(t, "network")
	last := "founder"
	for i := range MaxChain - 1 {
		name := "m" + string(rune('A'+i/26)) + string(rune('a'+i%26))
		w.join(name, last, last)
		last = name
	}
	k := KeyOf(keyFor("one too many"))
	in := w.invite(last)
	if _, err := w.members[last].Admit(in.Prove(k), k); !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v, want %v", err, ErrTooLong)
	}
	// Its invites are good with others.
	chain, err := w.members["founder"].Admit(in.Prove(k), k)
	if err != nil || len(chain) != 2 {
		t.Errorf("got %d certificates, %v", len(chain), err)
	}
}

func TestInviteText(t *testing.T) {
	w := newWorld(t, "network")
	in := w.invite("founder")
	text := in.String()
	got, err := ParseInvite("  " + text + "\n")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(in, got); d != "" {
		t.Error(d)
	}
	if err := got.Verify(epoch); err != nil {
		t.Error(err)
	}
	if err := got.Verify(epoch.Add(InviteLife)); !errors.Is(err, ErrExpired) {
		t.Errorf("got %v, want %v", err, ErrExpired)
	}
	if !got.Expires().Equal(epoch.Add(InviteLife)) {
		t.Errorf("got %v, want %v", got.Expires(), epoch.Add(InviteLife))
	}
	future := []byte(text)
	future[len(InvitePrefix)] = 'B' // version byte 1 becomes 5
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"empty", "", ErrMalformed},
		{"a link", "p2pfs:AAAA", ErrMalformed},
		{"prefix only", InvitePrefix, ErrMalformed},
		{"cut short", text[:len(text)-2], ErrMalformed},
		{"one letter wrong", strings.Replace(text, text[100:101], map[bool]string{true: "A", false: "B"}[text[100] == 'B'], 1), ErrMalformed},
		{"broken in two lines", text[:50] + "\n" + text[50:], ErrMalformed},
		{"padded", text + "=", ErrMalformed},
		{"huge", InvitePrefix + strings.Repeat("A", 1<<20), ErrMalformed},
		{"from the future", string(future), ErrVersion},
	} {
		if _, err := ParseInvite(c.text); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestInviteAddressesAreChecked(t *testing.T) {
	w := newWorld(t, "network")
	for _, a := range []string{"", "192.0.2.1:4017", "/ip4/192.0.2.1/tcp/4017", "/ip4/1/p2p/\x1b[31m", "/p2p/" + strings.Repeat("x", 300)} {
		if _, err := w.members["founder"].Invite(0, []string{a}); err == nil {
			t.Errorf("%q was accepted", a)
		}
	}
	many := make([]string, 40)
	for i := range many {
		many[i] = "/ip4/192.0.2.1/tcp/1/p2p/x"
	}
	in, err := w.members["founder"].Invite(time.Hour, many)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseInvite(in.String()); err != nil || len(got.Addrs) != MaxAddrs {
		t.Errorf("got %v, want %d addresses", err, MaxAddrs)
	}
}

func TestAnOpenNetworkHasNoChains(t *testing.T) {
	n := OpenNetwork()
	m, err := New(&Credentials{Open: true, Network: n, Self: keyFor("ann")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	in, err := m.Invite(0, []string{"/ip4/192.0.2.1/tcp/4017/p2p/x"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseInvite(in.String())
	if err != nil {
		t.Fatal(err)
	}
	if !got.Open || got.Network != n || got.Verify(time.Now().Add(100*365*24*time.Hour)) != nil {
		t.Errorf("got %+v", got)
	}
	if !m.Admitted() || m.Check(nil, Key{1}) != nil {
		t.Error("somebody does not belong to an open network")
	}
	l, _ := NewDenyList(keyFor("network"), nil, epoch)
	if _, err := m.Update(l); err == nil {
		t.Error("an open network took a deny list")
	}
}

// encodings returns one of each format, for golden vectors and fuzzing.
func encodings(t testing.TB) map[string][]byte {
	w := newWorld(t, "network")
	ann := w.join("ann", "founder", "founder")
	n := NetworkOf(KeyOf(w.network))
	in := &Invite{Network: n, Key: KeyOf(w.network), Chain: ann.Chain(), Addrs: []string{"/ip4/192.0.2.1/tcp/4017/p2p/12D3KooWexample"}}
	copy(in.Seed[:], "invite")
	in.Cert = newCert(n, KindInvite, KeyOf(keyFor("invite")), Key{}, keyFor("ann"), millis(epoch), millis(epoch.Add(InviteLife)))
	deny := w.deny(Denied{Peer: KeyOf(keyFor("bob")), WithInvited: true, Time: millis(epoch)}, Denied{Peer: KeyOf(keyFor("cid")), Time: 7})
	c := ann.Credentials()
	c.Deny = deny
	open := &Credentials{Open: true, Network: Network{1, 2, 3}, Self: keyFor("ann")}
	return map[string][]byte{
		"chain":            ann.Chain().Encode(),
		"proof":            in.Prove(KeyOf(keyFor("bob"))).Encode(),
		"deny":             deny.Encode(),
		"credentials":      c.Encode(),
		"credentials-open": open.Encode(),
		"invite":           []byte(in.String()),
		"invite-open":      []byte((&Invite{Open: true, Network: Network{1, 2, 3}, Addrs: in.Addrs}).String()),
	}
}

// again decodes and encodes, by the name of the format.
func again(name string, b []byte) ([]byte, error) {
	switch strings.TrimSuffix(name, "-open") {
	case "chain":
		c, err := DecodeChain(b)
		return c.Encode(), err
	case "proof":
		p, err := DecodeProof(b)
		if err != nil {
			return nil, err
		}
		return p.Encode(), nil
	case "deny":
		l, err := DecodeDenyList(b)
		if err != nil {
			return nil, err
		}
		return l.Encode(), nil
	case "credentials":
		c, err := DecodeCredentials(b)
		if err != nil {
			return nil, err
		}
		return c.Encode(), nil
	case "invite":
		in, err := ParseInvite(string(b))
		if err != nil {
			return nil, err
		}
		return []byte(in.String()), nil
	}
	panic(name)
}

func TestGoldenVectors(t *testing.T) {
	for name, b := range encodings(t) {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".hex")
			if *update {
				os.MkdirAll("testdata", 0o755)
				if err := os.WriteFile(file, []byte(hex.EncodeToString(b)+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := hex.DecodeString(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, want) {
				t.Errorf("got %x, want %x", b, want)
			}
			got, err := again(name, want)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("decoded and encoded: got %x, %v, want %x", got, err, want)
			}
		})
	}
}

func TestDecodersTakeOneEncodingOnly(t *testing.T) {
	for name, b := range encodings(t) {
		t.Run(name, func(t *testing.T) {
			for n := range len(b) {
				if _, err := again(name, b[:n]); err == nil {
					t.Errorf("cut to %d of %d bytes: accepted", n, len(b))
				}
			}
			if _, err := again(name, append(bytes.Clone(b), 'A')); err == nil {
				t.Error("with a byte more: accepted")
			}
			if strings.HasPrefix(name, "invite") {
				return
			}
			future := bytes.Clone(b)
			future[4]++
			if _, err := again(name, future); !errors.Is(err, ErrVersion) {
				t.Errorf("from the future: got %v, want %v", err, ErrVersion)
			}
			for i := range b {
				c := bytes.Clone(b)
				c[i] ^= 0x40
				if e, err := again(name, c); err == nil && !bytes.Equal(e, c) {
					t.Errorf("byte %d changed: decoded, but encoded otherwise", i)
				}
			}
		})
	}
}

func fuzz(f *testing.F, format string) {
	for name, b := range encodings(f) {
		if strings.TrimSuffix(name, "-open") == format {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := again(format, b); err == nil && !bytes.Equal(e, bytes.TrimSpace(b)) && !bytes.Equal(e, b) {
			t.Errorf("decoded %x, encoded %x", b, e)
		}
	})
}

func FuzzChain(f *testing.F)       { fuzz(f, "chain") }
func FuzzProof(f *testing.F)       { fuzz(f, "proof") }
func FuzzDenyList(f *testing.F)    { fuzz(f, "deny") }
func FuzzCredentials(f *testing.F) { fuzz(f, "credentials") }

// FuzzInvite fuzzes what is below the text and its checksum.
func FuzzInvite(f *testing.F) {
	for name, b := range encodings(f) {
		if text, ok := strings.CutPrefix(string(b), InvitePrefix); ok && strings.HasPrefix(name, "invite") {
			raw, _ := base64.RawURLEncoding.DecodeString(text)
			f.Add(b)
			f.Add(raw[:len(raw)-inviteSum])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := ParseInvite(string(b))
		if err == nil && in.String() != strings.TrimSpace(string(b)) {
			t.Errorf("decoded %q, encoded %q", b, in)
		}
		if in, err = decodeInvite(b); err == nil {
			got, err := ParseInvite(in.String())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(in, got); d != "" {
				t.Error(d)
			}
		}
	})
}
