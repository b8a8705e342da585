// Package site is the program of http2.test.js, without and with the import of http2ws: the
// packages plain and imported. It serves a page and a proxy over TLS, prints its URL, and ends
// when its standard input does: also if the test is killed.
//
// The page is at /, the proxy at /ws, with an echo server behind it, and /refused is a proxy
// without backends that refuses by Close frames. /close closes all tunnels. /log has a line for
// each request that the server got: the version of HTTP, the method that handlers see, the path,
// and the number of the connection.
package site

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/wsproxy/wsproxy"
)

// Main runs the program.
func Main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("site: ", err)
	}
}

func run() error {
	backend, err := listen()
	if err != nil {
		return err
	}
	go http.Serve(backend, http.HandlerFunc(echo)) // until the program ends
	proxy, err := wsproxy.New(wsproxy.WithBackends("http://" + backend.Addr().String()))
	if err != nil {
		return err
	}
	defer proxy.Close()
	refusing, err := wsproxy.New(wsproxy.WithBackends(), wsproxy.WithRefusal(wsproxy.Refusal{ByClose: true}))
	if err != nil {
		return err
	}
	defer refusing.Close()

	var requests requestLog
	mux := http.NewServeMux()
	mux.Handle("GET /ws", proxy)
	mux.Handle("GET /refused", refusing)
	mux.HandleFunc("GET /close", func(http.ResponseWriter, *http.Request) {
		for t := range proxy.Tunnels() {
			t.Close(4001, "bye")
		}
	})
	mux.HandleFunc("GET /log", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, requests.text()) })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<!doctype html><title>http2</title>")
	})
	ln, err := listen()
	if err != nil {
		return err
	}
	cert, err := newCertificate()
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:   wsproxy.Front(requests.record(mux)),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
	}
	go srv.ServeTLS(ln, "", "") // until the program ends
	fmt.Println("https://" + ln.Addr().String())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// A requestLog has a line for each request.
type requestLog struct {
	mu    sync.Mutex
	lines []string
	peers []string // their indices are the numbers of connections
}

func (l *requestLog) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.add(r)
		next.ServeHTTP(w, r)
	})
}

func (l *requestLog) add(r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	number := 0
	for number < len(l.peers) && l.peers[number] != r.RemoteAddr {
		number++
	}
	if number == len(l.peers) {
		l.peers = append(l.peers, r.RemoteAddr)
	}
	l.lines = append(l.lines, fmt.Sprintf("HTTP/%d %s %s %d\n", r.ProtoMajor, r.Method, r.URL.Path, number))
}

func (l *requestLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "")
}

// echo is a backend, with permessage-deflate and the subprotocol "echo".
func echo(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, Subprotocols: []string{"echo"}, CompressionMode: websocket.CompressionContextTakeover,
	})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, message, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if string(message) == "close 4002" {
			c.Close(4002, "asked for")
			return
		}
		if c.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// newCertificate returns a certificate for 127.0.0.1, which signs itself.
func newCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
