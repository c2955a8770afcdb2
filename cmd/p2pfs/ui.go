package main

// What p2pfs says, and where:
//
//   - stdout is what was asked for, and nothing else: links, bytes, tables. A
//     script can read it without a filter.
//   - All else is stderr: progress, warnings, errors, the log.
//   - An error is one line, "p2pfs: " and what was done to what, then why, in
//     lower case, no full stop. Where the user can do something about it, a
//     second line begins "hint: ". -v adds lines "cause: ".
//   - --json makes stdout JSON, one value a line where there are several, and
//     errors too: {"type":"error","code":12,"message":"..."} on stderr. Fields
//     are only ever added.
//   - --quiet leaves out what is neither asked for, nor a warning, nor an error.
//   - Plain ASCII but for the names of files, no colours (so NO_COLOR has nothing
//     to turn off), no questions: p2pfs never waits for an answer.
//   - Sizes are IEC units for people, bytes in JSON; durations 30s, 2h, 90d.
//   - A link is a right, so neither errors nor the log show a whole one.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/p2pfs/p2pfs/control"
	"github.com/p2pfs/p2pfs/member"
	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// app is one call of p2pfs: its streams and the flags that all commands have.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr *errWriter

	home    string
	json    bool
	quiet   bool
	verbose bool
}

// errWriter is stderr. What is written to it takes a progress bar's line.
type errWriter struct {
	mu  sync.Mutex // guards what follows
	w   io.Writer
	bar bool // a progress bar stands in the last line
}

func (e *errWriter) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bar {
		_, _ = io.WriteString(e.w, "\r\x1b[K")
	}
	return e.w.Write(p)
}

func (e *errWriter) setBar(on bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.bar = on
}

// terminal tells whether stderr is one.
func (e *errWriter) terminal() bool {
	f, ok := e.w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// say tells the user something on stderr that was not asked for.
func (a *app) say(format string, args ...any) {
	if !a.quiet && !a.json {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}

// warn tells the user of something that is not as it should be. JSON output
// carries its warnings itself.
func (a *app) warn(format string, args ...any) {
	if !a.json {
		fmt.Fprintf(a.stderr, "p2pfs: warning: "+format+"\n", args...)
	}
}

// leftOut tells of something that is missing in a tree.
func (a *app) leftOut(path string, err error) {
	message := show(path) + ": left out: " + oneLine(strings.TrimSuffix(err.Error(), ": "+node.ErrLeftOut.Error()))
	if a.json {
		e := json.NewEncoder(a.stderr)
		e.SetEscapeHTML(false)
		_ = e.Encode(errorLine{Type: "left_out", Code: node.Partial, Message: message})
		return
	}
	fmt.Fprintf(a.stderr, "p2pfs: %s\n", message)
}

// print writes a line of what was asked for.
func (a *app) print(format string, args ...any) error {
	_, err := fmt.Fprintf(a.stdout, format+"\n", args...)
	return err
}

// printJSON writes v as one line of what was asked for.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// errorLine is an error with --json.
type errorLine struct {
	Type    string    `json:"type"` // "error"; "left_out": of something that is missing in a tree
	Code    node.Code `json:"code"`
	Message string    `json:"message"`
	Hint    string    `json:"hint,omitempty"`
	Causes  []string  `json:"causes,omitempty"` // with -v
}

// report tells of err and gives the exit code.
func (a *app) report(err error) node.Code {
	if q, ok := errors.AsType[quietError](err); ok {
		return node.Code(q)
	}
	code, hint, message := node.CodeOf(err), node.HintOf(err), oneLine(err.Error())
	var causes []string
	if a.verbose {
		causes = control.Causes(err)
	}
	if a.json {
		e := json.NewEncoder(a.stderr)
		e.SetEscapeHTML(false)
		_ = e.Encode(errorLine{Type: "error", Code: code, Message: message, Hint: hint, Causes: causes})
		return code
	}
	fmt.Fprintf(a.stderr, "p2pfs: %s\n", message)
	if hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", hint)
	}
	for _, c := range causes {
		fmt.Fprintf(a.stderr, "cause: %s\n", oneLine(c))
	}
	return code
}

// quietError ends the command with a code; what there was to say has been
// said.
type quietError node.Code

func (q quietError) Error() string { return "exit " + strconv.Itoa(int(q)) }

// about puts what was done, and to what, before err.
func about(what string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[quietError](err); ok {
		return err
	}
	return &node.Error{Code: node.CodeOf(err), Hint: node.HintOf(err), Err: fmt.Errorf("%s: %w", what, err)}
}

// usagef is an error of the one who typed the command.
func usagef(hint, format string, args ...any) error {
	return &node.Error{Code: node.Usage, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// oneLine keeps an error on its line, whatever peers and file names put in it.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r != ' ' && !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// show gives a name from outside in a form that cannot play tricks on a
// terminal.
func show(name string) string {
	if utf8.ValidString(name) && oneLine(name) == name && name != "" {
		return name
	}
	return strconv.QuoteToASCII(name)
}

// showSource gives a source for messages: of a link, which is a right, only the
// beginning, and the path in a tree.
func showSource(source string) string {
	if link, path, below := volume.CutPath(source); below && strings.HasPrefix(link, "p2pfs:") {
		return showSource(link) + "/" + show(path)
	}
	for _, prefix := range []string{"p2pfs:", member.InvitePrefix} {
		if keep := len(prefix) + 12; strings.HasPrefix(source, prefix) && len(source) > keep {
			return show(source[:keep]) + "..."
		}
	}
	return show(source)
}

// logger writes the log of a node to stderr. least is the level without -v and
// --quiet.
func (a *app) logger(least slog.Level) *slog.Logger {
	switch {
	case a.verbose:
		least = slog.LevelDebug
	case a.quiet:
		least = slog.LevelError
	}
	o := &slog.HandlerOptions{Level: least}
	if a.json {
		return slog.New(slog.NewJSONHandler(a.stderr, o))
	}
	return slog.New(slog.NewTextHandler(a.stderr, o))
}
