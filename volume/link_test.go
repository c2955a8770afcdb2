package volume

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/p2pfs/p2pfs/internal/digest"
	"github.com/p2pfs/p2pfs/pack"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, string(want)); d != "" {
		t.Errorf("%s: got -, want +:\n%s", path, d)
	}
}

// dump gives b in hexadecimal, in lines of 32 bytes.
func dump(b []byte) string {
	var s strings.Builder
	for i := 0; i < len(b); i += 32 {
		fmt.Fprintf(&s, "%x\n", b[i:min(i+32, len(b))])
	}
	return s.String()
}

func sum(s string) [32]byte { return digest.Of([]byte(s)) }

var testNetwork = pack.Network(sum("a network"))

// links has a link of each kind.
func links() []Link {
	net := testNetwork.Short8()
	root := pack.Ref{Pack: sum("a pack"), Off: 1<<25 - 1<<19, Len: 1 << 19, Size: 1<<19 - 1, Key: sum("a key")}
	return []Link{
		{Kind: KindFile, Network: net, Root: root},
		{Kind: KindTree, Network: net, Root: root},
		{Kind: KindVerify, Network: net, Root: root},
		{Kind: KindVolumeRead, Network: net, Owner: sum("an owner"), Key: sum("a read key")},
		{Kind: KindVolumeVerify, Network: net, Owner: sum("an owner"), Key: sum("a verify key")},
		{Kind: KindVolumeWrite, Network: net, Seed: sum("a seed")},
	}
}

func TestGoldenLinks(t *testing.T) {
	var all strings.Builder
	for _, l := range links() {
		b, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(l.String(), linkPrefix))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%d %s %x\n", l.Kind, l, b)
	}
	golden(t, "links.hex", all.String())
}

func TestLinkRoundTrip(t *testing.T) {
	for _, l := range links() {
		text := l.String()
		if len(text) > 120 {
			t.Errorf("%v: %d characters, want at most 120", l.Kind, len(text))
		}
		for _, s := range []string{text, "  " + text + "\r\n"} {
			if got, err := ParseLink(s); err != nil || got != l {
				t.Errorf("%q: got %v, %v, want %v", s, got, err, l)
			}
		}
		if err := l.In(testNetwork); err != nil {
			t.Error(err)
		}
		if err := l.In(pack.Network{}); !errors.Is(err, ErrNetwork) {
			t.Errorf("another network: got %v, want %v", err, ErrNetwork)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		r := pack.Ref{Pack: pack.ID{1}, Len: rapid.Uint32Range(1, maxRootLen).Draw(t, "len")}
		r.Off = rapid.Uint32Range(0, pack.MaxLen-r.Len).Draw(t, "off")
		r.Size = rapid.Uint64Range(1, maxRootSize).Draw(t, "size")
		l := FileLink(testNetwork, r)
		if got, err := ParseLink(l.String()); err != nil || got != l {
			t.Errorf("got %v, %v, want %v", got, err, l)
		}
	})
}

func TestOneWrongCharacterIsToldAsMistyped(t *testing.T) {
	const alphabet = "ABCabz019-_ .:/é"
	for _, l := range links() {
		text := l.String()
		for i := range len(text) {
			for _, c := range alphabet {
				if s := text[:i] + string(c) + text[i+1:]; s != text {
					if _, err := ParseLink(s); !errors.Is(err, ErrLink) || errors.Is(err, pack.ErrVersion) {
						t.Fatalf("%q: got %v, want %v", s, err, ErrLink)
					}
				}
				s := text[:i] + string(c) + text[i:]
				if _, err := ParseLink(s); !errors.Is(err, ErrLink) && strings.TrimSpace(s) != text {
					t.Fatalf("%q: got %v, want %v", s, err, ErrLink)
				}
			}
			if _, err := ParseLink(text[:i] + text[i+1:]); !errors.Is(err, ErrLink) {
				t.Fatalf("without character %d: got %v, want %v", i, err, ErrLink)
			}
			if _, err := ParseLink(text[:i]); !errors.Is(err, ErrLink) {
				t.Fatalf("cut at %d: got %v, want %v", i, err, ErrLink)
			}
			if i > 0 && text[i-1] != text[i] {
				s := text[:i-1] + text[i:i+1] + text[i-1:i] + text[i+1:]
				if _, err := ParseLink(s); !errors.Is(err, ErrLink) {
					t.Fatalf("%d and %d swapped: got %v, want %v", i-1, i, err, ErrLink)
				}
			}
		}
		for _, s := range []string{text + text, text[:60] + "\n" + text[60:], strings.ToUpper(text), text + "="} {
			if _, err := ParseLink(s); !errors.Is(err, ErrLink) {
				t.Errorf("%q: got %v, want %v", s, err, ErrLink)
			}
		}
	}
	if _, err := ParseLink(linkPrefix + strings.Repeat("A", 1<<20)); !errors.Is(err, ErrLink) {
		t.Errorf("very long: got %v, want %v", err, ErrLink)
	}
}

// seal gives the text of a link with a good checksum.
func seal(b []byte) string {
	s := digest.Derive(checksumContext, b)
	return linkPrefix + base64.RawURLEncoding.EncodeToString(append(bytes.Clone(b), s[:linkChecksum]...))
}

func TestLinksOfLaterAreToldAsSuch(t *testing.T) {
	file, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(links()[0].String(), linkPrefix))
	if err != nil {
		t.Fatal(err)
	}
	file = file[:len(file)-linkChecksum]
	with := func(first byte, more ...byte) string {
		b := append(bytes.Clone(file), more...)
		b[0] = first
		return seal(b)
	}
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"as it was", with(0x11), nil},
		{"version 2", with(0x21), pack.ErrVersion},
		{"version 2 and longer", with(0x2f, 1, 2, 3), pack.ErrVersion},
		{"version 0", with(0x01), ErrLink},
		{"kind 0", with(0x10), ErrLink},
		{"kind 7", with(0x17), pack.ErrVersion},
		{"a byte more", with(0x11, 0), ErrLink},
		{"another kind's length", with(0x14), ErrLink},
		{"only the checksum", seal(nil), ErrLink},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseLink(c.text); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestRootThatCannotBeIsRefused(t *testing.T) {
	good := links()[0].Root
	for name, change := range map[string]func(r *pack.Ref){
		"no pack":         func(r *pack.Ref) { r.Pack = pack.ID{} },
		"no length":       func(r *pack.Ref) { r.Len = 0 },
		"no size":         func(r *pack.Ref) { r.Size = 0 },
		"beyond the pack": func(r *pack.Ref) { r.Off++ },
	} {
		r := good
		change(&r)
		if _, err := ParseLink(FileLink(testNetwork, r).String()); !errors.Is(err, ErrLink) {
			t.Errorf("%s: got %v, want %v", name, err, ErrLink)
		}
	}
}

func TestOnlyFilesAreUsable(t *testing.T) {
	for _, l := range links() {
		err := l.Usable()
		if (err == nil) != (l.Kind == KindFile || l.Kind == KindTree) || err != nil && !errors.Is(err, ErrKind) {
			t.Errorf("%v: got %v", l.Kind, err)
		}
		if _, oerr := OpenFile(t.Context(), newPacks(), l); l.Kind != KindFile && !errors.Is(oerr, ErrKind) {
			t.Errorf("%v: got %v, want %v", l.Kind, oerr, ErrKind)
		}
	}
}

func TestGoldenKeys(t *testing.T) {
	k := Seed(sum("a seed")).Keys()
	golden(t, "keys.hex", fmt.Sprintf("seed %x\nowner %x\npublic %x\nconvergence %x\nread %x\nverify %x\ncatalog %x\n",
		sum("a seed"), k.Owner.Seed(), [32]byte(k.Public()), k.Convergence, k.Read, k.Verify, k.Catalog))
	if VerifyKey(k.Read) != k.Verify {
		t.Error("the verify key does not derive from the read key")
	}
	all := map[[32]byte]bool{}
	for _, b := range [][32]byte{sum("a seed"), [32]byte(k.Owner.Seed()), k.Public(), k.Convergence, k.Read, k.Verify, k.Catalog} {
		all[b] = true
	}
	if len(all) != 7 {
		t.Error("two keys are the same")
	}
}

func FuzzParseLink(f *testing.F) {
	for _, l := range links() {
		f.Add(l.String())
	}
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLink(s)
		if err == nil && l.String() != strings.TrimSpace(s) {
			t.Errorf("%q gives %q", s, l)
		}
		// What has a good checksum is decoded too.
		if l, err := ParseLink(seal([]byte(s))); err == nil && l.String() != seal([]byte(s)) {
			t.Errorf("%s gives %q", hex.Dump([]byte(s)), l)
		}
	})
}
