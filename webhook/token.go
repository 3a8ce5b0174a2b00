package webhook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// TokenKind says which requests a token is for.
type TokenKind string

// The kinds of tokens. One is not accepted as the other.
const (
	// CallbackToken is sent with a webhook, for its callbacks.
	CallbackToken TokenKind = "callback"
	// ClaimToken is given to a worker that claims a wake, for its acks and its release.
	ClaimToken TokenKind = "claim"
)

var (
	// ErrTokenInvalid: the token was not made here, or for something else.
	ErrTokenInvalid = errors.New("webhook: the token is not valid")
	// ErrTokenExpired: the token was good once.
	ErrTokenExpired = wire.ErrTokenExpired
)

const (
	issuer        = "runnel"
	maxTokenBytes = 4 << 10
	// maxTokenTTL is the longest life of a token, and so how long keys are kept for them.
	maxTokenTTL = 7 * 24 * time.Hour
	tokenMethod = "HS256"
)

// Key names a subscription.
type Key struct {
	Store        runnel.Store
	Subscription string
}

// Wake is what a token is bound to: one wake of one subscription.
type Wake struct {
	Key
	// Instance tells subscriptions apart that had the same name one after the other.
	Instance uint64
	// Generation and WakeID are as in the protocol.
	Generation uint64
	WakeID     string
}

type tokenClaims struct {
	jwt.RegisteredClaims
	Store      string `json:"store,omitempty"`
	Instance   uint64 `json:"ins"`
	Generation uint64 `json:"gen"`
	WakeID     string `json:"wake"`
}

// Token returns a token for the requests that a wake is answered with. It proves nothing but that it was made
// for this wake: whether the wake is still current is for who keeps it to say.
func (k *Keys) Token(ctx context.Context, kind TokenKind, wake Wake) (string, error) {
	set, err := k.of(ctx, wake.Store, true)
	if err != nil {
		return "", err
	}
	now := time.Now()
	key := set.signer(now)
	claims := tokenClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    issuer,
			Audience:  jwt.ClaimStrings{string(kind)},
			Subject:   wake.Subscription,
			ExpiresAt: jwt.NewNumericDate(now.Add(min(k.cfg.TokenTTL, maxTokenTTL))),
		},
		Store:    storeText(wake.Store),
		Instance: wake.Instance, Generation: wake.Generation, WakeID: wake.WakeID,
	}
	t := jwt.NewWithClaims(jwt.SigningMethodHS256, claims)
	t.Header["kid"] = key.ID
	text, err := t.SignedString(key.Secret)
	if err != nil {
		return "", fmt.Errorf("webhook: make a token: %w", err)
	}
	return text, nil
}

// VerifyToken returns the wake that a token was made for. Its error matches ErrTokenInvalid or
// ErrTokenExpired if the token is at fault, and says nothing of which part of it was.
func (k *Keys) VerifyToken(ctx context.Context, kind TokenKind, token string) (Wake, error) {
	if token == "" || len(token) > maxTokenBytes {
		return Wake{}, ErrTokenInvalid
	}
	var claims tokenClaims
	var broken error // of the vault, which is not the token's fault
	_, err := jwt.ParseWithClaims(token, &claims, func(t *jwt.Token) (any, error) {
		// Nothing of the claims is believed yet: the store only says whose keys to try.
		store, err := runnel.ParseStore(claims.Store)
		if err != nil || storeText(store) != claims.Store {
			return nil, ErrTokenInvalid
		}
		set, err := k.of(ctx, store, false)
		if err != nil {
			if !errors.Is(err, errNoKeys) {
				broken = err
			}
			return nil, ErrTokenInvalid
		}
		id, _ := t.Header["kid"].(string)
		key := set.byID(id)
		if key == nil {
			return nil, ErrTokenInvalid
		}
		return key.Secret, nil
	},
		jwt.WithValidMethods([]string{tokenMethod}),
		jwt.WithIssuer(issuer),
		jwt.WithAudience(string(kind)),
		jwt.WithExpirationRequired(),
		jwt.WithStrictDecoding(),
	)
	switch {
	case broken != nil:
		return Wake{}, broken
	case errors.Is(err, jwt.ErrTokenExpired) && !errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return Wake{}, ErrTokenExpired
	case err != nil:
		return Wake{}, ErrTokenInvalid
	}
	store, err := runnel.ParseStore(claims.Store)
	if err != nil || claims.Subject == "" {
		return Wake{}, ErrTokenInvalid
	}
	return Wake{
		Key:        Key{Store: store, Subscription: claims.Subject},
		Instance:   claims.Instance,
		Generation: claims.Generation,
		WakeID:     claims.WakeID,
	}, nil
}

// storeText is empty for the default store.
func storeText(store runnel.Store) string {
	if store == (runnel.Store{}) {
		return ""
	}
	return store.String()
}
