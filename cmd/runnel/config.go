package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// configFile answers for the flags of serve that neither the command line nor the environment set. It is
// a flat YAML mapping whose keys are the names of the flags.
type configFile struct {
	path   string
	values map[string]string
}

// loadConfig reads a file and refuses keys that are not among known.
func loadConfig(path string, known []string) (*configFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var doc yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("config %s: %w", path, err)
	}
	f := &configFile{path: path, values: map[string]string{}}
	if len(doc.Content) == 0 {
		return f, nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		return nil, fmt.Errorf("config %s: line %d: expected a mapping of settings, such as \"addr: 127.0.0.1:4437\"", path, root.Line)
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		_, again := f.values[key.Value]
		switch {
		case !slices.Contains(known, key.Value):
			return nil, fmt.Errorf("config %s: line %d: unknown key %q; the keys are %s", path, key.Line, key.Value, strings.Join(known, ", "))
		case again:
			return nil, fmt.Errorf("config %s: line %d: the key %q is there twice", path, key.Line, key.Value)
		case value.Kind != yaml.ScalarNode:
			return nil, fmt.Errorf("config %s: line %d: %s must be a single value", path, value.Line, key.Value)
		}
		f.values[key.Value] = value.Value
	}
	return f, nil
}

// Validate is part of kong.Resolver; loadConfig has checked the keys.
func (f *configFile) Validate(*kong.Application) error { return nil }

// Resolve gives a flag the file's value. Kong asks only for flags that the command line did not set.
func (f *configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	value, ok := f.values[flag.Name]
	if !ok {
		return nil, nil
	}
	// Parsed here once, into nothing, so that a refusal can say which file it is about.
	scratch := flag.Target
	if err := flag.Parse(kong.ScanFromTokens(kong.Token{Type: kong.FlagValueToken, Value: value}), scratch); err != nil {
		return nil, fmt.Errorf("%w (from %s)", err, f.path)
	}
	return value, nil
}
