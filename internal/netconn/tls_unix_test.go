//go:build unix

package netconn

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/wsproxy/wsproxy/internal/wstest"
)

// Types of records and of handshake messages, and their maximum sizes.
// https://www.rfc-editor.org/rfc/rfc8446#appendix-B
const (
	recordHandshake = 22
	recordData      = 23

	messageTicket    = 4
	messageKeyUpdate = 24

	maxPlaintext  = 16 << 10     // "The length MUST NOT exceed 2^14 bytes"
	maxCiphertext = 16<<10 + 256 // "The length MUST NOT exceed 2^14 + 256 bytes"
)

// FuzzTLSRecordsArriveHoweverTheyAreSplit checks that a read that does not wait
// returns all records that have arrived completely, whatever crypto/tls has read
// ahead. Waiting without a buffer depends on that.
func FuzzTLSRecordsArriveHoweverTheyAreSplit(f *testing.F) {
	// The records of the server, one byte for each, and the sizes of the writes.
	f.Add([]byte{0}, []byte{1})
	f.Add([]byte("hello, world"), []byte{1, 4, 1, 200, 3})
	f.Add([]byte("dtkpeDtKPE"), []byte{0})
	f.Add([]byte("ttttkkkkeeeeDDDD"), []byte{255, 255, 1, 17})
	f.Add(bytes.Repeat([]byte("Dt"), 40), []byte{254, 255, 253})
	f.Fuzz(func(t *testing.T, script, cuts []byte) {
		near, server := newRecordPair(t)
		stream, marks := server.perform(script)
		r := newReader(near).(*rawReader)
		var got []byte
		for sent, i := 0, 0; sent < len(stream); i++ {
			n := 1
			if len(cuts) > 0 {
				n = cutSize(cuts[i%len(cuts)])
			}
			n = min(n, len(stream)-sent)
			server.Conn.Write(stream[sent : sent+n])
			sent += n
			p, err := readAllNow(r)
			if err != errWouldBlock {
				t.Fatalf("after %d bytes: %v; want more to be waited for", sent, err)
			}
			got = append(got, p...)
			if want := marks.whole(sent); len(got) != want {
				t.Fatalf("%d bytes have come whole in the first %d of the stream; got %d", want, sent, len(got))
			}
		}
		if !bytes.Equal(got, server.data) {
			t.Errorf("got %d bytes that are not the %d that were sent", len(got), len(server.data))
		}
	})
}

// cutSize returns the size of a write for one byte: a few bytes, or many.
func cutSize(b byte) int {
	if b < 128 {
		return int(b) + 1
	}
	return int(b-127) * 300
}

// readAllNow reads like r until it would wait.
func readAllNow(r *rawReader) (got []byte, err error) {
	r.raw.Read(func(fd uintptr) bool {
		for p := make([]byte, 1000); err == nil; {
			var n int
			n, err = r.src.readNow(int(fd), p)
			got = append(got, p[:n]...)
		}
		return true
	})
	return got, err
}

// A recordServer is a server that sends records that crypto/tls does not send.
type recordServer struct {
	net.Conn
	secret []byte
	seq    uint64
	data   []byte // sent in whole records
}

// newRecordPair performs a handshake. near has then read all that the server has
// sent.
func newRecordPair(t testing.TB) (near *tls.Conn, far *recordServer) {
	t.Helper()
	a, b := unixPair(t) // bytes written to one end can be read from the other at once
	near = TLSClient(a, &tls.Config{InsecureSkipVerify: true})
	keys := new(bytes.Buffer)
	server := tls.Server(b, &tls.Config{
		Certificates: []tls.Certificate{wstest.Certificate()}, KeyLogWriter: keys, SessionTicketsDisabled: true,
	})
	shakeHands(t, near, server)
	if got := near.ConnectionState().CipherSuite; got != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("the cipher suite is %s, which this test cannot write", tls.CipherSuiteName(got))
	}
	_, line, _ := strings.Cut(keys.String(), "SERVER_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	return near, &recordServer{Conn: b, secret: secret}
}

// perform returns the records of a script, and how many bytes of data are complete
// at the end of each record.
func (s *recordServer) perform(script []byte) (stream []byte, m marks) {
	useless := 0
	for _, step := range script {
		if useless++; useless > 8 { // crypto/tls returns an error after 16
			step = 'd'
		}
		switch step {
		case 't':
			stream = append(stream, s.seal(recordHandshake, ticket(), 0)...)
		case 'k':
			stream = append(stream, s.updateKey(false)...)
		case 'e':
			stream = append(stream, s.seal(recordData, nil, 0)...)
		default:
			useless = 0
			p := bytes.Repeat([]byte{step}, int(step)*int(step)/4+1) // up to 16 KiB
			s.data = append(s.data, p...)
			stream = append(stream, s.seal(recordData, p, 0)...)
		}
		m = append(m, mark{len(stream), len(s.data)})
		if len(stream) > 3*maxPlaintext {
			break // more of the same
		}
	}
	return stream, m
}

// marks are the lengths of the complete data at the ends of records.
type marks []mark

type mark struct{ streamLen, dataLen int }

// whole returns how many bytes of data are complete after the first n bytes of the
// stream.
func (m marks) whole(n int) (dataLen int) {
	for _, mark := range m {
		if mark.streamLen <= n {
			dataLen = mark.dataLen
		}
	}
	return dataLen
}

// seal returns a record. https://www.rfc-editor.org/rfc/rfc8446#section-5.2
func (s *recordServer) seal(recordType byte, content []byte, paddingLen int) []byte {
	block, err := aes.NewCipher(expandLabel(s.secret, "key", 16))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	nonce := expandLabel(s.secret, "iv", 12)
	for i, b := range binary.BigEndian.AppendUint64(nil, s.seq) {
		nonce[4+i] ^= b
	}
	s.seq++
	inner := append(append(bytes.Clone(content), recordType), make([]byte, paddingLen)...)
	header := recordHeader(len(inner) + aead.Overhead())
	return aead.Seal(header, nonce, inner, header)
}

func recordHeader(payloadLen int) []byte {
	return binary.BigEndian.AppendUint16([]byte{recordData, 3, 3}, uint16(payloadLen))
}

// updateKey returns a KeyUpdate. https://www.rfc-editor.org/rfc/rfc8446#section-4.6.3
func (s *recordServer) updateKey(isRequested bool) []byte {
	message := []byte{messageKeyUpdate, 0, 0, 1, 0}
	if isRequested {
		message[4] = 1
	}
	record := s.seal(recordHandshake, message, 0)
	s.secret, s.seq = expandLabel(s.secret, "traffic upd", sha256.Size), 0
	return record
}

// ticket returns a NewSessionTicket. https://www.rfc-editor.org/rfc/rfc8446#section-4.6.1
func ticket() []byte {
	body := make([]byte, 4+4, 100)                          // lifetime, age
	body = append(body, 1, 0)                               // nonce
	body = append(append(body, 0, 40), make([]byte, 40)...) // ticket
	body = append(body, 0, 0)                               // extensions
	return append([]byte{messageTicket, 0, 0, byte(len(body))}, body...)
}

// expandLabel is HKDF-Expand-Label without a context.
// https://www.rfc-editor.org/rfc/rfc8446#section-7.1
func expandLabel(secret []byte, label string, length int) []byte {
	label = "tls13 " + label
	info := append([]byte{0, byte(length), byte(len(label))}, label...)
	key, err := hkdf.Expand(sha256.New, secret, string(append(info, 0)), length)
	if err != nil {
		panic(err)
	}
	return key
}

func TestTLSClientIsCryptoTLSWithRenegotiation(t *testing.T) {
	socket, _ := tcpPair(t)
	wrapped, _ := wrappedPair(t)
	tests := []struct {
		name   string
		conn   net.Conn
		config *tls.Config
	}{
		{"a server may ask for a handshake, which waits inside of a read", socket, &tls.Config{Renegotiation: tls.RenegotiateOnceAsClient}},
		{"whoever has wrapped the socket must see the reads", wrapped, &tls.Config{}},
	}
	for _, tt := range tests {
		if got := TLSClient(tt.conn, tt.config).NetConn(); got != tt.conn {
			t.Errorf("TLS goes over a %T; want the %T that was dialed: %s", got, tt.conn, tt.name)
		}
	}
}

func TestTLSRecordsOfAnySizeArrive(t *testing.T) {
	tests := []struct {
		name                   string
		contentLen, paddingLen int
	}{
		{"one byte", 1, 0},
		{"as large as a record may be", maxPlaintext, 0},
		{"almost all padding", 1, maxPlaintext - 1},
	}
	near, server := newRecordPair(t)
	c := New(near, nil)
	for _, tt := range tests {
		record := server.seal(recordData, make([]byte, tt.contentLen), tt.paddingLen)
		go server.Conn.Write(record) // ends when the record is read
		for got := 0; got < tt.contentLen; {
			p, err := fill(c, "")
			if err != nil {
				t.Fatalf("%s: Fill() after %d bytes: %v", tt.name, got, err)
			}
			got += len(p)
		}
	}
}

func TestTLSRecordWithExcessiveLengthFails(t *testing.T) {
	near, server := newRecordPair(t)
	server.Conn.Write(recordHeader(maxCiphertext + 1))
	if got, err := fill(New(near, nil), "held"); err == nil || !strings.Contains(err.Error(), "oversized record") {
		t.Errorf("Fill() = %q, %v; want an error about the size", got, err)
	}
}

func TestTLSStreamTruncatedInRecordFails(t *testing.T) {
	near, server := newRecordPair(t)
	record := server.seal(recordData, []byte("hello"), 0)
	server.Conn.Write(record[:len(record)-1])
	server.Conn.Close()
	for range 2 {
		if got, err := fill(New(near, nil), ""); err != io.ErrUnexpectedEOF {
			t.Errorf("Fill() = %q, %v; want io.ErrUnexpectedEOF", got, err)
		}
	}
}

func TestTLSKeyUpdateIsAnsweredDuringFill(t *testing.T) {
	near, server := newRecordPair(t)
	server.Conn.Write(server.updateKey(true))
	go server.Conn.Write(server.seal(recordData, []byte("hello"), 0)) // one write
	if got, err := fill(New(near, nil), ""); got != "hello" || err != nil {
		t.Fatalf("Fill() = %q, %v; want hello", got, err)
	}
	answer := make([]byte, 1000)
	n, err := server.Conn.Read(answer)
	if want := len(server.seal(recordHandshake, make([]byte, 5), 0)); n != want || err != nil {
		t.Errorf("the server got %d bytes, %v; want a KeyUpdate of %d", n, err, want)
	}
}
