package webhook

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The defaults of a [VerifierConfig] are stated only here.
const (
	DefaultTolerance  = 5 * time.Minute
	DefaultMaxRequest = 4 << 20
)

const (
	// refetchAfter is how soon an unknown key lets the key set be fetched again, so that requests with
	// invented keys do not make a receiver fetch all the time.
	refetchAfter = 10 * time.Second
	// jwksTimeout bounds one fetch.
	jwksTimeout = 10 * time.Second
	// maxJWKSBytes bounds what is read of a key set, and maxJWKSKeys what is kept of it.
	maxJWKSBytes = 256 << 10
	maxJWKSKeys  = 256
)

// ErrSignature is matched by every [SignatureError].
var ErrSignature = errors.New("webhook: the signature does not hold")

// SignatureError says why a request is not believed: answer 401. It matches ErrSignature.
type SignatureError struct {
	Reason string

	malformed bool
}

func (e *SignatureError) Error() string { return "webhook: " + e.Reason }

func (e *SignatureError) Is(target error) bool { return target == ErrSignature }

// VerifierConfig holds what can be set. The zero VerifierConfig is right for most receivers.
type VerifierConfig struct {
	// Tolerance is how far the time of a signature may be from the receiver's, either way. 0 means
	// DefaultTolerance.
	Tolerance time.Duration
	// Subscriptions, if not empty, are the only ones whose requests are accepted. Set it where several
	// share the URL. Source: PROTOCOL.md, section 12.10.
	Subscriptions []string
	// MaxRequestBytes is the largest body that is read. 0 means DefaultMaxRequest.
	MaxRequestBytes int64
	// Client fetches the key set. Nil means one of its own, which gives up after 10 seconds.
	Client *http.Client
}

// Verifier checks that requests come from the server whose keys are at a URL. It fetches them when they are
// needed, keeps them for as long as the server allows, and fetches them again for a key that it does not
// know. It may be used by several goroutines.
type Verifier struct {
	url string
	cfg VerifierConfig

	fetching chan struct{} // holds one token while nobody fetches

	mu      sync.Mutex
	keys    map[string]ed25519.PublicKey
	fetched time.Time // when a fetch ended last, whether it succeeded or not
	fresh   time.Time // until when the keys need no fetch
	failure error     // of the last fetch
}

// NewVerifier returns a verifier for the keys at a URL: the jwks_url of the subscription's metadata.
func NewVerifier(jwksURL string, cfg VerifierConfig) *Verifier {
	cfg.Tolerance = cmp.Or(cfg.Tolerance, DefaultTolerance)
	cfg.MaxRequestBytes = cmp.Or(cfg.MaxRequestBytes, DefaultMaxRequest)
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: jwksTimeout}
	}
	v := &Verifier{url: jwksURL, cfg: cfg, fetching: make(chan struct{}, 1)}
	v.fetching <- struct{}{}
	return v
}

// Verify checks the header [HeaderSignature] of a request against the exact bytes of its body. The error is a
// [*SignatureError] if they do not belong together; any other means that the keys could not be fetched, which
// deserves a 503, so that the server tries again.
func (v *Verifier) Verify(ctx context.Context, header string, body []byte) error {
	s, err := parseSignature(header)
	if err != nil {
		return err
	}
	if off := time.Since(s.at); off > v.cfg.Tolerance || off < -v.cfg.Tolerance {
		return &SignatureError{Reason: fmt.Sprintf("the signature is of %s, which is more than %s from the time here", s.at.UTC().Format(time.RFC3339), v.cfg.Tolerance)}
	}
	public, err := v.key(ctx, s.kid)
	if err != nil {
		return err
	}
	if !ed25519.Verify(public, signed(s.seconds, body), s.sum) {
		return &SignatureError{Reason: "the signature does not belong to the body and the key " + quote(s.kid)}
	}
	return nil
}

// Read reads a request, verifies it, and returns what it says. Errors are as those of Verify, or a
// [*SignatureError] for a body that is too large or says nothing that this version understands.
func (v *Verifier) Read(r *http.Request) (*Notification, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, v.cfg.MaxRequestBytes+1))
	if err != nil {
		return nil, fmt.Errorf("webhook: read the request: %w", err)
	}
	if int64(len(body)) > v.cfg.MaxRequestBytes {
		return nil, &SignatureError{Reason: fmt.Sprintf("the request is larger than %d bytes", v.cfg.MaxRequestBytes), malformed: true}
	}
	if values := r.Header.Values(HeaderSignature); len(values) > 1 {
		return nil, &SignatureError{Reason: "the header " + HeaderSignature + " is there twice", malformed: true}
	}
	if err := v.Verify(r.Context(), r.Header.Get(HeaderSignature), body); err != nil {
		return nil, err
	}
	n := new(Notification)
	if err := json.Unmarshal(body, n); err != nil || n.Subscription == "" || n.WakeID == "" {
		return nil, &SignatureError{Reason: "the request is no notification", malformed: true}
	}
	if len(v.cfg.Subscriptions) == 0 {
		return n, nil
	}
	if slices.Contains(v.cfg.Subscriptions, n.Subscription) {
		return n, nil
	}
	return nil, &SignatureError{Reason: "the request is for the subscription " + quote(n.Subscription) + ", which is not one of this receiver's"}
}

// key returns the public key of an id, fetching the set if it is unknown or too old.
func (v *Verifier) key(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	public, fetch, err := v.known(kid)
	if !fetch {
		return public, err
	}
	select {
	case <-v.fetching:
		defer func() { v.fetching <- struct{}{} }()
	case <-ctx.Done():
		return nil, fmt.Errorf("webhook: wait for the keys: %w", ctx.Err())
	}
	// Somebody may have fetched meanwhile.
	if public, fetch, err = v.known(kid); !fetch {
		return public, err
	}
	if err := v.fetch(ctx); err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if public, ok := v.keys[kid]; ok && (v.failure == nil || time.Now().Before(v.fresh.Add(DefaultTolerance))) {
		return public, nil // old keys are better than none while the server cannot be asked, for a while
	}
	return nil, v.unknown(kid)
}

// known looks a key up, and says whether the set must be fetched first.
func (v *Verifier) known(kid string) (public ed25519.PublicKey, fetch bool, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	public, ok := v.keys[kid]
	switch {
	case ok && now.Before(v.fresh):
		return public, false, nil
	case v.fetched.IsZero() || now.Sub(v.fetched) >= refetchAfter:
		return nil, true, nil
	case ok && now.Before(v.fresh.Add(DefaultTolerance)):
		return public, false, nil
	}
	return nil, false, v.unknown(kid)
}

func (v *Verifier) unknown(kid string) error {
	if v.failure != nil {
		return v.failure
	}
	return &SignatureError{Reason: "the key " + quote(kid) + " is not one of those at " + v.url}
}

// fetch fetches the key set, and keeps what came of it. It fails if the request went away meanwhile: that says
// nothing about the keys, nor about the signature.
func (v *Verifier) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, jwksTimeout)
	defer cancel()
	keys, err := fetchKeys(ctx, v.cfg.Client, v.url)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		return err
	}
	v.fetched, v.failure = time.Now(), err
	if err == nil {
		v.keys, v.fresh = keys, v.fetched.Add(JWKSMaxAge)
	}
	return nil
}

func fetchKeys(ctx context.Context, client *http.Client, url string) (map[string]ed25519.PublicKey, error) {
	fail := func(err error) (map[string]ed25519.PublicKey, error) {
		return nil, fmt.Errorf("webhook: fetch the keys at %s: %w", url, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fail(err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("the answer is %d", resp.StatusCode))
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxJWKSBytes+1))
	if err != nil {
		return fail(err)
	}
	if len(data) > maxJWKSBytes {
		return fail(fmt.Errorf("the answer is larger than %d bytes", maxJWKSBytes))
	}
	keys, err := parseJWKS(data)
	if err != nil {
		return fail(err)
	}
	return keys, nil
}

// parseJWKS reads the Ed25519 keys of a set, and skips others, which may come with later versions.
func parseJWKS(data []byte) (map[string]ed25519.PublicKey, error) {
	var doc JSONWebKeySet
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("the answer is no JSON Web Key Set: %w", err)
	}
	if len(doc.Keys) > maxJWKSKeys {
		return nil, fmt.Errorf("the answer has %d keys, the limit is %d", len(doc.Keys), maxJWKSKeys)
	}
	keys := make(map[string]ed25519.PublicKey, len(doc.Keys))
	for _, k := range doc.Keys {
		if k.Type != "OKP" || k.Curve != "Ed25519" || k.ID == "" || k.Use != "" && k.Use != "sig" || k.Algorithm != "" && k.Algorithm != "EdDSA" {
			continue
		}
		x, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
		if err != nil || len(x) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("the key %s has no x of %d bytes in base64url", quote(k.ID), ed25519.PublicKeySize)
		}
		if _, twice := keys[k.ID]; twice {
			return nil, fmt.Errorf("the key %s is there twice", quote(k.ID))
		}
		keys[k.ID] = x
	}
	return keys, nil
}
