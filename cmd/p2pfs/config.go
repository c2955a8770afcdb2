package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func configCommand(a *app) *cobra.Command {
	var f flagSettings
	c := &cobra.Command{
		Use:   "config",
		Short: "Show each setting and where it came from",
		Long: `config shows the settings that a node of this home runs with, and where each
came from: a flag, the environment, config.toml, or the default, in this order.
Given the flags of 'p2pfs node', it shows what they would do.`,
		Example: `  p2pfs config
  P2PFS_ZONE=attic p2pfs config --json`,
		Args:        arguments(0, 0),
		Annotations: exits(),
		RunE: func(*cobra.Command, []string) error {
			return about("config", a.config(&f))
		},
	}
	f.addNode(c)
	return c
}

// setting is one line of config.
type setting struct {
	Value  any    `json:"value"`
	Source string `json:"source"`
}

func (a *app) config(f *flagSettings) error {
	h, homeFrom, err := a.whichHome()
	if err != nil {
		return err
	}
	s, from, err := loadSettings(h, f)
	if err != nil {
		return err
	}
	all := []struct {
		key, text string
		setting
	}{
		{"config_dir", h.Config, setting{h.Config, homeFrom}},
		{"data_dir", h.Data, setting{h.Data, homeFrom}},
		{"socket", h.Socket(), setting{h.Socket(), homeFrom}},
		{keyZone, s.Zone, setting{s.Zone, from[keyZone]}},
		{keyCapacity, "what the disk has", setting{int64(s.Capacity), from[keyCapacity]}},
		{keyListen, strings.Join(s.Listen, " "), setting{s.Listen, from[keyListen]}},
		{keyMDNS, fmt.Sprint(s.MDNS), setting{s.MDNS, from[keyMDNS]}},
		{keyPortMap, fmt.Sprint(s.PortMap), setting{s.PortMap, from[keyPortMap]}},
		{keyGrace, s.Grace.String(), setting{time.Duration(s.Grace).String(), from[keyGrace]}},
		{keyProbe, s.Probe.String(), setting{time.Duration(s.Probe).String(), from[keyProbe]}},
		{keyAudit, s.Audit.String(), setting{time.Duration(s.Audit).String(), from[keyAudit]}},
		{keyRepairRate, "no bound", setting{int64(s.RepairRate), from[keyRepairRate]}},
		{keySettle, s.Settle.String(), setting{time.Duration(s.Settle).String(), from[keySettle]}},
		{keyMetrics, s.Metrics, setting{s.Metrics, from[keyMetrics]}},
	}
	if a.json {
		object := make(map[string]setting, len(all))
		for _, l := range all {
			object[l.key] = l.setting
		}
		return a.printJSON(object)
	}
	t := a.table()
	t.row("SETTING", "SOURCE", "VALUE")
	for _, l := range all {
		if l.key == keyCapacity && s.Capacity > 0 {
			l.text = formatSize(int64(s.Capacity))
		}
		if l.key == keyRepairRate && s.RepairRate > 0 {
			l.text = formatSize(int64(s.RepairRate)) + "/s"
		}
		if l.text == "" {
			l.text = "-"
		}
		t.row(l.key, l.Source, l.text)
	}
	return t.end()
}
