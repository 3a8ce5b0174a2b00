//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	webhookReceivers = 1000
	webhookWorkers   = 64
)

// webhooks measures deliveries to receivers on ports of their own, against requests of the same size that a
// bare HTTP client sends to the same receivers.
func webhooks(ctx context.Context, m *machine) (_ []result, err error) {
	var received atomic.Int64
	var size atomic.Int64
	receiver := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				return
			}
			received.Add(1)
			size.Store(n)
			_, _ = io.WriteString(w, `{"done":true}`)
		}),
	}
	urls := make([]string, webhookReceivers)
	for i := range urls {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		urls[i] = "http://" + listener.Addr().String() + "/hook"
		go func() { _ = receiver.Serve(listener) }()
	}
	defer func() { err = errors.Join(err, receiver.Close()) }()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConns: 2 * webhookReceivers, MaxIdleConnsPerHost: webhookWorkers}}
	defer client.CloseIdleConnections()
	send := func(ctx context.Context, method, url, body string) error {
		req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			return err
		}
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("%s %s answered %d", method, url, resp.StatusCode)
		}
		return nil
	}

	p, err := m.serve("", "RUNNEL_WEBHOOK_DEVELOPMENT=true")
	if err != nil {
		return nil, err
	}
	base := "http://" + p.addr + "/v1/stream/"
	if err := send(ctx, http.MethodPut, base+"jobs/a", "[]"); err != nil {
		return nil, err
	}
	group, setup := errgroup.WithContext(ctx)
	group.SetLimit(webhookWorkers)
	for i, url := range urls {
		group.Go(func() error {
			body := fmt.Sprintf(`{"type":"webhook","streams":["jobs/a"],"webhook":{"url":%q}}`, url)
			return send(setup, http.MethodPut, fmt.Sprintf("%s__ds/subscriptions/s%d", base, i), body)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	// Each append wakes all of them, so there is always something to deliver.
	appendOne := func(ctx context.Context, _, _ int) error {
		return send(ctx, http.MethodPost, base+"jobs/a", `{"n":1}`)
	}
	if _, err := work(m.opts.duration/5, 1, appendOne); err != nil {
		return nil, err
	}
	before, began := received.Load(), time.Now()
	appends, err := work(m.opts.duration, 1, appendOne)
	if err != nil {
		return nil, err
	}
	rate := float64(received.Load()-before) / time.Since(began).Seconds()
	m.stopAll()

	body := strings.Repeat("x", int(size.Load()))
	bare, err := work(m.opts.duration, webhookWorkers, func(ctx context.Context, worker, n int) error {
		return send(ctx, http.MethodPost, urls[(worker*97+n)%webhookReceivers], body)
	})
	if err != nil {
		return nil, err
	}
	return []result{{
		Name: "webhook/1000", Value: rate, Unit: "deliveries/s",
		Limit: float64(len(bare)) / m.opts.duration.Seconds(), LimitName: "bare HTTP client", Target: 0.3,
		Note: fmt.Sprintf("signed, claimed and settled on disk, while %.0f appends/s are made", float64(len(appends))/m.opts.duration.Seconds()),
	}}, nil
}
