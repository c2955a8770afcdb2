package main

import (
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         "version",
		Short:       "Print the version of this program",
		Example:     "  p2pfs version\n  p2pfs version --json",
		Args:        arguments(0, 0),
		Annotations: exits(),
		RunE: func(*cobra.Command, []string) error {
			v := programVersion()
			if a.json {
				return a.printJSON(v)
			}
			return a.print("p2pfs %s, %s, %s/%s", v, v.Go, v.OS, v.Arch)
		},
	}
}

// version is what a build knows about itself.
type version struct {
	Version string `json:"version"`          // of the module
	Commit  string `json:"commit,omitempty"` // it was built from
	Dirty   bool   `json:"dirty"`            // with changes that were not committed
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// programVersion asks the binary.
func programVersion() version {
	b, _ := debug.ReadBuildInfo()
	return versionOf(b)
}

// versionOf reads the build information, which may be nil.
func versionOf(b *debug.BuildInfo) version {
	v := version{Version: "(devel)", Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	if b == nil {
		return v
	}
	if b.Main.Version != "" {
		v.Version = strings.TrimSuffix(b.Main.Version, "+dirty")
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Dirty = s.Value == "true"
		}
	}
	return v
}

// String gives the version, the commit's first 8 digits and whether it is
// changed.
func (v version) String() string {
	s := v.Version
	if v.Commit != "" {
		s += " " + v.Commit[:min(len(v.Commit), 8)]
	}
	if v.Dirty {
		s += " dirty"
	}
	return s
}
