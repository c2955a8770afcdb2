package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// upkeep is what a node has done since its start to keep packs at their
// redundancy, and what it saw of them last.
type upkeep struct {
	Probes, Audits, AuditsFailed    int64
	Running, Repaired, RepairFailed int64 // packs
	RepairRead, RepairSent          int64 // bytes
	HandedOver                      int64 // shards

	PeersLive, PeersSuspected, PeersGone int           // peers that packs are shared with
	Levels                               []HealthLevel // packs held here
	Due, Unplaced                        int           // packs
}

// metrics is a Prometheus collector: it asks the node at each scrape, so that
// nothing is counted twice and nobody pays for what nobody looks at.
type metrics struct {
	upkeep func() upkeep
	status func() Status
}

// metric is what a number is called. Names are a promise: add only.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func newCounter(name, help string) metric {
	return metric{prometheus.NewDesc("p2pfs_"+name, help, nil, nil), prometheus.CounterValue}
}

func newGauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc("p2pfs_"+name, help, labels, nil), prometheus.GaugeValue}
}

var (
	metricBuild         = newGauge("build_info", "Always 1; the version is the label.", "version")
	metricProbes        = newCounter("probes_total", "Questions whether a holder is there.")
	metricAudits        = newCounter("audits_total", "Samples asked of holders.")
	metricAuditsFailed  = newCounter("audit_failures_total", "Samples that were wrong or refused.")
	metricRepairsBegun  = newCounter("repairs_begun_total", "Repairs of packs that were begun here.")
	metricRepairsDone   = newCounter("repairs_done_total", "Repairs of packs that were done.")
	metricRepairsFailed = newCounter("repairs_failed_total", "Repairs of packs that were given up, to be tried again.")
	metricRepairRead    = newCounter("repair_read_bytes_total", "Bytes that repairs read from peers.")
	metricRepairSent    = newCounter("repair_sent_bytes_total", "Bytes that repairs sent to peers.")
	metricHandedOver    = newCounter("shards_handed_over_total", "Shards that other peers took when this node left.")
	metricSent          = newCounter("sent_bytes_total", "Bytes sent to peers, repairs included.")
	metricReceived      = newCounter("received_bytes_total", "Bytes received from peers, repairs included.")

	metricPeers    = newGauge("peers", "Peers that packs are shared with: live, suspected (silent for less than the grace period), gone.", "state")
	metricPacks    = newGauge("packs", "Packs held here by the further losses that they survive.", "survives")
	metricDue      = newGauge("packs_due", "Packs held here whose repair is due.")
	metricUnplaced = newGauge("packs_unplaced", "Packs held here of which shards find no peer.")
	metricRunning  = newGauge("repairs_running", "Repairs under way here.")
	metricShards   = newGauge("shards", "Shards held for others.")
	metricHeld     = newGauge("held_bytes", "Bytes held for others, overhead included.")
	metricFree     = newGauge("free_bytes", "Bytes that may still be held.")
)

// Describe describes nothing beforehand: what there is shows in a scrape.
func (m metrics) Describe(chan<- *prometheus.Desc) {}

// Collect gives the numbers of now.
func (m metrics) Collect(out chan<- prometheus.Metric) {
	put := func(m metric, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, v, labels...)
	}
	u, s := m.upkeep(), m.status()
	put(metricBuild, 1, s.Version)
	put(metricProbes, float64(u.Probes))
	put(metricAudits, float64(u.Audits))
	put(metricAuditsFailed, float64(u.AuditsFailed))
	put(metricRepairsBegun, float64(u.Running+u.Repaired+u.RepairFailed))
	put(metricRepairsDone, float64(u.Repaired))
	put(metricRepairsFailed, float64(u.RepairFailed))
	put(metricRepairRead, float64(u.RepairRead))
	put(metricRepairSent, float64(u.RepairSent))
	put(metricHandedOver, float64(u.HandedOver))
	put(metricSent, float64(s.SentBytes))
	put(metricReceived, float64(s.ReceivedBytes))

	put(metricPeers, float64(u.PeersLive), "live")
	put(metricPeers, float64(u.PeersSuspected), "suspected")
	put(metricPeers, float64(u.PeersGone), "gone")
	for _, l := range u.Levels {
		put(metricPacks, float64(l.Packs), strconv.Itoa(l.Survives))
	}
	put(metricDue, float64(u.Due))
	put(metricUnplaced, float64(u.Unplaced))
	put(metricRunning, float64(u.Running))
	put(metricShards, float64(s.Shards))
	put(metricHeld, float64(s.HeldBytes))
	put(metricFree, float64(s.FreeBytes))
}

// listenMetrics opens the place where metrics are to be served, so that an
// address that cannot be had is an error at the start.
func listenMetrics(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fail(Failed, "give another address with --metrics, such as :4018, or none", "serve metrics at %s: %w", addr, err)
	}
	return ln, nil
}

const (
	metricsTimeout = 10 * time.Second // of a scrape, from the first byte of its request to the last of its answer
	metricsAtOnce  = 4                // scrapes
)

// serveMetrics answers scrapes on ln until ctx ends. It closes ln.
func (n *Node) serveMetrics(ctx context.Context, ln net.Listener) error {
	r := prometheus.NewRegistry()
	r.MustRegister(
		metrics{upkeep: n.upkeep, status: func() Status { s, _ := n.Status(ctx); return s }},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	errs := slog.NewLogLogger(n.log.Handler(), slog.LevelWarn)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorLog: errs, MaxRequestsInFlight: metricsAtOnce}))
	h := &http.Server{
		Handler: mux, ErrorLog: errs, ReadTimeout: metricsTimeout, WriteTimeout: metricsTimeout,
		IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = h.Close(); close(ended) })
	err := h.Serve(ln)
	if !stop() {
		<-ended
	}
	if ctx.Err() != nil && errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve metrics: %w", err)
}
