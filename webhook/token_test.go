package webhook

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/runnelhq/runnel"
)

var (
	otherStore = runnel.Store(uuid.MustParse("7d444840-9dc0-11d1-b245-5ffdce74fad2"))
	wakeSeven  = Wake{Key: Key{Subscription: "sub-1"}, Instance: 3, Generation: 7, WakeID: "w_abc123"}
)

func tokenOf(t testing.TB, k *Keys, kind TokenKind, w Wake) string {
	t.Helper()
	token, err := k.Token(t.Context(), kind, w)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// PROTOCOL.md, section 12.9.
func TestATokenIsBoundToItsWake(t *testing.T) {
	k := NewKeys(new(vault), KeysConfig{})
	for _, w := range []Wake{wakeSeven, {Key: Key{Store: otherStore, Subscription: "a/b ü"}, Generation: 1 << 63, WakeID: "w"}} {
		got, err := k.VerifyToken(t.Context(), CallbackToken, tokenOf(t, k, CallbackToken, w))
		if err != nil || got != w {
			t.Errorf("got %+v, %v, want %+v", got, err, w)
		}
	}
}

func TestATokenIsRefused(t *testing.T) {
	v := new(vault)
	k := NewKeys(v, KeysConfig{})
	good := tokenOf(t, k, CallbackToken, wakeSeven)
	parts := strings.Split(good, ".")
	header := func(h string) string { return base64.RawURLEncoding.EncodeToString([]byte(h)) }
	set, err := k.of(t.Context(), runnel.Store{}, true)
	if err != nil {
		t.Fatal(err)
	}
	signedAs := func(c jwt.MapClaims, method jwt.SigningMethod, key any) string {
		token := jwt.NewWithClaims(method, c)
		token.Header["kid"] = set.Keys[0].ID
		text, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	secret := set.Keys[0].Secret
	soon := time.Now().Add(time.Hour).Unix()
	for name, token := range map[string]string{
		"that is empty":                         "",
		"that is no token":                      "x",
		"that is huge":                          strings.Repeat("a", maxTokenBytes+1),
		"of another kind":                       tokenOf(t, k, ClaimToken, wakeSeven),
		"of another server":                     tokenOf(t, NewKeys(new(vault), KeysConfig{}), CallbackToken, wakeSeven),
		"whose claims were changed":             parts[0] + "." + header(`{"aud":["callback"],"iss":"runnel","sub":"sub-2","exp":99999999999,"gen":7}`) + "." + parts[2],
		"without a signature":                   parts[0] + "." + parts[1] + ".",
		"that says it needs no signature":       header(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + ".",
		"of a key that is not known":            header(`{"alg":"HS256","kid":"ds_x"}`) + "." + parts[1] + "." + parts[2],
		"with more bits than a signature has":   good[:len(good)-1] + string(good[len(good)-1]+1),
		"signed by a longer hash":               signedAs(jwt.MapClaims{"iss": "runnel", "aud": "callback", "sub": "s", "exp": soon}, jwt.SigningMethodHS512, secret),
		"signed by the public key":              signedAs(jwt.MapClaims{"iss": "runnel", "aud": "callback", "sub": "s", "exp": soon}, jwt.SigningMethodHS256, []byte(set.Keys[0].x())),
		"that never expires":                    signedAs(jwt.MapClaims{"iss": "runnel", "aud": "callback", "sub": "s"}, jwt.SigningMethodHS256, secret),
		"of nobody":                             signedAs(jwt.MapClaims{"iss": "runnel", "aud": "callback", "exp": soon}, jwt.SigningMethodHS256, secret),
		"of another issuer":                     signedAs(jwt.MapClaims{"iss": "x", "aud": "callback", "sub": "s", "exp": soon}, jwt.SigningMethodHS256, secret),
		"of a store that is none":               signedAs(jwt.MapClaims{"iss": "runnel", "aud": "callback", "sub": "s", "exp": soon, "store": "x"}, jwt.SigningMethodHS256, secret),
		"of another store than that of its key": signedAs(jwt.MapClaims{"iss": "runnel", "aud": "callback", "sub": "s", "exp": soon, "store": otherStore.String()}, jwt.SigningMethodHS256, secret),
		"of the default store by another name":  signedAs(jwt.MapClaims{"iss": "runnel", "aud": "callback", "sub": "s", "exp": soon, "store": runnel.Store{}.String()}, jwt.SigningMethodHS256, secret),
	} {
		if w, err := k.VerifyToken(t.Context(), CallbackToken, token); !errors.Is(err, ErrTokenInvalid) {
			t.Errorf("a token %s: got %+v, %v", name, w, err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.data) != 1 {
		t.Errorf("tokens from outside made keys for %d stores", len(v.data)-1)
	}
}

func TestATokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeys(new(vault), KeysConfig{})
		token := tokenOf(t, k, ClaimToken, wakeSeven)
		wait(DefaultTokenTTL - time.Second)
		if _, err := k.VerifyToken(t.Context(), ClaimToken, token); err != nil {
			t.Fatal(err)
		}
		wait(2 * time.Second)
		if _, err := k.VerifyToken(t.Context(), ClaimToken, token); !errors.Is(err, ErrTokenExpired) {
			t.Fatalf("got %v", err)
		}
		if _, err := k.VerifyToken(t.Context(), ClaimToken, token+"x"); !errors.Is(err, ErrTokenInvalid) {
			t.Fatalf("a forged one that has expired as well: got %v", err)
		}
	})
}

func TestATokenOutlivesTheKeysThatMadeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewKeys(new(vault), KeysConfig{})
		token := tokenOf(t, k, ClaimToken, wakeSeven)
		for range 3 {
			if err := k.Rotate(t.Context(), runnel.Store{}); err != nil {
				t.Fatal(err)
			}
			wait(3 * time.Hour)
		}
		if _, err := k.VerifyToken(t.Context(), ClaimToken, token); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAStorageFailureIsNotTheTokensFault(t *testing.T) {
	v := new(vault)
	token := tokenOf(t, NewKeys(v, KeysConfig{}), ClaimToken, wakeSeven)
	v.fail(runnel.ErrUnavailable)
	if _, err := NewKeys(v, KeysConfig{}).VerifyToken(t.Context(), ClaimToken, token); !errors.Is(err, runnel.ErrUnavailable) || errors.Is(err, ErrTokenInvalid) {
		t.Fatalf("got %v", err)
	}
}

// No text but one that Token has made is accepted.
func FuzzVerifyToken(f *testing.F) {
	k := NewKeys(new(vault), KeysConfig{})
	good := tokenOf(f, k, CallbackToken, wakeSeven)
	f.Add(good)
	f.Add("")
	f.Add("a.b.c")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(good + "=")
	f.Fuzz(func(t *testing.T, token string) {
		w, err := k.VerifyToken(t.Context(), CallbackToken, token)
		if err == nil && (token != good || w != wakeSeven) {
			t.Fatalf("%q was accepted as %+v", token, w)
		}
		if err != nil && !errors.Is(err, ErrTokenInvalid) {
			t.Fatal(err)
		}
	})
}
