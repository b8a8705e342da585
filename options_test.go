package wsproxy_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wsproxy/wsproxy"
	"github.com/wsproxy/wsproxy/internal/proxytest"
)

// configErrors returns the *ConfigErrors that err joins, and fails on any other.
func configErrors(t testing.TB, err error) []*wsproxy.ConfigError {
	t.Helper()
	switch e := err.(type) {
	case nil:
		return nil
	case *wsproxy.ConfigError:
		return []*wsproxy.ConfigError{e}
	case interface{ Unwrap() []error }:
		var all []*wsproxy.ConfigError
		for _, err := range e.Unwrap() {
			all = append(all, configErrors(t, err)...)
		}
		return all
	}
	t.Errorf("%T: %v is no *ConfigError", err, err)
	return nil
}

func TestNewNamesOptionAndValueOfMistake(t *testing.T) {
	config := func(c wsproxy.BackendConfig) wsproxy.Option { return wsproxy.WithBackendConfigs(c) }
	cookie := func(c http.Cookie) wsproxy.Option {
		return wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{make([]byte, 16)}, Cookie: &c})
	}
	for _, tt := range []struct {
		name   string
		opts   []wsproxy.Option
		option string
		value  any
		text   string // a part of the reason
	}{
		{"no backends", nil, "WithBackends", "", "not given"},
		{"nil option", []wsproxy.Option{wsproxy.WithBackends(), nil}, "New[1]", nil, "no option"},
		{"empty URL", []wsproxy.Option{wsproxy.WithBackends("")}, "WithBackends[0].URL", "", "no scheme"},
		{"no scheme", []wsproxy.Option{wsproxy.WithBackends("http://a", "127.0.0.1:80")}, "WithBackends[1].URL", "127.0.0.1:80", "want http://localhost:8080"},
		{"host as scheme", []wsproxy.Option{wsproxy.WithBackends("localhost:80")}, "WithBackends[0].URL", "localhost:80", "want http://localhost:8080"},
		{"unknown scheme", []wsproxy.Option{wsproxy.WithBackends("ftp://a")}, "WithBackends[0].URL", "ftp://a", "want the scheme http"},
		{"no host", []wsproxy.Option{wsproxy.WithBackends("http:///x")}, "WithBackends[0].URL", "http:///x", "no host"},
		{"port only", []wsproxy.Option{wsproxy.WithBackends("http://:80")}, "WithBackends[0].URL", "http://:80", "no host"},
		{"port too large", []wsproxy.Option{wsproxy.WithBackends("http://a:65536")}, "WithBackends[0].URL", "http://a:65536", "port"},
		{"port 0", []wsproxy.Option{wsproxy.WithBackends("http://a:0")}, "WithBackends[0].URL", "http://a:0", "port"},
		{"port that is none", []wsproxy.Option{wsproxy.WithBackends("http://a:x")}, "WithBackends[0].URL", "http://a:x", "port"},
		{"user information", []wsproxy.Option{wsproxy.WithBackends("http://u:p@a")}, "WithBackends[0].URL", "http://u:p@a", "user information"},
		{"query", []wsproxy.Option{wsproxy.WithBackends("http://a?x=1")}, "WithBackends[0].URL", "http://a?x=1", "query"},
		{"empty query", []wsproxy.Option{wsproxy.WithBackends("http://a?")}, "WithBackends[0].URL", "http://a?", "query"},
		{"fragment", []wsproxy.Option{wsproxy.WithBackends("http://a#x")}, "WithBackends[0].URL", "http://a#x", "fragment"},
		{"socket in the host", []wsproxy.Option{wsproxy.WithBackends("unix://run/a.sock")}, "WithBackends[0].URL", "unix://run/a.sock", "unix:///"},
		{"ejection after a negative number", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithEjection(wsproxy.Ejection{Failures: -1})}, "WithEjection.Failures", -1, "set Off"},
		{"ejection for a negative time", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithEjection(wsproxy.Ejection{Backoff: -1})}, "WithEjection.Backoff", time.Duration(-1), "negative"},
		{"ejection up to a negative time", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithEjection(wsproxy.Ejection{MaxBackoff: -1})}, "WithEjection.MaxBackoff", time.Duration(-1), "negative"},
		{"ejection of more than all", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithEjection(wsproxy.Ejection{MaxShare: 1.1})}, "WithEjection.MaxShare", 1.1, "0 to 1"},
		{"no socket", []wsproxy.Option{wsproxy.WithBackends("unix://")}, "WithBackends[0].URL", "unix://", "unix:///"},
		{"affinity by nothing", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithAffinity(wsproxy.Affinity{})}, "WithAffinity.Keys", 0, "neither Keys nor a Key"},
		{"a cookie without keys", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithAffinity(wsproxy.Affinity{Cookie: &http.Cookie{}, Key: wsproxy.ByQuery("k")})}, "WithAffinity.Keys", 0, "a Cookie that one has to sign"},
		{"a short key", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithAffinity(wsproxy.Affinity{Keys: [][]byte{make([]byte, 16), make([]byte, 15)}})}, "WithAffinity.Keys[1]", "15 bytes", "16 bytes or more"},
		{"a cookie with a value", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Value: "v"})}, "WithAffinity.Cookie.Value", "v", "the proxy sets it"},
		{"a cookie with an age", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{MaxAge: 60})}, "WithAffinity.Cookie.MaxAge", 60, "set TTL"},
		{"a cookie with an end", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Expires: time.Unix(1e9, 0)})}, "WithAffinity.Cookie.MaxAge", 0, "set TTL"},
		{"a cookie that was received", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Raw: "a=b"})}, "WithAffinity.Cookie.Raw", "a=b", "not for a cookie that is set"},
		{"a cookie with a wrong name", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Name: "a b"})}, "WithAffinity.Cookie", "a b", "invalid Cookie.Name"},
		{"a cookie with a wrong domain", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Domain: "a..b"})}, "WithAffinity.Cookie", "wsproxy", "Domain"},
		{"a cookie with a wrong path", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Path: "/a;b"})}, "WithAffinity.Cookie", "wsproxy", "Path"},
		{"a cookie with a relative path", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Path: "a"})}, "WithAffinity.Cookie.Path", "a", "slash"},
		{"a host cookie with a path", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Name: "__Host-a", Path: "/a"})}, "WithAffinity.Cookie", "__Host-a", "no Domain"},
		{"a host cookie with a domain", []wsproxy.Option{wsproxy.WithBackends(), cookie(http.Cookie{Name: "__host-a", Domain: "a.example"})}, "WithAffinity.Cookie", "__host-a", "no Domain"},
		{"twice", []wsproxy.Option{wsproxy.WithBackends("http://a", "http://a")}, "WithBackends[1].ID", "http://a", "WithBackends[0] has the same ID"},
		{"negative weight", []wsproxy.Option{config(wsproxy.BackendConfig{URL: "http://a", Weight: -1})}, "WithBackendConfigs[0].Weight", -1, "negative"},
		{"name without TLS", []wsproxy.Option{config(wsproxy.BackendConfig{URL: "http://a", ServerName: "x"})}, "WithBackendConfigs[0].ServerName", "x", "TLS"},
		{"name on a socket", []wsproxy.Option{config(wsproxy.BackendConfig{URL: "unix:///a", ServerName: "x"})}, "WithBackendConfigs[0].ServerName", "x", "TLS"},
		{"trusted name", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithTrustedProxies("10.0.0.0/8", "lb.example")}, "WithTrustedProxies[1]", "lb.example", "not an IP address"},
		{"trusted prefix", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithTrustedProxies("10.0.0.0/33")}, "WithTrustedProxies[0]", "10.0.0.0/33", "not a range"},
		{"empty trusted", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithTrustedProxies("")}, "WithTrustedProxies[0]", "", ""},
		{"malformed pattern", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithOriginPatterns("a", "[")}, "WithOriginPatterns[1]", "[", "syntax error"},
		{"pattern with a path", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithOriginPatterns("https://a/b")}, "WithOriginPatterns[0]", "https://a/b", "path"},
		{"empty pattern", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithOriginPatterns("")}, "WithOriginPatterns[0]", "", "empty"},
		{"hash without a key", []wsproxy.Option{wsproxy.WithBackends(), wsproxy.WithBalancer(wsproxy.Hash(nil))}, "WithBalancer", nil, "key"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := wsproxy.New(tt.opts...)
			if p != nil {
				t.Error("New returned a Proxy with a mistake in it")
			}
			errs := configErrors(t, err)
			if len(errs) != 1 {
				t.Fatalf("New() = %v; want one error", err)
			}
			e := errs[0]
			if e.Option != tt.option || tt.value != nil && e.Value != tt.value || !strings.Contains(e.Err.Error(), tt.text) {
				t.Errorf("error is %s, %#v, %v; want %s, %#v, %s", e.Option, e.Value, e.Err, tt.option, tt.value, tt.text)
			}
			text := e.Error()
			if !strings.HasPrefix(text, "wsproxy: "+tt.option+": ") {
				t.Errorf("Error() = %q; want the option named", text)
			}
			if value := fmt.Sprint(tt.value); len(value) > 1 && strings.Contains(e.Err.Error(), strconv.Quote(value)) {
				t.Errorf("Error() = %q; want the value once", text)
			}
			if strings.Contains(text, "*wsproxy.") {
				t.Errorf("Error() = %q; want no private type named", text)
			}
		})
	}
}

func TestNewReportsEveryMistakeAtOnce(t *testing.T) {
	_, err := wsproxy.New(
		wsproxy.WithBackendConfigs(
			wsproxy.BackendConfig{URL: "ftp://a", Weight: -1},
			wsproxy.BackendConfig{ID: "b", URL: "http://b", ServerName: "b"},
			wsproxy.BackendConfig{ID: "b", URL: "http://c"}),
		wsproxy.WithTrustedProxies("x", "y"),
		wsproxy.WithOriginPatterns("["),
	)
	var got []string
	for _, e := range configErrors(t, err) {
		got = append(got, e.Option)
	}
	slices.Sort(got)
	want := []string{"WithBackendConfigs[0].URL", "WithBackendConfigs[0].Weight", "WithBackendConfigs[1].ServerName",
		"WithBackendConfigs[2].ID", "WithOriginPatterns[0]", "WithTrustedProxies[0]", "WithTrustedProxies[1]"}
	if !slices.Equal(got, want) {
		t.Errorf("mistakes are in %q; want %q", got, want)
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != len(want) {
		t.Errorf("text has %d lines; want %d:\n%v", n, len(want), err)
	}
}

func TestOptionOverridesEarlierOne(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackends("ftp://wrong"), wsproxy.WithBackends("http://a"),
		wsproxy.WithTrustedProxies("wrong"), wsproxy.WithTrustedProxies("::1"),
		wsproxy.WithOriginPatterns("["), wsproxy.WithOriginPatterns())
	if all := p.Backends(); len(all) != 1 || all[0].URL() != "http://a" {
		t.Errorf("Backends() = %v; want http://a", all)
	}
}

func TestOptionsCopyTheirArguments(t *testing.T) {
	configs := []wsproxy.BackendConfig{{URL: "http://a"}}
	patterns, prefixes := []string{"example.com"}, []string{"10.0.0.0/8"}
	opts := []wsproxy.Option{wsproxy.WithBackendConfigs(configs...), wsproxy.WithOriginPatterns(patterns...),
		wsproxy.WithTrustedProxies(prefixes...)}
	configs[0].URL, patterns[0], prefixes[0] = "ftp://changed", "[", "changed"
	proxytest.NewProxy(t, opts...)
}

func TestBackendConfigHasDefaults(t *testing.T) {
	p := proxytest.NewProxy(t, wsproxy.WithBackendConfigs(
		wsproxy.BackendConfig{URL: "http://a"},
		wsproxy.BackendConfig{ID: "x", URL: "wss://b:8443/base", ServerName: "b.example", Weight: 3},
		wsproxy.BackendConfig{URL: "unix:///run/a.sock"},
		wsproxy.BackendConfig{URL: "http://[::1]:80"},
	))
	var got []string
	for _, b := range p.Backends() {
		got = append(got, fmt.Sprint(b.ID(), " ", b.URL(), " ", b.Weight(), " ", b.NumTunnels(), " ", b.State()))
	}
	want := []string{"http://a http://a 1 0 up", "x wss://b:8443/base 3 0 up", "unix:///run/a.sock unix:///run/a.sock 1 0 up",
		"http://[::1]:80 http://[::1]:80 1 0 up"}
	if !slices.Equal(got, want) {
		t.Errorf("backends are %q; want %q", got, want)
	}
}

func TestOptionsAllowEmptySet(t *testing.T) {
	for name, option := range map[string]wsproxy.Option{
		"WithBackends": wsproxy.WithBackends(), "WithBackendConfigs": wsproxy.WithBackendConfigs(),
	} {
		t.Run(name, func(t *testing.T) {
			var got error
			_, s := proxytest.Start(t, option, wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
				got = err
				w.WriteHeader(http.StatusServiceUnavailable)
			}))
			proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
			if !errors.Is(got, wsproxy.ErrNoBackend) {
				t.Errorf("upgrade failed with %v; want ErrNoBackend", got)
			}
		})
	}
	_, s := proxytest.Start(t, wsproxy.WithBackends())
	resp, _ := proxytest.Exchange(t, s.URL, proxytest.UpgradeTo("/chat"))
	proxytest.WantStatus(t, resp, http.StatusServiceUnavailable)
}
