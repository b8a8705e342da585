package frame

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCloseFrameHasCodeAndReason(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	tests := []struct {
		name   string
		code   int
		reason string
		key    *[4]byte
		want   string
	}{
		{"with a code", 1000, "", nil, "\x88\x02\x03\xe8"},
		{"with a reason", 1001, "bye", nil, "\x88\x05\x03\xe9bye"},
		{"without a code", StatusNoStatus, "", nil, "\x88\x00"},
		{"without a code there is no reason", StatusNoStatus, "lost", nil, "\x88\x00"},
		{"masked", 1000, "bye", &key, "\x88\x85\x01\x02\x03\x04\x02\xea" + "a}d"},
		{"masked without a code", StatusNoStatus, "", &key, "\x88\x80\x01\x02\x03\x04"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := AppendControl([]byte("before"), Close, ClosePayload(tt.code, tt.reason), tt.key)
			if string(got) != "before"+tt.want {
				t.Errorf("a Close frame with %d, %q = %q; want %q", tt.code, tt.reason, got, "before"+tt.want)
			}
			if code := CloseCode([]byte(tt.want)); code != tt.code {
				t.Errorf("CloseCode(%q) = %d; want %d", tt.want, code, tt.code)
			}
		})
	}
}

func TestClosePayloadTruncatesReasonAtRune(t *testing.T) {
	tests := []struct {
		name, reason string
		wantBytes    int
	}{
		{"fits exactly", strings.Repeat("x", 123), 123},
		{"one byte more", strings.Repeat("x", 124), 123},
		{"rune ends at the limit", strings.Repeat("x", 121) + "éy", 123},
		{"rune of two bytes on the limit", strings.Repeat("x", 122) + "é", 122},
		{"rune of four bytes on the limit", strings.Repeat("x", 120) + "😀", 120},
		{"no rune at all", strings.Repeat("\x80", 124), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := AppendControl(nil, Close, ClosePayload(1000, tt.reason), nil)
			reason := string(got[4:])
			if len(reason) != tt.wantBytes || !strings.HasPrefix(tt.reason, reason) || !utf8.ValidString(reason) {
				t.Errorf("reason = %q (%d bytes); want the first %d bytes of %q", reason, len(reason), tt.wantBytes, tt.reason)
			}
			if int(got[1]) != 2+tt.wantBytes {
				t.Errorf("length on the wire = %d; want %d", got[1], 2+tt.wantBytes)
			}
		})
	}
}

func TestCloseCodeOfFrameWithoutCode(t *testing.T) {
	for _, whole := range []string{"", "\x88", "\x88\x00", "\x88\x01\x03", "\x88\x02\x03", "\x88\x82\x01\x02\x03", "\x88\x7f\x80"} {
		if got := CloseCode([]byte(whole)); got != StatusNoStatus {
			t.Errorf("CloseCode(%q) = %d; want %d", whole, got, StatusNoStatus)
		}
	}
}

func TestCloseCodeReadsLongerForm(t *testing.T) {
	if got := CloseCode([]byte("\x88\x7f\x00\x00\x00\x00\x00\x00\x00\x02\x0f\xa0")); got != 4000 {
		t.Errorf("CloseCode() = %d; want 4000", got)
	}
}

// https://www.rfc-editor.org/rfc/rfc6455#section-7.4.2
func TestValidCode(t *testing.T) {
	tests := []struct {
		from, to int
		want     bool
	}{
		{-1, 999, false}, // "not used"
		{1000, 1003, true},
		{1004, 1006, false}, // reserved
		{1007, 1014, true},
		{1015, 2999, false}, // reserved, or not assigned
		{3000, 4999, true},  // libraries, applications
		{5000, 5001, false},
		{65535, 65536, false},
	}
	for _, tt := range tests {
		for code := tt.from; code <= tt.to; code++ {
			if got := ValidCode(code); got != tt.want {
				t.Errorf("ValidCode(%d) = %v; want %v", code, got, tt.want)
			}
		}
	}
}

func TestAppendControlPanicsOnLongPayload(t *testing.T) {
	if got := AppendControl(nil, Ping, make([]byte, 125), nil); len(got) != 127 {
		t.Errorf("ping of 125 bytes takes %d bytes; want 127", len(got))
	}
	defer func() {
		if recover() == nil {
			t.Error("AppendControl of 126 bytes did not panic")
		}
	}()
	AppendControl(nil, Ping, make([]byte, 126), nil)
}
