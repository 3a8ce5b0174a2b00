package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/wire"
)

const defaultURL = "http://127.0.0.1:4437/v1/stream"

// remote is what every command that talks to a server needs.
type remote struct {
	URL   string `name:"url" help:"The server's URL, below which stream names are looked up." default:"${url}" env:"RUNNEL_URL,STREAM_URL" placeholder:"URL"`
	Token string `help:"The token that says who you are." env:"RUNNEL_TOKEN" placeholder:"TOKEN"`
	Store string `help:"The store, a UUID, for a token that is for several." env:"RUNNEL_STORE" placeholder:"UUID"`
	Auth  string `help:"Send this as the Authorization header, for example for a proxy that wants another scheme than Bearer." env:"RUNNEL_AUTH,STREAM_AUTH" placeholder:"VALUE"`
}

// client returns a client for the streams that are named on the command line.
func (r remote) client(streams ...string) (*dsclient.Client, error) {
	for _, stream := range streams {
		if err := checkStream(stream); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(r.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("url must be an http or https URL such as %s, got %q", defaultURL, r.URL)
	}
	if u.RawQuery != "" || u.ForceQuery {
		return nil, usagef("url must not have a query, got %q", r.URL)
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/stream"
	}
	header, err := r.header()
	if err != nil {
		return nil, err
	}
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	if r.Store != "" {
		header[wire.HeaderStore] = []string{store.String()}
	}
	return &dsclient.Client{Base: strings.TrimSuffix(u.String(), "/"), Header: header}, nil
}

// header says who the user is.
func (r remote) header() (http.Header, error) {
	header := make(http.Header)
	switch {
	case r.Auth != "" && r.Token != "":
		return nil, usagef("token and auth exclude each other: both are the Authorization header")
	case r.Auth != "":
		header[wire.HeaderAuthorization] = []string{r.Auth}
	case r.Token != "":
		header[wire.HeaderAuthorization] = []string{"Bearer " + r.Token}
	}
	return header, nil
}

func (r remote) store() (runnel.Store, error) {
	store, err := runnel.ParseStore(r.Store)
	if err != nil {
		return store, usagef("store must be a UUID, got %q", r.Store)
	}
	return store, nil
}

// checkStream refuses a URL with a query. The client would leave it out, and what it asks for with it.
func checkStream(stream string) error {
	if !strings.HasPrefix(stream, "http://") && !strings.HasPrefix(stream, "https://") {
		return nil // in a name a question mark is one
	}
	if strings.Contains(stream, "?") {
		return usagef("a stream's URL must not have a query, got %q; the offset is set with --offset for read, --from for tail and --at for fork", stream)
	}
	return nil
}
