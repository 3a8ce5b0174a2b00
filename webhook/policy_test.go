package webhook

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/runnelhq/runnel"
)

func policyOf(t testing.TB, cfg PolicyConfig) *Policy {
	t.Helper()
	p, err := NewPolicy(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// PROTOCOL.md, section 6.2: targets inside networks MUST be rejected; section 12.8: metadata endpoints too.
func TestAddressesInsideNetworksAreRefusedInEveryForm(t *testing.T) {
	for _, tt := range []struct{ addr, what string }{
		{"0.0.0.0", "unspecified"}, {"0.1.2.3", "unspecified"},
		{"10.0.0.1", "private"}, {"172.16.0.1", "private"}, {"172.31.255.255", "private"}, {"192.168.1.1", "private"},
		{"100.64.0.1", "carrier"}, {"100.127.255.255", "carrier"}, {"100.100.100.200", "metadata"},
		{"127.0.0.1", "loopback"}, {"127.255.255.254", "loopback"},
		{"169.254.169.254", "metadata"}, {"169.254.170.2", "metadata"}, {"168.63.129.16", "metadata"}, {"192.0.0.192", "metadata"},
		{"192.0.2.1", "documentation"}, {"198.51.100.7", "documentation"}, {"203.0.113.9", "documentation"},
		{"192.88.99.1", "6to4"}, {"198.18.0.1", "benchmark"}, {"198.19.255.255", "benchmark"},
		{"224.0.0.1", "multicast"}, {"239.255.255.250", "multicast"}, {"240.0.0.1", "reserved"}, {"255.255.255.255", "broadcast"},
		{"::", "unspecified"}, {"::1", "loopback"}, {"::7f00:1", "compatible"}, {"::a00:1", "compatible"},
		{"::ffff:127.0.0.1", "loopback"}, {"::ffff:10.1.2.3", "private"}, {"::ffff:169.254.169.254", "metadata"},
		{"::ffff:0:7f00:1", "translated"}, {"64:ff9b::7f00:1", "loopback"}, {"64:ff9b::a9fe:a9fe", "metadata"}, {"64:ff9b::10.0.0.1", "private"},
		{"64:ff9b:1::1", "NAT64"}, {"100::1", "discard"}, {"2001::1", "Teredo"}, {"2001:0:a00:1::1", "Teredo"},
		{"2001:2::1", "benchmark"}, {"2001:10::1", "protocols"}, {"2001:20::1", "protocols"}, {"2001:db8::1", "documentation"},
		{"3fff::1", "documentation"}, {"2002:7f00:1::", "6to4"}, {"2002:a9fe:a9fe::1", "6to4"}, {"2002:808:808::1", "6to4"},
		{"2a00:1450::5efe:7f00:1", "loopback"}, {"2a00:1450::200:5efe:a00:1", "private"},
		{"fc00::1", "unique local"}, {"fd12:3456::1", "unique local"}, {"fd00:ec2::254", "metadata"}, {"fd20:ce::254", "metadata"},
		{"fe80::1", "link-local"}, {"fe80::1%eth0", "zone"}, {"2a00::1%1", "zone"}, {"fec0::1", "site-local"}, {"ff02::1", "multicast"},
		{"4000::1", "reserved"}, {"5f00::1", "reserved"}, {"1::1", "reserved"},
	} {
		found := blockOf(netip.MustParseAddr(tt.addr))
		if found == nil || !strings.Contains(found.what, tt.what) {
			t.Errorf("%s is in %+v, want %s", tt.addr, found, tt.what)
		}
	}
	for _, public := range []string{
		"1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.255.255", "172.32.0.1", "192.0.1.1", "198.17.255.255", "223.255.255.255",
		"2606:4700:4700::1111", "2a00:1450:4001:80e::200e", "::ffff:8.8.8.8", "64:ff9b::808:808", "2400:cb00::5efe:808:808",
	} {
		if found := blockOf(netip.MustParseAddr(public)); found != nil {
			t.Errorf("%s is refused as %s", public, found.what)
		}
	}
	if blockOf(netip.Addr{}) == nil {
		t.Error("no address at all is let through")
	}
}

func TestURLsAreCheckedWhenTheyAreGiven(t *testing.T) {
	for _, tt := range []struct {
		name, url, rule string
		cfg             PolicyConfig
	}{
		{name: "https to a public name", url: "https://worker.example.com/hooks?a=b"},
		{name: "https to a public address", url: "https://8.8.8.8/x"},
		{name: "a high port", url: "https://worker.example.com:8443/"},
		{name: "http to what is allowed", url: "http://10.1.2.3:8080/", cfg: PolicyConfig{Allow: []string{"10.0.0.0/8"}, PlainAllowed: true}},
		{name: "http to a name that is allowed", url: "http://auth.svc.cluster.local:8080/", cfg: PolicyConfig{Allow: []string{"*.svc.cluster.local"}, PlainAllowed: true}},
		{name: "http to what is not allowed", url: "http://worker.example.com/", cfg: PolicyConfig{Allow: []string{"10.0.0.0/8"}, PlainAllowed: true}, rule: "must begin with https://"},
		{name: "http to what is allowed by https", url: "http://10.1.2.3:8080/", cfg: PolicyConfig{Allow: []string{"10.0.0.0/8"}}, rule: "must begin with https://"},
		{name: "http", url: "http://worker.example.com/", rule: "must begin with https://"},
		{name: "http to the local machine without the exception", url: "http://localhost:9/", rule: "development"},
		{name: "another scheme", url: "gopher://worker.example.com/", rule: "must begin with https://"},
		{name: "a file", url: "file:///etc/passwd", rule: "must begin with https://"},
		{name: "no scheme", url: "//worker.example.com/", rule: "must begin with https://"},
		{name: "opaque", url: "https:worker.example.com", rule: "must name a host"},
		{name: "no host", url: "https:///x", rule: "must name a host"},
		{name: "a password", url: "https://a:b@worker.example.com/", rule: "user name"},
		{name: "a user to hide the host", url: "https://worker.example.com@10.0.0.1/", rule: "user name"},
		{name: "a fragment", url: "https://worker.example.com/#x", rule: "fragment"},
		{name: "an empty fragment", url: "https://worker.example.com/#", rule: "fragment"},
		{name: "a line break", url: "https://worker.example.com/\r\nHost: x", rule: "printable"},
		{name: "a space", url: "https://worker.example.com/ x", rule: "printable"},
		{name: "a backslash", url: `https://worker.example.com\@10.0.0.1/`, rule: "must not contain"},
		{name: "letters that look alike", url: "https://wоrker.example.com/", rule: "xn--"},
		{name: "a full-width dot", url: "https://127。0。0。1/", rule: "xn--"},
		{name: "an escaped host", url: "https://%31%32%37.0.0.1/", rule: "not a URL"},
		{name: "too long", url: "https://worker.example.com/" + strings.Repeat("x", MaxURLBytes), rule: "2048"},
		{name: "port 22", url: "https://worker.example.com:22/", rule: "below 1024"},
		{name: "port 0", url: "https://worker.example.com:0/", rule: "between 1 and 65535"},
		{name: "port 65536", url: "https://worker.example.com:65536/", rule: "between 1 and 65535"},
		{name: "an empty port", url: "https://worker.example.com:/", rule: "after the colon"},
		{name: "a port that is not listed", url: "https://worker.example.com:8443/", cfg: PolicyConfig{Ports: []uint16{443}}, rule: "the ports allowed"},
		{name: "loopback", url: "https://127.0.0.1/", rule: "loopback"},
		{name: "private", url: "https://10.1.2.3/", rule: "private"},
		{name: "metadata", url: "https://169.254.169.254/latest/meta-data/", rule: "metadata"},
		{name: "loopback in IPv6", url: "https://[::1]/", rule: "loopback"},
		{name: "loopback mapped", url: "https://[::ffff:7f00:1]/", rule: "loopback"},
		{name: "a zone", url: "https://[fe80::1%25eth0]/", rule: "zone"},
		{name: "a short address", url: "https://127.1/", rule: "four decimal numbers"},
		{name: "an address in one number", url: "https://2130706433/", rule: "four decimal numbers"},
		{name: "a hexadecimal address", url: "https://0x7f000001/", rule: "four decimal numbers"},
		{name: "an octal address", url: "https://0177.0.0.1/", rule: "four decimal numbers"},
		{name: "localhost", url: "https://localhost/", rule: "local machine"},
		{name: "localhost with a dot", url: "https://LOCALHOST./", rule: "local machine"},
		{name: "below localhost", url: "https://a.localhost/", rule: "local machine"},
		{name: "a bare name", url: "https://redis/", rule: "fully qualified"},
		{name: "metadata by name", url: "https://metadata.google.internal/", rule: ".internal"},
		{name: "a name of the local network", url: "https://printer.local/", rule: ".local"},
		{name: "an empty label", url: "https://a..example.com/", rule: "DNS name"},

		{name: "development, http to localhost", url: "http://localhost:1234/h", cfg: PolicyConfig{Development: true}},
		{name: "development, http to 127.0.0.1", url: "http://127.0.0.1:80/h", cfg: PolicyConfig{Development: true}},
		{name: "development, http to 127.0.0.9", url: "http://127.0.0.9/h", cfg: PolicyConfig{Development: true}},
		{name: "development, http to ::1", url: "http://[::1]:9/h", cfg: PolicyConfig{Development: true}},
		{name: "development, http to a private address", url: "http://10.0.0.1/h", cfg: PolicyConfig{Development: true}, rule: "must begin with https://"},
		{name: "development, https to a private address", url: "https://10.0.0.1/h", cfg: PolicyConfig{Development: true}, rule: "private"},
		{name: "development, http to a public name", url: "http://a.example.com/h", cfg: PolicyConfig{Development: true}, rule: "must begin with https://"},
		{name: "development, a name like localhost", url: "http://localhost.example.com/h", cfg: PolicyConfig{Development: true}, rule: "must begin with https://"},
		{name: "development, mapped loopback", url: "http://[::ffff:127.0.0.1]/h", cfg: PolicyConfig{Development: true}, rule: "must begin with https://"},

		{name: "an allowed range", url: "https://10.1.2.3/", cfg: PolicyConfig{Allow: []string{"10.0.0.0/8"}}},
		{name: "an allowed range, mapped", url: "https://[::ffff:10.1.2.3]/", cfg: PolicyConfig{Allow: []string{"10.0.0.0/8"}}},
		{name: "beside an allowed range", url: "https://192.168.0.1/", cfg: PolicyConfig{Allow: []string{"10.0.0.0/8"}}, rule: "private"},
		{name: "an allowed name", url: "https://hooks.internal/", cfg: PolicyConfig{Allow: []string{"hooks.internal"}}},
		{name: "below an allowed name", url: "https://a.b.svc.cluster.local/", cfg: PolicyConfig{Allow: []string{"*.svc.cluster.local"}}},
		{name: "the end of an allowed name", url: "https://evilsvc.cluster.local/", cfg: PolicyConfig{Allow: []string{"*.svc.cluster.local"}}, rule: ".local"},
		{name: "an allowed name, still https only", url: "http://hooks.internal/", cfg: PolicyConfig{Allow: []string{"hooks.internal"}}, rule: "must begin with https://"},
		{name: "only what is allowed", url: "https://a.example.com/", cfg: PolicyConfig{Allow: []string{"hooks.internal"}, Exclusive: true}, rule: "not one of those allowed"},
		{name: "only addresses that are allowed", url: "https://8.8.8.8/", cfg: PolicyConfig{Allow: []string{"9.9.9.9"}, Exclusive: true}, rule: "not one of the targets allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := policyOf(t, tt.cfg).CheckURL(tt.url)
			if tt.rule == "" {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			var refused *URLError
			if !errors.As(err, &refused) || !strings.Contains(refused.Rule, tt.rule) || !errors.Is(err, runnel.ErrInvalid) {
				t.Fatalf("got %v, want a rule with %q", err, tt.rule)
			}
		})
	}
}

func TestAnAllowedTargetMustBeOne(t *testing.T) {
	for _, entry := range []string{"", "*", "*.", "*a.example.com", "10.0.0.0/33", "a b", "https://a.example.com", "a.example.com:443", "127.1", "fe80::1%eth0"} {
		if _, err := NewPolicy(PolicyConfig{Allow: []string{entry}}); err == nil {
			t.Errorf("%q was taken", entry)
		}
	}
}

// What a name resolves to is judged when the socket is connected, so an answer of DNS that changes in between
// gains nothing.
func TestAddressesAreJudgedWhenTheyAreConnectedTo(t *testing.T) {
	for _, tt := range []struct {
		name, host, network, address string
		cfg                          PolicyConfig
		refused                      bool
	}{
		{name: "public", host: "a.example.com", network: "tcp4", address: "8.8.8.8:443"},
		{name: "a name that resolves to loopback", host: "a.example.com", network: "tcp4", address: "127.0.0.1:443", refused: true},
		{name: "a name that resolves to metadata", host: "a.example.com", network: "tcp4", address: "169.254.169.254:443", refused: true},
		{name: "a name that resolves to a mapped address", host: "a.example.com", network: "tcp6", address: "[::ffff:10.0.0.1]:443", refused: true},
		{name: "a name that resolves to NAT64 of loopback", host: "a.example.com", network: "tcp6", address: "[64:ff9b::7f00:1]:443", refused: true},
		{name: "an address with a zone", host: "a.example.com", network: "tcp6", address: "[fe80::1%lo]:443", refused: true},
		{name: "UDP", host: "a.example.com", network: "udp4", address: "8.8.8.8:443", refused: true},
		{name: "a port", host: "a.example.com", network: "tcp4", address: "8.8.8.8:25", refused: true},
		{name: "the exception is for the host, not for the address", host: "a.example.com", network: "tcp4", address: "127.0.0.1:443", cfg: PolicyConfig{Development: true}, refused: true},
		{name: "localhost in development", host: "localhost", network: "tcp6", address: "[::1]:80", cfg: PolicyConfig{Development: true}},
		{name: "localhost that resolves to a private address", host: "localhost", network: "tcp4", address: "10.0.0.1:80", cfg: PolicyConfig{Development: true}, refused: true},
		{name: "an allowed name inside", host: "hooks.internal", network: "tcp4", address: "10.0.0.1:443", cfg: PolicyConfig{Allow: []string{"hooks.internal"}}},
		{name: "an allowed name that resolves to metadata", host: "hooks.internal", network: "tcp4", address: "169.254.169.254:443", cfg: PolicyConfig{Allow: []string{"hooks.internal"}}, refused: true},
		{name: "metadata allowed by address", host: "hooks.internal", network: "tcp4", address: "169.254.169.254:443", cfg: PolicyConfig{Allow: []string{"169.254.169.254"}}},
		{name: "public but not allowed", host: "a.example.com", network: "tcp4", address: "8.8.8.8:443", cfg: PolicyConfig{Allow: []string{"9.0.0.0/8"}, Exclusive: true}, refused: true},
		{name: "public and allowed", host: "a.example.com", network: "tcp4", address: "9.9.9.9:443", cfg: PolicyConfig{Allow: []string{"9.0.0.0/8"}, Exclusive: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := policyOf(t, tt.cfg).control(tt.host)(t.Context(), tt.network, tt.address, nil)
			var refused *AddressError
			if errors.As(err, &refused) != tt.refused {
				t.Fatalf("got %v", err)
			}
		})
	}
}

func TestAConnectionToTheLocalMachineIsNotMade(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dial := policyOf(t, PolicyConfig{}).dial(net.Dialer{})
	_, err = dial(context.Background(), "tcp", listener.Addr().String())
	if _, ok := errors.AsType[*AddressError](err); !ok {
		t.Fatalf("got %v", err)
	}
}

// Whatever is accepted without a list of allowed targets is https to a host that is no address inside.
func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{
		"https://worker.example.com/hooks", "http://localhost:80/", "https://[::1]/", "https://127.1/", "https://a@b/", "https://a.b:443?x#y",
		"https://[::ffff:127.0.0.1]:443/", "HTTPS://A.EXAMPLE.COM", "https://0x7f.1/", "https://10.0.0.1.", "https://a.b%2f@c/",
	} {
		f.Add(seed)
	}
	strict := policyOf(f, PolicyConfig{})
	development := policyOf(f, PolicyConfig{Development: true})
	f.Fuzz(func(t *testing.T, raw string) {
		normal, err := strict.CheckURL(raw)
		if _, devErr := development.CheckURL(raw); err == nil && devErr != nil {
			t.Fatalf("%q is refused in development only: %v", raw, devErr)
		}
		if err != nil {
			return
		}
		u, rule := strict.parse(normal)
		if rule != "" || u.String() != normal {
			t.Fatalf("%q became %q, which is %q with the rule %q", raw, normal, u, rule)
		}
		if u.Scheme != "https" || u.User != nil || strings.ContainsAny(normal, "\r\n #\\") {
			t.Fatalf("%q was accepted", raw)
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && blockOf(addr) != nil {
			t.Fatalf("%q was accepted", raw)
		}
		target, host := targetOf(normal)
		if !strings.HasPrefix(target, host) || !strings.HasPrefix(host, "https://") {
			t.Fatalf("%q is limited as %q of %q", normal, target, host)
		}
	})
}
