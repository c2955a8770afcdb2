// Command p2pfs keeps files in a network of peers, none of which has to stay.
//
// This is the command line: each command has a file of its own, ui.go has the
// rules by which they speak, session.go the way from a command to the node that
// does the work. docs/interface.md has what scripts may rely on.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/node"
)

// memoryLimit is the heap size in bytes from which the garbage collector works
// harder to stay below. A put of any length has up to 200 MiB in buffers that
// are used again and again; left to its default, the collector would let
// garbage pile up to as much once more. GOMEMLIMIT overrides it.
const memoryLimit = 256 << 20

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: &errWriter{w: os.Stderr}}
	ctx, stop := withSignals(context.Background())
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(int(code))
}

// run executes a command line and gives the exit code.
func (a *app) run(ctx context.Context, args []string) node.Code {
	// Flags that do not parse are an error in JSON as well.
	if end := slices.Index(args, "--"); slices.Contains(args[:max(end, 0)], "--json") || end < 0 && slices.Contains(args, "--json") {
		a.json = true
	}
	root, ran := newRoot(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return node.OK
	case errors.Is(err, syscall.EPIPE):
		return node.Failed // who read stdout has gone, and knows
	case !*ran && node.CodeOf(err) == node.Failed: // cobra did not like the command line
		err = usagef("p2pfs --help lists the commands", "%s", firstLine(err.Error()))
	case ctx.Err() != nil:
		err = &node.Error{Code: node.Interrupted, Err: interruptedError{err}}
	}
	return a.report(err)
}

// interruptedError says what was interrupted rather than what failed because
// of that.
type interruptedError struct{ error }

func (e interruptedError) Error() string {
	what, _, _ := strings.Cut(e.error.Error(), ": ")
	return what + ": interrupted"
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// newRoot makes the tree of commands. ran tells later whether one of them was
// reached.
func newRoot(a *app) (root *cobra.Command, ran *bool) {
	root = &cobra.Command{
		Use:   "p2pfs",
		Short: "Keep files in a network of peers, none of which has to stay",
		Long: `p2pfs keeps files in a network of peers, none of which has to stay. A file is
cut, encrypted and coded into shards, each kept by another peer, so that any
few of them restore it. put prints a link; whoever has it can get the file.

A command uses the node that runs on its home; where none runs, it starts one
for itself, which keeps nothing for others, and ends it when it is done.`,
		Example: `  p2pfs init                  # a new network; prints an invite
  p2pfs join INVITE           # on another machine
  p2pfs node                  # on both: run the node
  p2pfs put report.pdf        # prints a link
  p2pfs get LINK              # anywhere in the network`,
		Annotations:   exits(node.Partial, node.NotFound, node.Short, node.NoPeers, node.Corrupt, node.Refused),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpTemplate(helpTemplate)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef(c.CommandPath()+" --help has the flags", "%s: %s", nameOf(c), firstLine(err.Error()))
	})
	f := root.PersistentFlags()
	f.StringVar(&a.home, "home", "", "directory of the node: keys, settings, data (also P2PFS_HOME)")
	f.BoolVar(&a.json, "json", a.json, "write JSON")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress, no remarks")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "more log, and the causes of errors")
	root.MarkFlagsMutuallyExclusive("quiet", "verbose")

	root.AddCommand(
		initCommand(a), inviteCommand(a), joinCommand(a), expelCommand(a), nodeCommand(a),
		putCommand(a), getCommand(a), catCommand(a), lsCommand(a), statCommand(a), linkCommand(a),
		rmCommand(a), mvCommand(a), mkdirCommand(a), volumeCommand(a),
		healthCommand(a), repairCommand(a), leaveCommand(a), peersCommand(a), statusCommand(a),
		configCommand(a), versionCommand(a), completionCommand(a),
	)
	ran = new(bool)
	watch(root, ran)
	return root, ran
}

// watch has all commands below parent tell when they are reached.
func watch(parent *cobra.Command, ran *bool) {
	for _, c := range parent.Commands() {
		run := c.RunE
		c.RunE = func(c *cobra.Command, args []string) error {
			*ran = true
			return run(c, args)
		}
		watch(c, ran)
	}
}

// nameOf is what a command is called in messages: "put", "volume list".
func nameOf(c *cobra.Command) string {
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
}

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}{{with index .Annotations "exits"}}
EXIT STATUS:
{{.}}{{end}}`

// exitTexts says what exit codes mean. More may be added: a script takes one
// that it does not know for a failure.
var exitTexts = map[node.Code]string{
	node.OK:          "done",
	node.Failed:      "error",
	node.Usage:       "wrong usage, or a malformed link",
	node.Partial:     "partly done: some files failed or are left out, or fewer shards than asked",
	node.NotFound:    "nothing was found under that link or name, or no such path in it",
	node.Short:       "too few shards to restore the file",
	node.NoPeers:     "too few peers, or no space, to store",
	node.Corrupt:     "corrupt data, or a bad signature",
	node.Refused:     "refused: no right, quota, not a member, another network",
	node.Interrupted: "interrupted",
}

// exits is the annotation behind a command's EXIT STATUS: those that all
// commands have and the codes given.
func exits(codes ...node.Code) map[string]string {
	codes = slices.Sorted(slices.Values(append(codes, node.OK, node.Failed, node.Usage, node.Interrupted)))
	var b strings.Builder
	for _, c := range slices.Compact(codes) {
		fmt.Fprintf(&b, "  %-4d%s\n", c, exitTexts[c])
	}
	return map[string]string{"exits": b.String()}
}

// arguments checks the number of arguments; most is -1 where it is any.
func arguments(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		hint := "usage: " + c.UseLine()
		switch {
		case len(args) < least:
			return usagef(hint, "%s: an argument is missing", nameOf(c))
		case most >= 0 && len(args) > most:
			return usagef(hint, "%s: one argument too many: %s", nameOf(c), showSource(args[most]))
		}
		return nil
	}
}

// cleanup is what must not be left behind when a second signal ends p2pfs at
// once.
var cleanup struct {
	sync.Mutex

	files map[string]bool
}

// removeAtExit has path removed by a second signal until forget is called.
func removeAtExit(path string) (forget func()) {
	cleanup.Lock()
	defer cleanup.Unlock()
	if cleanup.files == nil {
		cleanup.files = make(map[string]bool)
	}
	cleanup.files[path] = true
	return func() {
		cleanup.Lock()
		defer cleanup.Unlock()
		delete(cleanup.files, path)
	}
}

// withSignals gives a context that ends with the first signal to end; a second
// ends the process.
func withSignals(parent context.Context) (context.Context, func()) {
	signal.Ignore(syscall.SIGPIPE) // a closed stdout is an error of Write like others
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) { // as nohup has it
			signal.Notify(signals, s)
		}
	}
	go func() {
		<-signals
		cancel()
		<-signals
		cleanup.Lock()
		for path := range cleanup.files {
			_ = removeTree(path)
		}
		os.Exit(int(node.Interrupted))
	}()
	return ctx, cancel
}
