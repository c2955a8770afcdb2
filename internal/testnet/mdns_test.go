//go:build linux

package testnet_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// Two machines on a LAN, of which one knows the other only at ports it has
// left: it joins, puts and gets all the same, for mDNS tells where the other
// is now. It listens nowhere itself.
func TestFoundOnTheLAN(t *testing.T) {
	t.Parallel()
	near, far := lan(t)
	port, moved := 4020, func(n *testnet.Node, from, to int) {
		t.Helper()
		n.Stop()
		path := filepath.Join(n.Dir, "config.toml")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := strings.ReplaceAll(string(b), fmt.Sprintf("/%d", from), fmt.Sprintf("/%d", to))
		if c == string(b) {
			t.Fatalf("port %d is not in %s", from, b)
		}
		if err := os.WriteFile(path, []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
		n.Start()
	}
	net := testnet.New(t, 1, testnet.Options{
		Flags: []string{"--no-mdns=false"},
		Setup: func(int) []string {
			return []string{
				"--listen", fmt.Sprintf("/ip4/198.51.100.1/tcp/%d", port),
				"--listen", fmt.Sprintf("/ip4/198.51.100.1/udp/%d/quic-v1", port),
			}
		},
		Wrap: func(int) []string { return near },
	})
	a, c := net.Nodes[0], net.Stranger()
	c.Wrap = far

	invite := net.Invite()
	moved(a, port, port+1) // where the invite says nobody listens now
	c.Run(t, "join", invite)
	path := file(t, "file", 40, 1<<20)
	link := put(t, c, path, "--redundancy", "1+0")
	get(t, &a.Home, link, path)

	moved(a, port+1, port+2) // nor where it has been met since
	path = file(t, "file", 41, 1<<20)
	link = put(t, &a.Home, path, "--redundancy", "1+0")
	get(t, c, link, path)
}

// lan makes two network namespaces with a cable between, and gives the words
// that run a command in each. They go when the test ends.
func lan(t *testing.T) (near, far []string) {
	t.Helper()
	ip, names := namespaces(t, "mdns")
	steps := []string{fmt.Sprintf("link add lan netns %s type veth peer name lan netns %s", names[0], names[1])}
	for i, name := range names {
		steps = append(steps,
			"-n "+name+" link set lo up",
			fmt.Sprintf("-n %s addr add 198.51.100.%d/24 dev lan", name, i+1),
			"-n "+name+" link set lan up",
		)
	}
	for _, s := range steps {
		if err := ip(s); err != nil {
			t.Fatal(err)
		}
	}
	return inside(names[0]), inside(names[1])
}

// namespaces makes two network namespaces that go when the test ends, and
// gives what runs ip(8) with the words given.
func namespaces(t *testing.T, what string) (ip func(words string) error, names [2]string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	tool, err := exec.LookPath("ip")
	if err != nil {
		t.Skip("no ip (iproute2) to make network namespaces with")
	}
	ip = func(words string) error {
		out, err := exec.Command(tool, strings.Fields(words)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("ip %s: %w: %s", words, err, out)
		}
		return nil
	}
	for i := range names {
		name := fmt.Sprintf("p2pfs-%s-%d-%c", what, os.Getpid(), 'a'+i)
		if err := ip("netns add " + name); err != nil {
			t.Skip(err) // a container that may not
		}
		t.Cleanup(func() {
			if err := ip("netns del " + name); err != nil {
				t.Error(err)
			}
		})
		names[i] = name
	}
	return ip, names
}

// inside gives the words that run a command in a network namespace.
func inside(name string) []string { return []string{"ip", "netns", "exec", name} }
