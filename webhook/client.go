package webhook

import (
	"net/http"
	"net/url"
)

// NewClient returns a client that connects only where a policy lets it, through a proxy if there is one, and
// follows no redirect. Of a URL it is the caller's to ask the policy before. The proxy must then refuse
// targets inside the network itself.
func NewClient(policy *Policy, proxy *url.URL) *http.Client {
	return newClient(policy, Config{Proxy: proxy}.withDefaults())
}

func newClient(policy *Policy, cfg Config) *http.Client {
	transport := cfg.Transport
	if transport == nil {
		transport = newTransport(policy, cfg)
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
