package engine_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

func TestWatchTellsWhatComesAndGoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		w.create("before", runnel.CreateOptions{})
		watching, stop := context.WithCancel(ctx)
		var got []string
		done := make(chan struct{})
		events := w.Watch(watching, runnel.Store{})
		go func() {
			defer close(done)
			for event := range events {
				verb := "created"
				if event.Deleted {
					verb = "deleted"
				}
				got = append(got, verb+" "+event.Info.Segment.Path())
			}
		}()
		w.create("a", runnel.CreateOptions{})
		w.append("a", "x")
		w.create("ttl", runnel.CreateOptions{TTL: time.Minute})
		w.fork("fork", "a", 1)
		if _, err := w.Create(ctx, runnel.Segment{Store: runnel.Store{1}, Name: "elsewhere"}, runnel.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.tryCreate("a", runnel.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.delete("a")
		w.delete("fork")
		pass(5 * time.Minute)
		stop()
		<-done
		want := []string{"created a", "created ttl", "created fork", "deleted a", "deleted fork", "deleted ttl"}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestAWatcherThatSleepsHoldsNobodyUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		watching, stop := context.WithCancel(ctx)
		defer stop()
		events := w.Watch(watching, runnel.Store{})
		for i := range 3000 {
			w.create(fmt.Sprint(i), runnel.CreateOptions{})
		}
		n := 0
		for range events {
			if n++; n == 1000 {
				break
			}
		}
	})
}

func TestWatchEndsWithTheEngine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := inMemory(t)
		done := make(chan struct{})
		events := w.Watch(ctx, runnel.Store{})
		go func() {
			defer close(done)
			for range events {
				t.Error("an event")
			}
		}()
		pending(t, done, "watching")
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
	})
}
