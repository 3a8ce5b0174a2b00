package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/runnelhq/runnel/auth"
)

// access is what says who may do what.
type access struct {
	Tokens        string        `help:"Admit the tokens of this file, which \"runnel token\" makes. It is read again when it changes." env:"RUNNEL_TOKENS" placeholder:"FILE"`
	JWTSecret     string        `name:"jwt-secret" help:"Admit JWTs that are signed with this secret (HS256). Others see the arguments of a program: better set the variable, or jwt-secret-file." env:"RUNNEL_JWT_SECRET" placeholder:"SECRET"`
	JWTSecretFile string        `name:"jwt-secret-file" help:"Admit JWTs that are signed with a secret of this file, which has one to a line (HS256)." env:"RUNNEL_JWT_SECRET_FILE" placeholder:"FILE"`
	JWKSURL       []string      `name:"jwks-url" help:"Admit JWTs that are signed with a key of the JSON Web Key Sets at these URLs, separated by commas (RS256, ES256, EdDSA)." env:"RUNNEL_JWKS_URL" placeholder:"URL"`
	JWTIssuer     string        `name:"jwt-issuer" help:"JWTs must be of this issuer." env:"RUNNEL_JWT_ISSUER" placeholder:"ISSUER"`
	JWTAudience   []string      `name:"jwt-audience" help:"JWTs must be for one of these audiences, separated by commas." env:"RUNNEL_JWT_AUDIENCE" placeholder:"AUDIENCE"`
	JWTLeeway     time.Duration `name:"jwt-leeway" help:"How far the clocks of those who sign JWTs may be off." default:"30s" env:"RUNNEL_JWT_LEEWAY" placeholder:"TIME"`
	JWTRevoked    string        `name:"jwt-revoked" help:"Do not admit the JWTs whose ids (jti) are in this file, which \"runnel token revoke\" writes. It must be there, and is read again when it changes." env:"RUNNEL_JWT_REVOKED" placeholder:"FILE"`
	MaxFailures   int           `name:"max-auth-failures" help:"How many tokens that are not valid one address may send in a minute; then it is answered 429, unless it brings one that was good before. 0 is any number." default:"100" env:"RUNNEL_MAX_AUTH_FAILURES" placeholder:"N"`
	Open          bool          `help:"Without tokens, listen beyond loopback all the same: whoever can connect may do everything." env:"RUNNEL_OPEN"`
}

// controlled tells whether tokens are needed.
func (a *access) controlled() bool { return a.Tokens != "" || a.signed() }

func (a *access) signed() bool {
	return a.JWTSecret != "" || a.JWTSecretFile != "" || len(a.JWKSURL) > 0
}

// check finds settings that do not go together.
func (a *access) check() error {
	// What was to be there and is not must not open the server.
	for _, name := range [...]string{"RUNNEL_TOKENS", "RUNNEL_JWT_SECRET", "RUNNEL_JWT_SECRET_FILE", "RUNNEL_JWKS_URL", "RUNNEL_JWT_REVOKED"} {
		if value, set := os.LookupEnv(name); set && value == "" {
			return fmt.Errorf("%s is set and empty; unset it to serve without", name)
		}
	}
	switch {
	case a.Open && a.controlled():
		return errors.New("open is for a server without tokens, and tokens, jwt-secret, jwt-secret-file and jwks-url are for one with them")
	case a.MaxFailures < 0:
		return fmt.Errorf("max-auth-failures must not be negative, got %d", a.MaxFailures)
	case !a.signed() && a.JWTRevoked != "":
		return errors.New("jwt-revoked needs jwt-secret, jwt-secret-file or jwks-url")
	case !a.signed() && (a.JWTIssuer != "" || len(a.JWTAudience) > 0):
		return errors.New("jwt-issuer and jwt-audience need jwt-secret, jwt-secret-file or jwks-url")
	case len(a.JWKSURL) > 0 && len(a.JWTAudience) == 0:
		return errors.New("jwks-url needs jwt-audience: the issuer may sign tokens that are meant for others")
	case a.JWTLeeway < 0 || a.JWTLeeway > time.Hour:
		return fmt.Errorf("jwt-leeway must be between 0s and 1h0m0s, got %s", a.JWTLeeway)
	}
	return nil
}

// admitNobodyElse refuses to let other machines do everything, unless that is meant.
// The key is that of the setting with the address.
func (a *access) admitNobodyElse(key string, addr net.Addr, log *slog.Logger) error {
	tcp, ok := addr.(*net.TCPAddr)
	if a.controlled() || ok && tcp.IP.IsLoopback() {
		return nil
	}
	if a.Open {
		log.Warn("everybody who can connect may read, write and delete everything", "addr", addr.String())
		return nil
	}
	return fmt.Errorf(`%s: other machines can connect to %s, and everybody could read, write and delete everything.
Make a token with "runnel token create --tokens FILE SUBJECT runnel:admin" and serve with --tokens FILE, or
admit JWTs with --jwks-url or --jwt-secret-file. Or listen on 127.0.0.1, behind a proxy that asks who comes.
If everybody is meant to, say --open`, key, addr)
}

// start returns who finds out who asks, nil if nobody is asked, and what ends its work. Forwarded says that a
// proxy tells the addresses of clients.
func (a *access) start(forwarded bool, log *slog.Logger) (who *auth.Authenticator, end func(), err error) {
	if !a.controlled() {
		return nil, func() {}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	end = func() { cancel(); work.Wait() }
	verifiers, err := a.verifiers(ctx, &work, log)
	if err != nil {
		end()
		return nil, nil, err
	}
	return auth.New(auth.Config{MaxFailures: offIfZero(a.MaxFailures), Forwarded: forwarded}, verifiers...), end, nil
}

// verifiers returns who knows tokens. What they do besides is counted as work, and ends with ctx.
func (a *access) verifiers(ctx context.Context, work *sync.WaitGroup, log *slog.Logger) (verifiers []auth.Verifier, err error) {
	if a.Tokens != "" {
		tokens, err := auth.OpenTokens(a.Tokens)
		if err != nil {
			return nil, fmt.Errorf("tokens: %w", err)
		}
		work.Go(func() { tokens.Run(ctx, log) })
		verifiers = append(verifiers, tokens)
	}
	if !a.signed() {
		return verifiers, nil
	}
	secrets, err := readSecrets(a.JWTSecret, a.JWTSecretFile)
	if err != nil {
		return nil, err
	}
	cfg := auth.JWTConfig{
		Secrets: secrets, KeySets: a.JWKSURL, Issuer: a.JWTIssuer, Audience: a.JWTAudience, Leeway: offIfZero(a.JWTLeeway), Logger: log,
	}
	if a.JWTRevoked != "" {
		if cfg.Revoked, err = auth.OpenRevoked(a.JWTRevoked); err != nil {
			return nil, fmt.Errorf("jwt-revoked: %w", err)
		}
		work.Go(func() { cfg.Revoked.Run(ctx, log) })
	}
	signed, err := auth.NewJWT(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return append(verifiers, signed), nil
}

// readSecrets returns a secret, and those of a file, which has one to a line.
func readSecrets(secret, file string) (secrets [][]byte, err error) {
	if secret != "" {
		secrets = append(secrets, []byte(secret))
	}
	if file == "" {
		return secrets, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("jwt-secret-file: %w", err)
	}
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) > 0 {
			secrets = append(secrets, line)
		}
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("jwt-secret-file: %s is empty", file)
	}
	return secrets, nil
}
