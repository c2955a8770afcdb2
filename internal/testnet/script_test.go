//go:build unix

package testnet_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// The script does what its table says, under a path with all that a shell
// trips over.
func TestScript(t *testing.T) {
	t.Parallel()
	bin, err := testnet.Binary()
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(t.TempDir(), `it's a "test" $net`)
	env := append(os.Environ(), "P2PFS_TESTNET="+state, "P2PFS_BIN="+bin)
	shell := func(words string) string {
		t.Helper()
		cmd := exec.Command("bash", "-c", "set -euo pipefail; testnet() { ../../scripts/testnet.sh \"$@\"; }; "+words)
		cmd.Env = env
		var errs strings.Builder
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s%s", words, err, out, errs.String())
		}
		return string(out)
	}
	t.Cleanup(func() { shell("testnet down"); shell("testnet down") })
	type node struct {
		Node      int    `json:"node"`
		Up        bool   `json:"up"`
		PID       int    `json:"pid"`
		Home      string `json:"home"`
		ID        string `json:"id"`
		Peers     int    `json:"peers"`
		Shards    int    `json:"shards"`
		HeldBytes int64  `json:"held_bytes"`
	}
	status := func() (nodes []node) {
		t.Helper()
		out := shell("testnet status --json")
		if err := json.Unmarshal([]byte(out), &nodes); err != nil {
			t.Fatalf("status --json: %v in %s", err, out)
		}
		return nodes
	}
	up := func(want string) {
		t.Helper()
		var got strings.Builder
		for i, n := range status() {
			if n.Node != i+1 || n.Home != filepath.Join(state, "node-"+itoa(i+1), "home") || n.Up != (n.PID != 0) {
				t.Errorf("got %+v as node %d", n, i+1)
			}
			if n.Up {
				got.WriteString("U")
			} else {
				got.WriteString("-")
			}
		}
		if got.String() != want {
			t.Fatalf("got nodes %s, want %s", got.String(), want)
		}
	}

	if out := shell("testnet up 3"); out != "" {
		t.Errorf("up printed %q on stdout", out)
	}
	up("UUU")
	path := file(t, "file", 50, 2<<20)
	link := strings.TrimSpace(shell(`eval "$(testnet env)"; p2pfs put '` + path + `'`))
	for _, n := range status() {
		if n.ID == "" || n.Peers < 2 || n.Shards == 0 || n.HeldBytes < 1<<20 {
			t.Errorf("got %+v, want an ID, peers, and a shard held", n)
		}
	}
	shell("testnet kill 1 3")
	up("-U-")
	out := filepath.Join(t.TempDir(), "out")
	shell(`eval "$(testnet env)"; p2pfs get ` + link + ` -o '` + out + `'`)
	same(t, out, path)
	shell("testnet start 3; testnet stop 2")
	up("--U")
	shell("testnet wipe 2; testnet add 2")
	up("--UUU")
	if _, err := os.Stat(filepath.Join(state, "node-2", "home")); !os.IsNotExist(err) {
		t.Errorf("the home of the wiped node is there")
	}
	shell(`eval "$(testnet env)"; p2pfs cat ` + link + ` | cmp - '` + path + `'`)
	if out := shell("testnet status"); strings.Count(out, "\n") != 6 {
		t.Errorf("status is not a line a node and a heading:\n%s", out)
	}
	shell("! testnet start 2; ! testnet kill 9; ! testnet up 3; ! testnet kill")
	shell("testnet down")
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("down left the state")
	}
}
