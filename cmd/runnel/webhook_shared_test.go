package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage"
	"github.com/runnelhq/runnel/storage/faulty"
	"github.com/runnelhq/runnel/storage/memory"
	"github.com/runnelhq/runnel/webhook"
)

// receiver answers webhooks without a network.
type receiver func(*webhook.Notification) (status int, body string)

func (f receiver) RoundTrip(r *http.Request) (*http.Response, error) {
	n := new(webhook.Notification)
	if err := json.NewDecoder(r.Body).Decode(n); err != nil {
		return nil, err
	}
	status, body := f(n)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// process is a server that sends webhooks, over a driver that others share.
type process struct {
	*engine.Engine
	driver *faulty.Driver
	end    context.CancelFunc
	ended  chan struct{}
}

func newProcess(t *testing.T, shared storage.Driver, to http.RoundTripper) *process {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	p := &process{driver: faulty.New(shared), ended: make(chan struct{})}
	var err error
	if p.Engine, err = engine.Open(p.driver, engine.Config{Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	subs, err := webhook.NewSubscriptions(p.Engine, webhook.SubscriptionsConfig{Send: webhook.Config{Transport: to, Grace: -1, Logger: quiet}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.end = cancel
	go func() {
		defer close(p.ended)
		subs.Run(ctx)
	}()
	t.Cleanup(p.crash)
	return p
}

// crash ends it with nothing stored any more.
func (p *process) crash() {
	p.driver.SetRules(faulty.Rule{When: func(faulty.Call) bool { return true }, Then: faulty.Before(storage.ErrFailed)})
	p.end()
	<-p.ended
	_ = p.Close()
}

// sent counts the deliveries of each wake.
type sent struct {
	mu    sync.Mutex
	times map[string]int
}

func (s *sent) note(n *webhook.Notification) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times == nil {
		s.times = make(map[string]int)
	}
	s.times[fmt.Sprintf("%s/%d", n.Subscription, n.Generation)]++
}

func (p *process) subscribeAll(t *testing.T, count int) {
	t.Helper()
	for i := range count {
		config := runnel.SubscriptionConfig{Type: runnel.Webhook, Pattern: fmt.Sprintf("events/*/%d", i%3), WebhookURL: fmt.Sprintf("https://%d.example.com/", i)}
		if _, _, err := p.CreateSubscription(t.Context(), runnel.Store{}, fmt.Sprintf("sub-%d", i), config); err != nil {
			t.Fatal(err)
		}
	}
}

func (p *process) put(t *testing.T, n int) error {
	t.Helper()
	seg := runnel.Segment{Space: fmt.Sprintf("events/%d", n%2), Name: fmt.Sprint(n % 3)}
	_, err := p.Append(t.Context(), seg, runnel.AppendOptions{Create: &runnel.CreateOptions{}}, runnel.Record{Payload: []byte("x")})
	return err
}

// worked waits until every subscription has worked on everything.
func (p *process) worked(t *testing.T) {
	t.Helper()
	for range 600 {
		behind := 0
		for lag, err := range p.Lags(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			behind += lag.Behind
		}
		if behind == 0 {
			return
		}
		time.Sleep(time.Second) //nolint:forbidigo // time is fake
	}
	t.Fatal("not everything is worked on after ten minutes")
}

func TestProcessesOnOneDriverDeliverAWakeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all sent
		r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a seeded workload
		var mu sync.Mutex
		to := receiver(func(n *webhook.Notification) (int, string) {
			all.note(n)
			mu.Lock()
			takes := time.Duration(r.IntN(3000)) * time.Millisecond
			mu.Unlock()
			time.Sleep(takes) //nolint:forbidigo // time is fake
			return http.StatusOK, `{"done":true}`
		})
		shared := &memory.Driver{Shared: true}
		fleet := []*process{newProcess(t, shared, to), newProcess(t, shared, to), newProcess(t, shared, to)}
		fleet[0].subscribeAll(t, 6)
		for i := range 120 {
			if err := fleet[i%len(fleet)].put(t, i); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(i*37%900) * time.Millisecond) //nolint:forbidigo // time is fake
		}
		fleet[0].worked(t)
		if len(all.times) < 30 {
			t.Errorf("there were only %d wakes", len(all.times))
		}
		for wake, times := range all.times {
			if times != 1 {
				t.Errorf("wake %s was delivered %d times", wake, times)
			}
		}
	})
}

// What a process that dies was delivering is delivered once more by another, when its claim has run out. Everything
// else is delivered once.
func TestAProcessThatDiesInADeliveryLeavesItToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const processes, subscriptions = 4, 6
		var all sent
		var mu sync.Mutex
		busy := make(map[*process]int)
		var dying *process
		var fleet []*process
		shared := &memory.Driver{Shared: true}
		start := func() *process {
			var p *process
			p = newProcess(t, shared, receiver(func(n *webhook.Notification) (int, string) {
				all.note(n)
				mu.Lock()
				busy[p]++
				mu.Unlock()
				time.Sleep(2 * time.Second) //nolint:forbidigo // time is fake
				mu.Lock()
				defer mu.Unlock()
				if p != dying {
					busy[p]--
				}
				return http.StatusOK, `{"done":true}`
			}))
			return p
		}
		for range 2 {
			fleet = append(fleet, start())
		}
		fleet[0].subscribeAll(t, subscriptions)
		cut := 0
		for i := range 30 * processes {
			p := fleet[i%len(fleet)]
			if err := p.put(t, i); err != nil && !errors.Is(err, runnel.ErrUnknown) {
				t.Fatal(err)
			}
			time.Sleep(300 * time.Millisecond) //nolint:forbidigo // time is fake
			mu.Lock()
			n := busy[p]
			if dying = nil; i%30 == 29 && n > 0 {
				dying = p
			}
			mu.Unlock()
			if dying == p {
				cut += n
				p.crash()
				fleet[i%len(fleet)] = start()
			}
		}
		fleet[0].worked(t)
		again := 0
		for _, times := range all.times {
			again += times - 1
		}
		if cut == 0 || again > cut {
			t.Errorf("%d deliveries were cut off, and %d were made again", cut, again)
		}
	})
}
