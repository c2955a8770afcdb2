package pack

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/internal/digest"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares b with a file of testdata, hexadecimal in lines of 32 bytes.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	var got strings.Builder
	for i := 0; i < len(b); i += 32 {
		fmt.Fprintf(&got, "%x\n", b[i:min(i+32, len(b))])
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got.String(), string(want)); d != "" {
		t.Errorf("%s: got -, want +:\n%s", path, d)
	}
}

// ownerKey is the key all packs of these tests are signed with.
var ownerKey = func() ed25519.PrivateKey {
	seed := digest.Of([]byte("an owner"))
	return ed25519.NewKeyFromSeed(seed[:])
}()

var (
	testOwner   = Owner(ownerKey.Public().(ed25519.PublicKey))
	testNetwork = Network(digest.Of([]byte("a network")))
)

// random gives n bytes that depend on seed only.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// coded gives the signed manifest of a pack and its parity.
func coded(t testing.TB, data []byte, s erasure.Scheme) (*Manifest, []byte) {
	t.Helper()
	c := NewContent(data)
	parity := make([]byte, erasure.NewGeometry(len(data), s).ParityLen())
	hashes, err := Code(c, data, s, parity)
	if err != nil {
		t.Fatal(err)
	}
	st := NewState(testNetwork, testOwner, c, s, true, 1_700_000_000_000, hashes)
	st.Sign(ownerKey)
	return &Manifest{Content: c, State: *st}, parity
}

func TestPadmeStaysWithinItsPromise(t *testing.T) {
	for _, c := range []struct{ n, want int }{
		{0, 4096}, {1, 4096}, {4096, 4096}, {4097, 4352}, {10000, 10240},
		{1 << 20, 1 << 20}, {1<<20 + 1, 1<<20 + 32<<10}, {31 << 20, 31 << 20}, {MaxLen - 1, MaxLen}, {MaxLen, MaxLen}, {MaxLen + 1, MaxLen},
	} {
		if got := Padme(c.n); got != c.want {
			t.Errorf("Padme(%d): got %d, want %d", c.n, got, c.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(MinLen, MaxLen).Draw(t, "n")
		p := Padme(n)
		if p < n || p > MaxLen || float64(p) > 1.12*float64(n) {
			t.Errorf("Padme(%d): got %d, want at most 12 %% more", n, p)
		}
		if got := Padme(p); got != p {
			t.Errorf("Padme(%d): got %d, want the same", p, got)
		}
	})
}

func TestParseIDReadsWhatStringGives(t *testing.T) {
	id := ID(digest.Of([]byte("a pack")))
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Errorf("got %v, %v, want %v", got, err, id)
	}
	for _, s := range []string{"", "00", strings.ToUpper(id.String()), id.String() + "00", strings.Repeat("zz", 32)} {
		if _, err := ParseID(s); err == nil {
			t.Errorf("ParseID(%q): got no error", s)
		}
	}
	if got := id.Short(); got != id.String()[:8] {
		t.Errorf("got %s, want the first 8 digits of %s", got, id)
	}
}

func TestGoldenContentStateManifest(t *testing.T) {
	data := random(20_000, 1) // 5 blocks
	m, _ := coded(t, data, erasure.Scheme{K: 2, M: 3})
	m.State.Expires = 1_800_000_000_000
	m.State.Sign(ownerKey)
	id := m.ID()
	golden(t, "content.hex", m.Content.Encode())
	golden(t, "state.hex", m.State.Encode())
	golden(t, "manifest.hex", m.Encode())
	golden(t, "id.hex", id[:])
	dead := m.State.Tombstone(1_700_000_000_001)
	dead.Sign(ownerKey)
	golden(t, "tombstone.hex", dead.Encode())
	single, _ := coded(t, random(4096, 2), erasure.Scheme{K: 8, M: 12})
	golden(t, "single.hex", single.Encode())
}

func TestManifestVerifies(t *testing.T) {
	for _, n := range []int{1, 4096, 4097, 20_000, 600_000, 5 << 20} {
		for _, s := range []erasure.Scheme{{K: 1}, {K: 1, M: 2}, {K: 2, M: 3}, {K: 8, M: 12}, {K: 40, M: 1}, {K: 5}} {
			t.Run(fmt.Sprintf("%d bytes at %v", n, s), func(t *testing.T) {
				m, _ := coded(t, random(n, 3), s)
				got, err := DecodeManifest(m.Encode())
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(m.State.Encode(), got.State.Encode()); d != "" {
					t.Error(d)
				}
				if err := got.Verify(testNetwork, m.ID()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestVerifyRefusesWhatIsNotSo(t *testing.T) {
	m, _ := coded(t, random(600_000, 4), erasure.Scheme{K: 4, M: 6})
	other, _ := coded(t, random(600_000, 5), erasure.Scheme{K: 4, M: 6})
	stranger := digest.Of([]byte("a stranger"))
	strangerKey := ed25519.NewKeyFromSeed(stranger[:])
	resign := func(m *Manifest) { m.State.Sign(ownerKey) }
	for _, c := range []struct {
		name   string
		change func(m *Manifest)
		want   error
	}{
		{"as it was", func(*Manifest) {}, nil},
		{"a number more", func(m *Manifest) { m.State.Number++ }, ErrSignature},
		{"an expiry", func(m *Manifest) { m.State.Expires++ }, ErrSignature},
		{"not given", func(m *Manifest) { m.State.Given = false }, ErrSignature},
		{"a parity hash", func(m *Manifest) { m.State.Parity[3][0]++ }, ErrSignature},
		{"signed by a stranger", func(m *Manifest) { m.State.Sign(strangerKey) }, ErrSignature},
		{"a stranger's", func(m *Manifest) {
			m.State.Owner = Owner(strangerKey.Public().(ed25519.PublicKey))
			m.State.Sign(strangerKey)
		}, ErrCorrupt},
		{"a block hash", func(m *Manifest) { m.Content.Hashes[1][0]++ }, ErrCorrupt},
		{"another content", func(m *Manifest) { m.Content = other.Content }, ErrCorrupt},
		{"another pack", func(m *Manifest) { *m = *other }, ErrCorrupt},
		{"another network", func(m *Manifest) { m.State.Network[0]++; resign(m) }, ErrCorrupt},
		{"k′ too small", func(m *Manifest) { m.State.Coded--; resign(m) }, ErrCorrupt},
		{"k too large", func(m *Manifest) { m.State.K = 200; resign(m) }, ErrCorrupt},
		{"fewer hashes", func(m *Manifest) { m.State.Parity = m.State.Parity[:6]; resign(m) }, ErrCorrupt},
		{"no hashes", func(m *Manifest) { m.State.Parity = nil; resign(m) }, ErrCorrupt},
		{"n too large", func(m *Manifest) { m.State.M = 253; resign(m) }, ErrCorrupt},
		{"no coder", func(m *Manifest) { m.State.Coder = 0; resign(m) }, ErrCorrupt},
		{"a coder of later", func(m *Manifest) { m.State.Coder = 2; resign(m) }, ErrVersion},
		{"deleted", func(m *Manifest) { m.State = *m.State.Tombstone(m.State.Number + 1); resign(m) }, ErrCorrupt},
		{"deleted with a coding", func(m *Manifest) { m.State.Deleted = true; resign(m) }, ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := DecodeManifest(m.Encode())
			if err != nil {
				t.Fatal(err)
			}
			c.change(got)
			if err := got.Verify(testNetwork, m.ID()); !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestSignatureDoesNotCarryOver(t *testing.T) {
	m, _ := coded(t, random(5000, 6), erasure.Scheme{K: 2, M: 1})
	s := m.State
	sig := ed25519.Sign(ownerKey, s.message()[len(stateDomain):])
	copy(s.Sig[:], sig)
	if err := s.Verify(); !errors.Is(err, ErrSignature) {
		t.Errorf("without the domain: got %v, want %v", err, ErrSignature)
	}
}

func TestBlockHashFindsEveryBlock(t *testing.T) {
	for _, n := range []int{100, 5000, 600_000} {
		for _, s := range []erasure.Scheme{{K: 1, M: 2}, {K: 3, M: 2}, {K: 8, M: 12}} {
			data := random(n, 7)
			m, parity := coded(t, data, s)
			g := m.Geometry()
			for shard := range g.N() {
				for row := range g.Rows {
					b := g.Cell(data, parity, shard, row)
					if err := m.VerifyBlock(shard, row, b); err != nil {
						t.Errorf("%d bytes at %v: %v", n, s, err)
					}
					if len(b) == 0 {
						continue
					}
					if got := m.BlockHash(shard, row); got != digest.Of(b) {
						t.Errorf("%d bytes at %v: shard %d, row %d: wrong hash", n, s, shard, row)
					}
					bad := bytes.Clone(b)
					bad[len(bad)/2] ^= 1
					if err := m.VerifyBlock(shard, row, bad); !errors.Is(err, ErrCorrupt) {
						t.Errorf("one bit changed: got %v, want %v", err, ErrCorrupt)
					}
					if err := m.VerifyBlock(shard, row, b[1:]); !errors.Is(err, ErrCorrupt) {
						t.Errorf("a byte less: got %v, want %v", err, ErrCorrupt)
					}
				}
			}
			for _, c := range [][2]int{{-1, 0}, {0, -1}, {g.N(), 0}, {0, g.Rows}} {
				if m.BlockHash(c[0], c[1]) != (Hash{}) || m.VerifyBlock(c[0], c[1], nil) == nil {
					t.Errorf("there is a block at %v", c)
				}
			}
		}
	}
}

func TestIDDoesNotDependOnCoding(t *testing.T) {
	data := random(100_000, 8)
	a, _ := coded(t, data, erasure.Scheme{K: 1, M: 2})
	b, _ := coded(t, data, erasure.Scheme{K: 8, M: 12})
	if a.ID() != b.ID() {
		t.Errorf("got %v and %v", a.ID(), b.ID())
	}
	if b.State.Owner[0]++; a.ID() == b.ID() {
		t.Error("the ID is the same for another owner")
	}
}

func TestStatesAreOrdered(t *testing.T) {
	m, _ := coded(t, random(5000, 9), erasure.Scheme{K: 2, M: 1})
	a, b := m.State, m.State
	if !a.Newer(nil) || a.Newer(&b) {
		t.Error("a state is newer than none, not than itself")
	}
	b.Expires = 1
	if a.Newer(&b) == b.Newer(&a) {
		t.Error("of two states with one number one is newer")
	}
	b.Number++
	if a.Newer(&b) || !b.Newer(&a) {
		t.Error("the higher number is newer")
	}
}

func TestNextNumberNeverFallsBehind(t *testing.T) {
	now := time.UnixMilli(1000)
	for _, c := range []struct{ last, want uint64 }{{0, 1000}, {999, 1000}, {1000, 1001}, {5000, 5001}} {
		if got := NextNumber(now, c.last); got != c.want {
			t.Errorf("after %d: got %d, want %d", c.last, got, c.want)
		}
	}
	if got := NextNumber(time.UnixMilli(-5), 0); got != 1 {
		t.Errorf("before 1970: got %d, want 1", got)
	}
}

func TestExpired(t *testing.T) {
	s := State{Expires: 1000}
	if s.Expired(time.UnixMilli(999)) || !s.Expired(time.UnixMilli(1000)) || (&State{}).Expired(time.UnixMilli(1000)) {
		t.Error("a state expires at Expires, unless that is 0")
	}
}

func TestCheckSchemeBoundsTheManifest(t *testing.T) {
	for _, c := range []struct {
		s  erasure.Scheme
		ok bool
	}{
		{erasure.Scheme{K: 1}, true},
		{erasure.Scheme{K: 1, M: 255}, true}, // parity has no hashes of its own
		{erasure.Scheme{K: 2, M: 3}, true},
		{erasure.Scheme{K: 8, M: 12}, true},
		{erasure.Scheme{K: 8, M: 119}, true},
		{erasure.Scheme{K: 8, M: 120}, false},
		{erasure.Scheme{K: 2, M: 40}, false},
		{erasure.Scheme{K: 128, M: 128}, true},
		{erasure.Scheme{K: 0, M: 1}, false},
		{erasure.Scheme{K: 200, M: 57}, false},
	} {
		err := CheckScheme(c.s)
		if (err == nil) != c.ok {
			t.Errorf("%v: got %v, want ok %v", c.s, err, c.ok)
		}
	}
	// What passes fits, and what does not pass does not.
	data := make([]byte, MaxLen)
	c := NewContent(data)
	for _, m := range []int{119, 120} {
		g := erasure.NewGeometry(MaxLen, erasure.Scheme{K: 8, M: m})
		s := NewState(testNetwork, testOwner, c, erasure.Scheme{K: 8, M: m}, false, 1, make([]Hash, g.M*g.Rows))
		mf := Manifest{Content: c, State: *s}
		if n := len(mf.Encode()); (n <= MaxManifest) != (CheckScheme(s.Scheme()) == nil) {
			t.Errorf("8+%d: the manifest has %d bytes, CheckScheme says %v", m, n, CheckScheme(s.Scheme()))
		}
	}
}

func TestCodeWithOneDataShardNeedsNoParity(t *testing.T) {
	data := random(4096, 10)
	hs, err := Code(NewContent(data), data, erasure.Scheme{K: 8, M: 12}, nil)
	if err != nil || len(hs) != 0 {
		t.Errorf("got %d hashes, %v, want none", len(hs), err)
	}
}

func TestCodeRefusesOtherLengths(t *testing.T) {
	data := random(10_000, 10)
	c := NewContent(data)
	s := erasure.Scheme{K: 2, M: 1}
	if _, err := Code(c, data[1:], s, nil); err == nil {
		t.Error("a byte less: got no error")
	}
	if _, err := Code(c, data, s, make([]byte, 10)); err == nil {
		t.Error("no room for parity: got no error")
	}
}

func TestVersionsOfLaterAreTold(t *testing.T) {
	m, _ := coded(t, random(5000, 11), erasure.Scheme{K: 2, M: 1})
	for _, c := range []struct {
		name   string
		b      []byte
		decode func([]byte) error
	}{
		{"content", m.Content.Encode(), func(b []byte) error { _, err := DecodeContent(b); return err }},
		{"state", m.State.Encode(), func(b []byte) error { _, err := DecodeState(b); return err }},
		{"manifest", m.Encode(), func(b []byte) error { _, err := DecodeManifest(b); return err }},
		{"inventory", Inventory{}.Encode(), func(b []byte) error { _, err := DecodeInventory(b); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.decode(c.b); err != nil {
				t.Fatal(err)
			}
			c.b[4] = 2
			if err := c.decode(c.b); !errors.Is(err, ErrVersion) {
				t.Errorf("version 2: got %v, want %v", err, ErrVersion)
			}
			c.b[4] = 0
			if err := c.decode(c.b); !errors.Is(err, ErrCorrupt) {
				t.Errorf("version 0: got %v, want %v", err, ErrCorrupt)
			}
			c.b[4] = 1
			if err := c.decode(append(c.b, 0)); !errors.Is(err, ErrCorrupt) {
				t.Errorf("a byte more: got %v, want %v", err, ErrCorrupt)
			}
			for n := range len(c.b) {
				if err := c.decode(c.b[:n]); !errors.Is(err, ErrCorrupt) {
					t.Fatalf("%d of %d bytes: got %v, want %v", n, len(c.b), err, ErrCorrupt)
				}
			}
		})
	}
}

func TestRefRoundTrip(t *testing.T) {
	r := Ref{Pack: ID{1}, Off: 2, Len: 3, Size: 4, Key: [32]byte{5}}
	b := r.Append(nil)
	golden(t, "ref.hex", b)
	if got, err := DecodeRef(b); err != nil || got != r {
		t.Errorf("got %v, %v, want %v", got, err, r)
	}
	for name, bad := range map[string]Ref{"empty": {}, "beyond": {Off: MaxLen, Len: 1}, "overflow": {Off: 1<<32 - 1, Len: 1<<32 - 1}} {
		if _, err := DecodeRef(bad.Append(nil)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
	}
	if _, err := DecodeRef(b[1:]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte less: got %v, want %v", err, ErrCorrupt)
	}
}

func TestZeroPackInRefPointsBackwardsOnly(t *testing.T) {
	holder := ID{7}
	r := Ref{Off: 100, Len: 50}
	if got, err := r.In(holder, 150); err != nil || got.Pack != holder {
		t.Errorf("got %v, %v, want pack %v", got, err, holder)
	}
	if _, err := r.In(holder, 149); !errors.Is(err, ErrCorrupt) {
		t.Errorf("into its own chunk: got %v, want %v", err, ErrCorrupt)
	}
	r.Pack = ID{8}
	if got, err := r.In(holder, 0); err != nil || got != r {
		t.Errorf("to another pack: got %v, %v, want %v", got, err, r)
	}
}

func TestInventorySortsAndSplits(t *testing.T) {
	ids := make([]ID, MaxInventoryIDs+10)
	for i := range ids {
		binary.BigEndian.PutUint32(ids[i][:], uint32(i*7919%len(ids))/2) // pairs
	}
	invs := NewInventory(ids)
	var all []ID
	for _, v := range invs {
		got, err := DecodeInventory(v.Encode())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got.IDs...)
	}
	for i := range all {
		if i > 0 && bytes.Compare(all[i-1][:], all[i][:]) >= 0 {
			t.Fatalf("not in order at %d", i)
		}
	}
	if got := NewInventory(nil); len(got) != 1 || len(got[0].IDs) != 0 {
		t.Errorf("of nothing: got %v, want one, empty", got)
	}
}

func TestInventoryIsStrict(t *testing.T) {
	ref := Ref{Pack: ID{1}, Len: 10, Size: 10}
	golden(t, "inventory.hex", Inventory{IDs: []ID{{1}, {2}, {3}}}.Encode())
	golden(t, "inventories.hex", Inventory{Depth: 1, Refs: []Ref{ref, {Off: 10, Len: 20, Size: 30}}}.Encode())
	for name, v := range map[string]Inventory{
		"wrong order":   {IDs: []ID{{2}, {1}}},
		"twice":         {IDs: []ID{{1}, {1}}},
		"no refs":       {Depth: 1},
		"too deep":      {Depth: MaxInventoryDepth + 1, Refs: []Ref{ref}},
		"too many IDs":  {IDs: make([]ID, MaxInventoryIDs+1)},
		"too many refs": {Depth: 1, Refs: make([]Ref, MaxInventoryRefs+1)},
		"empty ref":     {Depth: 1, Refs: []Ref{{}}},
	} {
		if _, err := DecodeInventory(v.Encode()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want %v", name, err, ErrCorrupt)
		}
	}
	full := Inventory{Depth: 1, Refs: make([]Ref, MaxInventoryRefs)}
	if got := len(full.Encode()); got != MaxInventory {
		t.Errorf("the longest has %d bytes, want %d", got, MaxInventory)
	}
	// A count is not believed before the bytes are there.
	b := Inventory{}.Encode()
	binary.BigEndian.PutUint32(b[6:], MaxInventoryIDs)
	if got := testing.AllocsPerRun(10, func() { _, _ = DecodeInventory(b) }); got > 20 {
		t.Errorf("got %v allocations", got)
	}
}

func TestBuilderPadsWithZeros(t *testing.T) {
	buf := bytes.Repeat([]byte{0xff}, 1<<20)
	b := NewBuilder(buf, 100_000)
	if got := b.Append([]byte("one")); got != 0 {
		t.Errorf("got offset %d, want 0", got)
	}
	if got := b.Append(make([]byte, 5000)); got != 3 {
		t.Errorf("got offset %d, want 3", got)
	}
	if b.Len() != 5003 || b.Room() != 100_000-5003 {
		t.Errorf("got %d bytes and room for %d", b.Len(), b.Room())
	}
	p := b.Finish()
	if len(p) != Padme(5003) || !bytes.Equal(p[:3], []byte("one")) || len(bytes.Trim(p[5003:], "\x00")) > 0 {
		t.Errorf("got %d bytes", len(p))
	}
	if &p[0] != &buf[0] {
		t.Error("the buffer was not used")
	}
	b.Reset(nil, MaxLen)
	b.Append(random(200_000, 1))
	if p := b.Finish(); len(p) != Padme(200_000) {
		t.Errorf("without a buffer: got %d bytes, want %d", len(p), Padme(200_000))
	}
}

func FuzzDecodeContent(f *testing.F) {
	f.Add(NewContent(random(20_000, 1)).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeContent(b); err == nil && !bytes.Equal(c.Encode(), b) {
			t.Errorf("encodes to\n%s", hex.Dump(c.Encode()))
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	m, _ := coded(f, random(20_000, 1), erasure.Scheme{K: 2, M: 3})
	f.Add(m.State.Encode())
	f.Add(m.State.Tombstone(1).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			return
		}
		if !bytes.Equal(s.Encode(), b) {
			t.Errorf("encodes to\n%s", hex.Dump(s.Encode()))
		}
		_ = s.Verify()
	})
}

func FuzzDecodeManifest(f *testing.F) {
	for _, n := range []int{100, 20_000, 700_000} {
		m, _ := coded(f, random(n, 1), erasure.Scheme{K: 2, M: 3})
		f.Add(m.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Errorf("encodes to\n%s", hex.Dump(m.Encode()))
		}
		g := m.Geometry()
		for shard := range g.N() {
			for row := range g.ShardRows(shard) {
				_ = m.BlockHash(shard, row)
			}
		}
	})
}

func FuzzDecodeInventory(f *testing.F) {
	f.Add(Inventory{}.Encode())
	f.Add(Inventory{IDs: []ID{{1}, {2}}}.Encode())
	f.Add(Inventory{Depth: 1, Refs: []Ref{{Len: 1}}}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeInventory(b); err == nil && !bytes.Equal(v.Encode(), b) {
			t.Errorf("encodes to\n%s", hex.Dump(v.Encode()))
		}
	})
}

func BenchmarkNewContent(b *testing.B) {
	data := random(MaxLen, 1)
	b.SetBytes(MaxLen)
	for b.Loop() {
		NewContent(data)
	}
}

func BenchmarkVerify(b *testing.B) {
	m, _ := coded(b, random(MaxLen, 1), erasure.Scheme{K: 8, M: 12})
	enc := m.Encode()
	for b.Loop() {
		m, err := DecodeManifest(enc)
		if err == nil {
			err = m.Verify(testNetwork, m.ID())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
