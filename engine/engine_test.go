package engine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

var ctx = context.Background()

func open(t testing.TB) *engine.Engine {
	t.Helper()
	d := new(memory.Driver)
	e, err := engine.Open(d, engine.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(); d.Close() })
	return e
}

func text(s ...string) []runnel.Record {
	var rs []runnel.Record
	for _, p := range s {
		rs = append(rs, runnel.Record{Payload: []byte(p)})
	}
	return rs
}

func read(t testing.TB, e *engine.Engine, seg runnel.Segment, from runnel.Sequence) []string {
	t.Helper()
	v, err := e.Read(ctx, seg, 0, from)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	next := from + 1
	for b, err := range v.Batches {
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.Len() {
			en := b.Entry(i)
			if en.Sequence != next {
				t.Fatalf("sequence %d, want %d", en.Sequence, next)
			}
			next++
			got = append(got, string(en.Payload))
		}
	}
	return got
}

func TestSmoke(t *testing.T) {
	e := open(t)
	a := runnel.Segment{Space: "s", Name: "a"}
	if _, err := e.Append(ctx, a, runnel.AppendOptions{}, text("x")...); !errors.Is(err, runnel.ErrNotFound) {
		t.Fatal(err)
	}
	if _, err := e.Create(ctx, a, runnel.CreateOptions{ContentType: "text/plain", Records: text("one", "two")}); err != nil {
		t.Fatal(err)
	}
	at, err := e.Append(ctx, a, runnel.AppendOptions{}, text("three", "four", "five")...)
	fmt.Println(at, err)
	fmt.Println(read(t, e, a, 0), read(t, e, a, 3))
	f := runnel.Segment{Space: "other", Name: "f"}
	c, err := e.Create(ctx, f, runnel.CreateOptions{Fork: &runnel.ForkFrom{Source: a, At: 2, Sub: 7}, Records: text("more")})
	fmt.Println(c, err)
	fmt.Println(read(t, e, f, 0))
	fmt.Println(e.Delete(ctx, a))
	_, err = e.Stat(ctx, a)
	fmt.Println(err)
	fmt.Println(read(t, e, f, 0))
	fmt.Println(e.Delete(ctx, f))
}
