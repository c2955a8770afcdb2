package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/p2pfs/p2pfs/erasure"
	"github.com/p2pfs/p2pfs/node"
)

const (
	// beatPeriod is how often the client of a request that takes long hears
	// from the node, whether or not there is news. A client that is gone is
	// noticed by it too: while a put waits for peers nobody reads its request.
	beatPeriod = 250 * time.Millisecond

	// drainTimeout is how long a client that had an error for an answer is
	// given to stop sending. Hanging up at once could lose it the answer.
	drainTimeout = 5 * time.Second

	// stopTimeout is how long requests that were under way are given to end
	// with an error when the node stops; then their connections are cut.
	stopTimeout = 3 * time.Second

	headerTimeout  = 10 * time.Second
	maxHeaderBytes = 64 << 10
)

// errStopping is what a request under way ends with when the node stops.
var errStopping = &node.Error{Code: node.Failed, Err: errors.New("the node is stopping")}

// Serve answers requests on ln with api until ctx ends, then cancels those
// under way, waits for them and returns nil. It closes ln.
func Serve(ctx context.Context, ln net.Listener, api API, log *slog.Logger) error {
	s := &server{api: api, stopping: ctx}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/put", s.put)
	mux.HandleFunc("GET /v1/get", s.get)
	mux.HandleFunc("POST /v1/puttree", s.putTree)
	mux.HandleFunc("GET /v1/gettree", s.getTree)
	mux.HandleFunc("GET /v1/list", s.list)
	mux.HandleFunc("GET /v1/stat", s.stat)
	mux.HandleFunc("GET /v1/health", s.health)
	mux.HandleFunc("POST /v1/repair", s.repair)
	mux.HandleFunc("POST /v1/leave", s.leave)
	mux.HandleFunc("POST /v1/remove", s.remove)
	mux.HandleFunc("GET /v1/parent", s.parent)
	mux.HandleFunc("GET /v1/link", s.link)
	s.handleVolumes(mux)
	mux.HandleFunc("GET /v1/peers", s.peers)
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("POST /v1/invite", s.invite)
	mux.HandleFunc("POST /v1/expel", s.expel)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &node.Error{Code: node.Usage, Err: fmt.Errorf("%s %s: no such request in version 1 of the control protocol", r.Method, r.URL.Path)})
	})

	var requests sync.WaitGroup
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			defer requests.Done()
			mux.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelError),
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if h.Shutdown(limit) != nil {
			_ = h.Close() // those that are left have had their time
		}
	})
	err := h.Serve(ln)
	if !stop() {
		<-ended
	}
	requests.Wait()
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("control socket: %w", err)
}

// server turns requests into calls of the API.
type server struct {
	api      API
	stopping context.Context // ends when the node stops
}

// outcome is err as the client should see it.
func (s *server) outcome(err error) error {
	if err != nil && s.stopping.Err() != nil {
		return errStopping
	}
	return err
}

// answer writes v, or the error in its place.
func (s *server) answer(w http.ResponseWriter, v any, err error) {
	if err := s.outcome(err); err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that is gone needs no answer
}

// refuse answers with an error.
func refuse(w http.ResponseWriter, err error) {
	e := toWire(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(e.Code))
	_ = json.NewEncoder(w).Encode(e)
}

// statusOf is the HTTP status that is nearest to an outcome. Clients go by the
// code in the body.
func statusOf(c node.Code) int {
	switch c {
	case node.OK:
		return http.StatusOK
	case node.Usage:
		return http.StatusBadRequest
	case node.NotFound:
		return http.StatusNotFound
	case node.Refused:
		return http.StatusForbidden
	case node.Short, node.NoPeers:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (s *server) put(w http.ResponseWriter, r *http.Request) {
	s.takeBody(w, r, func(ctx context.Context, q node.PutRequest, progress func(node.Progress)) (node.PutResult, error) {
		return s.api.Put(ctx, q, r.Body, progress)
	})
}

func (s *server) putTree(w http.ResponseWriter, r *http.Request) {
	s.takeBody(w, r, func(ctx context.Context, q node.PutRequest, progress func(node.Progress)) (node.PutResult, error) {
		items := newItemReader(r.Body)
		items.put = true
		return s.api.PutTree(ctx, q, &wireSource{items: items}, progress)
	})
}

// takeBody answers a put, which reads the body of r.
func (s *server) takeBody(w http.ResponseWriter, r *http.Request, put func(context.Context, node.PutRequest, func(node.Progress)) (node.PutResult, error)) {
	q, err := parsePut(r.URL.Query())
	if err != nil {
		refuse(w, err)
		return
	}
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		refuse(w, err)
		return
	}
	answerLines(s, w, r, node.Progress{Total: q.Size}, func(ctx context.Context, progress func(node.Progress)) (putResult, error) {
		// A put that waits for the client's next bytes hears of the end too.
		defer context.AfterFunc(ctx, func() { _ = rc.SetReadDeadline(time.Unix(1, 0)) })()
		res, err := put(ctx, q, progress)
		return putResult{PutResult: res, RawPlace: rawName(res.Place)}, err
	})
	_ = rc.SetReadDeadline(time.Now().Add(drainTimeout))
	_, _ = io.Copy(io.Discard, r.Body)
}

func (s *server) repair(w http.ResponseWriter, r *http.Request) {
	source := r.URL.Query().Get("source")
	answerLines(s, w, r, node.RepairProgress{}, func(ctx context.Context, progress func(node.RepairProgress)) (node.RepairResult, error) {
		return s.api.Repair(ctx, source, progress)
	})
}

func (s *server) leave(w http.ResponseWriter, r *http.Request) {
	answerLines(s, w, r, node.LeaveProgress{}, s.api.Leave)
}

// answerLines answers a request that takes long: lines of progress while work
// goes on, the first as first says, and at the end its result or error. The
// context of work ends when the client is gone.
func answerLines[P, R any](s *server, w http.ResponseWriter, r *http.Request, first P, work func(context.Context, func(P)) (R, error)) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if rc.Flush() != nil {
		return // the client is gone
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	lines := &lineWriter[P, R]{w: w, rc: rc, gone: cancel, last: first}
	beat := lines.start()
	result, err := work(ctx, lines.progress)
	beat()
	if err := s.outcome(err); err != nil {
		e := toWire(err)
		lines.write(line[P, R]{Error: &e})
		return
	}
	lines.write(line[P, R]{Result: &result})
}

// lineWriter writes the lines of such an answer.
type lineWriter[P, R any] struct {
	w    io.Writer
	rc   *http.ResponseController
	gone func() // called when the client cannot be reached

	mu   sync.Mutex // guards last
	last P
}

func (l *lineWriter[P, R]) progress(p P) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = p
}

// start writes the latest progress every beatPeriod until the function that it
// returns is called.
func (l *lineWriter[P, R]) start() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(beatPeriod)
		defer t.Stop()
		for {
			select {
			case <-end:
				return
			case <-t.C:
			}
			l.mu.Lock()
			p := l.last
			l.mu.Unlock()
			l.write(line[P, R]{Progress: &p})
		}
	}()
	return func() { close(end); <-ended }
}

// write sends a line now.
func (l *lineWriter[P, R]) write(v line[P, R]) {
	err := json.NewEncoder(l.w).Encode(v)
	if err == nil {
		err = l.rc.Flush()
	}
	if err != nil {
		l.gone()
	}
}

func (s *server) get(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	q := node.GetRequest{Source: v.Get("source"), Offset: v.number("offset", 0), Length: v.number("length", -1)}
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	begun := false
	begin := func(f node.FileInfo) (io.Writer, error) {
		b, err := json.Marshal(fileInfo{FileInfo: f, RawName: rawName(f.Name)})
		if err != nil {
			return nil, fmt.Errorf("file information: %w", err)
		}
		begun = true
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Trailer", outcomeTrailer)
		w.Header().Set(infoHeader, string(b))
		w.WriteHeader(http.StatusOK)
		return w, http.NewResponseController(w).Flush()
	}
	// A client that takes nothing more cannot hold up a node that stops.
	rc := http.NewResponseController(w)
	unhook := context.AfterFunc(r.Context(), func() { _ = rc.SetWriteDeadline(time.Now().Add(stopTimeout)) })
	defer unhook()
	err := s.outcome(s.api.Get(r.Context(), q, begin, func(node.Progress) {}))
	if !begun {
		if err == nil {
			err = errors.New("get: no file information")
		}
		refuse(w, err)
		return
	}
	b, jerr := json.Marshal(toWire(err))
	if jerr != nil {
		panic(http.ErrAbortHandler) // cuts the connection: the client sees a broken get
	}
	w.Header().Set(outcomeTrailer, string(b))
}

func (s *server) getTree(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	q := node.GetRequest{Source: v.Get("source"), Length: -1, After: v.Get("after"), Offset: v.number("offset", 0)}
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	s.answerItems(w, r, func(ctx context.Context, out *itemWriter) error {
		return s.api.GetTree(ctx, q, out, func(node.Progress) {})
	})
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	recursive := v.flag("recursive")
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	s.answerItems(w, r, func(ctx context.Context, out *itemWriter) error {
		return s.api.List(ctx, v.Get("source"), recursive, out.item)
	})
}

// answerItems answers with the items that work gives, or the error in their
// place where there are none.
func (s *server) answerItems(w http.ResponseWriter, r *http.Request, work func(context.Context, *itemWriter) error) {
	begun := false
	begin := func() {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/octet-stream")
			w.WriteHeader(http.StatusOK)
		}
	}
	out := &itemWriter{w: w, begin: begin}
	// A client that takes nothing more cannot hold up a node that stops.
	rc := http.NewResponseController(w)
	defer context.AfterFunc(r.Context(), func() { _ = rc.SetWriteDeadline(time.Now().Add(stopTimeout)) })()
	err := s.outcome(work(r.Context(), out))
	if err != nil && !begun {
		refuse(w, err)
		return
	}
	_ = out.end(err) // a client that is gone needs no answer
}

func (s *server) stat(w http.ResponseWriter, r *http.Request) {
	st, err := s.api.Stat(r.Context(), r.URL.Query().Get("source"))
	s.answer(w, stat{Stat: st, RawName: rawName(st.Name)}, err)
}

func (s *server) health(w http.ResponseWriter, r *http.Request) {
	h, err := s.api.Health(r.Context(), r.URL.Query().Get("source"))
	s.answer(w, h, err)
}

func (s *server) remove(w http.ResponseWriter, r *http.Request) {
	res, err := s.api.Remove(r.Context(), r.URL.Query().Get("source"))
	s.answer(w, res, err)
}

func (s *server) link(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	verify := v.flag("verify")
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	text, err := s.api.Link(r.Context(), v.Get("source"), verify)
	s.answer(w, linkAnswer{Link: text}, err)
}

func (s *server) parent(w http.ResponseWriter, r *http.Request) {
	q, err := parsePut(r.URL.Query())
	if err != nil {
		refuse(w, err)
		return
	}
	text, err := s.api.Parent(r.Context(), q)
	s.answer(w, linkAnswer{Link: text}, err)
}

func (s *server) peers(w http.ResponseWriter, r *http.Request) {
	ps, err := s.api.Peers(r.Context())
	if ps == nil {
		ps = []node.Peer{}
	}
	s.answer(w, ps, err)
}

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	st, err := s.api.Status(r.Context())
	s.answer(w, st, err)
}

func (s *server) invite(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	expires := time.Duration(v.number("expires", 0))
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	text, err := s.api.Invite(r.Context(), expires)
	s.answer(w, inviteAnswer{Invite: text}, err)
}

func (s *server) expel(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	with := v.flag("with_invited")
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	s.answer(w, struct{}{}, s.api.Expel(r.Context(), v.Get("peer"), with))
}

// values reads the parameters of a request; err is the first that is malformed.
type values struct {
	url.Values
	err error
}

func (v *values) bad(name string, err error) {
	if v.err == nil {
		v.err = &node.Error{Code: node.Usage, Err: fmt.Errorf("parameter %s: %w", name, err)}
	}
}

// number reads an integer; absent is its value where there is none.
func (v *values) number(name string, absent int64) int64 {
	s := v.Get(name)
	if s == "" {
		return absent
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		v.bad(name, err)
	}
	return n
}

func (v *values) flag(name string) bool {
	s := v.Get(name)
	if s == "" {
		return false
	}
	b, err := strconv.ParseBool(s)
	if err != nil {
		v.bad(name, err)
	}
	return b
}

// putValues gives a put's parameters as those of an URL, parsePut reads them.
// Parameters are percent-encoded bytes, so that any name goes through.
func putValues(q node.PutRequest) url.Values {
	v := url.Values{
		"name": {q.Name},
		"mode": {strconv.FormatUint(uint64(q.Mode), 10)},
		"size": {strconv.FormatInt(q.Size, 10)},
	}
	if !q.ModTime.IsZero() {
		v.Set("mtime", q.ModTime.UTC().Format(time.RFC3339Nano))
	}
	if q.Redundancy != nil {
		v.Set("redundancy", q.Redundancy.String())
	}
	if q.Expires != 0 {
		v.Set("expires", strconv.FormatInt(int64(q.Expires), 10))
	}
	for key, val := range map[string]string{"source": q.Source, "parent": q.Parent, "target": q.Target} {
		if val != "" {
			v.Set(key, val)
		}
	}
	return v
}

func parsePut(u url.Values) (node.PutRequest, error) {
	v := values{Values: u}
	q := node.PutRequest{
		Name:    v.Get("name"),
		Source:  v.Get("source"),
		Parent:  v.Get("parent"),
		Target:  v.Get("target"),
		Size:    v.number("size", -1),
		Expires: time.Duration(v.number("expires", 0)),
	}
	mode := v.number("mode", 0o600)
	if mode < 0 || mode > 1<<32-1 {
		v.bad("mode", strconv.ErrRange)
	}
	q.Mode = uint32(mode)
	if s := v.Get("mtime"); s != "" {
		t, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			v.bad("mtime", err)
		}
		q.ModTime = t
	}
	if s := v.Get("redundancy"); s != "" {
		scheme, err := erasure.ParseScheme(s)
		if err != nil {
			v.bad("redundancy", err)
		}
		q.Redundancy = &scheme
	}
	return q, v.err
}
