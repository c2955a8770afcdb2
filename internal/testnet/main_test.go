//go:build unix

package testnet_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

func TestMain(m *testing.M) { testnet.Main(m) }

// size gives the bytes of a file for a test: small in most runs, so that all
// is over within a minute, large in a soak.
func size(short, soak int64) int64 {
	if testnet.Soak() {
		return soak
	}
	return short
}

// random gives n bytes that nothing compresses, the same for a seed.
func random(seed uint64, n int64) io.Reader {
	key := [32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}
	return io.LimitReader(rand.NewChaCha8(key), n)
}

// file makes a file of n random bytes.
func file(t *testing.T, name string, seed uint64, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, random(seed, n)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// seeded prints the seed of a test that draws lots.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// same fails unless two files are equal.
func same(t *testing.T, got, want string) {
	t.Helper()
	if g, w := sum(t, got), sum(t, want); !bytes.Equal(g, w) {
		t.Fatalf("%s differs from %s", got, want)
	}
}

func sum(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return h.Sum(nil)
}

// put stores a file and gives its link.
func put(t *testing.T, h *testnet.Home, path string, flags ...string) string {
	t.Helper()
	link := h.Run(t, append(append([]string{"put"}, flags...), path)...).MustLine()
	if !strings.HasPrefix(link, "p2pfs:") || len(link) > 130 {
		t.Fatalf("got link %q", link)
	}
	return link
}

// get fetches a link into a fresh directory and compares it with a file.
func get(t *testing.T, h *testnet.Home, link, want string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	if r := h.Run(t, "get", link, "-o", out); r.Out != "" {
		t.Errorf("get printed %q on stdout, want nothing", r.Out)
	}
	same(t, out, want)
}

// refused fetches a link that cannot be had: the command ends with the code,
// says each of the words, and leaves nothing behind, or of a file that is there
// in part what the next get goes on from.
func refused(t *testing.T, h *testnet.Home, code int, link string, words ...string) {
	t.Helper()
	dir := t.TempDir()
	r := h.Want(t, code, "get", link, "-o", filepath.Join(dir, "out"))
	says(t, r.Err, words...)
	if r.Out != "" {
		t.Errorf("get printed %q on stdout, want nothing", r.Out)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range left {
		if code == 12 && strings.HasPrefix(f.Name(), ".out.p2pfs-") {
			continue // what was read before; the next get goes on from it
		}
		t.Errorf("get left %s behind", f.Name())
	}
}

// says fails unless a message holds all words.
func says(t *testing.T, message string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(message, w) {
			t.Errorf("got message %q, want it to say %q", message, w)
		}
	}
}

// stored is what `put --json` and `stat --json` say of redundancy.
type stored struct {
	Link     string `json:"link"`
	Bytes    int64  `json:"bytes"`
	K        int    `json:"k"`
	N        int    `json:"n"`
	Stored   int    `json:"stored"`
	Live     int    `json:"live"`
	Survives int    `json:"survives"`
}
