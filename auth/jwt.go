package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/runnelhq/runnel"
)

// The defaults of a [JWTConfig] are stated only here.
const (
	DefaultLeeway       = 30 * time.Second
	DefaultKeysInterval = 10 * time.Minute
	DefaultKeysPause    = 10 * time.Second
)

// MinSecretBytes is the shortest secret of HS256. Source: RFC 7518, section 3.2.
const MinSecretBytes = 32

// JWTConfig says which signed tokens are believed. It needs secrets or key sets.
type JWTConfig struct {
	// Secrets verify tokens of HS256, any of them. Each has at least MinSecretBytes bytes. To rotate one add the new one, sign
	// with it, and take the old one away when the last token of it has expired.
	Secrets [][]byte
	// KeySets are URLs of JSON Web Key Sets, whose keys verify tokens of RS256, ES256 and EdDSA. They are
	// https, but for hosts on loopback. Sets that cannot be fetched leave the keys as they were.
	KeySets []string
	// Issuer must be the claim iss. Empty: any.
	Issuer string
	// Audience is what the claim aud must have one of. Key sets need it: their issuers usually sign for others
	// too. Without it a token with that claim is refused, as RFC 7519, section 4.1.3 has it.
	Audience []string
	// Leeway is how far the clocks of whoever signs may be off. 0 means DefaultLeeway, less than 0 none.
	Leeway time.Duration
	// Revoked are ids (jti) of tokens that are not admitted any more; nil for none.
	Revoked *Revoked
	// KeysInterval is how often key sets are fetched. 0 means DefaultKeysInterval.
	KeysInterval time.Duration
	// KeysPause is the least time between two fetches that tokens of unknown keys cause. 0 means
	// DefaultKeysPause.
	KeysPause time.Duration
	// Client fetches key sets. Nil means one with a time-out that follows no redirects.
	Client *http.Client
	// Logger is told when a key set cannot be fetched. Nil means slog.Default.
	Logger *slog.Logger
}

// keySetAlgorithms are the ones that keys of key sets verify.
var keySetAlgorithms = []string{jwt.SigningMethodRS256.Alg(), jwt.SigningMethodES256.Alg(), jwt.SigningMethodEdDSA.Alg()}

// JWT verifies signed tokens. Each must have a subject, sub, and an end, exp; nbf, iss and aud are looked
// at. What it may do is in the claims scope, a text with spaces between scopes, or scopes or scp, a list or a text;
// scopes that do not begin with [Prefix] are somebody else's.
type JWT struct {
	cfg    JWTConfig
	parser *jwt.Parser
	keys   keyfunc.Keyfunc // of what was fetched; nil without key sets
	sets   jwkset.Storage  // fetches what it does not know
	flight singleflight.Group
	pause  *rate.Limiter
	seen   seen
}

// NewJWT returns a verifier. Key sets are fetched until ctx is done; one that cannot be fetched at first is
// tried again. What is wrong with the config matches runnel.ErrInvalid.
func NewJWT(ctx context.Context, cfg JWTConfig) (*JWT, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	v := &JWT{cfg: cfg, pause: rate.NewLimiter(rate.Every(cmp.Or(cfg.KeysPause, DefaultKeysPause)), 1)}
	var algorithms []string
	if len(cfg.Secrets) > 0 {
		algorithms = append(algorithms, jwt.SigningMethodHS256.Alg())
	}
	if len(cfg.KeySets) > 0 {
		algorithms = append(algorithms, keySetAlgorithms...)
		if err := v.open(ctx); err != nil {
			return nil, err
		}
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(),
		jwt.WithLeeway(max(0, cmp.Or(cfg.Leeway, DefaultLeeway))),
	}
	if cfg.Issuer != "" {
		options = append(options, jwt.WithIssuer(cfg.Issuer))
	}
	if len(cfg.Audience) > 0 {
		options = append(options, jwt.WithAudience(cfg.Audience...))
	}
	v.parser = jwt.NewParser(options...)
	return v, nil
}

func (c *JWTConfig) check() error {
	invalid := func(what, rule string) error { return &runnel.InvalidError{What: what, Rule: rule} }
	if len(c.Secrets)+len(c.KeySets) == 0 {
		return invalid("JWT verifier", "needs a secret or a key set")
	}
	for _, secret := range c.Secrets {
		if len(secret) < MinSecretBytes {
			return invalid("JWT secret", fmt.Sprintf("has %d bytes, and must have at least %d", len(secret), MinSecretBytes))
		}
	}
	if len(c.KeySets) > 0 && len(c.Audience) == 0 {
		return invalid("JWT key set", "needs an audience: its issuer may sign tokens that are meant for others")
	}
	for _, set := range c.KeySets {
		u, err := url.Parse(set)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return invalid("JWT key set", "must be an https URL, or http on loopback")
		}
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// keysTimeout is how long a key set may take to be fetched.
const keysTimeout = 5 * time.Second

// open begins to fetch the key sets.
func (v *JWT) open(ctx context.Context) error {
	client := v.cfg.Client
	if client == nil {
		client = &http.Client{
			Timeout:       keysTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("key sets follow no redirects") },
		}
	}
	log := cmp.Or(v.cfg.Logger, slog.Default())
	sets := make(map[string]jwkset.Storage)
	for _, set := range v.cfg.KeySets {
		storage, err := jwkset.NewStorageFromHTTP(set, jwkset.HTTPClientStorageOptions{
			Client: client, Ctx: ctx, HTTPTimeout: keysTimeout, NoErrorReturnFirstHTTPReq: true,
			RefreshInterval: cmp.Or(v.cfg.KeysInterval, DefaultKeysInterval),
			RefreshErrorHandler: func(ctx context.Context, err error) {
				log.WarnContext(ctx, "a key set could not be fetched; the keys stay as they are", "url", set, "err", err)
			},
		})
		if err != nil {
			return &runnel.InvalidError{What: "JWT key set", Rule: "cannot be used: " + err.Error()}
		}
		sets[set] = storage
	}
	known, err := jwkset.NewHTTPClient(jwkset.HTTPClientOptions{HTTPURLs: sets})
	if err != nil {
		return err
	}
	v.keys, err = keyfunc.New(keyfunc.Options{Ctx: ctx, Storage: known, UseWhitelist: []jwkset.USE{jwkset.UseSig, ""}})
	if err != nil {
		return err
	}
	// The limiter of the library makes its callers wait; ours refuses, so this one never limits.
	v.sets, err = jwkset.NewHTTPClient(jwkset.HTTPClientOptions{
		HTTPURLs: sets, RefreshUnknownKID: rate.NewLimiter(rate.Inf, 1), RateLimitWaitMax: 2 * keysTimeout,
	})
	return err
}

// refetch fetches the key sets, unless that was done just now. Those who want it together wait for one fetch.
func (v *JWT) refetch(ctx context.Context) {
	_, _, _ = v.flight.Do("", func() (any, error) {
		if v.pause.Allow() {
			const none = "\x00" // the id of no key
			_, _ = v.sets.KeyRead(context.WithoutCancel(ctx), none)
		}
		return nil, nil //nolint:nilnil // whoever asks looks again
	})
}

// claims are what is read of a token.
type claims struct {
	jwt.RegisteredClaims
	Scope  texts `json:"scope"`
	Scopes texts `json:"scopes"`
	SCP    texts `json:"scp"`
}

// Verify is part of [Verifier].
func (v *JWT) Verify(ctx context.Context, token string) (*Principal, error) {
	if strings.Count(token, ".") != 2 {
		return nil, ErrNotMine
	}
	sum := sha256.Sum256([]byte(token))
	if p := v.seen.get(sum); p != nil {
		return p, nil
	}
	c, err := v.parse(token)
	if v.mayBeNew(token, err) {
		v.refetch(ctx)
		c, err = v.parse(token)
	}
	switch {
	case err != nil:
		return nil, &runnel.UnauthorizedError{Reason: reasonOf(err)}
	case c.Subject == "":
		return nil, &runnel.UnauthorizedError{Reason: "has no subject"}
	case len(c.Audience) > 0 && len(v.cfg.Audience) == 0:
		return nil, &runnel.UnauthorizedError{Reason: "is for an audience, and none is configured here"}
	}
	var scopes []Scope
	for _, list := range []texts{c.Scope, c.Scopes, c.SCP} {
		for _, text := range list {
			if !strings.HasPrefix(text, Prefix) {
				continue
			}
			s, err := ParseScope(text)
			if err != nil {
				return nil, &runnel.UnauthorizedError{Reason: "has a scope that is none: " + strings.TrimPrefix(err.Error(), "auth: ")}
			}
			scopes = append(scopes, s)
		}
	}
	p := NewPrincipal(c.Subject, c.ExpiresAt.Add(max(0, cmp.Or(v.cfg.Leeway, DefaultLeeway))), scopes...)
	if p.ending = v.cfg.Revoked.ending(c.ID); p.ending == nil {
		return nil, errRevoked
	}
	v.seen.put(sum, p)
	return p, nil
}

func (v *JWT) parse(token string) (c claims, err error) {
	_, err = v.parser.ParseWithClaims(token, &c, v.key)
	return c, err
}

// mayBeNew tells whether a token was refused that may be signed with a key that came since the key sets
// were fetched: one of an unknown id, or of none.
func (v *JWT) mayBeNew(token string, err error) bool {
	if v.keys == nil || err == nil {
		return false
	}
	if errors.Is(err, jwkset.ErrKeyNotFound) {
		return true
	}
	if !errors.Is(err, jwt.ErrTokenSignatureInvalid) && !errors.Is(err, jwt.ErrTokenUnverifiable) {
		return false
	}
	t, _, err := v.parser.ParseUnverified(token, new(claims))
	return err == nil && t.Header[jwkset.HeaderKID] == nil && slices.Contains(keySetAlgorithms, t.Method.Alg())
}

// key returns what may have signed a token, by its algorithm first, so that a public key is never taken for a secret.
func (v *JWT) key(t *jwt.Token) (any, error) {
	if t.Method == jwt.SigningMethodHS256 {
		var set jwt.VerificationKeySet
		for _, secret := range v.cfg.Secrets {
			set.Keys = append(set.Keys, secret)
		}
		return set, nil
	}
	if v.keys == nil {
		return nil, jwt.ErrTokenUnverifiable
	}
	return v.keys.Keyfunc(t)
}

// reasonOf says in a few words what is wrong with a token. None of them is of the token.
func reasonOf(err error) string {
	for _, r := range [...]struct {
		err    error
		reason string
	}{
		{jwt.ErrTokenMalformed, "is malformed"},
		{jwkset.ErrKeyNotFound, "is signed with a key that is not known here"},
		{jwt.ErrTokenUnverifiable, "cannot be verified"},
		{jwt.ErrTokenSignatureInvalid, "has no valid signature"},
		{jwt.ErrTokenExpired, "has expired"},
		{jwt.ErrTokenNotValidYet, "is not valid yet"},
		{jwt.ErrTokenInvalidIssuer, "is of another issuer"},
		{jwt.ErrTokenInvalidAudience, "is for another audience"},
		{jwt.ErrTokenRequiredClaimMissing, "lacks a claim that is needed: exp, iss or aud"},
	} {
		if errors.Is(err, r.err) {
			return r.reason
		}
	}
	return "is not valid"
}

// Sign returns a token of HS256 for a subject, signed with a secret of at least MinSecretBytes bytes. Issuer and audience
// are left out where they are empty. The id is its jti, by which it can be revoked. The error matches runnel.ErrInvalid.
func Sign(secret []byte, subject, issuer string, audience []string, expires time.Time, scopes ...Scope) (token, id string, err error) {
	switch {
	case len(secret) < MinSecretBytes:
		return "", "", &runnel.InvalidError{What: "JWT secret", Rule: fmt.Sprintf("has %d bytes, and must have at least %d", len(secret), MinSecretBytes)}
	case subject == "" || len(scopes) == 0:
		return "", "", &runnel.InvalidError{What: "token", Rule: "needs a subject and a scope"}
	}
	now := time.Now()
	c := struct {
		jwt.RegisteredClaims
		Scope string `json:"scope"`
	}{RegisteredClaims: jwt.RegisteredClaims{
		Subject: subject, Issuer: issuer, Audience: audience, ID: strings.ToLower(rand.Text()[:10]),
		IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
	}}
	for i, s := range scopes {
		if i > 0 {
			c.Scope += " "
		}
		c.Scope += s.String()
	}
	token, err = jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString(secret)
	return token, c.ID, err
}

// seen remembers tokens that were verified, so that each request of a client does not cost a signature.
// A key that is withdrawn is noticed when its tokens are forgotten.
type seen struct {
	mu  sync.Mutex
	all map[[sha256.Size]byte]seenToken
}

type seenToken struct {
	p     *Principal
	until time.Time
}

const (
	seenFor  = time.Minute
	seenMost = 4096
)

func (s *seen) get(sum [sha256.Size]byte) *Principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.all[sum]
	if !ok || !time.Now().Before(one.until) || one.p.Err() != nil {
		delete(s.all, sum)
		return nil
	}
	return one.p
}

func (s *seen) put(sum [sha256.Size]byte, p *Principal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[[sha256.Size]byte]seenToken)
	}
	for other := range s.all { // any one
		if len(s.all) < seenMost {
			break
		}
		delete(s.all, other)
	}
	s.all[sum] = seenToken{p: p, until: time.Now().Add(seenFor)}
}
