package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cookiejar"

	"github.com/coder/websocket"
)

// A client stores its cookies, as a browser does.
type client struct {
	name    string
	region  string // where it is; empty: nowhere
	jar     http.CookieJar
	conn    *websocket.Conn
	backend string // the backend of its last visit
}

func newClients(names ...string) ([]*client, error) {
	var clients []*client
	for _, name := range names {
		jar, err := cookiejar.New(nil)
		if err != nil {
			return nil, err
		}
		clients = append(clients, &client{name: name, jar: jar})
	}
	return clients, nil
}

// visit connects to url and reads the name of the backend.
func (c *client) visit(ctx context.Context, url string) error {
	conn, _, err := websocket.Dial(ctx, url+"?region="+c.region, &websocket.DialOptions{HTTPClient: &http.Client{Jar: c.jar}})
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	_, backend, err := conn.Read(ctx)
	if err != nil {
		conn.CloseNow()
		return fmt.Errorf("%s: %w", c.name, err)
	}
	c.conn, c.backend = conn, string(backend)
	return nil
}

func (c *client) leave() { c.conn.Close(websocket.StatusNormalClosure, "") }

// A greeter is a backend that sends its name, and waits until the client closes the
// connection.
type greeter string

func (name greeter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has sent an error response
	}
	defer conn.CloseNow()
	ctx := context.Background() // the request's context does not end with a hijacked connection
	if err := conn.Write(ctx, websocket.MessageText, []byte(name)); err != nil {
		return
	}
	<-conn.CloseRead(ctx).Done()
}
