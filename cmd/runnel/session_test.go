package main

import (
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

func TestATailOfTheGoClientGoesOnOverARestart(t *testing.T) {
	data := t.TempDir()
	s := serve(t, nil, "--addr", "127.0.0.1:0", "--data", data)
	addr := strings.TrimPrefix(s.url, "http://")
	c, err := client.Dial(t.Context(), s.url, client.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a := runnel.Segment{Space: "a", Name: "b"}
	publish := func(text string) {
		t.Helper()
		if _, err := c.Produce(t.Context(), a, client.Production{Key: text}, runnel.Record{Payload: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	publish("one")
	n := 0
	for e, err := range c.Tail(t.Context(), client.Segment(a, 0)) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if e.Sequence != runnel.Sequence(n) {
			t.Fatalf("entry %d has the sequence %d", n, e.Sequence)
		}
		switch n {
		case 1:
			s.stop()
			s = serve(t, nil, "--addr", addr, "--data", data)
			publish("two")
		case 2:
			s.kill()
			s = serve(t, nil, "--addr", addr, "--data", data)
			publish("three")
		case 3:
			s.stop()
			return
		}
	}
}
