package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

type versionCmd struct{}

func (*versionCmd) Run(std stdio) error {
	_, err := fmt.Fprintln(std.out, version())
	return err
}

// version tells what this program was built from: the module's version, the revision where the build
// knew it, and the Go release.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "runnel (unknown) " + runtime.Version()
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = " " + s.Value
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+changes"
			}
		}
	}
	return fmt.Sprintf("runnel %s%s%s %s %s/%s", cmp.Or(info.Main.Version, "(devel)"), revision, modified,
		info.GoVersion, runtime.GOOS, runtime.GOARCH)
}
