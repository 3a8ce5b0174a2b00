package auth_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/auth"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/engine"
	"github.com/runnelhq/runnel/storage/memory"
)

// Streams for those who have a token.
func Example() {
	eng, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer eng.Close()

	secret := []byte("a secret of 32 bytes or of more.")
	signed, err := auth.NewJWT(context.Background(), auth.JWTConfig{Secrets: [][]byte{secret}})
	if err != nil {
		log.Fatal(err)
	}
	who := auth.New(auth.Config{}, signed)
	streams := durablestreams.New(auth.NewGuard(eng), durablestreams.Config{
		Admit: who.Admit, Store: auth.Store, Bind: auth.BindRequest, Own: eng, Private: true,
	})
	defer streams.Close()

	token, _, err := auth.Sign(secret, "ann", "", nil, time.Now().Add(time.Hour), auth.Scope{Verbs: auth.Write, Path: "chats"})
	if err != nil {
		log.Fatal(err)
	}
	for _, path := range []string{"chats/42", "secret"} {
		r := httptest.NewRequestWithContext(context.Background(), http.MethodPut, "/v1/stream/"+path, http.NoBody)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		streams.ServeHTTP(w, r)
		fmt.Printf("%s: %d %q\n", path, w.Code, w.Header().Get("WWW-Authenticate"))
	}
	// Output:
	// chats/42: 201 ""
	// secret: 403 "Bearer error=\"insufficient_scope\", scope=\"runnel:write:secret\""
}

// A program that has found out by itself who asks says so in the context.
func ExampleWithPrincipal() {
	eng, err := engine.Open(new(memory.Driver), engine.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer eng.Close()
	guard := auth.NewGuard(eng)

	scope, err := auth.ParseScope("runnel:read+write:chats")
	if err != nil {
		log.Fatal(err)
	}
	ctx := auth.WithPrincipal(context.Background(), auth.NewPrincipal("ann", time.Time{}, scope))
	_, err = guard.Create(ctx, runnel.Segment{Space: "chats", Name: "42"}, runnel.CreateOptions{})
	fmt.Println(err)
	err = guard.Delete(ctx, runnel.Segment{Space: "chats", Name: "42"})
	fmt.Println(err)
	// Output:
	// <nil>
	// runnel: forbidden: to delete "segment chats/42" needs the scope "runnel:admin:chats/42"
}
