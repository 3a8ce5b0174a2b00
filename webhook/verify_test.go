package webhook

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
)

// answers is a server that is one function.
type answers func(*http.Request) (*http.Response, error)

func (f answers) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func response(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}}
}

// keyServer serves the keys of k, and counts how often.
func keyServer(k *Keys, fetches *int, failure *error) *http.Client {
	return &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
		*fetches++
		if failure != nil && *failure != nil {
			return nil, *failure
		}
		doc, err := k.JWKS(r.Context(), runnel.Store{})
		return response(http.StatusOK, string(doc)), err
	})}
}

func signOf(t testing.TB, k *Keys, body string, at time.Time) string {
	t.Helper()
	header, err := k.Sign(context.Background(), runnel.Store{}, []byte(body), at)
	if err != nil {
		t.Fatal(err)
	}
	return header
}

// PROTOCOL.md, sections 7.1 and 12.10.
func TestASignatureIsVerified(t *testing.T) {
	k := NewKeys(new(vault), KeysConfig{})
	fetches := 0
	v := NewVerifier("https://streams.example.com/v1/stream/__ds/jwks.json", VerifierConfig{Client: keyServer(k, &fetches, nil)})
	now := time.Now()
	good := signOf(t, k, "{}", now)
	if err := v.Verify(t.Context(), good, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := v.Verify(t.Context(), good, []byte("{}")); err != nil || fetches != 1 {
			t.Fatalf("got %v after %d fetches", err, fetches)
		}
	}
	seconds, rest, _ := strings.Cut(good, ",")
	kid, sum, _ := strings.Cut(rest, ",")
	for name, tt := range map[string]struct{ header, body, reason string }{
		"no header":               {"", "{}", "is missing"},
		"another body":            {good, "{ }", "does not belong"},
		"a later time":            {fmt.Sprintf("t=%d,%s", now.Unix()+1, rest), "{}", "does not belong"},
		"too old":                 {signOf(t, k, "{}", now.Add(-6*time.Minute)), "{}", "5m0s"},
		"from the future":         {signOf(t, k, "{}", now.Add(6*time.Minute)), "{}", "5m0s"},
		"another key":             {seconds + ",kid=ds_other," + sum, "{}", "is not one of those"},
		"no time":                 {rest, "{}", "has no t"},
		"no key":                  {seconds + "," + sum, "{}", "has no kid"},
		"no signature":            {seconds + "," + kid, "{}", "has no ed25519"},
		"two signatures":          {good + "," + sum, "{}", "twice"},
		"two times":               {good + "," + seconds, "{}", "twice"},
		"a time with a sign":      {"t=+1," + rest, "{}", "decimal time"},
		"a time with zeros":       {"t=01," + rest, "{}", "decimal time"},
		"a short signature":       {seconds + "," + kid + ",ed25519=AAAA", "{}", "64 bytes"},
		"a padded signature":      {good + "==", "{}", "64 bytes"},
		"a list of something":     {"x", "{}", "names and values"},
		"a header of a kilobyte":  {good + ",x=" + strings.Repeat("y", 1024), "{}", "longer"},
		"a time beyond all bound": {"t=99999999999999999999," + rest, "{}", "decimal time"},
	} {
		err := v.Verify(t.Context(), tt.header, []byte(tt.body))
		var refused *SignatureError
		if !errors.As(err, &refused) || !errors.Is(err, ErrSignature) || !strings.Contains(err.Error(), tt.reason) {
			t.Errorf("%s: got %v, want %q", name, err, tt.reason)
		}
	}
	for name, header := range map[string]string{
		"in another order":      rest + "," + seconds,
		"with spaces":           seconds + ", " + kid + ", " + sum,
		"with more that is new": good + ",v=2",
	} {
		if err := v.Verify(t.Context(), header, []byte("{}")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysAreFetchedAgainWhenTheyAreReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeys(new(vault), KeysConfig{RotateEvery: -1})
		fetches := 0
		v := NewVerifier("https://a.example.com/jwks", VerifierConfig{Client: keyServer(k, &fetches, nil)})
		check := func() error { return v.Verify(t.Context(), signOf(t, k, "x", time.Now()), []byte("x")) }
		if err := check(); err != nil {
			t.Fatal(err)
		}
		if err := k.Rotate(t.Context(), runnel.Store{}); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			wait(time.Minute)
			if err := check(); err != nil {
				t.Fatal(err)
			}
		}
		if fetches < 3 || fetches > 6 {
			t.Fatalf("%d fetches in 20 minutes", fetches)
		}
	})
}

func TestInventedKeysDoNotMakeAReceiverFetchAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeys(new(vault), KeysConfig{})
		fetches := 0
		v := NewVerifier("https://a.example.com/jwks", VerifierConfig{Client: keyServer(k, &fetches, nil)})
		for i := range 1000 {
			header := fmt.Sprintf("t=%d,kid=%d,ed25519=%s", time.Now().Unix(), i, base64.RawURLEncoding.EncodeToString(make([]byte, 64)))
			if err := v.Verify(t.Context(), header, nil); !errors.Is(err, ErrSignature) {
				t.Fatal(err)
			}
			wait(100 * time.Millisecond)
		}
		if fetches > 11 {
			t.Fatalf("%d fetches in 100 seconds", fetches)
		}
	})
}

func TestKnownKeysAreGoodForAWhileIfTheServerCannotBeAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeys(new(vault), KeysConfig{})
		fetches, down := 0, error(nil)
		v := NewVerifier("https://a.example.com/jwks", VerifierConfig{Client: keyServer(k, &fetches, &down)})
		check := func() error { return v.Verify(t.Context(), signOf(t, k, "x", time.Now()), []byte("x")) }
		if err := check(); err != nil {
			t.Fatal(err)
		}
		down = io.ErrUnexpectedEOF
		wait(JWKSMaxAge + time.Minute)
		if err := check(); err != nil {
			t.Fatal(err)
		}
		wait(JWKSMaxAge)
		if err := check(); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrSignature) {
			t.Fatalf("got %v", err)
		}
		down = nil
		wait(refetchAfter)
		if err := check(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestASenderThatGoesAwayWhileKeysAreFetchedIsNoForger(t *testing.T) {
	k := NewKeys(new(vault), KeysConfig{})
	ctx, leave := context.WithCancel(t.Context())
	v := NewVerifier("https://streams.example.com/v1/stream/__ds/jwks.json", VerifierConfig{
		Client: &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
			leave()
			<-r.Context().Done()
			return nil, r.Context().Err()
		})},
	})
	err := v.Verify(ctx, signOf(t, k, "{}", time.Now()), []byte("{}"))
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrSignature) {
		t.Errorf("got %v", err)
	}
}

func TestAKeySetThatIsNoneIsRefused(t *testing.T) {
	x := base64.RawURLEncoding.EncodeToString(make([]byte, 32))
	one := `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"` + x + `"}`
	for name, tt := range map[string]struct {
		status int
		body   string
	}{
		"an error":       {http.StatusInternalServerError, `{"keys":[]}`},
		"a redirect":     {http.StatusFound, `{"keys":[]}`},
		"no JSON":        {http.StatusOK, `<html>`},
		"a short key":    {http.StatusOK, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA"}]}`},
		"one key twice":  {http.StatusOK, `{"keys":[` + one + `,` + one + `]}`},
		"too many keys":  {http.StatusOK, `{"keys":[` + strings.Repeat(`{},`, maxJWKSKeys) + `{}]}`},
		"much too large": {http.StatusOK, strings.Repeat(" ", maxJWKSBytes+1)},
	} {
		client := &http.Client{Transport: answers(func(*http.Request) (*http.Response, error) { return response(tt.status, tt.body), nil })}
		v := NewVerifier("https://a.example.com/jwks", VerifierConfig{Client: client})
		header := fmt.Sprintf("t=%d,kid=a,ed25519=%s", time.Now().Unix(), base64.RawURLEncoding.EncodeToString(make([]byte, 64)))
		if err := v.Verify(t.Context(), header, nil); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	keys, err := parseJWKS([]byte(`{"keys":[{"kty":"RSA","kid":"r","n":"x"},` + one + `]}`))
	if err != nil || len(keys) != 1 {
		t.Errorf("keys of other kinds must be skipped: %v, %v", keys, err)
	}
}

func TestAReceiverHandlesOnlyWhatItBelieves(t *testing.T) {
	k := NewKeys(new(vault), KeysConfig{})
	fetches := 0
	v := NewVerifier("https://a.example.com/jwks", VerifierConfig{Client: keyServer(k, &fetches, nil), Subscriptions: []string{"sub-1"}, MaxRequestBytes: 1 << 10})
	handled := 0
	handler := NewHandler(v, func(_ context.Context, n *Notification) (bool, error) {
		handled++
		if n.WakeID == "w_bad" {
			return false, errors.New("no")
		}
		return n.WakeID == "w_done", nil
	})
	for name, tt := range map[string]struct {
		method, body, header string
		status, handled      int
		answer               string
	}{
		"done":                   {body: `{"subscription_id":"sub-1","wake_id":"w_done"}`, status: 200, handled: 1, answer: `{"done":true}`},
		"not yet done":           {body: `{"subscription_id":"sub-1","wake_id":"w"}`, status: 200, handled: 1, answer: `{"done":false}`},
		"failed":                 {body: `{"subscription_id":"sub-1","wake_id":"w_bad"}`, status: 500, handled: 1},
		"not signed":             {body: `{"subscription_id":"sub-1","wake_id":"w"}`, header: "-", status: 400},
		"another's subscription": {body: `{"subscription_id":"sub-2","wake_id":"w"}`, status: 401},
		"signed another time":    {body: `{"subscription_id":"sub-1","wake_id":"w"}`, header: signOf(t, k, "x", time.Now()), status: 401},
		"no notification":        {body: `[]`, status: 400},
		"too large":              {body: strings.Repeat(" ", 2000), status: 400},
		"a GET":                  {method: http.MethodGet, status: 405},
	} {
		handled = 0
		r := httptest.NewRequest(http.MethodPost, "/hook", strings.NewReader(tt.body))
		if tt.method != "" {
			r.Method = tt.method
		}
		switch tt.header {
		case "":
			r.Header.Set(HeaderSignature, signOf(t, k, tt.body, time.Now()))
		case "-":
		default:
			r.Header.Set(HeaderSignature, tt.header)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.status || handled != tt.handled || tt.answer != "" && strings.TrimSpace(w.Body.String()) != tt.answer {
			t.Errorf("%s: got %d, %q, handled %d times", name, w.Code, w.Body, handled)
		}
	}
}

func TestACallbackCarriesItsTokenInTheHeader(t *testing.T) {
	var got *http.Request
	var body string
	status, answer := http.StatusOK, `{"ok":true,"next_wake":true}`
	client := &http.Client{Transport: answers(func(r *http.Request) (*http.Response, error) {
		got = r
		data, err := io.ReadAll(r.Body)
		body = string(data)
		return response(status, answer), err
	})}
	n := &Notification{WakeID: "w_1", Generation: 7, CallbackURL: "https://a.example.com/cb", CallbackToken: "tok", Streams: []Stream{
		{Path: "a", TailOffset: "2", HasPending: true}, {Path: "b", TailOffset: "1"},
	}}
	next, err := n.Ack(t.Context(), client, n.Tails(), true)
	if err != nil || !next || got.Header.Get("Authorization") != "Bearer tok" || got.URL.String() != n.CallbackURL {
		t.Fatalf("got %v, %v, %+v", next, err, got)
	}
	if body != `{"acks":[{"stream":"a","offset":"2"}],"done":true,"generation":7,"wake_id":"w_1"}` {
		t.Fatalf("sent %s", body)
	}
	status, answer = http.StatusConflict, `{"error":{"code":"FENCED"}}`
	if _, err := n.Ack(t.Context(), client, nil, false); !errors.Is(err, ErrFenced) {
		t.Fatalf("got %v", err)
	}
	status, answer = http.StatusBadGateway, `<html>`
	var failed *CallbackError
	if _, err := n.Ack(t.Context(), client, nil, false); errors.Is(err, ErrFenced) || !errors.As(err, &failed) || failed.Status != 502 {
		t.Fatalf("got %v", err)
	}
}

// Nothing but what Sign has made is verified.
func FuzzVerify(f *testing.F) {
	k := NewKeys(new(vault), KeysConfig{})
	fetches := 0
	v := NewVerifier("https://a.example.com/jwks", VerifierConfig{Client: keyServer(k, &fetches, nil), Tolerance: 24 * time.Hour})
	at := time.Now()
	good := signOf(f, k, "body", at)
	want, err := parseSignature(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, []byte("body"))
	f.Add(good+" ", []byte("body"))
	f.Add("t=1,kid=a,ed25519=", []byte{})
	f.Add("t=1,,", []byte("."))
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		err := v.Verify(t.Context(), header, body)
		if err == nil {
			got, parseErr := parseSignature(header)
			if parseErr != nil || got.seconds != want.seconds || got.kid != want.kid || string(got.sum) != string(want.sum) || string(body) != "body" {
				t.Fatalf("%q over %q was believed", header, body)
			}
		} else if !errors.Is(err, ErrSignature) {
			t.Fatal(err)
		}
	})
}

func FuzzParseJWKS(f *testing.F) {
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ds_abc123","use":"sig","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseJWKS(data)
		for id, key := range keys {
			if err != nil || id == "" || len(key) != 32 {
				t.Fatalf("%q: %x, %v", id, key, err)
			}
		}
	})
}
