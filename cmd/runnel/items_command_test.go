package main

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// try executes a client command, whose arguments have no spaces, that may fail.
func (s *server) try(args string) outcome {
	s.t.Helper()
	return runnelIn(s.t, []string{"RUNNEL_URL=" + s.streams()}, strings.NewReader(""), strings.Fields(args)...)
}

// first executes a client command until it has printed a line.
func (s *server) first(args string) string {
	s.t.Helper()
	cmd := command(s.t, []string{"RUNNEL_URL=" + s.streams()}, strings.Fields(args)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		s.t.Errorf("%s printed no line: %v", args, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return line
}

func TestConditionsOfItemsFromTheShell(t *testing.T) {
	s := inMemory(t)
	for _, step := range []struct{ args, want string }{
		{`set chat room a {"n":1} --key once`, `"version":1`},
		{`set chat room a {"n":1} --key once`, `"duplicate":true`},
		{`set chat room a {"n":2} --if 7`, `1 runnel: item "a" of segment "chat/room" is at version 1, it was expected at version 7`},
		{`set chat room a 1 --if 1 --if-absent`, `2 runnel: --if-absent and --if exclude each other`},
		{`update chat room a [{"type":"increment","path":"n","by":1},{"type":"append","path":"n","value":1}] --if 1`, `append`},
		{`update chat room a [{"type":"increment","path":"n","by":1},{"type":"append","path":"n","value":1}] --partial --ttl 60`, `"value":{"n":2},"version":2`},
		{`rm chat room a --if 1`, `expected at version 1`},
		{`rm chat room --if 1`, `2 runnel: --if and --key are for one item`},
		{`get chat room a --limit 1`, `2 runnel: --prefix, --after and --limit are for lists`},
		{`rm chat room a --if 2 --key gone`, `"deleted":true`},
		{`compact chat attic`, `1 runnel: there is no such item or group`},
		{`send chat room x --to nobody`, `0`},
	} {
		o := s.try("items " + step.args)
		if got := fmt.Sprint(o.code, " ", o.stdout, o.stderr); !strings.Contains(got, step.want) {
			t.Errorf("items %s: %s\nwant %s", step.args, got, step.want)
		}
	}
}

func TestListsOfItemsArePrintedWhole(t *testing.T) {
	s := inMemory(t)
	const n = 1001 // more than a page
	for first := 0; first < n; first += 1000 {
		var b strings.Builder
		for i := first; i < min(n, first+1000); i++ {
			fmt.Fprintf(&b, `,{"id":"%04d","value":%d}`, i, i)
		}
		if status, body := s.request(http.MethodPost, "/v1/items/chat/room", `{"writes":[`+b.String()[1:]+`]}`); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	for args, want := range map[string][2]int{"": {2, n}, "--limit 10": {1, 10}, "--prefix 00": {1, 100}, "--after 0990": {1, 10}} {
		out := s.must("", strings.Fields("items get chat room "+args)...)
		if got := [2]int{strings.Count(out, "\n"), strings.Count(out, `"id":`)}; got != want {
			t.Errorf("get %s prints %d lines with %d items, want %v", args, got[0], got[1], want)
		}
	}
}

// A watch tells what it is told, and ends where nothing follows.
func TestWhatIsWatchedFromTheShell(t *testing.T) {
	s := inMemory(t)
	s.must("", "items", "set", "chat", "room", "a1", "1")
	s.must("", "items", "set", "chat", "room", "b1", "2")
	for args, want := range map[string]string{
		"chat":                  `"ids":["a1","b1"]`,
		"chat --group-prefix r": `"ids":["a1","b1"]`,
		"chat room":             `"ids":["a1","b1"]`,
		"chat room --prefix b":  `"ids":["b1"]`,
		"chat room b1":          `"data":2`,
	} {
		first := s.first("items watch " + args)
		if !strings.Contains(first, `"sync"`) || !strings.Contains(first, want) {
			t.Errorf("watch %s: %s", args, first)
		}
	}
	if o := s.try("items watch chat/.. room"); o.code != 1 || !strings.Contains(o.stderr, `must not contain the element ".."`) {
		t.Errorf("%+v", o)
	}
	if o := s.try("items watch chat --since 1-1"); o.code != 2 {
		t.Errorf("%+v", o)
	}
}
