package main

import (
	"net/http"
	"strings"
	"testing"
)

func TestReceiversCallBackOnlyWhereTheServerIs(t *testing.T) {
	cert, key, _ := certificate(t)
	for _, c := range []struct {
		name  string
		serve serveCmd
		asked string
		want  bool
	}{
		{"this machine", serveCmd{}, "http://localhost:4437/v1/stream", true},
		{"its address", serveCmd{}, "http://127.0.0.1:4437/v1/stream", true},
		{"its address of version 6", serveCmd{}, "http://[::1]:4437/v1/stream", true},
		{"any name", serveCmd{}, "http://evil.example/v1/stream", false},
		{"a name that begins like it", serveCmd{}, "http://localhost.evil.example/v1/stream", false},
		{"any address", serveCmd{}, "http://192.0.2.1/v1/stream", false},
		{"no name", serveCmd{}, "/v1/stream", false},
		{"that of --addr", serveCmd{Addr: "streams.internal:80"}, "http://Streams.Internal/v1/stream", true},
		{"every address", serveCmd{Addr: "0.0.0.0:80"}, "http://evil.example/v1/stream", false},
		{"any name, with --base-url", serveCmd{BaseURL: "https://streams.example"}, "http://evil.example/v1/stream", true},
		{"any name, by a proxy", serveCmd{TrustForwarded: true}, "https://streams.example/v1/stream", true},
		{"what the certificate is for", serveCmd{TLSCert: cert, TLSKey: key}, "https://127.0.0.1/v1/stream", true},
		{"another than the certificate is for", serveCmd{TLSCert: cert, TLSKey: key}, "https://evil.example/v1/stream", false},
	} {
		b, err := c.serve.newCallbacks()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.check(c.asked); (err == nil) != c.want || err != nil && !strings.Contains(err.Error(), "--base-url") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAWebhookSubscriptionUnderAnUnknownNameIsRefused(t *testing.T) {
	inBubble(t, func(s *subscribing) {
		s.host = "evil.example"
		config := object{"type": "webhook", "pattern": "a", "webhook": object{"url": "https://example.com/hook"}}
		s.wantCode(s.ask(http.MethodPut, sub, "", config, 400), "INVALID_REQUEST")
		s.host = "127.0.0.1:4437"
		s.ask(http.MethodPut, sub, "", config, 201)
		s.host = "evil.example" // who only confirms it changes nothing
		s.wantCode(s.ask(http.MethodPut, sub, "", config, 400), "INVALID_REQUEST")
		s.ask(http.MethodPut, "__ds/subscriptions/pull", "", object{"type": "pull-wake", "pattern": "a", "wake_stream": "w"}, 201)
	})
}
