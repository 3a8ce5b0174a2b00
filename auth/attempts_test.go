package auth_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/wire"
)

// asked is a request with a token, from an address.
func asked(from, token string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/v1/stream/a", http.NoBody)
	r.RemoteAddr = from
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return r
}

func TestAnAddressThatSendsTooManyTokensThatAreNotValidIsHeldUp(t *testing.T) {
	f := newTokensFile(t)
	_, old := f.add("old", time.Time{}, "runnel:read")
	_, young := f.add("young", time.Time{}, "runnel:read")
	tokens := f.open()
	synctest.Test(t, func(t *testing.T) {
		who := auth.New(auth.Config{MaxFailures: 6}, tokens)
		try := func(from, token string) error {
			_, err := who.Admit(asked(from, token))
			return err
		}
		const here, there = "192.0.2.1:1000", "192.0.2.2:1000"
		if err := try(here, old); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			if err := try(here, ""); !errors.Is(err, runnel.ErrUnauthorized) {
				t.Fatalf("request %d without a token: %v", i, err)
			}
		}
		for i := range 6 {
			if err := try(fmt.Sprint("192.0.2.1:", 2000+i), fmt.Sprint("rnl_guess_", i)); !errors.Is(err, runnel.ErrUnauthorized) {
				t.Fatalf("guess %d: %v", i, err)
			}
		}
		held := func(what, from, token string) {
			t.Helper()
			f, ok := errors.AsType[*wire.Error](try(from, token))
			if !ok || f.Status != http.StatusTooManyRequests || f.Detail.Limit != 6 || f.Detail.RetryAfter != 10 || !errors.Is(f, runnel.ErrUnavailable) {
				t.Errorf("%s: %+v", what, f)
			}
		}
		held("another guess", here, "rnl_guess_7")
		held("a token that was never seen, be it good or not", here, young)
		if err := try(here, old); err != nil {
			t.Errorf("one that shares the address and was there before: %v", err)
		}
		if err := try(there, young); err != nil {
			t.Errorf("another address: %v", err)
		}
		time.Sleep(10 * time.Second) //nolint:forbidigo // in a bubble
		if err := try(here, "rnl_guess_8"); !errors.Is(err, runnel.ErrUnauthorized) {
			t.Errorf("after the time that was told: %v", err)
		}
		held("and one more", here, "rnl_guess_9")
		time.Sleep(time.Hour) //nolint:forbidigo // in a bubble
		for i := range 6 {
			if err := try(here, "rnl_x"); !errors.Is(err, runnel.ErrUnauthorized) {
				t.Errorf("guess %d after an hour: %v", i, err)
			}
		}
		held("there are no more than before", here, "rnl_x")
	})
}

func TestAnAddressIsThatOfTheClientAlsoBehindAProxy(t *testing.T) {
	for _, c := range []struct {
		forwarded  bool
		one, other string // remote addresses
		via, via2  string // X-Forwarded-For
		same       bool
	}{
		{false, "192.0.2.1:1", "192.0.2.1:2", "", "", true},
		{false, "192.0.2.1:1", "192.0.2.2:1", "", "", false},
		{false, "192.0.2.1:1", "[::ffff:192.0.2.1]:1", "", "", true},
		{false, "[2001:db8::1]:1", "[2001:db8::2]:1", "", "", true},
		{false, "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", "", "", false},
		{false, "192.0.2.1:1", "192.0.2.1:2", "198.51.100.1", "198.51.100.2", true}, // nobody said to believe that
		{true, "192.0.2.1:1", "192.0.2.1:2", "198.51.100.1", "198.51.100.2", false},
		{true, "192.0.2.1:1", "192.0.2.1:2", "203.0.113.1, 198.51.100.1", "203.0.113.2,198.51.100.1", true}, // the last is the proxy's
		{true, "192.0.2.1:1", "192.0.2.1:2", "", "", true},
		{true, "@", "@", "", "", true},
	} {
		who := auth.New(auth.Config{MaxFailures: 1, Forwarded: c.forwarded}, newTokensFile(t).made())
		first, second := asked(c.one, "rnl_1"), asked(c.other, "rnl_2")
		if c.via != "" {
			first.Header.Set("X-Forwarded-For", c.via)
			second.Header.Set("X-Forwarded-For", c.via2)
		}
		if _, err := who.Admit(first); !errors.Is(err, runnel.ErrUnauthorized) {
			t.Fatal(err)
		}
		_, err := who.Admit(second)
		if same := errors.Is(err, runnel.ErrUnavailable); same != c.same {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// made is a file without a token.
func (f *tokensFile) made() *auth.Tokens {
	f.edit(func([]byte) ([]byte, error) { return []byte("\n"), nil })
	return f.open()
}
