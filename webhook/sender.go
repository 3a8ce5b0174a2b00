package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	idleTimeout    = 90 * time.Second
	idlePerHost    = 8
	idleInAll      = 1024
)

// newTransport returns what makes the connections: only where the policy lets it, through no proxy that was
// not configured, to servers whose certificates hold.
func newTransport(policy *Policy, cfg Config) *http.Transport {
	t := &http.Transport{
		DialContext:            policy.dial(net.Dialer{Timeout: connectTimeout, KeepAlive: 30 * time.Second}),
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    connectTimeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // a small answer must not become a large one
		MaxIdleConns:           idleInAll,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: cfg.MaxHeaderBytes,
	}
	if cfg.Proxy != nil {
		t.Proxy = http.ProxyURL(cfg.Proxy)
		t.DialContext = (&net.Dialer{Timeout: connectTimeout}).DialContext
	}
	return t
}

// sender makes one attempt after the other; it keeps only connections.
type sender struct {
	keys   *Keys
	policy *Policy
	cfg    Config
	client *http.Client
}

func newSender(keys *Keys, policy *Policy, cfg Config) *sender {
	return &sender{keys: keys, policy: policy, cfg: cfg, client: newClient(policy, cfg)}
}

// answer is what came of one request.
type answer struct {
	status     int
	done       bool
	retryAfter time.Duration
	// failure says why it is no success; empty if it is one.
	failure string
	// ours says that the failure is none of the receiver's.
	ours bool
}

// send makes one request, within the time of ctx.
func (s *sender) send(ctx context.Context, d Delivery) answer {
	target, err := s.policy.CheckURL(d.URL)
	if err != nil {
		// It was allowed when it was given.
		return answer{failure: ruleOf(err)}
	}
	token, err := s.keys.Token(ctx, CallbackToken, d.Wake)
	if err != nil {
		return answer{failure: "no token could be made", ours: true}
	}
	body, err := payload(d, token)
	if err != nil {
		return answer{failure: "the notification could not be written", ours: true}
	}
	sign, err := s.keys.Sign(ctx, d.Store, body, time.Now())
	if err != nil {
		return answer{failure: "the notification could not be signed", ours: true}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return answer{failure: "the URL cannot be requested"}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set(HeaderSignature, sign)
	req.Header.Set("User-Agent", s.cfg.UserAgent)
	resp, err := s.client.Do(req)
	if err != nil {
		return answer{failure: causeOf(ctx, err)}
	}
	defer resp.Body.Close()
	return s.read(ctx, resp)
}

// read judges an answer. Nothing of it is kept but the status and whether it says done.
func (s *sender) read(ctx context.Context, resp *http.Response) answer {
	a := answer{status: resp.StatusCode}
	if resp.StatusCode/100 == 1 {
		a.failure = "the answer changes the protocol" // and would have no end
		return a
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, s.cfg.MaxAnswerBytes+1))
	switch {
	case resp.StatusCode/100 == 3:
		a.failure = "the answer redirects, which is not followed"
	case resp.StatusCode/100 != 2:
		a.failure = "the answer is " + strconv.Itoa(resp.StatusCode)
		a.retryAfter = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	case err != nil:
		a.failure = "the answer broke off: " + causeOf(ctx, err)
	case int64(len(data)) <= s.cfg.MaxAnswerBytes:
		a.done = saysDone(data)
	}
	return a
}

// saysDone reads {"done": true}. Anything else, JSON or not, is an answer of somebody who will call back.
func saysDone(data []byte) bool {
	var fields map[string]json.RawMessage
	return json.Unmarshal(data, &fields) == nil && string(fields["done"]) == "true"
}

// payload returns the body of a request.
func payload(d Delivery, token string) ([]byte, error) {
	return json.Marshal(Notification{
		Subscription: d.Subscription, WakeID: d.WakeID, Generation: d.Generation,
		Streams: append([]Stream{}, d.Streams...), CallbackURL: d.CallbackURL, CallbackToken: token,
	})
}

// retryAfter reads seconds or a date; 0 if there is neither.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// errSlow ends an attempt for which there is no room any more.
var errSlow = errors.New("webhook: too many receivers are slow")

// causeOf says why a request failed, in words that hold nothing from outside and show nothing of the network
// inside but what the owner of the URL knows.
func causeOf(ctx context.Context, err error) string {
	var address *AddressError
	var dns *net.DNSError
	var verification *tls.CertificateVerificationError
	var timeout net.Error
	switch {
	case errors.As(err, &address):
		return "the URL " + address.Rule
	case errors.Is(context.Cause(ctx), errSlow):
		return "no answer yet, and too many other receivers are slow as well"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &dns):
		return "the host name cannot be resolved"
	case errors.As(err, &verification):
		return "the certificate is not valid for the host"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no answer in time"
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return "no connection to the host"
	}
	return "the connection failed"
}

func ruleOf(err error) string {
	if u, ok := errors.AsType[*URLError](err); ok {
		return clip("the URL " + u.Rule)
	}
	return "the URL is not allowed"
}

func clip(s string) string { return s[:min(len(s), MaxReasonBytes)] }

// targetOf returns what attempts are limited by: the URL without its query, and its host and port.
func targetOf(raw string) (target, host string) {
	u, err := url.Parse(raw)
	if err != nil {
		return raw, raw
	}
	host = fmt.Sprintf("%s://%s", strings.ToLower(u.Scheme), strings.ToLower(u.Host))
	return host + u.EscapedPath(), host
}
