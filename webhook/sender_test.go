package webhook

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
)

func senderTo(t testing.TB, cfg Config) (*sender, *Keys) {
	t.Helper()
	keys := NewKeys(new(vault), KeysConfig{})
	s := newSender(keys, policyOf(t, PolicyConfig{Development: true}), cfg.withDefaults())
	t.Cleanup(s.client.CloseIdleConnections)
	return s, keys
}

func deliveryTo(url string) Delivery {
	return Delivery{
		Wake: wakeSeven, URL: url,
		Streams:     []Stream{{Path: "events/abc", LinkType: "glob", AckedOffset: "0000000000000001_0000000000000042", TailOffset: "0000000000000002_0000000000000084", HasPending: true}},
		CallbackURL: "https://server.example/streams/__ds/subscriptions/sub-1/callback",
	}
}

// PROTOCOL.md, section 7.1: the request that a wake is sent with.
func TestARequestIsThatOfTheProtocol(t *testing.T) {
	s, keys := senderTo(t, Config{})
	fetches := 0
	verifier := NewVerifier("https://a.example.com/jwks", VerifierConfig{Client: keyServer(keys, &fetches, nil)})
	var failure error
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if failure = verifier.Verify(r.Context(), r.Header.Get(HeaderSignature), body); failure != nil {
			return
		}
		var n map[string]any
		if failure = json.Unmarshal(body, &n); failure != nil {
			return
		}
		token, _ := n["callback_token"].(string)
		wake, err := keys.VerifyToken(r.Context(), CallbackToken, token)
		delete(n, "callback_token")
		text, _ := json.Marshal(n)
		want := `{"callback_url":"https://server.example/streams/__ds/subscriptions/sub-1/callback","generation":7,"streams":[{"acked_offset":"0000000000000001_0000000000000042","has_pending":true,"link_type":"glob","path":"events/abc","tail_offset":"0000000000000002_0000000000000084"}],"subscription_id":"sub-1","wake_id":"w_abc123"}`
		if string(text) != want || err != nil || wake != wakeSeven || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			failure = fmt.Errorf("%s %v: %s, %+v, %w", r.Method, r.Header, text, wake, err)
		}
		_, _ = io.WriteString(w, `{"done": true}`)
	}))
	defer receiver.Close()
	a := s.send(t.Context(), deliveryTo(receiver.URL+"/hook?x=y"))
	if failure != nil || a.failure != "" || !a.done || a.status != http.StatusOK {
		t.Fatalf("got %+v, %v", a, failure)
	}
}

func TestAnAnswerIsJudged(t *testing.T) {
	for _, tt := range []struct {
		name, body, failure string
		status              int
		header              http.Header
		done                bool
		retryAfter          time.Duration
	}{
		{name: "done", body: `{"done":true}`, done: true},
		{name: "done with more", status: 201, body: ` {"x":[1,{"done":false}],"done":true} `, done: true},
		{name: "not yet done", body: `{"done":false}`},
		{name: "done in a string", body: `{"done":"true"}`},
		{name: "done in other letters", body: `{"Done":true}`},
		{name: "done further down", body: `{"x":{"done":true}}`},
		{name: "nothing", status: 204},
		{name: "no JSON", body: `<html>done</html>`},
		{name: "half of it", body: `{"done":true`},
		{name: "an array", body: `[{"done":true}]`},
		{name: "null", body: `null`},
		{name: "as much as is read", body: `{"done":true}` + strings.Repeat(" ", 1024-13), done: true},
		{name: "more than is read", body: `{"done":true}` + strings.Repeat(" ", 1024)},
		{name: "nested very deep", body: strings.Repeat("[", 1024)},
		{name: "a redirect inside", status: 302, header: http.Header{"Location": {"http://169.254.169.254/"}}, failure: "redirects"},
		{name: "a permanent redirect", status: 308, header: http.Header{"Location": {"http://127.0.0.1:1/"}}, failure: "redirects"},
		{name: "400", status: 400, body: `{"done":true}`, failure: "the answer is 400"},
		{name: "410", status: 410, failure: "the answer is 410"},
		{name: "500", status: 500, body: `{"done":true}`, failure: "the answer is 500"},
		{name: "503 and when", status: 503, header: http.Header{"Retry-After": {"17"}}, failure: "the answer is 503", retryAfter: 17 * time.Second},
		{name: "429 and a wrong when", status: 429, header: http.Header{"Retry-After": {"-5"}}, failure: "the answer is 429"},
		{name: "a header without end", header: http.Header{"X": {strings.Repeat("x", 64<<10)}}, failure: "the connection failed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			requests := 0
			receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests++
				maps.Copy(w.Header(), tt.header)
				w.WriteHeader(max(tt.status, 200))
				_, _ = io.WriteString(w, tt.body)
			}))
			defer receiver.Close()
			s, _ := senderTo(t, Config{MaxAnswerBytes: 1024})
			a := s.send(t.Context(), deliveryTo(receiver.URL))
			if a.done != tt.done || !strings.Contains(a.failure, tt.failure) || (a.failure == "") != (tt.failure == "") || a.retryAfter != tt.retryAfter || requests != 1 {
				t.Fatalf("got %+v after %d requests", a, requests)
			}
		})
	}
}

func TestAReceiverThatDoesNotComeToAnEndIsGivenUp(t *testing.T) {
	hang := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for name, serve := range map[string]func(net.Conn){
		"that accepts and says nothing": hang,
		"whose header never ends": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			hang(c)
		},
		"whose body never ends": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"done\":")
			hang(c)
		},
		"that never ends to say 103": func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		},
		"that changes the protocol": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
			hang(c)
		},
		"that speaks something else": func(c net.Conn) {
			_, _ = io.WriteString(c, "220 mail.example.com ESMTP\r\n")
			hang(c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go func() {
				for {
					conn, err := listener.Accept()
					if err != nil {
						return
					}
					go func() {
						serve(conn)
						_ = conn.Close()
					}()
				}
			}()
			s, _ := senderTo(t, Config{})
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			if a := s.send(ctx, deliveryTo("http://"+listener.Addr().String())); a.failure == "" {
				t.Fatalf("got %+v", a)
			}
		})
	}
}

func TestACertificateMustHold(t *testing.T) {
	var requests atomic.Int32
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests.Add(1) }))
	receiver.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	receiver.Config.ErrorLog = nil
	receiver.StartTLS()
	defer receiver.Close()
	s, _ := senderTo(t, Config{})
	a := s.send(t.Context(), deliveryTo(receiver.URL))
	if a.failure != "the certificate is not valid for the host" || requests.Load() != 0 {
		t.Fatalf("got %+v, %d requests", a, requests.Load())
	}
}

func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	s, _ := senderTo(t, Config{})
	transport, _ := s.client.Transport.(*http.Transport)
	if transport.Proxy != nil {
		t.Fatal("a proxy would be asked for")
	}
}

func TestAConnectionIsUsedAgain(t *testing.T) {
	var connections atomic.Int32
	receiver := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{}`) }))
	receiver.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	receiver.Start()
	defer receiver.Close()
	s, _ := senderTo(t, Config{})
	for range 10 {
		if a := s.send(t.Context(), deliveryTo(receiver.URL)); a.failure != "" {
			t.Fatalf("got %+v", a)
		}
	}
	if connections.Load() != 1 {
		t.Fatalf("%d connections for 10 requests", connections.Load())
	}
}

// A URL may have been stored under another policy than there is.
func TestAURLThatIsNotAllowedAnyMoreIsNotSentTo(t *testing.T) {
	for url, reason := range map[string]string{
		"http://10.0.0.1/": "https://", "https://127.0.0.1.nip.example:1/": "port 1", "": "https://", "https://10.0.0.1/": "private",
	} {
		s, _ := senderTo(t, Config{})
		if a := s.send(t.Context(), deliveryTo(url)); !strings.Contains(a.failure, reason) {
			t.Errorf("%q: got %+v", url, a)
		}
	}
}

// What the owner of a subscription is told of a failure does not let it explore a network.
func TestAReasonTellsNothingOfTheNetworkInside(t *testing.T) {
	s, _ := senderTo(t, Config{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String()
	_ = listener.Close()
	if a := s.send(t.Context(), deliveryTo(url)); a.failure != "no connection to the host" {
		t.Fatalf("got %+v", a)
	}
}

func TestNamesInAPayloadCannotBreakIt(t *testing.T) {
	d := deliveryTo("https://a.example.com/")
	d.Subscription = "a\"\r\nX: y\x00</script>"
	d.Store = runnel.Store{}
	d.Streams = nil
	body, err := payload(d, "tok")
	if err != nil {
		t.Fatal(err)
	}
	var n Notification
	if err := json.Unmarshal(body, &n); err != nil || n.Subscription != d.Subscription || n.Streams == nil {
		t.Fatalf("got %+v, %v", n, err)
	}
}

func FuzzSaysDone(f *testing.F) {
	for _, seed := range []string{`{"done":true}`, `{"done":true,"done":false}`, `{"done": true }x`, `[]`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !saysDone(data) {
			return
		}
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil || fields["done"] != true {
			t.Fatalf("%q is done", data)
		}
	})
}
