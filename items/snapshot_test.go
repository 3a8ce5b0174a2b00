package items_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/runnelhq/runnel/items"
)

func TestWhoJoinsIsGivenTheGroupAsItIsAndNotAsItWas(t *testing.T) {
	s := serve(t, items.Config{})
	join := func(want string) {
		t.Helper()
		c := s.dial("/")
		c.join("g", room)
		c.want(want)
		c.join("i", room+`,"id":"m1"`)
		c.next()
	}
	for range 2 {
		join(`sync - []`)
	}
	s.set("m1", `1`)
	for range 2 {
		join(`sync - [1]`)
	}
	s.set("m2", `2`)
	join(`sync - [1,2]`)
	if a := s.do("DELETE", "/v1/items/chat/room", ""); a.status/100 != 2 {
		t.Fatal(a.status, a.body)
	}
	join(`sync - []`)
	s.set("m1", `3`)
	s.set("m3", `4`)
	join(`sync - [3,4]`) // as many changes as before, of another group
	c := s.dial("/?inject_id")
	s.set("m1", `{}`)
	c.join("g", room)
	c.want(`sync - [{"id":"m1"},4]`)
	join(`sync - [{},4]`)
}

func TestManyWhoJoinALargeGroupTogetherAreAllGivenAllOfIt(t *testing.T) {
	s := serve(t, items.Config{})
	var want []string
	for i := range 50 {
		value := fmt.Sprintf("%q", strings.Repeat(fmt.Sprint(i%10), 10_000))
		s.set(fmt.Sprintf("m%02d", i), value)
		want = append(want, value)
	}
	all := "sync - [" + strings.Join(want, ",") + "]"
	var wait sync.WaitGroup
	for range 20 {
		c := s.dial("/")
		c.join("g", room)
		wait.Go(func() {
			if f := c.next(); f.String() != all || f.Subscription != "g" || f.Cursor == "" {
				t.Errorf("%d bytes came, want %d", len(f.String()), len(all))
			}
		})
	}
	wait.Wait()
}
