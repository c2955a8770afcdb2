//go:build unix

package testnet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// TB is what testnet needs of a test; a *testing.T is one, and a program that
// wants a network can bring its own.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any) // does not return
	Failed() bool
	TempDir() string
	Cleanup(func())
}

// Patience bounds every wait for processes: generous, since two cores may be
// running twenty of them under the race detector.
const Patience = 2 * time.Minute

// Soak says whether the long variants of the tests are wanted. Each test runs
// in both cases, with smaller sizes where they are not.
func Soak() bool { return os.Getenv("P2PFS_SOAK") != "" }

// program is the binary that all networks of this process use.
var program struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Main runs the tests of a package and removes the binary built for them. m is
// a *testing.M.
func Main(m interface{ Run() int }) {
	code := m.Run()
	if program.dir != "" {
		os.RemoveAll(program.dir)
	}
	os.Exit(code)
}

// Binary gives the path of the p2pfs binary, built on first use, with the race
// detector where the caller has it. P2PFS_BIN names one to use instead.
func Binary() (string, error) {
	program.once.Do(func() {
		if p := os.Getenv("P2PFS_BIN"); p != "" {
			program.path, program.err = filepath.Abs(p)
			return
		}
		program.dir, program.err = os.MkdirTemp("", "p2pfs-testnet-")
		if program.err != nil {
			return
		}
		program.path = filepath.Join(program.dir, "p2pfs")
		args := []string{"build", "-buildvcs=false", "-o", program.path}
		if Race {
			args = append(args, "-race")
		}
		out, err := exec.Command("go", append(args, "github.com/p2pfs/p2pfs/cmd/p2pfs")...).CombinedOutput()
		if err != nil {
			program.err = fmt.Errorf("build p2pfs: %w\n%s", err, out)
		}
	})
	return program.path, program.err
}

// Options say how a network is made. The zero value is good for most tests.
type Options struct {
	Flags []string             // further flags of `p2pfs node`
	Setup func(i int) []string // further flags of `init` (i = 0) and `join`, such as --capacity; may be nil
	Node  func(i int) []string // further flags of node i; may be nil
	Wrap  func(i int) []string // words put before node i's command, such as a memory limit; may be nil
	Host  func(i int) []string // words put before all commands on node i's home, such as a network namespace; may be nil
	Env   []string             // KEY=VALUE for all processes
	Dir   string               // where homes lie; the test's temporary directory where empty
}

// Net is a network of processes on this machine.
type Net struct {
	Nodes []*Node

	t       TB
	bin     string
	dir     string
	options Options
	clients int
}

// New makes a network of n nodes and starts them. It returns when all are
// ready and know each other.
func New(t TB, n int, o Options) *Net {
	t.Helper()
	bin, err := Binary()
	if err != nil {
		t.Fatalf("%v", err)
	}
	dir := o.Dir
	if dir == "" {
		dir = t.TempDir()
	}
	w := &Net{t: t, bin: bin, dir: dir, options: o}
	first := w.node()
	first.must("init", append(listen(t), w.setup(0)...)...)
	first.Start()
	w.Nodes = append(w.Nodes, first)
	w.Add(n - 1)
	return w
}

// Add lets k more nodes join, invited by the first that is up, and waits until
// they are ready.
func (w *Net) Add(k int) []*Node {
	w.t.Helper()
	if k == 0 {
		return nil
	}
	invite := w.Invite()
	added := make([]*Node, k)
	for i := range added {
		added[i] = w.node()
		w.Nodes = append(w.Nodes, added[i])
	}
	joins := make([]Result, k)
	var group sync.WaitGroup
	slots := make(chan struct{}, 4)
	for i, n := range added {
		args := append(append([]string{"join", invite}, listen(w.t)...), w.setup(len(w.Nodes)-k+i)...)
		slots <- struct{}{}
		group.Go(func() {
			joins[i] = n.Try(w.t, args...)
			<-slots
		})
	}
	group.Wait()
	for i, n := range added {
		if joins[i].Code != 0 {
			w.t.Fatalf("%s could not join: %s", n.Name, joins[i].Err)
		}
		n.launch()
	}
	for _, n := range added {
		n.wait()
	}
	w.Acquaint()
	return added
}

// Invite gives an invite by the first node that is up.
func (w *Net) Invite() string {
	w.t.Helper()
	return w.up().Run(w.t, "invite").MustLine()
}

// Client makes a home that is a member of the network and on which no node
// runs: commands on it start a client of their own.
func (w *Net) Client() *Home {
	w.t.Helper()
	w.clients++
	h := w.home(fmt.Sprintf("client-%d", w.clients))
	h.must("join", append([]string{w.Invite()}, listen(w.t)...)...)
	return h
}

// Stranger makes a home that belongs to no network, for commands that should
// fail or make one.
func (w *Net) Stranger() *Home {
	w.clients++
	return w.home(fmt.Sprintf("client-%d", w.clients))
}

// Acquaint waits until every node that is up is connected to all others, up to
// the 20 that are a full neighbourhood.
func (w *Net) Acquaint() {
	w.t.Helper()
	up := w.Up()
	want := min(len(up)-1, 20)
	for _, n := range up {
		Wait(w.t, fmt.Sprintf("%s to know %d peers", n.Name, want), func() bool { return n.Status().Peers >= want })
	}
}

// Up gives the nodes whose processes run, oldest first.
func (w *Net) Up() []*Node {
	var up []*Node
	for _, n := range w.Nodes {
		if n.Up() {
			up = append(up, n)
		}
	}
	return up
}

// Stop ends nodes in order, all at the same time.
func (w *Net) Stop(nodes ...*Node) {
	w.t.Helper()
	for _, n := range nodes {
		n.signal(syscall.SIGTERM)
	}
	for _, n := range nodes {
		n.gone()
	}
}

// Start starts nodes again, all at the same time, and waits until they are
// ready.
func (w *Net) Start(nodes ...*Node) {
	w.t.Helper()
	for _, n := range nodes {
		n.launch()
	}
	for _, n := range nodes {
		n.wait()
	}
}

// Kill kills nodes at once: all signals are sent before any is waited for.
func (w *Net) Kill(nodes ...*Node) {
	w.t.Helper()
	for _, n := range nodes {
		n.signal(syscall.SIGKILL)
	}
	for _, n := range nodes {
		n.gone()
	}
}

func (w *Net) up() *Node {
	w.t.Helper()
	for _, n := range w.Nodes {
		if n.Up() {
			return n
		}
	}
	w.t.Fatalf("no node is up")
	return nil
}

func (w *Net) setup(i int) []string {
	if w.options.Setup == nil {
		return nil
	}
	return w.options.Setup(i)
}

func (w *Net) home(name string) *Home {
	return &Home{Name: name, Dir: filepath.Join(w.dir, name), net: w}
}

// node gives a node that has not been started, with its log printed where the
// test fails.
func (w *Net) node() *Node {
	i := len(w.Nodes)
	n := &Node{Home: *w.home(fmt.Sprintf("node-%d", i+1)), flags: []string{"--no-mdns", "--no-portmap"}}
	n.flags = append(n.flags, w.options.Flags...)
	if w.options.Node != nil {
		n.flags = append(n.flags, w.options.Node(i)...)
	}
	if w.options.Host != nil {
		n.Wrap = w.options.Host(i)
	}
	if w.options.Wrap != nil {
		n.wrap = w.options.Wrap(i)
	}
	w.t.Cleanup(func() {
		n.signal(syscall.SIGKILL)
		n.signal(syscall.SIGCONT)
		n.gone()
		log := n.Log()
		if i := strings.Index(log, "DATA RACE"); i >= 0 {
			w.t.Logf("%s: %s", n.Name, log[max(i-100, 0):])
			w.t.Fatalf("%s has a data race", n.Name)
		}
		if w.t.Failed() && log != "" {
			w.t.Logf("log of %s:\n%s", n.Name, tail(log, 20))
		}
	})
	return n
}

// ports gives each node of this process a port of its own that stays the
// node's when it starts again. They lie below the range out of which systems
// give ports to whoever asks for any; where they begin depends on the process,
// since several may be testing.
var ports = struct {
	mu   sync.Mutex
	next int
}{next: 12000 + os.Getpid()%90*200}

// listen gives flags with a free port of loopback, for TCP and QUIC.
func listen(t TB) []string {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	for range 1000 {
		port := ports.next
		ports.next = 12000 + (ports.next-12000+1)%20000
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		udp, err := net.ListenPacket("udp", addr)
		tcp.Close()
		if err != nil {
			continue
		}
		udp.Close()
		return []string{
			"--listen", fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port),
			"--listen", fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", port),
		}
	}
	t.Fatalf("no free port")
	return nil
}

// Wait polls until ok, or fails the test when patience ends. It is for what
// another process does and tells nobody.
func Wait(t TB, what string, ok func() bool) {
	t.Helper()
	WaitEvery(t, 50*time.Millisecond, what, ok)
}

// WaitEvery is Wait for what costs more to look at.
func WaitEvery(t TB, period time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(period)
	defer tick.Stop()
	for end := time.Now().Add(Patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain for %s", Patience, what)
		}
	}
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}

// Home is a p2pfs home and the command line on it.
type Home struct {
	Name string
	Dir  string
	Wrap []string // words put before commands, such as a tracer

	net *Net
}

// Result is how a command ended.
type Result struct {
	Code    int    // exit code, -1 if killed by a signal
	Out     string // stdout
	Err     string // stderr
	Seconds float64
	Peak    Peak // of memory
	CPU     time.Duration

	t TB
}

// MustLine gives the one line that the command must have printed.
func (r Result) MustLine() string {
	r.t.Helper()
	line, ok := strings.CutSuffix(r.Out, "\n")
	if !ok || line == "" || strings.Contains(line, "\n") {
		r.t.Fatalf("got stdout %q, want one line", r.Out)
	}
	return line
}

// JSON decodes what the command printed.
func (r Result) JSON(v any) {
	r.t.Helper()
	if err := json.Unmarshal([]byte(r.Out), v); err != nil {
		r.t.Fatalf("decode %q: %v", r.Out, err)
	}
}

// Command gives a command on the home, not started.
func (h *Home) Command(ctx context.Context, args ...string) *exec.Cmd {
	words := append(append([]string{}, h.Wrap...), h.net.bin, "--home", h.Dir)
	words = append(words, args...)
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = h.net.env()
	ownedByUs(cmd)
	return cmd
}

func (w *Net) env() []string {
	env := []string{}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "P2PFS_") {
			env = append(env, kv)
		}
	}
	if Race {
		env = append(env, "GORACE=atexit_sleep_ms=0") // else every command takes a second to end
	}
	return append(env, w.options.Env...)
}

// Try runs a command and gives how it ended, whatever that is.
func (h *Home) Try(t TB, args ...string) Result {
	t.Helper()
	return h.TryWith(t, nil, args...)
}

// TryWith is Try with something on stdin.
func (h *Home) TryWith(t TB, stdin io.Reader, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*Patience)
	defer cancel()
	cmd := h.Command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	return Finish(t, cmd, &out, &errs)
}

// Finish starts cmd, samples its memory while it runs, and gives how it ended.
func Finish(t TB, cmd *exec.Cmd, out, errs *bytes.Buffer) Result {
	t.Helper()
	began := time.Now()
	if err := spawn(cmd); err != nil {
		t.Fatalf("start %v: %v", cmd.Args, err)
	}
	sample := NewSampler(cmd.Process.Pid)
	err := cmd.Wait()
	r := Result{
		Code: cmd.ProcessState.ExitCode(), Out: out.String(), Err: errs.String(),
		Seconds: time.Since(began).Seconds(), Peak: sample.Stop(),
		CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), t: t,
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %v: %v", cmd.Args, err)
	}
	return r
}

// Run runs a command that must end well.
func (h *Home) Run(t TB, args ...string) Result {
	t.Helper()
	return h.Want(t, 0, args...)
}

// Want runs a command that must end with a code.
func (h *Home) Want(t TB, code int, args ...string) Result {
	t.Helper()
	r := h.Try(t, args...)
	if r.Code != code {
		t.Fatalf("%s: p2pfs %s: got exit code %d, want %d\nstdout: %s\nstderr: %s",
			h.Name, strings.Join(args, " "), r.Code, code, tail(r.Out, 10), tail(r.Err, 40))
	}
	return r
}

// must runs a command that every test stands on.
func (h *Home) must(command string, args ...string) {
	h.net.t.Helper()
	h.Run(h.net.t, append([]string{command}, args...)...)
}

// Status is what tests look at in `status --json`.
type Status struct {
	ID        string `json:"id"`
	Peers     int    `json:"peers"`
	Shards    int    `json:"shards"`
	HeldBytes int64  `json:"held_bytes"`
	FreeBytes int64  `json:"free_bytes"`
	Running   bool   `json:"running"`

	Repairs      int `json:"repairs"` // running now
	Repaired     int `json:"repaired"`
	RepairFailed int `json:"repair_failed"`
	Suspected    int `json:"suspected"`
	Due          int `json:"due"`
	Unplaced     int `json:"unplaced"`
	AuditFailed  int `json:"audit_failed"`
}

// Health is what `health --json` says.
type Health struct {
	Packs    int          `json:"packs"`
	Live     int          `json:"live"`
	Survives int          `json:"survives"`
	Unknown  int          `json:"unknown"`
	Repairs  int          `json:"repairs"`
	Worst    []PackHealth `json:"worst"`
}

// PackHealth is what health says of a pack.
type PackHealth struct {
	ID       string `json:"id"`
	K        int    `json:"k"`
	N        int    `json:"n"`
	Live     int    `json:"live"`
	Survives int    `json:"survives"`
	Repair   string `json:"repair"`
}

// Node is a home with a process that runs its node.
type Node struct {
	Home

	flags []string
	wrap  []string

	cmd   *exec.Cmd
	ready chan string   // the line printed when ready, closed when the process has ended without
	ended chan struct{} // closed when the process has ended

	mu  sync.Mutex
	log bytes.Buffer // of all processes of this node so far
}

// Start starts the node and waits until it is ready.
func (n *Node) Start() {
	n.net.t.Helper()
	n.launch()
	n.wait()
}

// Launch starts the node without waiting until it is ready; Ready does.
func (n *Node) Launch() { n.net.t.Helper(); n.launch() }

// Ready waits until the node that was launched is ready.
func (n *Node) Ready() { n.net.t.Helper(); n.wait() }

func (n *Node) launch() {
	n.net.t.Helper()
	words := append(append(append([]string{}, n.Wrap...), n.wrap...), n.net.bin, "--home", n.Dir, "node")
	words = append(words, n.flags...)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = n.net.env()
	cmd.Stderr = (*logWriter)(n)
	ownedByUs(cmd)
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = spawn(cmd)
	}
	if err != nil {
		n.net.t.Fatalf("start %s: %v", n.Name, err)
	}
	ready, ended := make(chan string, 1), make(chan struct{})
	n.cmd, n.ready, n.ended = cmd, ready, ended
	go func() {
		lines := bufio.NewScanner(stdout)
		if lines.Scan() {
			ready <- lines.Text()
		}
		close(ready)
		io.Copy(io.Discard, stdout)
		cmd.Wait()
		close(ended)
	}()
}

func (n *Node) wait() {
	n.net.t.Helper()
	select {
	case _, ok := <-n.ready:
		if !ok {
			n.net.t.Fatalf("%s ended before it was ready:\n%s", n.Name, tail(n.Log(), 20))
		}
	case <-time.After(Patience):
		n.net.t.Fatalf("%s not ready after %v:\n%s", n.Name, Patience, tail(n.Log(), 20))
	}
}

// logWriter keeps what a node writes to stderr.
type logWriter Node

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

// Log gives all that the node has logged so far.
func (n *Node) Log() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.String()
}

// Up says whether the node's process runs.
func (n *Node) Up() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// PID gives the number of the node's process.
func (n *Node) PID() int { return n.cmd.Process.Pid }

func (n *Node) signal(s syscall.Signal) {
	if n.Up() {
		n.cmd.Process.Signal(s)
	}
}

func (n *Node) gone() {
	n.net.t.Helper()
	if n.cmd == nil {
		return
	}
	select {
	case <-n.ended:
	case <-time.After(Patience):
		n.cmd.Process.Signal(syscall.SIGQUIT) // it tells what it waits for
		<-n.ended
		n.net.t.Fatalf("%s did not end within %v:\n%s", n.Name, Patience, tail(n.Log(), 4000))
	}
}

// ExitCode waits until the node has ended by itself and gives the exit code of
// its process.
func (n *Node) ExitCode() int {
	n.net.t.Helper()
	n.gone()
	return n.cmd.ProcessState.ExitCode()
}

// Kill ends the node with SIGKILL.
func (n *Node) Kill() { n.net.t.Helper(); n.net.Kill(n) }

// Stop ends the node in order.
func (n *Node) Stop() {
	n.net.t.Helper()
	n.signal(syscall.SIGTERM)
	n.gone()
}

// Pause stops the node's process without ending it: its connections stay open
// and nothing answers.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP) }

// Resume ends a pause.
func (n *Node) Resume() { n.signal(syscall.SIGCONT) }

// Wipe kills the node and deletes its data.
func (n *Node) Wipe() {
	n.net.t.Helper()
	n.Kill()
	if err := os.RemoveAll(n.Dir); err != nil {
		n.net.t.Fatalf("wipe %s: %v", n.Name, err)
	}
}

// Status asks the node how it is.
func (n *Node) Status() Status {
	n.net.t.Helper()
	var s Status
	n.Run(n.net.t, "status", "--json").JSON(&s)
	return s
}

// spawn starts cmd from a thread that lives as long as this process: where the
// kernel ends children with the thread that made them (see ownedByUs), that
// must not be one that the runtime lets go.
func spawn(cmd *exec.Cmd) error {
	spawner.once.Do(func() {
		go func() {
			runtime.LockOSThread()
			for f := range spawner.work {
				f()
			}
		}()
	})
	err := make(chan error)
	spawner.work <- func() { err <- cmd.Start() }
	return <-err
}

var spawner = struct {
	once sync.Once
	work chan func()
}{work: make(chan func())}
