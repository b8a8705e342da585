package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// A chat is the service of a backend: rooms, which exist in its own memory only. It
// does not know the proxy.
type chat struct {
	// Immutable.
	backend string // ID of the backend, sent to members
	memory  string // random ID of this chat's memory, different after each start

	mu          sync.Mutex // guards the fields below, and the rooms
	rooms       map[string]*room
	numMessages int // messages so far
	isClosed    bool
}

// A room is guarded by its chat's mu.
type room struct {
	name    string // immutable
	members map[*member]bool
	history []message
}

// A member is one connection in one room.
type member struct {
	conn *websocket.Conn
	out  chan []byte // messages to send to the member

	room   *room  // set by join
	author string // guarded by the chat's mu
}

// The messages to a member, as JSON. The first is a welcome.
type (
	welcome struct {
		Type    string    `json:"type"` // "welcome"
		Backend string    `json:"backend"`
		Memory  string    `json:"memory"`
		Room    string    `json:"room"`
		History []message `json:"history"`
	}
	presence struct {
		Type    string   `json:"type"` // "presence"
		Authors []string `json:"authors"`
	}
	message struct {
		Type   string    `json:"type"` // "message"
		ID     string    `json:"id"`
		Author string    `json:"author"`
		Text   string    `json:"text"`
		Time   time.Time `json:"time"`
	}
)

// A remark is a message from a member. One without a text changes the author's name.
type remark struct {
	Author string `json:"author"`
	Text   string `json:"text"`
}

// Bounds of the memory that clients can use.
const (
	maxRooms     = 1000 // beyond it, a room is deleted when its last member leaves
	maxHistory   = 30   // messages of a room that a new member gets
	maxBacklog   = 64   // messages that wait for a slow member
	maxRoomName  = 40   // characters
	maxAuthor    = 40
	maxText      = 2000
	maxReadBytes = 16 << 10 // of one WebSocket message

	writeTimeout = 5 * time.Second
)

func newChat(backend string) *chat {
	return &chat{backend: backend, memory: rand.Text(), rooms: make(map[string]*room)}
}

// ServeHTTP serves /chat?room=NAME&author=NAME. It returns when the member has left.
func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	name := query.Get("room")
	if !isRoomName(name) {
		http.Error(w, "A room's name is 1 to 40 letters, digits and dashes.", http.StatusBadRequest)
		return
	}
	// Accept refuses an Origin that differs from the Host. The proxy forwards both
	// unchanged.
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has sent an error response
	}
	defer conn.CloseNow()
	conn.SetReadLimit(maxReadBytes)
	m := &member{
		conn:   conn,
		out:    make(chan []byte, maxBacklog),
		author: tidy(query.Get("author"), maxAuthor),
	}
	if !c.join(m, name) {
		conn.Close(websocket.StatusGoingAway, "backend "+c.backend+" is stopping")
		return
	}
	defer c.leave(m)
	// Not the request's context, which does not end with a hijacked connection.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go m.write(ctx) // ends with ctx
	c.readRemarks(ctx, m)
}

// join adds m to the room of that name. It returns false if the chat is closed.
func (c *chat) join(m *member, name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosed {
		return false
	}
	r := c.rooms[name]
	if r == nil {
		r = &room{name: name, members: make(map[*member]bool)}
		c.rooms[name] = r
	}
	m.room = r
	m.out <- encode(welcome{"welcome", c.backend, c.memory, name, append([]message{}, r.history...)})
	r.members[m] = true
	r.sendPresence()
	return true
}

func (c *chat) leave(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := m.room
	delete(r.members, m)
	r.sendPresence()
	if len(r.members) == 0 && len(c.rooms) > maxRooms && c.rooms[r.name] == r {
		delete(c.rooms, r.name)
	}
}

// readRemarks reads the remarks of m until its connection ends.
func (c *chat) readRemarks(ctx context.Context, m *member) {
	for {
		var said remark
		if err := wsjson.Read(ctx, m.conn, &said); err != nil {
			return
		}
		c.receive(m, tidy(said.Author, maxAuthor), tidy(said.Text, maxText))
	}
}

func (c *chat) receive(m *member, author, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := m.room
	if author != m.author {
		m.author = author
		r.sendPresence()
	}
	if text == "" {
		return
	}
	c.numMessages++
	said := message{"message", fmt.Sprintf("%s-%d", c.memory, c.numMessages), author, text, time.Now()}
	r.history = append(r.history, said)
	if len(r.history) > maxHistory {
		r.history = slices.Delete(r.history, 0, 1)
	}
	r.send(said)
}

// close closes the chat. It sends a Close frame to all members and waits for their
// answers, a few seconds at most.
func (c *chat) close(code websocket.StatusCode, reason string) {
	var wg sync.WaitGroup
	for _, m := range c.stopAccepting() {
		wg.Go(func() { m.conn.Close(code, reason) })
	}
	wg.Wait()
}

// crash closes all connections without a Close frame, like a process that dies.
func (c *chat) crash() {
	for _, m := range c.stopAccepting() {
		m.conn.CloseNow()
	}
}

// stopAccepting closes the chat to new members, and returns its members.
func (c *chat) stopAccepting() []*member {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.isClosed = true
	var all []*member
	for _, r := range c.rooms {
		all = slices.AppendSeq(all, maps.Keys(r.members))
	}
	return all
}

func (r *room) sendPresence() {
	authors := make([]string, 0, len(r.members))
	for m := range r.members {
		authors = append(authors, m.author)
	}
	slices.Sort(authors)
	r.send(presence{"presence", authors})
}

// send sends v to all members of r. It does not wait: it removes members that are
// too slow.
func (r *room) send(v any) {
	b := encode(v)
	for m := range r.members {
		select {
		case m.out <- b:
		default:
			delete(r.members, m)
			go m.closeSlow() // ends with the closing handshake, or after a few seconds
		}
	}
}

// write writes the messages for m until ctx ends.
func (m *member) write(ctx context.Context) {
	for {
		select {
		case b := <-m.out:
			if err := m.writeOne(ctx, b); err != nil {
				return // the read side fails too
			}
		case <-ctx.Done():
			return
		}
	}
}

func (m *member) writeOne(ctx context.Context, b []byte) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return m.conn.Write(ctx, websocket.MessageText, b)
}

func (m *member) closeSlow() {
	m.conn.Close(websocket.StatusTryAgainLater, "this connection is too slow for the room")
}

// encode returns v as JSON. It cannot fail: messages consist of strings and times.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func isRoomName(s string) bool {
	return s != "" && utf8.RuneCountInString(s) <= maxRoomName &&
		!strings.ContainsFunc(s, func(r rune) bool { return r != '-' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// tidy trims s and cuts it to n characters.
func tidy(s string, n int) string {
	s = strings.TrimSpace(s)
	if utf8.RuneCountInString(s) > n {
		s = string([]rune(s)[:n])
	}
	return s
}
