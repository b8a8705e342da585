package wsproxyadmin

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"
)

type (
	named    struct{ name, password string }
	stringer struct{ name string }
	hiding   struct{ stringer }
	grouping struct{ stringer }
	member   struct{ inner any }
	endless  struct{}
	bad      struct{}
	role     string
)

func (s stringer) String() string { return "user " + s.name }

func (hiding) LogValue() slog.Value { return slog.StringValue("hidden") }

func (g grouping) LogValue() slog.Value { return slog.AnyValue(named{"ann", "secret"}) }

func (m member) LogValue() slog.Value {
	return slog.GroupValue(slog.String("name", "ann"), slog.Int("age", 7), slog.Any("inner", m.inner))
}

func (e endless) LogValue() slog.Value { return slog.GroupValue(slog.Any("e", e)) }

func (bad) String() string { panic("broken") }

func (bad) Error() string { panic("broken") }

func TestValueTextShowsNoFields(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  string
	}{
		{nil, ""},
		{"ann", "ann"},
		{role("admin"), "admin"},
		{42, "42"},
		{true, "true"},
		{stringer{"ann"}, "user ann"},
		{&stringer{"ann"}, "user ann"},
		{hiding{stringer{"ann"}}, "hidden"},
		{grouping{stringer{"ann"}}, "wsproxyadmin.grouping"},
		{member{hiding{stringer{"secret"}}}, "[name=ann age=7 inner=hidden]"},
		{member{named{"ann", "secret"}}, "[name=ann age=7 inner=wsproxyadmin.named]"},
		{member{member{hiding{}}}, "[name=ann age=7 inner=[name=ann age=7 inner=hidden]]"},
		{endless{}, "[e=[e=[e=…]]]"},
		{errors.New("none"), "none"},
		{netip.MustParseAddr("::1"), "::1"},
		{named{"ann", "secret"}, "wsproxyadmin.named"},
		{&named{"ann", "secret"}, "*wsproxyadmin.named"},
		{map[string]string{"password": "secret"}, "map[string]string"},
		{[]string{"secret"}, "[]string"},
		{(*stringer)(nil), "*wsproxyadmin.stringer: panic: "},
		{bad{}, "wsproxyadmin.bad: panic: broken"},
	} {
		if got := valueText(tt.value); got != tt.want && !(strings.HasSuffix(tt.want, "panic: ") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("valueText(%T) = %q; want %q", tt.value, got, tt.want)
		}
	}
	if got := errorText(bad{}); got != "wsproxyadmin.bad" {
		t.Errorf("errorText of an error that panics = %q; want its type", got)
	}
}

func TestClientTextShortensAddresses(t *testing.T) {
	for _, tt := range []struct{ addr, plain, redacted string }{
		{"192.0.2.77", "192.0.2.77", "192.0.2.0/24"},
		{"::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0/24"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "2001:db8:1::/48"},
		{"fe80::1%eth0", "fe80::1", "fe80::/48"},
	} {
		a := netip.MustParseAddr(tt.addr)
		if got := clientText(a, false); got != tt.plain {
			t.Errorf("clientText(%s) = %q; want %q", tt.addr, got, tt.plain)
		}
		if got := clientText(a, true); got != tt.redacted {
			t.Errorf("clientText(%s, redacted) = %q; want %q", tt.addr, got, tt.redacted)
		}
	}
	if got := clientText(netip.Addr{}, true); got != "unix" {
		t.Errorf("clientText of a unix socket = %q; want unix", got)
	}
}

func TestRedactedErrorHasNoPartOfAnAddress(t *testing.T) {
	client := netip.MustParseAddr("203.0.113.77")
	for n := range maxError + 20 {
		text := redactedErrorText(errors.New(strings.Repeat("x", n)+client.String()), client)
		if strings.Contains(text, "203.0.113.7") || len(text) > maxError+len("…") {
			t.Errorf("after %d bytes the text is %q; want no address, and at most %d bytes", n, text[n:], maxError)
		}
	}
}

func TestClipBoundsTextsAtRunes(t *testing.T) {
	for _, tt := range []struct {
		text string
		max  int
		want string
	}{
		{"", 5, ""},
		{"abcde", 5, "abcde"},
		{"abcdef", 5, "abcde…"},
		{"ääää", 5, "ää…"},
		{"日本語", 5, "日…"},
		{strings.Repeat("\x80", 10), 5, strings.Repeat("\x80", 1) + "…"}, // not UTF-8
	} {
		got := clip(tt.text, tt.max)
		if got != tt.want {
			t.Errorf("clip(%q, %d) = %q; want %q", tt.text, tt.max, got, tt.want)
		}
		if utf8.ValidString(tt.text) && !utf8.ValidString(got) {
			t.Errorf("clip(%q, %d) = %q is not UTF-8", tt.text, tt.max, got)
		}
	}
	if got := fmt.Sprint(len(clip(strings.Repeat("x", 10_000), maxPath))); got != fmt.Sprint(maxPath+len("…")) {
		t.Errorf("a long text is clipped to %s bytes; want %d", got, maxPath+len("…"))
	}
}
