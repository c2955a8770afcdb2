package volume

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/chunk"
	"github.com/p2pfs/p2pfs/pack"
)

func testRef(name string, off, length uint32, size uint64) pack.Ref {
	return pack.Ref{Pack: sum("pack of " + name), Off: off, Len: length, Size: size, Key: sum("key of " + name)}
}

// entries has an entry of each shape.
func entries() map[string]*Entry {
	leaf := part{Ref: testRef("one", 0, 1000, 5000), under: 5000}
	node := part{Ref: testRef("two", 7, 900, 170), under: 1 << 40}
	return map[string]*Entry{
		"empty": {Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "empty", Mode: 0o644, MTime: time.Unix(1_700_000_000, 123_456_789)},
		"inline": {
			Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "a \xff name\n", Mode: 0o4755, MTime: time.Unix(-1, 0), Size: 5, inline: []byte("hello"),
			Xattrs:    []Xattr{{Name: []byte("user.a"), Value: []byte("1")}, {Name: []byte("user.b"), Value: []byte{}}},
			inventory: testRef("inventory", 0, 100, 10),
		},
		"refs": {
			Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: strings.Repeat("n", MaxName), Mode: 0, MTime: time.Unix(math.MaxInt64, 0), Size: 10_000,
			parts: []part{leaf, leaf}, inventory: pack.Ref{Off: 5, Len: 100, Size: 10},
		},
		"nodes": {
			Kind: FileEntry, UID: NoOwner, GID: NoOwner, Name: "large", Mode: 0o600, MTime: time.Unix(1, 1), Size: 2 << 40,
			depth: 2, parts: []part{node, node}, inventory: testRef("inventory", 0, 100, 10),
		},
	}
}

func TestGoldenEntries(t *testing.T) {
	for name, e := range entries() {
		t.Run(name, func(t *testing.T) {
			b, err := e.encode()
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "entry-"+name+".hex", dump(b))
			got, err := decodeEntry(b)
			if err != nil {
				t.Fatal(err)
			}
			again, err := got.encode()
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("decoded and encoded: %v\n%s", err, hex.Dump(again))
			}
			if got.Name != e.Name || got.Mode != e.Mode || !got.MTime.Equal(e.MTime) || got.Size != e.Size || got.Kind != e.Kind {
				t.Errorf("got %v, want %v", got, e)
			}
		})
	}
}

func TestLongestEntryFitsALink(t *testing.T) {
	e := &Entry{Kind: FileEntry, Name: strings.Repeat("n", MaxName), inventory: testRef("i", 0, 1, 1), depth: 1}
	for range maxEntryRefs {
		e.parts = append(e.parts, part{Ref: testRef("one", 0, 1000, 100), under: 1 << 20})
		e.Size += 1 << 20
	}
	for i := range MaxXattrs {
		name := []byte{1 + byte(i>>8), byte(i)}
		value := bytes.Repeat([]byte{1}, (MaxXattrBytes-2*MaxXattrs)/MaxXattrs)
		e.Xattrs = append(e.Xattrs, Xattr{Name: name, Value: value})
	}
	b, err := e.encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeEntry(b); err != nil {
		t.Error(err)
	}
	if len(b) > maxRootSize || chunk.MaxSealed(MaxEntry) > maxRootLen || MaxEntry > maxRootSize || pack.MaxInventory > maxRootSize {
		t.Errorf("%d bytes are too many for a link", len(b))
	}
}

func TestEntryThatCannotBeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		of     string
		change func(e *Entry)
	}{
		"kind":                 {"empty", func(e *Entry) { e.Kind = lastEntry + 1 }},
		"no name":              {"empty", func(e *Entry) { e.Name = "" }},
		"dot":                  {"empty", func(e *Entry) { e.Name = "." }},
		"dot dot":              {"empty", func(e *Entry) { e.Name = ".." }},
		"slash":                {"empty", func(e *Entry) { e.Name = "../up" }},
		"zero byte":            {"empty", func(e *Entry) { e.Name = "a\x00" }},
		"long name":            {"empty", func(e *Entry) { e.Name = strings.Repeat("n", MaxName+1) }},
		"mode":                 {"empty", func(e *Entry) { e.Mode = 0o10000 }},
		"negative size":        {"empty", func(e *Entry) { e.Size = -1 }},
		"size without content": {"empty", func(e *Entry) { e.Size = 1 }},
		"size and inline":      {"inline", func(e *Entry) { e.Size = 4 }},
		"long inline":          {"inline", func(e *Entry) { e.inline, e.Size = make([]byte, MaxInline+1), MaxInline+1 }},
		"inline and depth":     {"inline", func(e *Entry) { e.depth = 1 }},
		"inline and refs":      {"refs", func(e *Entry) { e.inline = []byte{1} }},
		"refs for more":        {"refs", func(e *Entry) { e.Size-- }},
		"refs for less":        {"refs", func(e *Entry) { e.Size++ }},
		"sum that overflows":   {"nodes", func(e *Entry) { e.parts[0].under, e.parts[1].under = math.MaxUint64, uint64(e.Size)+1 }},
		"xattrs not in order":  {"inline", func(e *Entry) { e.Xattrs[0].Name = []byte("user.c") }},
		"xattr without name":   {"inline", func(e *Entry) { e.Xattrs[0].Name = nil }},
		"xattrs too long":      {"inline", func(e *Entry) { e.Xattrs[0].Value = make([]byte, MaxXattrBytes) }},
		"too many refs": {"refs", func(e *Entry) {
			for range maxEntryRefs {
				e.parts = append(e.parts, e.parts[0])
				e.Size += 5000
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			e := entries()[c.of]
			e.parts = append([]part(nil), e.parts...)
			c.change(e)
			if _, err := e.encode(); err == nil {
				t.Error("encodes")
			}
			// What encode refuses, decoding refuses too.
			if b := encodeUnchecked(e); b != nil {
				if _, err := decodeEntry(b); !errors.Is(err, ErrCorrupt) && !errors.Is(err, pack.ErrVersion) {
					t.Errorf("decode: got %v, want %v", err, ErrCorrupt)
				}
			}
		})
	}
}

// encodeUnchecked encodes what encode may refuse.
func encodeUnchecked(e *Entry) []byte {
	b, err := e.marshal()
	if err != nil {
		panic(err)
	}
	return append([]byte{'p', '2', 'p', 'E', e.version(), byte(e.Kind)}, b...)
}

func TestEntryIsCanonical(t *testing.T) {
	head := entryMagic + "\x01\x01"
	// [h'61', 0, 0, 0, 0, [], h'', 0, h'', h'']
	good := "8a" + "4161" + "00" + "00" + "00" + "00" + "80" + "40" + "00" + "40" + "40"
	for _, c := range []struct {
		name, body string
		ok         bool
	}{
		{"as it was", good, true},
		{"null for an empty list", strings.Replace(good, "80", "f6", 1), false},
		{"longer number", "8a" + "4161" + "1800" + good[8:], false},
		{"longer array head", "980a" + good[2:], false},
		{"indefinite array", "9f" + good[2:] + "ff", false},
		{"text for bytes", "8a" + "6161" + good[6:], false},
		{"tag", "c1" + good, false},
		{"one field less", "89" + good[2:len(good)-2], false},
		{"one field more", "8b" + good + "40", false},
		{"bytes after", good + "00", false},
		{"map", "a0", false},
		{"deep", strings.Repeat("81", 1000) + "00", false},
		{"huge array", "9bffffffffffffffff", false},
		{"huge bytes", "8a" + "5bffffffffffffffff", false},
		{"float", "8a" + "4161" + "f90000" + good[8:], false},
		{"nanoseconds", "8a" + "4161" + "00" + "00" + "1a3b9aca00" + "00" + "80" + "40" + "00" + "40" + "40", false},
		{"depth", "8a" + "4161" + "00" + "00" + "00" + "00" + "80" + "40" + "05" + "40" + "40", false},
		{"odd refs", "8a" + "4161" + "00" + "00" + "00" + "00" + "80" + "40" + "00" + "4100" + "40", false},
		{"odd inventory", "8a" + "4161" + "00" + "00" + "00" + "00" + "80" + "40" + "00" + "40" + "4100", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := hex.DecodeString(c.body)
			if err != nil {
				t.Fatal(err)
			}
			_, err = decodeEntry(append([]byte(head), b...))
			if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %v, want ok %v", err, c.ok)
			}
		})
	}
	b, _ := hex.DecodeString(good)
	for first, want := range map[string]error{
		entryMagic + "\x03\x01": pack.ErrVersion,
		entryMagic + "\x02\x01": ErrCorrupt,
		entryMagic + "\x00\x01": ErrCorrupt,
		entryMagic + "\x01\x02": ErrCorrupt, // no directory
		entryMagic + "\x01\x07": pack.ErrVersion,
		entryMagic + "\x01\x00": ErrCorrupt,
		"p2pX\x01\x01":          ErrCorrupt,
		"":                      ErrCorrupt,
	} {
		if _, err := decodeEntry(append([]byte(first), b...)); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", first, err, want)
		}
	}
}

func testNode(level, count int) *node {
	n := &node{level: level}
	for i := range count {
		p := part{Ref: testRef("one", uint32(i), 1000, 5000), under: 5000}
		if level > 0 {
			p.under = 1 << 30
		}
		n.parts = append(n.parts, p)
	}
	return n
}

func TestNodeIsStrict(t *testing.T) {
	golden(t, "node0.hex", dump(testNode(0, 2).encode()))
	golden(t, "node1.hex", dump(testNode(1, 2).encode()))
	for name, c := range map[string]struct {
		n  *node
		ok bool
	}{
		"one":            {testNode(0, 1), true},
		"most":           {testNode(maxDepth-1, maxNodeRefs), true},
		"none":           {testNode(0, 0), false},
		"too many":       {testNode(0, maxNodeRefs+1), false},
		"too deep":       {testNode(maxDepth, 1), false},
		"large chunk":    {&node{parts: []part{{Ref: testRef("a", 0, 1, chunk.MaxSize+1)}}}, false},
		"empty chunk":    {&node{parts: []part{{Ref: testRef("a", 0, 1, 0)}}}, false},
		"large node":     {&node{level: 1, parts: []part{{Ref: testRef("a", 0, 1, maxNode+1), under: 1}}}, false},
		"nothing under":  {&node{level: 1, parts: []part{{Ref: testRef("a", 0, 1, 100), under: 0}}}, false},
		"too much under": {&node{level: 1, parts: []part{{Ref: testRef("a", 0, 1, 100), under: 1 << 63}}}, false},
		"no ref":         {&node{parts: []part{{}}}, false},
	} {
		b := c.n.encode()
		got, err := decodeNode(b)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want ok %v", name, err, c.ok)
		}
		if err == nil && !bytes.Equal(got.encode(), b) {
			t.Errorf("%s: encodes to other bytes", name)
		}
		if len(b) > maxNode && c.ok {
			t.Errorf("%s: %d bytes, at most %d are allowed", name, len(b), maxNode)
		}
	}
	b := testNode(0, 2).encode()
	for n := range len(b) {
		if _, err := decodeNode(b[:n]); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d bytes: got %v, want %v", n, err, ErrCorrupt)
		}
	}
	if _, err := decodeNode(append(b, 0)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte more: got %v, want %v", err, ErrCorrupt)
	}
	binary.BigEndian.PutUint32(b[6:], math.MaxUint32)
	if _, err := decodeNode(b); !errors.Is(err, ErrCorrupt) {
		t.Errorf("huge count: got %v, want %v", err, ErrCorrupt)
	}
	if b[4] = 2; true {
		if _, err := decodeNode(b); !errors.Is(err, pack.ErrVersion) {
			t.Errorf("version 2: got %v, want %v", err, pack.ErrVersion)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	for _, e := range entries() {
		b, err := e.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEntry(b)
		if err != nil {
			return
		}
		if again, err := e.encode(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("%v, encodes to\n%s", err, hex.Dump(again))
		}
	})
}

func FuzzDecodeNode(f *testing.F) {
	f.Add(testNode(0, 2).encode())
	f.Add(testNode(1, 3).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := decodeNode(b); err == nil && !bytes.Equal(n.encode(), b) {
			t.Errorf("encodes to\n%s", hex.Dump(n.encode()))
		}
	})
}
