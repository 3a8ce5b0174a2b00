package main

import (
	"bytes"
	"io"
	"math"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"go.yaml.in/yaml/v3"
)

func FuzzSizes(f *testing.F) {
	for _, seed := range []string{"0", "17", "64KiB", "10MB", "3 MiB", "-1", "+1", "1.5MiB", "9223372036854775807", "9223372036854775808", "8589934592GiB", "8589934591GiB", "B", "", "1_000", "1KiBB", "０", " 1", "0\vB"} {
		f.Add(seed)
	}
	form := regexp.MustCompile(`^ *([+-]?[0-9]+) *(|B|KB|MB|GB|KiB|MiB|GiB)$`)
	units := map[string]int64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
	f.Fuzz(func(t *testing.T, text string) {
		var got byteSize
		if got.UnmarshalText([]byte(text)) != nil {
			return
		}
		match := form.FindStringSubmatch(text)
		if match == nil {
			t.Fatalf("%q is read as %d", text, got)
		}
		want, _ := new(big.Int).SetString(match[1], 10)
		want.Mul(want, big.NewInt(units[match[2]]))
		if !want.IsInt64() || want.Int64() != int64(got) || got < 0 {
			t.Fatalf("%q is read as %d, want %d", text, got, want)
		}
		var again byteSize
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Fatalf("%d is written as %q, which is read as %d, %v", got, got, again, err)
		}
	})
}

func FuzzInputLines(f *testing.F) {
	for _, seed := range []string{"", "\n", "a", "a\nb", "a\r\n\r\n b \n", "\xff\n\x00", " \t\n", "{\"a\":1}\n[2]\n"} {
		f.Add([]byte(seed), uint16(0))
	}
	f.Add([]byte("x\ny"), uint16(math.MaxUint16)) // with a line larger than the buffer
	f.Fuzz(func(t *testing.T, input []byte, long uint16) {
		if long > math.MaxUint16-8 {
			input = slices.Concat(input, bytes.Repeat([]byte("long"), 70<<10), []byte("\nlast"), input)
		}
		var want []string
		var numbers []int
		for i, line := range bytes.Split(input, []byte{'\n'}) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				want, numbers = append(want, string(line)), append(numbers, i+1)
			}
		}
		for how, in := range map[string]io.Reader{
			"at once": bytes.NewReader(input), "in halves": iotest.HalfReader(bytes.NewReader(input)), "with the end": iotest.DataErrReader(bytes.NewReader(input)),
		} {
			n := 0
			err := eachLine(in, func(number int, line []byte) error {
				if n >= len(want) || string(line) != want[n] || number != numbers[n] {
					t.Fatalf("%s: line %d is %.50q", how, number, line)
				}
				n++
				return nil
			})
			if err != nil || n != len(want) {
				t.Fatalf("%s: %d lines, %v, want %d", how, n, err, len(want))
			}
		}
	})
}

// FuzzConfigFiles checks that a file that is taken says what a YAML parser reads in it, and nothing else.
func FuzzConfigFiles(f *testing.F) {
	for _, seed := range []string{
		"", "{}", "addr: 127.0.0.1:1\ndata: x\n", "addr: [1]", "- addr", "addr: a\naddr: b", "port: 80", "addr: \"", "# only", "addr: &a x\ndata: *a", "<<: {addr: x}",
		"addr: !!binary aGk=", "addr:\n", "addr: ~", "? addr\n: x", "---\naddr: x\n---\ndata: y", "addr: |\n  a\n  b\n", "\xff", "addr: 0x10", "&a [*a]", "\"addr\": 'it''s'",
	} {
		f.Add([]byte(seed))
	}
	known := []string{"addr", "data", "max-body"}
	path := filepath.Join(f.TempDir(), "runnel.yaml")
	f.Fuzz(func(t *testing.T, content []byte) {
		path := path + "." + strings.ReplaceAll(t.Name(), "/", "_")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := loadConfig(path, known)
		if err != nil {
			return
		}
		for key := range got.values {
			if !slices.Contains(known, key) {
				t.Fatalf("%q sets %q", content, key)
			}
		}
		var want map[string]yaml.Node
		if err := yaml.Unmarshal(content, &want); err != nil || len(want) != len(got.values) {
			t.Fatalf("%q sets %q, and %d keys for the parser, %v", content, got.values, len(want), err)
		}
		for key, node := range want {
			if node.Kind != yaml.ScalarNode || node.Value != got.values[key] {
				t.Fatalf("%q: %s is %q, and %q for the parser", content, key, got.values[key], node.Value)
			}
		}
	})
}

func FuzzServerURLs(f *testing.F) {
	for _, seed := range []string{defaultURL, "http://h", "https://h/", "h:1", "", "http://", "http://h/p?q", "http://h/p?", "ftp://h", "http://h/a%2Fb/", "http://u:p@h/x", "http://[::1]:1", "http://h/#f", "\x7f"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := remote{URL: text}.client("a")
		if err != nil {
			return
		}
		given, err := url.Parse(text)
		if err != nil {
			t.Fatalf("%q was taken: %v", text, err)
		}
		base, err := url.Parse(c.Base)
		if err != nil || base.Host != given.Host || base.Scheme != given.Scheme || base.RawQuery != "" || strings.HasSuffix(c.Base, "/") && base.Fragment == "" && !strings.HasSuffix(given.Path, "//") {
			t.Fatalf("%q has the base %q, %v", text, c.Base, err)
		}
		if _, err := c.URL("a"); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
