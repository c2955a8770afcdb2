//go:build unix

package testnet_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/p2pfs/p2pfs/internal/testnet"
)

// What scripts rely on: stdout is what was asked for and nothing else, exit
// codes say how it ended, errors are a line, with a hint where there is one.
func TestCommandContract(t *testing.T) {
	t.Parallel()
	net := testnet.New(t, 3, testnet.Options{})
	node, client := &net.Nodes[0].Home, net.Client()
	path := file(t, "a file.bin", 20, 5<<20)
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	link := put(t, node, path)

	t.Run("two paths, two lines", func(t *testing.T) {
		other := file(t, "b", 21, 10)
		out := client.Run(t, "put", path, other).Out
		if lines := strings.Split(out, "\n"); len(lines) != 3 || lines[2] != "" {
			t.Errorf("got %q, want two lines", out)
		}
	})
	t.Run("empty file", func(t *testing.T) {
		empty := file(t, "empty", 0, 0)
		get(t, client, put(t, node, empty), empty)
	})
	t.Run("put json", func(t *testing.T) {
		var v map[string]any
		client.Run(t, "put", "--json", path).JSON(&v)
		for _, field := range []string{"path", "link", "bytes", "packs", "k", "n", "stored", "seconds"} {
			if _, ok := v[field]; !ok {
				t.Errorf("put --json has no %q: %v", field, v)
			}
		}
		if v["path"] != path || v["bytes"] != float64(len(content)) {
			t.Errorf("got %v", v)
		}
	})
	t.Run("same result with and without a node", func(t *testing.T) {
		for _, h := range []*testnet.Home{node, client} {
			if out := h.Run(t, "cat", link).Out; out != string(content) {
				t.Errorf("%s: cat gives %d bytes that differ from the file", h.Name, len(out))
			}
		}
	})
	t.Run("ranges", func(t *testing.T) {
		for _, c := range []struct{ off, n, from, to int }{
			{0, 1, 0, 1}, {1 << 20, 100000, 1 << 20, 1<<20 + 100000}, {len(content) - 3, 100, len(content) - 3, len(content)}, {len(content), 5, 0, 0},
		} {
			out := node.Run(t, "cat", link, "--offset", itoa(c.off), "--length", itoa(c.n)).Out
			if out != string(content[c.from:c.to]) {
				t.Errorf("bytes %d+%d: got %d bytes, want %d, or they differ", c.off, c.n, len(out), c.to-c.from)
			}
		}
		if out := node.Run(t, "cat", link, "--offset", "100").Out; out != string(content[100:]) {
			t.Errorf("from offset 100: got %d bytes, want %d", len(out), len(content)-100)
		}
	})
	t.Run("own name and --force", func(t *testing.T) {
		dir := t.TempDir()
		run := func(args ...string) (int, string) {
			cmd := node.Command(t.Context(), args...)
			cmd.Dir = dir
			var out, errs bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errs
			r := testnet.Finish(t, cmd, &out, &errs)
			return r.Code, r.Err
		}
		if code, msg := run("get", link); code != 0 {
			t.Fatalf("get: exit code %d: %s", code, msg)
		}
		same(t, filepath.Join(dir, "a file.bin"), path)
		if code, _ := run("get", link); code != 1 {
			t.Errorf("get onto an existing file: got exit code %d, want 1", code)
		}
		if code, msg := run("get", "--force", link); code != 0 {
			t.Errorf("get --force: got exit code %d: %s", code, msg)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("%d files are in the directory, want 1", len(left))
		}
	})
	t.Run("stdin", func(t *testing.T) {
		r := client.TryWith(t, random(22, 3<<20), "put", "-")
		want, _ := io.ReadAll(random(22, 3<<20))
		if out := node.Run(t, "cat", r.MustLine()).Out; out != string(want) {
			t.Errorf("cat gives %d bytes that differ from stdin", len(out))
		}
	})
	t.Run("stat", func(t *testing.T) {
		var s stored
		client.Run(t, "stat", link, "--json").JSON(&s)
		if s.K != 1 || s.N != 3 || s.Live != 3 || s.Survives != 2 || s.Bytes != int64(len(content)) {
			t.Errorf("got %+v, want 1 of 3, all live", s)
		}
	})
	t.Run("peers", func(t *testing.T) {
		var peers []struct{ ID string }
		node.Run(t, "peers", "--json").JSON(&peers)
		if len(peers) < 2 {
			t.Errorf("got %d peers, want 2 or more", len(peers))
		}
	})
	t.Run("version", func(t *testing.T) {
		if out := net.Stranger().Run(t, "version").Out; !strings.HasPrefix(out, "p2pfs ") {
			t.Errorf("got %q", out)
		}
	})

	mistyped := []byte(link)
	mistyped[40] ^= 1
	tree := put(t, node, t.TempDir())
	for _, c := range []struct {
		name string
		code int
		args []string
		says string
	}{
		{"unknown command", 2, []string{"frobnicate"}, "frobnicate"},
		{"unknown flag", 2, []string{"get", "--sideways", link}, "sideways"},
		{"no argument", 2, []string{"put"}, ""},
		{"no link", 2, []string{"get", "p2pfs:nonsense"}, "link"},
		{"mistyped link", 2, []string{"cat", string(mistyped)}, "link"},
		{"bad scheme", 2, []string{"put", "--redundancy", "0+3", path}, "0+3"},
		{"scheme too wide", 2, []string{"put", "--redundancy", "200+100", path}, "200+100"},
		{"no such file", 1, []string{"put", "/no/such/file"}, "/no/such/file"},
		{"directory to stdout", 2, []string{"get", tree, "-o", "-"}, "directory"},
		{"directory as a file", 2, []string{"cat", tree}, "directory"},
		{"no such directory to write to", 1, []string{"get", link, "-o", "/no/such/dir/file"}, "/no/such/dir"},
		{"home in use", 1, []string{"node"}, "use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := node.Want(t, c.code, c.args...)
			if r.Out != "" {
				t.Errorf("got stdout %q, want none", r.Out)
			}
			says(t, r.Err, "p2pfs: ", c.says)
			if strings.Contains(r.Err, "goroutine ") {
				t.Errorf("the error is a stack trace: %s", r.Err)
			}

			r = node.Want(t, c.code, append([]string{"--json"}, c.args...)...)
			var e struct {
				Type    string
				Code    int
				Message string
			}
			if err := json.Unmarshal([]byte(r.Err), &e); err != nil || e.Type != "error" || e.Code != c.code || e.Message == "" {
				t.Errorf("with --json: got stderr %q, want an error object with code %d", r.Err, c.code)
			}
		})
	}

	t.Run("no home", func(t *testing.T) {
		r := net.Stranger().Try(t, "put", path)
		if r.Code == 0 || r.Out != "" {
			t.Errorf("got exit code %d and stdout %q, want an error", r.Code, r.Out)
		}
		says(t, r.Err, "p2pfs init", "p2pfs join")
	})
	t.Run("init twice", func(t *testing.T) {
		if r := node.Try(t, "init"); r.Code == 0 {
			t.Errorf("init on an existing home ended well")
		}
	})
	t.Run("quiet", func(t *testing.T) {
		if r := node.Run(t, "get", "--quiet", link, "-o", filepath.Join(t.TempDir(), "out")); r.Err != "" {
			t.Errorf("get --quiet printed %q", r.Err)
		}
	})
}

func itoa(n int) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// A file that grows while it is stored is refused or stored as it was read,
// and never claimed to be what it is not.
func TestFileThatChangesWhileItIsRead(t *testing.T) {
	net := testnet.New(t, 2, testnet.Options{})
	path := file(t, "file", 23, 200<<20)
	cmd := net.Nodes[0].Command(t.Context(), "put", "--json", path)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			if f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0); err == nil {
				f.Write(make([]byte, 1000))
				f.Close()
			}
		}
	}()
	r := testnet.Finish(t, cmd, &out, &errs)
	close(stop)
	<-done
	if r.Code == 0 {
		t.Errorf("put of a file that grew ended well: %s", r.Out)
	}
	says(t, r.Err, "changed")
}
