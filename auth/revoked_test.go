package auth_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
)

// revokedFile makes a file of revoked ids.
func revokedFile(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "revoked")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openRevoked(t *testing.T, path string) *auth.Revoked {
	t.Helper()
	r, err := auth.OpenRevoked(path)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// revoke adds a token to a file, and lets the reader of the file see it.
func revoke(t *testing.T, r *auth.Revoked, path, token string) {
	t.Helper()
	err := auth.EditRevoked(path, func(data []byte) ([]byte, error) { return auth.AddRevoked(data, token) })
	if err == nil {
		err = r.Reload()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestASignedTokenIsRevokedByItsID(t *testing.T) {
	path := revokedFile(t, "# taken from a laptop\nlost-1\n")
	r := openRevoked(t, path)
	v := newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret}, Revoked: r})
	of := func(id string) string { return sign(t, jwt.SigningMethodHS256, secret, "", valid("jti", id)) }
	wantReason(t, v, "one that is revoked before it is seen", of("lost-1"), "has been revoked")
	p := wantSubject(t, v, "another one", of("a b"), "ann")
	other := wantSubject(t, v, "one without an id", sign(t, jwt.SigningMethodHS256, secret, "", valid()), "ann")
	going, end := p.Bind(t.Context())
	defer end()

	revoke(t, r, path, of("a b"))
	<-going.Done() // also what is under way
	wantReason(t, v, "one that was seen", of("a b"), "has been revoked")
	if !errors.Is(p.Err(), runnel.ErrUnauthorized) || other.Err() != nil {
		t.Errorf("%v, %v", p.Err(), other.Err())
	}
	wantReason(t, v, "the one before it", of("lost-1"), "has been revoked")
	data, err := os.ReadFile(path)
	if err != nil || !strings.HasPrefix(string(data), "# taken from a laptop\nlost-1\n\"a b\" 2") {
		t.Errorf("%v\n%s", err, data)
	}
}

func TestARevocationEndsWhatIsBoundHoweverLongItGoesOn(t *testing.T) {
	path := revokedFile(t, "")
	r := openRevoked(t, path)
	going, end := wantSubject(t, newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret}, Revoked: r}), "a token",
		sign(t, jwt.SigningMethodHS256, secret, "", valid("jti", "x")), "ann").Bind(t.Context())
	defer end()
	runtime.GC() // nobody has the principal any more but what is bound to it
	runtime.GC()
	revoke(t, r, path, "x")
	<-going.Done()
}

func TestWhatNobodyNeedsToKnowAnyMoreLeavesTheFile(t *testing.T) {
	long, now := time.Now().Add(-3*time.Hour), time.Now()
	stamp := func(at time.Time) string { return at.UTC().Format(time.RFC3339) }
	data := "# these\nold " + stamp(long) + "\nlately " + stamp(now) + "\n\nfor-ever\nagain\n"
	after, err := auth.AddRevoked([]byte(data), "again")
	if want := "# these\nlately " + stamp(now) + "\n\nfor-ever\nagain\n"; err != nil || string(after) != want {
		t.Errorf("%v\n%s", err, after)
	}
	for _, bad := range []string{"", sign(t, jwt.SigningMethodHS256, secret, "", valid())} {
		if _, err := auth.AddRevoked(nil, bad); !errors.Is(err, runnel.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestAFileOfRevokedIDsThatIsMalformedChangesNothing(t *testing.T) {
	path := revokedFile(t, "x\n")
	r := openRevoked(t, path)
	v := newJWT(t, auth.JWTConfig{Secrets: [][]byte{secret}, Revoked: r})
	for _, bad := range []string{"\"x\n", "x tomorrow\n", "\"\"\n", "a\tb\n"} {
		if err := os.WriteFile(path, []byte("y\n"+bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := r.Reload(); !errors.Is(err, runnel.ErrInvalid) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", bad, err)
		}
		wantReason(t, v, "what was revoked", sign(t, jwt.SigningMethodHS256, secret, "", valid("jti", "x")), "has been revoked")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.OpenRevoked(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func FuzzRevoked(f *testing.F) {
	for _, seed := range []string{"", "a\n", "# a\n\nb 2030-01-02T03:04:05Z\n", "\"a b\" 2030-01-02T03:04:05+01:00\n\"\\\"\"", "a b\n", "\"a"} {
		f.Add([]byte(seed), "id")
	}
	f.Add([]byte("a"), "a#\" \\\n\x00\xff")
	f.Fuzz(func(t *testing.T, data []byte, id string) {
		after, err := auth.AddRevoked(data, id)
		if err != nil {
			return
		}
		again, err := auth.AddRevoked(after, id)
		if err != nil || string(again) != string(after) {
			t.Fatalf("%v\n%q\n%q", err, after, again)
		}
	})
}
