package volume

import (
	"errors"
	"testing"
)

func TestPlaces(t *testing.T) {
	for text, want := range map[string]Place{
		"mine:":                {Volume: "mine"},
		"mine:/":               {Volume: "mine"},
		"mine:a/b":             {Volume: "mine", Path: "a/b"},
		"a.b-c_9:/x//y/":       {Volume: "a.b-c_9", Path: "x/y"},
		"mine@7:a":             {Volume: "mine", Number: 7, Path: "a"},
		"mine@12-0f:a:b":       {Volume: "mine", Number: 12, Hash: "0f", Path: "a:b"},
		"9:with space\nand nl": {Volume: "9", Path: "with space\nand nl"},
	} {
		if !IsPlace(text) {
			t.Errorf("%q: not taken for a path in a volume", text)
		}
		p, err := ParsePlace(text)
		if err != nil || p != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, p, err, want)
		}
		if back, err := ParsePlace(p.String()); err != nil || back != p {
			t.Errorf("%q: read back as %+v, %v", p.String(), back, err)
		}
	}
	for _, text := range []string{"./a:b", "p2pfs:abc", "p2pfs-invite:abc", "Mine:a", "a b:c", ":x", "plain", "_a:b"} {
		if IsPlace(text) {
			t.Errorf("%q: taken for a path in a volume", text)
		}
	}
	for _, text := range []string{"mine@:a", "mine@0:a", "mine@x:a", "mine@7-:a", "mine@7-XY:a", "mine@99999999999999999999:a", "mine:a/../b", "mine:.", "mine:a\x00b"} {
		if p, err := ParsePlace(text); err == nil {
			t.Errorf("%q: got %+v, want an error", text, p)
		}
	}
	if _, err := ParsePlace("p2pfsx:a"); !errors.Is(err, ErrName) {
		t.Errorf("a name that begins as links do: got %v", err)
	}
}

func FuzzPlace(f *testing.F) {
	f.Add("mine@12-0f:a/b")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParsePlace(text)
		if err != nil {
			return
		}
		if back, err := ParsePlace(p.String()); err != nil || back != p {
			t.Errorf("%q gave %+v, read back as %+v, %v", text, p, back, err)
		}
	})
}
