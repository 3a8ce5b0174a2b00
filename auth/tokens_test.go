package auth_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
)

// listener knows every token, and keeps the last one.
type listener struct{ token string }

func (l *listener) Verify(_ context.Context, token string) (*auth.Principal, error) {
	l.token = token
	return principal("runnel:read"), nil
}

// tokensFile is a file of tokens under test.
type tokensFile struct {
	t    *testing.T
	path string
}

func newTokensFile(t *testing.T) *tokensFile {
	return &tokensFile{t: t, path: filepath.Join(t.TempDir(), "tokens")}
}

// add makes a token.
func (f *tokensFile) add(subject string, expires time.Time, scopes ...string) (token auth.Token, secret string) {
	f.t.Helper()
	parsed, err := auth.ParseScopes(scopes...)
	if err != nil {
		f.t.Fatal(err)
	}
	token, secret, err = auth.NewToken(subject, expires, parsed...)
	if err != nil {
		f.t.Fatal(err)
	}
	f.edit(func(data []byte) ([]byte, error) { return append(data, token.String()+"\n"...), nil })
	return token, secret
}

func (f *tokensFile) remove(ids ...string) {
	f.t.Helper()
	f.edit(func(data []byte) ([]byte, error) {
		rest, _, err := auth.RemoveTokens(data, func(t auth.Token) bool { return strings.Contains(strings.Join(ids, " "), t.ID) })
		return rest, err
	})
}

func (f *tokensFile) edit(edit func([]byte) ([]byte, error)) {
	f.t.Helper()
	if err := auth.EditTokens(f.path, edit); err != nil {
		f.t.Fatal(err)
	}
}

func (f *tokensFile) open() *auth.Tokens {
	f.t.Helper()
	tokens, err := auth.OpenTokens(f.path)
	if err != nil {
		f.t.Fatal(err)
	}
	return tokens
}

func TestATokenOfTheFileIsKnownUntilItIsTakenOut(t *testing.T) {
	f := newTokensFile(t)
	ann, annSecret := f.add("ann", time.Time{}, "runnel:read:chats", "runnel:write:chats/42")
	_, bobSecret := f.add("bob", time.Time{}, "runnel:admin")
	tokens := f.open()
	p, err := tokens.Verify(t.Context(), annSecret)
	if err != nil || p.Subject() != "ann" || len(p.Scopes()) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	bob, err := tokens.Verify(t.Context(), bobSecret)
	if err != nil {
		t.Fatal(err)
	}
	bound, release := p.Bind(t.Context())
	defer release()
	f.remove(ann.ID)
	if err := tokens.Reload(); err != nil {
		t.Fatal(err)
	}
	<-bound.Done()
	if !errors.Is(context.Cause(bound), runnel.ErrUnauthorized) || p.Err() == nil || bob.Err() != nil {
		t.Errorf("%v %v %v", context.Cause(bound), p.Err(), bob.Err())
	}
	if _, err := tokens.Verify(t.Context(), annSecret); !errors.Is(err, runnel.ErrUnauthorized) {
		t.Error(err)
	}
	if again, err := tokens.Verify(t.Context(), bobSecret); err != nil || again != bob {
		t.Error("who stayed is somebody else", err)
	}
}

func TestATokenWhoseScopesChangeIsAnotherPrincipal(t *testing.T) {
	f := newTokensFile(t)
	_, secret := f.add("ann", time.Time{}, "runnel:admin")
	tokens := f.open()
	before, err := tokens.Verify(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	f.edit(func(data []byte) ([]byte, error) {
		return []byte(strings.ReplaceAll(string(data), "runnel:admin", "runnel:read")), nil
	})
	if err := tokens.Reload(); err != nil {
		t.Fatal(err)
	}
	after, err := tokens.Verify(t.Context(), secret)
	if err != nil || before.Err() == nil || after.Scopes()[0].Verbs != auth.Read {
		t.Errorf("%v %v %+v", err, before.Err(), after)
	}
}

func TestWhatIsNotATokenOfTheFileIsRefused(t *testing.T) {
	f := newTokensFile(t)
	_, secret := f.add("ann", time.Now().Add(time.Hour), "runnel:admin")
	_, old := f.add("old", time.Now().Add(-time.Hour), "runnel:admin")
	who := auth.New(auth.Config{}, f.open())
	if _, err := who.Verify(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{
		"", "x", secret[:len(secret)-1], secret + "x", strings.ToUpper(secret), "rnl_", "rnl__", strings.Replace(secret, "rnl_", "rnl_x", 1), old,
		secret[:15], strings.Repeat("x", 100_000), "rnl_" + strings.Repeat("x", 100_000), secret + "\x00",
	} {
		_, err := who.Verify(t.Context(), wrong)
		if !errors.Is(err, runnel.ErrUnauthorized) {
			t.Errorf("%.40q: %v", wrong, err)
		} else if len(wrong) > 3 && strings.Contains(err.Error(), wrong[len(wrong)-4:]) {
			t.Errorf("%v shows the token", err)
		}
	}
	data, err := os.ReadFile(f.path)
	if err != nil || strings.Contains(string(data), secret[15:]) {
		t.Errorf("the file holds the token: %v", err)
	}
	if info, err := os.Stat(f.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
}

func TestAFileThatHoldsSomethingElseChangesNothing(t *testing.T) {
	f := newTokensFile(t)
	token, secret := f.add("ann", time.Time{}, "runnel:admin")
	tokens := f.open()
	for _, wrong := range []string{
		"x", token.String() + "\n" + token.String(), strings.Replace(token.String(), "never", "soon", 1), "a b c d e",
		strings.Replace(token.String(), "runnel:admin", "runnel:all", 1), strings.Replace(token.String(), "runnel:admin", "", 1), strings.ToUpper(token.String()),
	} {
		if err := os.WriteFile(f.path, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := tokens.Reload(); err == nil {
			t.Errorf("%q was taken", wrong)
		} else if !strings.Contains(err.Error(), "line ") {
			t.Errorf("%q: %v does not say where", wrong, err)
		}
		if _, err := tokens.Verify(t.Context(), secret); err != nil {
			t.Error(err)
		}
		if err := auth.EditTokens(f.path, func(data []byte) ([]byte, error) { return data, nil }); err == nil {
			t.Errorf("%q was written", wrong)
		}
	}
}

func TestAFileThatChangesIsNoticedAndOneThatIsGoneRevokesAll(t *testing.T) {
	f := newTokensFile(t)
	_, secret := f.add("ann", time.Time{}, "runnel:admin")
	tokens := f.open()
	p, err := tokens.Verify(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tokens.Run(ctx, slog.New(slog.DiscardHandler))
	}()
	defer func() { cancel(); <-ended }()
	bob, bobSecret := f.add("bob", time.Time{}, "runnel:read")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := tokens.Verify(t.Context(), bobSecret); err == nil {
			break
		}
		<-tick.C
	}
	if p.Err() != nil {
		t.Errorf("who stayed has been revoked when %s came", bob.Subject)
	}
	bound, release := p.Bind(t.Context())
	defer release()
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	<-bound.Done()
}

func TestEditsAtTheSameTimeAreAllKept(t *testing.T) {
	f := newTokensFile(t)
	f.add("first", time.Time{}, "runnel:read")
	const writers = 8
	done := make(chan error, writers)
	for range writers {
		go func() {
			token, _, err := auth.NewToken("x", time.Time{}, auth.Scope{Verbs: auth.Read})
			if err == nil {
				err = auth.EditTokens(f.path, func(data []byte) ([]byte, error) { return append(data, token.String()+"\n"...), nil })
			}
			done <- err
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	data, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := auth.ParseTokens(data)
	if err != nil || len(tokens) != writers+1 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
	left, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
