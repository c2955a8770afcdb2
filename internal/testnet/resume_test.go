//go:build unix

package testnet_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// What was under way when a put or get ended is all that is sent twice by the
// same command, of which nothing but the home is left.
func TestWhatEndsInTheMiddleGoesOn(t *testing.T) {
	const n = 200 << 20
	const allowed = 64 << 20
	net := testnet.New(t, 5, testnet.Options{}) // any 2 of 5 shards
	traffic := func() (in, out int64) {
		for _, h := range net.Nodes {
			s := h.Status()
			in, out = in+s.Received, out+s.Sent
		}
		return in, out
	}
	client := net.Client()
	// end starts a command and sends it a signal as soon as ripe.
	end := func(t *testing.T, s syscall.Signal, ripe func() bool, args ...string) string {
		t.Helper()
		cmd := client.Command(t.Context(), args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		testnet.Wait(t, "the middle of "+args[0], ripe)
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatalf("%s ended before it was interrupted", args[0])
		}
		return errs.String()
	}
	for i, c := range []struct {
		name   string
		tree   bool
		signal syscall.Signal
	}{{"file, SIGKILL", false, syscall.SIGKILL}, {"tree, SIGKILL", true, syscall.SIGKILL}, {"file, SIGINT", false, syscall.SIGINT}, {"tree, SIGINT", true, syscall.SIGINT}} {
		if i > 0 && testing.Short() { // gigabytes
			break
		}
		t.Run(c.name, func(t *testing.T) {
			path := file(t, "file", uint64(70+i), n)
			if c.tree {
				dir := filepath.Join(t.TempDir(), "tree")
				for j := range 40 { // of 5 MiB each
					if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint(j/10)), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.Rename(file(t, "part", uint64(1000*i+j), n/40), filepath.Join(dir, fmt.Sprint(j/10), fmt.Sprint(j))); err != nil {
						t.Fatal(err)
					}
				}
				path = dir
			}
			before, _ := traffic()
			said := end(t, c.signal, func() bool {
				in, _ := traffic()
				return in-before > n*5/2*6/10
			}, "put", path)
			if c.signal == syscall.SIGINT && !strings.Contains(said, "the same command goes on") {
				t.Errorf("put: got %q, want to be told how to go on", said)
			}
			link := put(t, client, path)
			after, _ := traffic()
			twice := after - before - n*5/2
			t.Logf("put: %d MiB of %d sent twice", twice>>20, n*5/2>>20)
			if twice > allowed*5/2 {
				t.Errorf("put: %d MiB were sent twice, want at most %d", twice>>20, allowed*5/2>>20)
			}

			out := filepath.Join(t.TempDir(), "out")
			part := filepath.Join(filepath.Dir(out), ".out.p2pfs-part")
			_, before = traffic()
			said = end(t, c.signal, func() bool { return sizeOf(part) > n*6/10 }, "get", "-v", link, "-o", out)
			if c.signal == syscall.SIGINT && !strings.Contains(said, "the same command goes on") {
				t.Errorf("get: got %q, want to be told how to go on", said)
			}
			again := client.Run(t, "get", "-v", link, "-o", out)
			if !strings.Contains(again.Err, "of it are here already") {
				t.Errorf("get: got %q, want that it goes on", again.Err)
			}
			_, after = traffic()
			twice = after - before - n
			hedged := strings.Count(said+again.Err, "holder is slow") // of whom others sent the same
			t.Logf("get: %d MiB of %d sent twice, %d holders were slow", twice>>20, n>>20, hedged)
			if most := int64(allowed + n/20); twice > most && hedged == 0 { // what else is said
				t.Errorf("get: %d MiB were sent twice, want at most %d", twice>>20, most>>20)
			}
			if c.tree {
				sameTree(t, out, path)
			} else {
				same(t, out, path)
			}
			if all, err := os.ReadDir(filepath.Dir(out)); err != nil || len(all) != 1 {
				t.Errorf("got %v, %v, want what was asked for alone", all, err)
			}
		})
	}
}

// sizeOf gives the bytes of a file, or of the files in a directory.
func sizeOf(path string) (n int64) {
	_ = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it goes away meanwhile
		}
		if i, err := d.Info(); err == nil && i.Mode().IsRegular() {
			n += i.Size()
		}
		return nil
	})
	return n
}
