package wsproxy

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSnapshotIsDecodedAsItWasEncoded(t *testing.T) {
	for _, want := range []requestSnapshot{
		{},
		{forwarded: "2001:db8::1", remoteAddr: "192.0.2.1:1", localAddr: "192.0.2.2:80", method: "GET", host: "chat.example",
			path: "/a b", rawPath: "/a%20b", rawQuery: "c=d", subprotocol: "chat", extensions: []string{"x", "", "y; z=1"}},
		{path: strings.Repeat("/long", 1000), extensions: []string{strings.Repeat("e", 127), strings.Repeat("f", 128)}},
	} {
		got := want.encode()
		if diff := cmp.Diff(want, got.decode(), cmp.AllowUnexported(requestSnapshot{})); diff != "" {
			t.Errorf("decode after encode (-want +got):\n%s", diff)
		}
	}
}
