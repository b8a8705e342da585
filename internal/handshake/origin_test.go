package handshake

import (
	"testing"
)

var originTests = []struct {
	name      string
	patterns  []string
	host      string
	origins   []string
	forwarded []string // X-Forwarded-Host of a trusted proxy
	status    int
}{
	{name: "absent", host: "a.example"},
	{name: "empty", host: "a.example", origins: []string{""}},
	{name: "same-host", host: "a.example", origins: []string{"https://a.example"}},
	{name: "same-host-any-case", host: "A.example", origins: []string{"https://a.EXAMPLE"}},
	{name: "same-host-and-port", host: "a.example:8080", origins: []string{"http://a.example:8080"}},
	{name: "same-ipv6-host", host: "[::1]:80", origins: []string{"http://[::1]:80"}},
	{name: "default-port-of-https", host: "a.example:443", origins: []string{"https://a.example"}},
	{name: "default-port-of-https-in-origin", host: "a.example", origins: []string{"https://a.example:443"}},
	{name: "default-port-of-http", host: "a.example:80", origins: []string{"http://a.example"}},
	{name: "default-port-of-another-scheme", host: "a.example:443", origins: []string{"http://a.example"}, status: 403},
	{name: "default-port-and-pattern", patterns: []string{"b.example"}, host: "a.example", origins: []string{"https://b.example:443"}},
	{name: "forwarded-host", host: "10.0.0.1:8080", forwarded: []string{"a.example"}, origins: []string{"https://a.example"}},
	{name: "forwarded-host-replaces-host", host: "a.example", forwarded: []string{"b.example"}, origins: []string{"https://a.example"}, status: 403},
	{name: "forwarded-hosts-of-two-proxies", host: "10.0.0.1", forwarded: []string{"a.example, b.example"}, origins: []string{"https://a.example"}, status: 403},
	{name: "forwarded-hosts-on-two-lines", host: "10.0.0.1", forwarded: []string{"a.example", "a.example"}, origins: []string{"https://a.example"}, status: 403},
	{name: "empty-forwarded-host", host: "a.example", forwarded: []string{""}, origins: []string{"https://a.example"}},

	{name: "other-port", host: "a.example:8080", origins: []string{"http://a.example"}, status: 403},
	{name: "other-host", host: "a.example", origins: []string{"https://b.example"}, status: 403},
	{name: "other-host-with-user", host: "a.example", origins: []string{"https://a.example@b.example"}, status: 403},
	{name: "other-host-with-path", host: "a.example", origins: []string{"https://b.example/a.example"}, status: 403},
	{name: "kelvin-sign", host: "k.example", origins: []string{"https://\u212a.example"}, status: 403},
	{name: "twice", host: "a.example", origins: []string{"https://a.example", "https://a.example"}, status: 403},
	{name: "unparsable", host: "a.example", origins: []string{"https://a b"}, status: 403},

	{name: "null", host: "a.example", origins: []string{"null"}, status: 403},
	{name: "null-without-a-host", origins: []string{"null"}, status: 403},
	{name: "null-against-any", patterns: []string{"*", "null", "*://*"}, host: "a.example", origins: []string{"null"}, status: 403},
	{name: "file-without-a-host", origins: []string{"file://"}, status: 403},
	{name: "file-against-any-host", patterns: []string{"*"}, host: "a.example", origins: []string{"file://"}, status: 403},
	{name: "file-by-scheme", patterns: []string{"file://*"}, host: "a.example", origins: []string{"file://"}},
	{name: "extension-by-scheme", patterns: []string{"chrome-extension://*"}, host: "a.example", origins: []string{"chrome-extension://abc"}},

	{name: "pattern", patterns: []string{"*.example"}, host: "a.test", origins: []string{"https://B.example"}},
	{name: "pattern-any-case", patterns: []string{"*.EXAMPLE"}, host: "a.test", origins: []string{"https://b.example"}},
	{name: "pattern-no-match", patterns: []string{"*.example"}, host: "a.test", origins: []string{"https://b.example.test"}, status: 403},
	{name: "pattern-with-port", patterns: []string{"b.example:*"}, host: "a.test", origins: []string{"https://b.example:8080"}},
	{name: "scheme", patterns: []string{"https://b.example"}, host: "a.test", origins: []string{"https://b.example"}},
	{name: "other-scheme", patterns: []string{"https://b.example"}, host: "a.test", origins: []string{"http://b.example"}, status: 403},
	{name: "second-pattern", patterns: []string{"b.example", "c.example"}, host: "a.test", origins: []string{"https://c.example"}},
}

func TestOriginsAllowSameHostAndPatterns(t *testing.T) {
	for _, tt := range originTests {
		t.Run(tt.name, func(t *testing.T) {
			var o Origins
			for _, pattern := range tt.patterns {
				if err := o.Add(pattern); err != nil {
					t.Fatalf("Add(%q): %v", pattern, err)
				}
			}
			r := parseRequest(t, upgrade)
			r.Host = tt.host
			if tt.origins != nil {
				r.Header["Origin"] = tt.origins
			}
			if tt.forwarded != nil {
				r.Header["X-Forwarded-Host"] = tt.forwarded
			}
			wantStatus(t, o.Check(r, tt.forwarded != nil), tt.status)
		})
	}
}

func TestOriginsRefuseUselessPatterns(t *testing.T) {
	for _, pattern := range []string{"", "[", "a.example[", "https://a.example/", "a.example/path", `a\`} {
		var o Origins
		if err := o.Add(pattern); err == nil {
			t.Errorf("Add(%q) = nil; want an error", pattern)
		}
	}
}

func TestOriginsIgnoreForwardedHostsOfUntrustedPeers(t *testing.T) {
	r := parseRequest(t, with(upgrade, "", "X-Forwarded-Host: evil.example\nOrigin: https://evil.example"))
	wantStatus(t, new(Origins).Check(r, false), 403)
}
