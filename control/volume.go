package control

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/p2pfs/p2pfs/node"
	"github.com/p2pfs/p2pfs/volume"
)

// VolumeCreate has the node make a volume.
func (c *Client) VolumeCreate(ctx context.Context, name string) (node.VolumeInfo, error) {
	var i node.VolumeInfo
	err := c.call(ctx, http.MethodPost, "volume/create", url.Values{"name": {name}}, &i)
	return i, err
}

// Volumes asks the node for Volumes.
func (c *Client) Volumes(ctx context.Context) ([]node.VolumeInfo, error) {
	var all []node.VolumeInfo
	err := c.call(ctx, http.MethodGet, "volume/list", nil, &all)
	return all, err
}

// VolumeLink asks the node for a link to a volume.
func (c *Client) VolumeLink(ctx context.Context, name, right string) (string, error) {
	var a linkAnswer
	err := c.call(ctx, http.MethodGet, "volume/link", url.Values{"name": {name}, "right": {right}}, &a)
	return a.Link, err
}

// VolumeAdd has the node add the volume that link leads to.
func (c *Client) VolumeAdd(ctx context.Context, link, name string) (node.AddResult, error) {
	var r node.AddResult
	err := c.call(ctx, http.MethodPost, "volume/add", url.Values{"link": {link}, "name": {name}}, &r)
	return r, err
}

// VolumeLog asks the node for VolumeLog.
func (c *Client) VolumeLog(ctx context.Context, name string) ([]node.HeadInfo, error) {
	var all []node.HeadInfo
	err := c.call(ctx, http.MethodGet, "volume/log", url.Values{"name": {name}}, &all)
	return all, err
}

// VolumePrune has the node prune a volume.
func (c *Client) VolumePrune(ctx context.Context, name string, q node.PruneRequest) (node.PruneResult, error) {
	v := pruneValues(q)
	v.Set("name", name)
	var r node.PruneResult
	err := c.call(ctx, http.MethodPost, "volume/prune", v, &r)
	return r, err
}

// VolumeDrop has the node drop a volume.
func (c *Client) VolumeDrop(ctx context.Context, name string, forAll bool) (node.PruneResult, error) {
	var r node.PruneResult
	err := c.call(ctx, http.MethodPost, "volume/drop", url.Values{"name": {name}, "delete": {strconv.FormatBool(forAll)}}, &r)
	return r, err
}

// Move has the node move what is in a volume.
func (c *Client) Move(ctx context.Context, from, to string) error {
	return c.call(ctx, http.MethodPost, "move", url.Values{"from": {from}, "to": {to}}, nil)
}

// Mkdir has the node make a directory in a volume.
func (c *Client) Mkdir(ctx context.Context, place string, parents bool) error {
	return c.call(ctx, http.MethodPost, "mkdir", url.Values{"place": {place}, "parents": {strconv.FormatBool(parents)}}, nil)
}

// handleVolumes has mux answer what is asked of volumes.
func (s *server) handleVolumes(mux *http.ServeMux) {
	mux.HandleFunc("POST /v1/volume/create", s.volumeCreate)
	mux.HandleFunc("GET /v1/volume/list", s.volumes)
	mux.HandleFunc("GET /v1/volume/link", s.volumeLink)
	mux.HandleFunc("POST /v1/volume/add", s.volumeAdd)
	mux.HandleFunc("GET /v1/volume/log", s.volumeLog)
	mux.HandleFunc("POST /v1/volume/prune", s.volumePrune)
	mux.HandleFunc("POST /v1/volume/drop", s.volumeDrop)
	mux.HandleFunc("POST /v1/move", s.move)
	mux.HandleFunc("POST /v1/mkdir", s.mkdir)
}

func (s *server) volumeCreate(w http.ResponseWriter, r *http.Request) {
	i, err := s.api.VolumeCreate(r.Context(), r.URL.Query().Get("name"))
	s.answer(w, i, err)
}

func (s *server) volumes(w http.ResponseWriter, r *http.Request) {
	all, err := s.api.Volumes(r.Context())
	if all == nil {
		all = []node.VolumeInfo{}
	}
	s.answer(w, all, err)
}

func (s *server) volumeLink(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	text, err := s.api.VolumeLink(r.Context(), v.Get("name"), v.Get("right"))
	s.answer(w, linkAnswer{Link: text}, err)
}

func (s *server) volumeAdd(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	res, err := s.api.VolumeAdd(r.Context(), v.Get("link"), v.Get("name"))
	s.answer(w, res, err)
}

func (s *server) volumeLog(w http.ResponseWriter, r *http.Request) {
	all, err := s.api.VolumeLog(r.Context(), r.URL.Query().Get("name"))
	if all == nil {
		all = []node.HeadInfo{}
	}
	s.answer(w, all, err)
}

func (s *server) volumePrune(w http.ResponseWriter, r *http.Request) {
	u := r.URL.Query()
	q, err := parsePrune(u)
	if err != nil {
		refuse(w, err)
		return
	}
	res, err := s.api.VolumePrune(r.Context(), u.Get("name"), q)
	s.answer(w, res, err)
}

func (s *server) volumeDrop(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	forAll := v.flag("delete")
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	res, err := s.api.VolumeDrop(r.Context(), v.Get("name"), forAll)
	s.answer(w, res, err)
}

func (s *server) move(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	s.answer(w, struct{}{}, s.api.Move(r.Context(), v.Get("from"), v.Get("to")))
}

func (s *server) mkdir(w http.ResponseWriter, r *http.Request) {
	v := values{Values: r.URL.Query()}
	parents := v.flag("parents")
	if v.err != nil {
		refuse(w, v.err)
		return
	}
	s.answer(w, struct{}{}, s.api.Mkdir(r.Context(), v.Get("place"), parents))
}

// keepRules are the parameters of a prune that say how many snapshots stay.
func keepRules(p *volume.Policy) map[string]*int {
	return map[string]*int{
		"last": &p.Last, "hourly": &p.Hourly, "daily": &p.Daily,
		"weekly": &p.Weekly, "monthly": &p.Monthly, "yearly": &p.Yearly,
	}
}

// pruneValues gives what a prune asks for as parameters, parsePrune reads them.
func pruneValues(q node.PruneRequest) url.Values {
	v := url.Values{"now": {strconv.FormatBool(q.Now)}}
	for key, n := range keepRules(&q.Policy) {
		if *n != 0 {
			v.Set(key, strconv.Itoa(*n))
		}
	}
	if q.Policy.Within != 0 {
		v.Set("within", strconv.FormatInt(int64(q.Policy.Within), 10))
	}
	return v
}

// parsePrune refuses what a policy cannot be: a prune that takes a rule for
// none would remove what it was to keep.
func parsePrune(u url.Values) (node.PruneRequest, error) {
	v := values{Values: u}
	q := node.PruneRequest{Now: v.flag("now")}
	for key, n := range keepRules(&q.Policy) {
		x := v.number(key, 0)
		if x < 0 || x > math.MaxInt32 {
			v.bad(key, strconv.ErrRange)
		}
		*n = int(x)
	}
	q.Policy.Within = time.Duration(v.number("within", 0))
	if q.Policy.Within < 0 {
		v.bad("within", strconv.ErrRange)
	}
	return q, v.err
}
