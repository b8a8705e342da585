package handshake

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

// browserUpgrade has the fields that a browser sends.
var browserUpgrade = upgrade + `Pragma: no-cache
Cache-Control: no-cache
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36
Origin: https://example.com
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-US,en;q=0.9
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark
Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits
`

// BenchmarkHandshake measures the work of this package for one tunnel.
func BenchmarkHandshake(b *testing.B) {
	for _, tt := range []struct{ name, lines string }{{"bare", upgrade}, {"browser", browserUpgrade}} {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			in, answer := parseRequest(b, tt.lines), strings.NewReader(wire(switched))
			br := bufio.NewReader(answer)
			buf := make([]byte, 0, 1<<10)
			for b.Loop() {
				answer.Seek(0, 0)
				br.Reset(answer)
				if err := shakeHands(in, br, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// shakeHands performs the proxy's work between a request and its 101, with the
// same key for client and backend.
func shakeHands(in *http.Request, answer *bufio.Reader, buf []byte) error {
	Validate(in)
	new(TrustedProxies).Client(in.RemoteAddr, in.Header)
	url, _ := OutboundURL(in.URL, "")
	out := &http.Request{URL: url, Host: in.Host, Header: OutboundHeader(in, false)}
	if _, err := AppendRequest(buf, out, sampleKey); err != nil {
		return err
	}
	resp, err := ReadAnswer(answer, out)
	if err != nil {
		return err
	}
	a, err := Verify(resp, sampleKey, out.Header, in.Header)
	if err != nil {
		return err
	}
	_, err = AppendSwitch(buf, SwitchHeader(nil, resp.Header), sampleKey, a)
	return err
}
