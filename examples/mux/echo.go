package main

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// startEcho starts the backend, which is an ordinary WebSocket server. Its Addr is
// the address of its listener. It runs until it is closed.
func startEcho() (*http.Server, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{
		Addr:              ln.Addr().String(),
		Handler:           http.HandlerFunc(echo),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go server.Serve(ln) // ends with Close
	return server, nil
}

// echo echoes every message.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has sent an error response
	}
	defer conn.CloseNow()
	ctx := context.Background() // the request's context does not end with a hijacked connection
	for {
		kind, message, err := conn.Read(ctx)
		if err != nil {
			return
		}
		if err := conn.Write(ctx, kind, message); err != nil {
			return
		}
	}
}
