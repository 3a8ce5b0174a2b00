package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
)

var (
	secret = []byte("0123456789abcdef0123456789abcdef")
	older  = []byte("fedcba9876543210fedcba9876543210")
)

// valid are the claims of a token that is good for an hour.
func valid(change ...any) jwt.MapClaims {
	c := jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "scope": "openid runnel:read:chats profile"}
	for i := 0; i < len(change); i += 2 {
		if name, _ := change[i].(string); change[i+1] == nil {
			delete(c, name)
		} else {
			c[name] = change[i+1]
		}
	}
	return c
}

func sign(t testing.TB, method jwt.SigningMethod, key any, kid string, c jwt.Claims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newJWT(t testing.TB, cfg auth.JWTConfig) *auth.JWT {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	v, err := auth.NewJWT(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// wantReason checks why a token is refused.
func wantReason(t testing.TB, v auth.Verifier, what, token, reason string) {
	t.Helper()
	p, err := v.Verify(t.Context(), token)
	unauthorized, ok := errors.AsType[*runnel.UnauthorizedError](err)
	switch {
	case !ok:
		t.Errorf("%s: %+v, %v", what, p, err)
	case !strings.Contains(unauthorized.Reason, reason):
		t.Errorf("%s: the token %s, not %q", what, unauthorized.Reason, reason)
	}
}

func wantSubject(t testing.TB, v auth.Verifier, what, token, subject string) *auth.Principal {
	t.Helper()
	p, err := v.Verify(t.Context(), token)
	if err != nil || p.Subject() != subject {
		t.Fatalf("%s: %+v, %v", what, p, err)
	}
	return p
}

func TestASignedTokenSaysWhoAsks(t *testing.T) {
	v := newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret, older}})
	for what, c := range map[string]jwt.MapClaims{
		"a text":                   valid(),
		"a list":                   valid("scope", nil, "scopes", []string{"runnel:read:chats", "email"}),
		"a list of another name":   valid("scope", nil, "scp", []string{"runnel:read:chats"}),
		"a text of another name":   valid("scope", nil, "scp", "runnel:read:chats"),
		"with a time to begin":     valid("nbf", time.Now().Add(-time.Minute).Unix()),
		"with a clock that is off": valid("exp", time.Now().Add(-10*time.Second).Unix(), "nbf", time.Now().Add(10*time.Second).Unix()),
	} {
		p := wantSubject(t, v, what, sign(t, jwt.SigningMethodHS256, secret, "", c), "ann")
		if len(p.Scopes()) != 1 || p.Scopes()[0].String() != "runnel:read:chats" {
			t.Errorf("%s: %v", what, p.Scopes())
		}
	}
	wantSubject(t, v, "the older secret", sign(t, jwt.SigningMethodHS256, older, "", valid()), "ann")
	ours, _, err := auth.Sign(secret, "bob", "", nil, time.Now().Add(time.Minute), auth.Scope{Verbs: auth.Write, Path: "a b"}, auth.Scope{Verbs: auth.Read})
	if err != nil {
		t.Fatal(err)
	}
	if p := wantSubject(t, v, "a token of our own", ours, "bob"); len(p.Scopes()) != 2 || p.Scopes()[0].Path != "a b" {
		t.Errorf("%v", p.Scopes())
	}
	if p := wantSubject(t, v, "without a scope", sign(t, jwt.SigningMethodHS256, secret, "", valid("scope", nil)), "ann"); len(p.Scopes()) != 0 {
		t.Errorf("%v", p.Scopes())
	}
}

func TestATokenThatIsNotValidIsRefusedWithTheReason(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	v := newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret}, Issuer: "https://id.example", Audience: []string{"runnel", "streams"}})
	good := []any{"iss", "https://id.example", "aud", []string{"other", "streams"}}
	hs := func(change ...any) string {
		return sign(t, jwt.SigningMethodHS256, secret, "", valid(append(slices.Clip(good), change...)...))
	}
	wantSubject(t, v, "a good one", hs(), "ann")
	for what, c := range map[string]struct{ token, reason string }{
		"expired":           {hs("exp", time.Now().Add(-time.Minute).Unix()), "has expired"},
		"not yet valid":     {hs("nbf", time.Now().Add(time.Minute).Unix()), "not valid yet"},
		"without end":       {hs("exp", nil), "exp"},
		"without subject":   {hs("sub", nil), "no subject"},
		"another issuer":    {hs("iss", "https://evil.example"), "another issuer"},
		"no issuer":         {hs("iss", nil), "lacks a claim"},
		"another audience":  {hs("aud", "other"), "another audience"},
		"no audience":       {hs("aud", nil), "lacks a claim"},
		"a broken scope":    {hs("scope", "runnel:everything"), "none of read"},
		"scopes of numbers": {hs("scope", []int{1}), "malformed"},
		"another secret":    {sign(t, jwt.SigningMethodHS256, older, "", valid(good...)), "signature"},
		"no signature":      {hs()[:strings.LastIndexByte(hs(), '.')+1], "signature"},
		"no algorithm":      {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", valid(good...)), "signature"},
		"HS512":             {sign(t, jwt.SigningMethodHS512, secret, "", valid(good...)), "signature"},
		"RS256":             {sign(t, jwt.SigningMethodRS256, private, "", valid(good...)), "signature"},
		"garbage":           {"a.b.c", "malformed"},
		"empty parts":       {"..", "malformed"},
		"padded":            {hs() + "=", "malformed"},
	} {
		wantReason(t, v, what, c.token, c.reason)
	}
	if _, err := v.Verify(t.Context(), "no dots"); !errors.Is(err, auth.ErrNotMine) {
		t.Error(err)
	}
	none := newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret}})
	wantReason(t, none, "an audience where none is configured", hs(), "audience")
	strict := newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret}, Leeway: -1})
	wantReason(t, strict, "just expired", sign(t, jwt.SigningMethodHS256, secret, "", valid("exp", time.Now().Add(-2*time.Second).Unix())), "has expired")
}

func TestATokenEndsWithItsTimeAlsoWhenItWasSeenBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret}, Leeway: -1})
		token := sign(t, jwt.SigningMethodHS256, secret, "", valid("exp", time.Now().Add(10*time.Second).Unix()))
		p := wantSubject(t, v, "at first", token, "ann")
		if wantSubject(t, v, "again", token, "ann") != p {
			t.Error("it was verified twice")
		}
		ctx, release := p.Bind(t.Context())
		defer release()
		begin := time.Now()
		<-ctx.Done()
		if took := time.Since(begin); took != 10*time.Second || !errors.Is(context.Cause(ctx), runnel.ErrUnauthorized) {
			t.Errorf("it ended after %s: %v", took, context.Cause(ctx))
		}
		wantReason(t, v, "after", token, "has expired")
	})
}

// keyServer serves a key set on loopback.
type keyServer struct {
	*httptest.Server
	fetches atomic.Int64
	mu      sync.Mutex
	keys    map[string]any // public or secret ones, by their ids
	status  int
}

func newKeyServer(t testing.TB) *keyServer {
	s := &keyServer{keys: make(map[string]any), status: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		set := jwkset.NewMemoryStorage()
		for id, key := range s.keys {
			k, err := jwkset.NewJWKFromKey(key, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}, Marshal: jwkset.JWKMarshalOptions{Private: true}})
			if err != nil {
				t.Error(err)
			} else if err := set.KeyWrite(r.Context(), k); err != nil {
				t.Error(err)
			}
		}
		body, err := set.JSONPrivate(r.Context())
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(s.status)
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *keyServer) set(status int, keys map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.keys = status, keys
}

func ed(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

func TestKeysOfAKeySetVerify(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, private := ed(t)
	s := newKeyServer(t)
	s.set(200, map[string]any{"r": rsaKey.Public(), "e": ecKey.Public(), "d": public, "oct": older})
	v := newJWT(t, auth.JWTConfig{KeySets: []string{s.URL}, Secrets: [][]byte{secret}, Audience: []string{"runnel"}})
	c := valid("aud", "runnel")
	for what, token := range map[string]string{
		"RS256": sign(t, jwt.SigningMethodRS256, rsaKey, "r", c), "ES256": sign(t, jwt.SigningMethodES256, ecKey, "e", c),
		"EdDSA": sign(t, jwt.SigningMethodEdDSA, private, "d", c), "RS256 without an id": sign(t, jwt.SigningMethodRS256, rsaKey, "", c),
		"HS256": sign(t, jwt.SigningMethodHS256, secret, "", c), "HS256 with an id": sign(t, jwt.SigningMethodHS256, secret, "r", c),
	} {
		wantSubject(t, v, what, token, "ann")
	}
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	pemKey := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for what, token := range map[string]string{
		"a public key as a secret":        sign(t, jwt.SigningMethodHS256, pemKey, "r", c),
		"a public key's bytes":            sign(t, jwt.SigningMethodHS256, der, "r", c),
		"an Ed25519 public key's bytes":   sign(t, jwt.SigningMethodHS256, []byte(public), "d", c),
		"a secret of the key set":         sign(t, jwt.SigningMethodHS256, older, "oct", c),
		"the key of another algorithm":    sign(t, jwt.SigningMethodRS256, rsaKey, "e", c),
		"the key of another id":           sign(t, jwt.SigningMethodES256, ecKey, "r", c),
		"another key under a known id":    sign(t, jwt.SigningMethodEdDSA, must(ed(t)), "d", c),
		"PS256 with a key that is for it": sign(t, jwt.SigningMethodPS256, rsaKey, "r", c),
		"RS512":                           sign(t, jwt.SigningMethodRS512, rsaKey, "r", c),
		"no algorithm":                    sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "r", c),
		"a key in its own header":         withHeader(t, sign(t, jwt.SigningMethodEdDSA, private, "d", c), `{"alg":"EdDSA","kid":"x","jwk":{"kty":"OKP","crv":"Ed25519","x":"`+base64.RawURLEncoding.EncodeToString(public)+`"}}`),
		"an id that is no text":           withHeader(t, sign(t, jwt.SigningMethodEdDSA, private, "d", c), `{"alg":"EdDSA","kid":7}`),
	} {
		wantReason(t, v, what, token, "")
	}
}

func must(_ ed25519.PublicKey, private ed25519.PrivateKey) crypto.Signer { return private }

// withHeader replaces the header of a token, whose signature does not fit any more.
func withHeader(t testing.TB, token, header string) string {
	t.Helper()
	_, rest, _ := strings.Cut(token, ".")
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + rest
}

func TestKeysComeAndGoAndAnOutageChangesNothing(t *testing.T) {
	public, private := ed(t)
	nextPublic, nextPrivate := ed(t)
	s := newKeyServer(t)
	s.set(200, map[string]any{"1": public})
	v := newJWT(t, auth.JWTConfig{KeySets: []string{s.URL}, Audience: []string{"runnel"}, KeysPause: 10 * time.Millisecond, KeysInterval: time.Hour})
	token := func(private ed25519.PrivateKey, kid string) string {
		return sign(t, jwt.SigningMethodEdDSA, private, kid, valid("aud", "runnel", "jti", rand.Text()))
	}
	wantSubject(t, v, "the first key", token(private, "1"), "ann")

	s.set(503, nil)
	wantReason(t, v, "an unknown key during an outage", token(nextPrivate, "2"), "key that is not known")
	wantSubject(t, v, "a known key during an outage", token(private, "1"), "ann")

	s.set(200, map[string]any{"1": public, "2": nextPublic})
	eventually(t, func() bool { _, err := v.Verify(t.Context(), token(nextPrivate, "2")); return err == nil })
	wantSubject(t, v, "the old key beside the next", token(private, "1"), "ann")

	s.set(200, map[string]any{"2": nextPublic})
	eventually(t, func() bool {
		_, _ = v.Verify(t.Context(), token(private, "3")) // which looks for a key that nobody has
		_, err := v.Verify(t.Context(), token(private, "1"))
		return errors.Is(err, runnel.ErrUnauthorized)
	})
	wantSubject(t, v, "the next key", token(nextPrivate, "2"), "ann")
}

func TestAKeySetThatWasAwayAtFirstIsFoundLater(t *testing.T) {
	public, private := ed(t)
	for _, kid := range []string{"1", ""} {
		s := newKeyServer(t)
		s.set(500, nil)
		v := newJWT(t, auth.JWTConfig{KeySets: []string{s.URL}, Audience: []string{"runnel"}, KeysPause: time.Millisecond})
		token := sign(t, jwt.SigningMethodEdDSA, private, kid, valid("aud", "runnel"))
		wantReason(t, v, "at first", token, "")
		s.set(200, map[string]any{kid: public})
		eventually(t, func() bool { _, err := v.Verify(t.Context(), token); return err == nil })
	}
}

func TestUnknownKeysDoNotMakeUsFetchWithoutEnd(t *testing.T) {
	public, private := ed(t)
	s := newKeyServer(t)
	s.set(200, map[string]any{"1": public})
	v := newJWT(t, auth.JWTConfig{KeySets: []string{s.URL}, Audience: []string{"runnel"}, KeysPause: time.Hour})
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			wantReason(t, v, "an unknown key", sign(t, jwt.SigningMethodEdDSA, private, "x"+string(rune('a'+i)), valid("aud", "runnel")), "not known")
		})
	}
	all.Wait()
	if n := s.fetches.Load(); n > 2 {
		t.Errorf("%d fetches", n)
	}
	wantSubject(t, v, "a known key", sign(t, jwt.SigningMethodEdDSA, private, "1", valid("aud", "runnel")), "ann")
}

// eventually waits until a condition holds.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it does not come about")
		}
	}
}

func TestAConfigOfJWTsThatWouldBelieveTooMuchIsRefused(t *testing.T) {
	for what, cfg := range map[string]auth.JWTConfig{
		"nothing":                     {},
		"a short secret":              {Secrets: [][]byte{[]byte("secret")}},
		"one short secret of several": {Secrets: [][]byte{secret, {}}},
		"no audience":                 {KeySets: []string{"https://id.example/keys"}},
		"http":                        {KeySets: []string{"http://id.example/keys"}, Audience: []string{"a"}},
		"a file":                      {KeySets: []string{"file:///etc/keys"}, Audience: []string{"a"}},
		"no URL":                      {KeySets: []string{"keys"}, Audience: []string{"a"}},
		"a host that looks like ours": {KeySets: []string{"http://localhost.evil.example/keys"}, Audience: []string{"a"}},
	} {
		if _, err := auth.NewJWT(t.Context(), cfg); !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := auth.Sign([]byte("short"), "a", "", nil, time.Now().Add(time.Hour), auth.Scope{Verbs: auth.Read}); !errors.Is(err, runnel.ErrInvalid) {
		t.Error(err)
	}
}

func FuzzJWT(f *testing.F) {
	good := sign(f, jwt.SigningMethodHS256, secret, "", jwt.MapClaims{"sub": "ann", "exp": 4102444800, "scope": "runnel:read"})
	f.Add(good)
	f.Add(withHeader(f, good, `{"alg":"none"}`))
	f.Add(withHeader(f, good, `{"alg":"HS256","kid":null,"crit":["x"]}`))
	f.Add("a.b.c")
	v := newJWT(f, auth.JWTConfig{Secrets: [][]byte{secret}})
	body := func(token string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			return nil
		}
		return b
	}
	f.Fuzz(func(t *testing.T, token string) {
		p, err := v.Verify(t.Context(), token)
		if err != nil {
			return
		}
		// Only what was signed is believed, and there is no other signature here.
		if strings.Join(strings.Split(token, ".")[:2], ".") != strings.Join(strings.Split(good, ".")[:2], ".") {
			t.Fatalf("%s is believed to be of %s", token, p.Subject())
		}
		if !json.Valid(body(token)) || !bytes.Equal(body(token), body(good)) {
			t.Fatalf("%s says something else", token)
		}
	})
}
