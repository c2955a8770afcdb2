package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/p2pfs/p2pfs/node"
)

// settings are what a home's config.toml holds and flags and the environment
// override.
type settings struct {
	Zone     string
	Capacity sizeFlag
	Listen   []string
	MDNS     bool
	PortMap  bool

	Grace      durationFlag
	Probe      durationFlag
	Audit      durationFlag
	RepairRate sizeFlag // bytes a second; 0: no bound
	Settle     durationFlag
	Metrics    string // HOST:PORT; empty: none
}

// The names of settings: as keys of config.toml, as flags (with - for _), and
// with P2PFS_ in front and in capitals in the environment.
const (
	keyZone       = "zone"
	keyCapacity   = "capacity"
	keyListen     = "listen"
	keyMDNS       = "mdns"
	keyPortMap    = "portmap"
	keyGrace      = "grace"
	keyProbe      = "probe"
	keyAudit      = "audit"
	keyRepairRate = "repair_rate"
	keySettle     = "settle"
	keyMetrics    = "metrics"
)

var settingKeys = []string{
	keyZone, keyCapacity, keyListen, keyMDNS, keyPortMap,
	keyGrace, keyProbe, keyAudit, keyRepairRate, keySettle, keyMetrics,
}

// flagOf is the flag of the setting called key.
func flagOf(key string) string { return strings.ReplaceAll(key, "_", "-") }

// Where a setting came from.
const (
	fromDefault = "default"
	fromFile    = "config.toml"
	fromEnv     = "env"
	fromFlag    = "flag"
	fromInit    = "chosen" // by init or join, which write it to config.toml
)

func (s *settings) node() node.Settings {
	return node.Settings{
		Zone:     s.Zone,
		Capacity: int64(s.Capacity),
		Listen:   s.Listen,
		NoMDNS:   !s.MDNS,
		NoPort:   !s.PortMap,
	}
}

// config is what a node runs with, as far as settings say it.
func (s *settings) config() node.Config {
	return node.Config{
		Settings:   s.node(),
		Grace:      time.Duration(s.Grace),
		Probe:      time.Duration(s.Probe),
		Audit:      time.Duration(s.Audit),
		RepairRate: int64(s.RepairRate),
		Settle:     time.Duration(s.Settle),
		Metrics:    s.Metrics,
	}
}

// configFile is config.toml. A key that is not there is nil.
type configFile struct {
	Zone     *string   `toml:"zone"`
	Capacity *sizeFlag `toml:"capacity"`
	Listen   []string  `toml:"listen"`
	MDNS     *bool     `toml:"mdns"`
	PortMap  *bool     `toml:"portmap"`

	Grace      *durationFlag `toml:"grace"`
	Probe      *durationFlag `toml:"probe"`
	Audit      *durationFlag `toml:"audit"`
	RepairRate *sizeFlag     `toml:"repair_rate"`
	Settle     *durationFlag `toml:"settle"`
	Metrics    *string       `toml:"metrics"`
}

// readConfig reads config.toml; a file that is not there is an empty one.
func readConfig(path string) (configFile, error) {
	var c configFile
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	meta, err := toml.Decode(string(b), &c)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return c, &node.Error{
			Code: node.Failed,
			Hint: "the keys are " + strings.Join(settingKeys, ", "),
			Err:  fmt.Errorf("%s: unknown key %s", path, unknown[0]),
		}
	}
	return c, nil
}

// flagSettings are the settings given as flags; a nil one was not given.
type flagSettings struct {
	zone      string
	capacity  sizeFlag
	listen    []string
	noMDNS    bool
	noPortMap bool

	grace, probe, audit, settle durationFlag
	repairRate                  sizeFlag
	metrics                     string

	c *cobra.Command
}

// addHome adds the flags that init and join write down, addNode those that a
// running node takes.
func (f *flagSettings) addHome(c *cobra.Command) {
	f.c = c
	c.Flags().StringVar(&f.zone, keyZone, "", "where the node stands, such as a house or a room: shards of a file are spread over zones")
	c.Flags().Var(&f.capacity, keyCapacity, "most bytes to keep for others, such as 500GiB (default: what the disk has)")
	c.Flags().StringArrayVar(&f.listen, keyListen, nil, "address to listen at, such as /ip4/0.0.0.0/tcp/4017 or :4017; may be repeated")
}

func (f *flagSettings) addNode(c *cobra.Command) {
	f.addHome(c)
	c.Flags().BoolVar(&f.noMDNS, "no-mdns", false, "do not look for peers on the local network")
	c.Flags().BoolVar(&f.noPortMap, "no-portmap", false, "do not ask the router to open a port")
	f.grace, f.probe = durationFlag(node.DefaultGrace), durationFlag(node.DefaultProbe)
	f.audit, f.settle = durationFlag(node.DefaultAudit), durationFlag(node.DefaultSettle)
	c.Flags().Var(&f.grace, keyGrace, "how long a holder may be away before what it held is rebuilt")
	c.Flags().Var(&f.probe, keyProbe, "how often other holders are asked whether they are there")
	c.Flags().Var(&f.audit, keyAudit, "how long it takes to sample every shard that others hold of the packs held here")
	c.Flags().Var(&f.repairRate, flagOf(keyRepairRate), "most bytes a second that repairs may move (default: no bound)")
	c.Flags().Var(&f.settle, keySettle, "how long peers must have been there before packs are given a higher redundancy with them")
	c.Flags().StringVar(&f.metrics, keyMetrics, "", "address to serve metrics for Prometheus at, such as :4018, which is this machine's alone (default: none)")
}

func (f *flagSettings) given(name string) bool {
	fl := f.c.Flags().Lookup(name)
	return fl != nil && fl.Changed
}

// sources says of each setting where it came from.
type sources map[string]string

// loadSettings puts together defaults, config.toml, environment and flags, the
// later before the earlier. f may be nil.
func loadSettings(h node.Home, f *flagSettings) (settings, sources, error) {
	s := settings{
		MDNS: true, PortMap: true, Listen: defaultListen(0),
		Grace: durationFlag(node.DefaultGrace), Probe: durationFlag(node.DefaultProbe),
		Audit: durationFlag(node.DefaultAudit), Settle: durationFlag(node.DefaultSettle),
	}
	from := make(sources)
	for _, key := range settingKeys {
		from[key] = fromDefault
	}
	for _, add := range []func(*settings, sources) error{
		func(s *settings, from sources) error { return addFile(s, from, h.ConfigFile()) },
		addEnv,
		func(s *settings, from sources) error { return f.override(s, from) },
	} {
		if err := add(&s, from); err != nil {
			return s, from, err
		}
	}
	if len(s.Zone) > maxZone {
		return s, from, usagef("", "zone: at most %d bytes", maxZone)
	}
	for key, d := range map[string]durationFlag{keyGrace: s.Grace, keyProbe: s.Probe, keyAudit: s.Audit, keySettle: s.Settle} {
		if d <= 0 {
			return s, from, usagef("", "%s: must be some time", key)
		}
	}
	var err error
	if s.Metrics, err = metricsAddr(s.Metrics); err != nil {
		return s, from, usagef("an address looks like :4018, which is this machine's alone, or 0.0.0.0:4018", "%s %s: %w", keyMetrics, show(s.Metrics), err)
	}
	return s, from, nil
}

// metricsAddr reads the address of the metrics. Without a host it is loopback:
// they are not for everybody.
func metricsAddr(a string) (string, error) {
	if a == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return a, errors.New("not of the form HOST:PORT")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return a, errors.New("no port number")
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), nil
}

// maxZone is how long the name of a zone may be, in bytes: peers refuse longer
// ones.
const maxZone = 64

// take sets a setting that is there.
func take[T any](to *T, v *T, from sources, key, source string) {
	if v != nil {
		*to = *v
		from[key] = source
	}
}

func addFile(s *settings, from sources, path string) error {
	c, err := readConfig(path)
	if err != nil {
		return err
	}
	take(&s.Zone, c.Zone, from, keyZone, fromFile)
	take(&s.Capacity, c.Capacity, from, keyCapacity, fromFile)
	take(&s.MDNS, c.MDNS, from, keyMDNS, fromFile)
	take(&s.PortMap, c.PortMap, from, keyPortMap, fromFile)
	take(&s.Grace, c.Grace, from, keyGrace, fromFile)
	take(&s.Probe, c.Probe, from, keyProbe, fromFile)
	take(&s.Audit, c.Audit, from, keyAudit, fromFile)
	take(&s.RepairRate, c.RepairRate, from, keyRepairRate, fromFile)
	take(&s.Settle, c.Settle, from, keySettle, fromFile)
	take(&s.Metrics, c.Metrics, from, keyMetrics, fromFile)
	if c.Listen != nil {
		if s.Listen, err = listenAddrs(c.Listen); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		from[keyListen] = fromFile
	}
	return nil
}

func addEnv(s *settings, from sources) error {
	for _, e := range []struct {
		key string
		set func(string) error
	}{
		{keyZone, func(v string) error { s.Zone = v; return nil }},
		{keyCapacity, s.Capacity.Set},
		{keyListen, func(v string) (err error) {
			s.Listen, err = listenAddrs(strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' }))
			return err
		}},
		{keyMDNS, func(v string) (err error) { s.MDNS, err = strconv.ParseBool(v); return err }},
		{keyPortMap, func(v string) (err error) { s.PortMap, err = strconv.ParseBool(v); return err }},
		{keyGrace, s.Grace.Set},
		{keyProbe, s.Probe.Set},
		{keyAudit, s.Audit.Set},
		{keyRepairRate, s.RepairRate.Set},
		{keySettle, s.Settle.Set},
		{keyMetrics, func(v string) error { s.Metrics = v; return nil }},
	} {
		name := "P2PFS_" + strings.ToUpper(e.key)
		v := os.Getenv(name)
		if v == "" {
			continue
		}
		if err := e.set(v); err != nil {
			return usagef("", "%s: %w", name, err)
		}
		from[e.key] = fromEnv
	}
	return nil
}

func (f *flagSettings) override(s *settings, from sources) (err error) {
	if f == nil {
		return nil
	}
	if f.given(keyZone) {
		s.Zone, from[keyZone] = f.zone, fromFlag
	}
	if f.given(keyCapacity) {
		s.Capacity, from[keyCapacity] = f.capacity, fromFlag
	}
	if f.given(keyListen) {
		if s.Listen, err = listenAddrs(f.listen); err != nil {
			return err
		}
		from[keyListen] = fromFlag
	}
	if f.given("no-mdns") {
		s.MDNS, from[keyMDNS] = !f.noMDNS, fromFlag
	}
	if f.given("no-portmap") {
		s.PortMap, from[keyPortMap] = !f.noPortMap, fromFlag
	}
	override(f, &s.Grace, f.grace, from, keyGrace)
	override(f, &s.Probe, f.probe, from, keyProbe)
	override(f, &s.Audit, f.audit, from, keyAudit)
	override(f, &s.RepairRate, f.repairRate, from, keyRepairRate)
	override(f, &s.Settle, f.settle, from, keySettle)
	override(f, &s.Metrics, f.metrics, from, keyMetrics)
	return nil
}

// override sets a setting whose flag was given.
func override[T any](f *flagSettings, to *T, v T, from sources, key string) {
	if f.given(flagOf(key)) {
		*to, from[key] = v, fromFlag
	}
}

// listenAddrs turns the addresses that people write into multiaddrs: those they
// are already, or HOST:PORT, which means TCP and QUIC there.
func listenAddrs(list []string) ([]string, error) {
	var out []string
	for _, a := range list {
		m, err := listenAddr(a)
		if err != nil {
			return nil, usagef("an address looks like /ip4/0.0.0.0/tcp/4017, 0.0.0.0:4017 or :4017", "listen address %s: %w", show(a), err)
		}
		out = append(out, m...)
	}
	if len(out) == 0 {
		return nil, usagef("", "no listen address")
	}
	return out, nil
}

func listenAddr(a string) ([]string, error) {
	if strings.HasPrefix(a, "/") {
		return []string{a}, checkMultiaddr(a)
	}
	host, portText, err := net.SplitHostPort(a)
	if err != nil {
		return nil, errors.New("neither a multiaddr nor HOST:PORT")
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, errors.New("no port number")
	}
	if host == "" {
		return defaultListen(int(port)), nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.Zone() != "" {
		return nil, errors.New("no IP address")
	}
	return both(ip, int(port)), nil
}

// checkMultiaddr refuses what cannot be listened at; the transports have the
// last word.
func checkMultiaddr(a string) error {
	p := strings.Split(a, "/")[1:]
	bad := errors.New("not of the form /ip4/ADDRESS/tcp/PORT or /ip4/ADDRESS/udp/PORT/quic-v1 (or ip6)")
	if len(p) < 4 {
		return bad
	}
	ip, err := netip.ParseAddr(p[1])
	_, perr := strconv.ParseUint(p[3], 10, 16)
	switch {
	case err != nil, perr != nil:
	case p[0] != "ip4" && p[0] != "ip6", ip.Is4() != (p[0] == "ip4"):
	case p[2] == "tcp" && len(p) == 4:
		return nil
	case p[2] == "udp" && slices.Equal(p[4:], []string{"quic-v1"}):
		return nil
	}
	return bad
}

// defaultListen is to listen at every address of the machine.
func defaultListen(port int) []string {
	return append(both(netip.IPv4Unspecified(), port), both(netip.IPv6Unspecified(), port)...)
}

func both(ip netip.Addr, port int) []string {
	family := "ip4"
	if ip.Is6() {
		family = "ip6"
	}
	return []string{
		fmt.Sprintf("/%s/%s/tcp/%d", family, ip, port),
		fmt.Sprintf("/%s/%s/udp/%d/quic-v1", family, ip, port),
	}
}

// fixPorts puts a free port in the place of every 0, one and the same where it
// can be, so that a node comes back at the addresses its peers know.
func fixPorts(ctx context.Context, listen []string) ([]string, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(listen)
	for i, a := range out {
		for _, proto := range []string{"tcp", "udp"} {
			a = strings.Replace(a+"/", "/"+proto+"/0/", "/"+proto+"/"+strconv.Itoa(port)+"/", 1)
			a = strings.TrimSuffix(a, "/")
		}
		out[i] = a
	}
	return out, nil
}

// Ports to choose from lie below those that systems give to outgoing
// connections, which could take one while the node does not run.
const firstPort, lastPort = 10000, 32000

// freePort finds a port that is free for TCP and UDP now.
func freePort(ctx context.Context) (int, error) {
	var lc net.ListenConfig
	for range 100 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		addr := ":" + strconv.Itoa(port)
		ln, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			continue
		}
		pc, err := lc.ListenPacket(ctx, "udp", addr)
		_ = ln.Close()
		if err == nil {
			_ = pc.Close()
			return port, nil
		}
	}
	return 0, errors.New("no free port found; give one with --listen")
}

// configHead begins the config.toml of a new home.
const configHead = `# Settings of a p2pfs node. Flags and the environment (P2PFS_ZONE and so on)
# come before what stands here; 'p2pfs config' shows what is in effect.

`

// writeConfig makes the config.toml of a new home, with the settings that were
// given as flags or have just been chosen. What the environment says today is
// not for all days.
func writeConfig(path string, s settings, from sources) error {
	var b strings.Builder
	b.WriteString(configHead)
	line := func(key, example, comment string, value any) error {
		fmt.Fprintf(&b, "# %s\n", comment)
		if from[key] != fromFlag && from[key] != fromInit {
			fmt.Fprintf(&b, "# %s\n\n", example)
			return nil
		}
		if err := toml.NewEncoder(&b).Encode(map[string]any{key: value}); err != nil {
			return err
		}
		b.WriteString("\n")
		return nil
	}
	capacity := strconv.FormatInt(int64(s.Capacity), 10) + "B"
	if err := errors.Join(
		line(keyZone, `zone = "attic"`, "Where the node stands: shards of a file are spread over zones.", s.Zone),
		line(keyCapacity, `capacity = "500GiB"`, "The most to keep for others; without it, what the disk has.", capacity),
		line(keyListen, `listen = [":4017"]`, "Where to listen; a fixed port lets peers find the node again.", s.Listen),
		line(keyMDNS, `mdns = true`, "Look for peers on the local network.", s.MDNS),
		line(keyPortMap, `portmap = true`, "Ask the router to open a port.", s.PortMap),
		line(keyRepairRate, `repair_rate = "5MB"`, "Most bytes a second that repairs may move; without it, no bound.", s.RepairRate),
		line(keyMetrics, `metrics = ":4018"`, "Serve metrics for Prometheus, here to this machine alone.", s.Metrics),
	); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// Exclusively: somebody's settings are never written over.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}
