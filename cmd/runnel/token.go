package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/runnelhq/runnel/auth"
)

type tokenCmd struct {
	Create tokenCreateCmd `cmd:"" help:"Make a token, print it, and add its hash to the file."`
	Ls     tokenLsCmd     `cmd:"" help:"List the tokens of the file."`
	Revoke tokenRevokeCmd `cmd:"" help:"Revoke tokens of the file, or JWTs, which ends what goes on in their name."`
	Sign   tokenSignCmd   `cmd:"" help:"Print a JWT that is signed with a secret (HS256)."`
}

const scopeHelp = `A scope is runnel:VERBS[@STORE][:PATH]. Verbs are read, write, send and admin, joined by a plus sign: write
includes send, and admin everything. The path covers what is below it too; without one it is the whole
store. Without a store it is the default one; @* is all of them.

  runnel:read:chats             read everything in chats
  runnel:read+write:chats/42    read and append to one stream
  runnel:admin                  do everything in the default store`

// tokensFile is the file that tokens are kept in.
type tokensFile struct {
	Tokens string `help:"The file of tokens." required:"" env:"RUNNEL_TOKENS" placeholder:"FILE"`
}

type tokenCreateCmd struct {
	Subject   string        `arg:"" help:"Whose it is: a name, which leases carry."`
	Scopes    []string      `arg:"" name:"scope" help:"What it allows."`
	ExpiresIn time.Duration `help:"For how long it is good; otherwise until it is revoked." placeholder:"TIME"`
	tokensFile
}

func (*tokenCreateCmd) Help() string {
	return scopeHelp + `

The token is shown once. The file holds a hash of it; a server that has the file notices within seconds.`
}

func (c *tokenCreateCmd) Run(std stdio) error {
	scopes, err := auth.ParseScopes(c.Scopes...)
	if err != nil {
		return &usageError{err}
	}
	expires, err := expiry(c.ExpiresIn)
	if err != nil {
		return err
	}
	token, secret, err := auth.NewToken(c.Subject, expires, scopes...)
	if err != nil {
		return &usageError{err}
	}
	err = auth.EditTokens(c.Tokens, func(data []byte) ([]byte, error) {
		if len(data) > 0 && data[len(data)-1] != '\n' {
			data = append(data, '\n')
		}
		return append(data, token.String()+"\n"...), nil
	})
	if err != nil {
		return err
	}
	std.note("added token %s of %s to %s; this is the only time that it is shown", token.ID, c.Subject, c.Tokens)
	_, err = fmt.Fprintln(std.out, secret)
	return err
}

// expiry is the time at which something ends that is good for a while; zero for never.
func expiry(in time.Duration) (time.Time, error) {
	switch {
	case in < 0:
		return time.Time{}, usagef("expires-in must not be negative, got %s", in)
	case in == 0:
		return time.Time{}, nil
	}
	return time.Now().Add(in), nil
}

type tokenLsCmd struct {
	JSON bool `name:"json" help:"Print one JSON object to a line."`
	tokensFile
}

// listedToken is a token as it is printed.
type listedToken struct {
	ID      string    `json:"id"`
	Subject string    `json:"subject"`
	Expires time.Time `json:"expires,omitzero"`
	Scopes  []string  `json:"scopes"`
}

func (c *tokenLsCmd) Run(std stdio) error {
	data, err := os.ReadFile(c.Tokens)
	if err != nil {
		return err
	}
	tokens, err := auth.ParseTokens(data)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	for _, t := range tokens {
		one := listedToken{ID: t.ID, Subject: t.Subject, Expires: t.Expires}
		for _, s := range t.Scopes {
			one.Scopes = append(one.Scopes, s.String())
		}
		if c.JSON {
			if err := json.NewEncoder(std.out).Encode(one); err != nil {
				return err
			}
			continue
		}
		until := "until revoked"
		switch {
		case t.Expires.IsZero():
		case time.Now().After(t.Expires):
			until = "expired"
		default:
			until = "until " + t.Expires.Format(time.RFC3339)
		}
		if _, err := fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", t.ID, t.Subject, until, strings.Join(one.Scopes, " ")); err != nil {
			return err
		}
	}
	return out.Flush()
}

type tokenRevokeCmd struct {
	IDs        []string `arg:"" optional:"" name:"id" help:"The ids that \"runnel token ls\" shows, or those of JWTs (jti); or the tokens themselves."`
	Subject    string   `help:"Revoke all tokens of this subject that are in the file." placeholder:"SUBJECT"`
	Tokens     string   `help:"The file of tokens." env:"RUNNEL_TOKENS" placeholder:"FILE"`
	JWTRevoked string   `name:"jwt-revoked" help:"The file of ids of JWTs that are revoked." placeholder:"FILE"`
}

func (*tokenRevokeCmd) Help() string {
	return `A token of the file of tokens is taken out of it. A JWT stays what it is, so its id is put into a file of those
that are not admitted any more, which a server has with --jwt-revoked. With both files, what is not in the file of
tokens is taken for a JWT or the id of one. A - reads ids or tokens from standard input, one to a line, so that no
token is among the arguments. The ids of JWTs that have expired leave their file.`
}

func (c *tokenRevokeCmd) Validate() error {
	switch {
	case c.Tokens == "" && c.JWTRevoked == "":
		return errors.New("one of tokens and jwt-revoked is needed")
	case c.Subject != "" && c.Tokens == "":
		return errors.New("subject needs tokens: only those of that file are known by their subjects; say which JWTs, or their ids")
	case len(c.IDs) == 0 && c.JWTRevoked != "":
		return errors.New("with jwt-revoked say which tokens: JWTs, or their ids")
	case len(c.IDs) == 0 && c.Subject == "":
		return errors.New("say which tokens: ids, or --subject")
	}
	return nil
}

func (c *tokenRevokeCmd) Run(std stdio) error {
	names := c.IDs
	if slices.Equal(names, []string{"-"}) {
		data, err := io.ReadAll(std.in)
		if err != nil {
			return err
		}
		if names = strings.Fields(string(data)); len(names) == 0 {
			return usagef("there is no token on standard input")
		}
	}
	kept, jwts, err := c.sort(names)
	if err != nil {
		return err
	}
	if len(kept) > 0 || c.Subject != "" { // first, because nothing is to be revoked if the subject has no token
		if err := c.revokeTokens(std, kept); err != nil {
			return err
		}
	}
	if len(jwts) > 0 {
		return c.revokeJWTs(std, jwts)
	}
	return nil
}

// sort tells the names of tokens that are in the file of tokens from those of JWTs.
func (c *tokenRevokeCmd) sort(names []string) (kept, jwts []string, err error) {
	var tokens []auth.Token
	if c.Tokens != "" {
		data, err := os.ReadFile(c.Tokens)
		if err != nil {
			return nil, nil, err
		}
		if tokens, err = auth.ParseTokens(data); err != nil {
			return nil, nil, err
		}
	}
	for _, name := range names {
		switch {
		case slices.ContainsFunc(tokens, func(t auth.Token) bool { return t.Named(name) }):
			kept = append(kept, name)
		case c.JWTRevoked == "" || auth.IsToken(name):
			return nil, nil, noToken(name)
		default:
			jwts = append(jwts, name)
		}
	}
	return kept, jwts, nil
}

// noToken says that there is no token of a name, which is not shown if it may be a secret.
func noToken(name string) error {
	if auth.IsToken(name) || strings.Count(name, ".") == 2 {
		return errors.New("the token is not in the file of tokens, and none was revoked")
	}
	return fmt.Errorf("there is no token %q, and none was revoked", name)
}

func (c *tokenRevokeCmd) revokeTokens(std stdio, names []string) error {
	var removed []auth.Token
	err := auth.EditTokens(c.Tokens, func(data []byte) (rest []byte, err error) {
		rest, removed, err = auth.RemoveTokens(data, func(t auth.Token) bool {
			return slices.ContainsFunc(names, t.Named) || c.Subject != "" && t.Subject == c.Subject
		})
		of := func(t auth.Token) bool { return c.Subject == "" || t.Subject == c.Subject }
		if err == nil && !slices.ContainsFunc(removed, of) {
			return nil, fmt.Errorf("there is no token of %q, and none was revoked", c.Subject)
		}
		return rest, err
	})
	if err != nil {
		return err
	}
	std.note("revoked %d of the tokens in %s", len(removed), c.Tokens)
	return nil
}

func (c *tokenRevokeCmd) revokeJWTs(std stdio, tokens []string) error {
	err := auth.EditRevoked(c.JWTRevoked, func(data []byte) (_ []byte, err error) {
		for _, token := range tokens {
			if data, err = auth.AddRevoked(data, token); err != nil {
				return nil, err
			}
		}
		return data, nil
	})
	if err != nil {
		return err
	}
	std.note("revoked JWTs in %s: %d", c.JWTRevoked, len(tokens))
	return nil
}

type tokenSignCmd struct {
	Subject       string        `arg:"" help:"Whose it is: a name, which leases carry."`
	Scopes        []string      `arg:"" name:"scope" help:"What it allows."`
	ExpiresIn     time.Duration `help:"For how long it is good." default:"1h" placeholder:"TIME"`
	JWTSecret     string        `name:"jwt-secret" help:"The secret. Others see the arguments of a program: better set the variable, or jwt-secret-file." env:"RUNNEL_JWT_SECRET" placeholder:"SECRET"`
	JWTSecretFile string        `name:"jwt-secret-file" help:"The file of secrets, one to a line, of which the first signs." env:"RUNNEL_JWT_SECRET_FILE" placeholder:"FILE"`
	JWTIssuer     string        `name:"jwt-issuer" help:"The issuer." env:"RUNNEL_JWT_ISSUER" placeholder:"ISSUER"`
	JWTAudience   []string      `name:"jwt-audience" help:"The audiences, separated by commas." env:"RUNNEL_JWT_AUDIENCE" placeholder:"AUDIENCE"`
}

func (*tokenSignCmd) Help() string {
	return scopeHelp + `

A JWT is good until it expires, unless "runnel token revoke --jwt-revoked" puts its id, which is noted, into a file
that the server has.`
}

func (c *tokenSignCmd) Validate() error {
	if (c.JWTSecret == "") == (c.JWTSecretFile == "") {
		return errors.New("one of jwt-secret and jwt-secret-file is needed")
	}
	return nil
}

func (c *tokenSignCmd) Run(std stdio) error {
	scopes, err := auth.ParseScopes(c.Scopes...)
	if err != nil {
		return &usageError{err}
	}
	if c.ExpiresIn <= 0 {
		return usagef("expires-in must be more than 0, got %s", c.ExpiresIn)
	}
	secrets, err := readSecrets(c.JWTSecret, c.JWTSecretFile)
	if err != nil {
		return err
	}
	until := time.Now().Add(c.ExpiresIn)
	token, id, err := auth.Sign(secrets[0], c.Subject, c.JWTIssuer, c.JWTAudience, until, scopes...)
	if err != nil {
		return err
	}
	std.note("signed token %s of %s, good until %s", id, c.Subject, until.Format(time.RFC3339))
	_, err = fmt.Fprintln(std.out, token)
	return err
}
