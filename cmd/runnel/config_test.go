package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
)

// parseServe reads the settings of a server as main does.
func parseServe(t *testing.T, args ...string) (serveCmd, error) {
	t.Helper()
	var cmd commands
	parser, err := kong.New(&cmd, kong.Vars{"url": defaultURL})
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(append([]string{"serve"}, args...))
	return cmd.Serve, err
}

func writeConfig(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "runnel.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAFlagWinsOverTheEnvironmentOverTheFileOverTheDefault(t *testing.T) {
	const file = "long-poll-timeout: 3s\nmax-body: 3KiB\nlog-level: warn\ndata: from-file\nprivate: true\nallow-origin: https://a.example,https://b.example\n"
	path := writeConfig(t, file)
	t.Setenv("RUNNEL_LONG_POLL_TIMEOUT", "2s")
	t.Setenv("RUNNEL_MAX_BODY", "2KiB")
	got, err := parseServe(t, "--config", path, "--long-poll-timeout", "1s")
	if err != nil {
		t.Fatal(err)
	}
	if got.LongPollTimeout != time.Second {
		t.Errorf("flag, environment and file: %s", got.LongPollTimeout)
	}
	if got.MaxBody != 2<<10 {
		t.Errorf("environment and file: %s", got.MaxBody)
	}
	if got.LogLevel != "warn" || got.Data != "from-file" || !got.Private || len(got.AllowOrigin) != 2 {
		t.Errorf("file: %+v", got)
	}
	if got.Addr != "127.0.0.1:4437" || got.Driver != "pebble" || got.DrainTimeout != 10*time.Second {
		t.Errorf("defaults: %+v", got)
	}

	t.Setenv("RUNNEL_CONFIG", path)
	if got, err = parseServe(t); err != nil || got.Data != "from-file" {
		t.Errorf("the file named by the environment: %q %v", got.Data, err)
	}
}

func TestAnEmptyConfigFileSetsNothing(t *testing.T) {
	for _, content := range []string{"", "# only a comment\n", "{}"} {
		if got, err := parseServe(t, "--config", writeConfig(t, content)); err != nil || got.Data != "./data" {
			t.Errorf("%q: %q %v", content, got.Data, err)
		}
	}
}

func TestAWrongSettingIsNamedWithItsRule(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		env  string
		file string
		want []string
	}{
		{name: "a driver that there is not", args: []string{"--driver", "tape"}, want: []string{"driver must be one of", "pebble", "memory", "tape"}},
		{name: "an address without a port", args: []string{"--addr", "localhost"}, want: []string{"addr must be a host and a port", `"localhost"`}},
		{name: "a time without a unit", args: []string{"--long-poll-timeout", "30"}, want: []string{"--long-poll-timeout", `"30"`}},
		{name: "a time that is too long", args: []string{"--long-poll-timeout", "1h"}, want: []string{"long-poll-timeout must be between 1ms and 10m0s, got 1h0m0s"}},
		{name: "a size that is none", args: []string{"--max-body", "many"}, want: []string{"--max-body", "expected a size such as", `"many"`}},
		{name: "a size of nothing", args: []string{"--max-body", "0"}, want: []string{"max-body must be at least 1 byte, got 0"}},
		{name: "a certificate without its key", args: []string{"--tls-cert", "x"}, want: []string{"tls-cert and tls-key must be given together"}},
		{name: "a log level that there is not", args: []string{"--log-level", "loud"}, want: []string{"log-level must be one of", "loud"}},
		{name: "in the environment", env: "soon", want: []string{"--drain-timeout", "soon", "RUNNEL_DRAIN_TIMEOUT"}},
		{name: "in the file", file: "addr: 127.0.0.1:1\ndrain-timeout: soon\n", want: []string{"--drain-timeout", "soon", "runnel.yaml"}},
		{name: "a key that there is not", file: "addr: 127.0.0.1:1\nport: 80\n", want: []string{"runnel.yaml", "line 2", `unknown key "port"`, "addr, data, driver"}},
		{name: "a key that is there twice", file: "addr: 127.0.0.1:1\naddr: 127.0.0.1:2\n", want: []string{"runnel.yaml", "line 2", "addr", "twice"}},
		{name: "a list for a value", file: "addr: [1, 2]\n", want: []string{"runnel.yaml", "line 1", "addr must be a single value"}},
		{name: "a file of another kind", file: "- addr\n", want: []string{"runnel.yaml", "expected a mapping"}},
		{name: "a file that is no YAML", file: "addr: \"\n", want: []string{"runnel.yaml", "yaml"}},
		{name: "a file that is not there", args: []string{"--config", "nowhere.yaml"}, want: []string{"config", "nowhere.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := c.args
			if c.file != "" {
				args = append(args, "--config", writeConfig(t, c.file))
			}
			if c.env != "" {
				t.Setenv("RUNNEL_DRAIN_TIMEOUT", c.env)
			}
			_, err := parseServe(t, args...)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func TestSizesAreReadInBothCounts(t *testing.T) {
	for text, want := range map[string]byteSize{"0": 0, "17": 17, "17B": 17, "2KB": 2000, "2KiB": 2048, "3 MiB": 3 << 20, "1GB": 1e9, "1GiB": 1 << 30} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "B", "-1", "1.5MiB", "1TiB", "9999999999GiB", "1e3"} {
		var got byteSize
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was accepted as %d", text, got)
		}
	}
}
