package node

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func TestMetricsTellUpkeepAndStatus(t *testing.T) {
	t.Parallel()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(metrics{
		upkeep: func() upkeep {
			return upkeep{
				Probes: 1, Audits: 2, AuditsFailed: 3, Running: 4, Repaired: 5, RepairFailed: 6, RepairRead: 7, RepairSent: 8, HandedOver: 9,
				PeersLive: 10, PeersSuspected: 11, PeersGone: 12, Levels: []HealthLevel{{Survives: -1, Packs: 13}, {Survives: 12, Packs: 14}},
				Due: 15, Unplaced: 16,
			}
		},
		status: func() Status {
			return Status{Version: "v1", SentBytes: 17, ReceivedBytes: 18, Shards: 19, HeldBytes: 20, FreeBytes: 21}
		},
	})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "p2pfs_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"build_info v1": 1, "probes_total": 1, "audits_total": 2, "audit_failures_total": 3, "repairs_running": 4,
		"repairs_begun_total": 15, "repairs_done_total": 5, "repairs_failed_total": 6, "repair_read_bytes_total": 7,
		"repair_sent_bytes_total": 8, "shards_handed_over_total": 9, "peers live": 10, "peers suspected": 11, "peers gone": 12,
		"packs -1": 13, "packs 12": 14, "packs_due": 15, "packs_unplaced": 16, "sent_bytes_total": 17, "received_bytes_total": 18,
		"shards": 19, "held_bytes": 20, "free_bytes": 21,
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: got %v, want %v", name, got[name], w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: unexpected", name)
		}
	}
}

func TestMetricsAreServedAsLongAsTheNodeRuns(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	h := HomeAt(t.TempDir())
	if _, err := Init(h, false); err != nil {
		t.Fatal(err)
	}
	c := Config{Settings: Settings{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true, NoPort: true}, Metrics: taken.Addr().String()}
	if n, err := Open(h, c); err == nil || !strings.Contains(err.Error(), "serve metrics at "+c.Metrics) {
		if err == nil {
			n.Close()
		}
		t.Fatalf("at an address in use: got %v, want an error that says so", err)
	}

	c.Metrics = "127.0.0.1:0"
	n, err := Open(h, c) // what could not be opened has not kept the home
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + n.metrics.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- n.Run(ctx) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string, error) {
		resp, err := client.Get(url + path)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(b), err
	}
	code, body, err := get("/metrics")
	if err != nil || code != http.StatusOK || !strings.Contains(body, "\np2pfs_shards 0\n") || !strings.Contains(body, "\ngo_goroutines ") {
		t.Errorf("got %d, %v, %q, want metrics of p2pfs and of Go", code, err, body)
	}
	if code, _, err := get("/"); err != nil || code != http.StatusNotFound {
		t.Errorf("elsewhere: got %d, %v, want %d", code, err, http.StatusNotFound)
	}
	stop()
	if err := <-ran; err != nil {
		t.Errorf("got %v at the end of Run, want nil", err)
	}
	if _, _, err := get("/metrics"); err == nil {
		t.Error("metrics are served after the node has ended")
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
