package e2etest

import (
	"path/filepath"
	"testing"
)

// A Browser is a Chromium. Its host names that end with .localhost are this machine.
type Browser struct{ remote *Remote }

// A Page is a tab of a browser.
type Page struct {
	browser *Browser
	id      int
}

// PageOptions are what a page can be given.
type PageOptions struct {
	// Profile names the profile, which has the cookies. Pages of the same name share it.
	Profile string `json:"profile"`

	// Init is a script that runs before the scripts of the page.
	Init string `json:"init"`
}

// A Cookie is one that a browser has stored.
type Cookie struct {
	Name, Value, Domain, Path string
	HTTPOnly, Secure          bool
	SameSite                  string
	PartitionKey              string
}

// StartBrowser starts Chromium, which runs until the test ends. It accepts any certificate.
func StartBrowser(t testing.TB) *Browser {
	t.Helper()
	return &Browser{StartRemote(t, filepath.Join(Root(), "internal", "e2etest", "browser.js"))}
}

// Open opens a URL in a new page.
func (b *Browser) Open(url string, options PageOptions) (*Page, error) {
	p := &Page{browser: b}
	return p, b.remote.Call(&p.id, "open", url, options)
}

// Cookies returns the cookies of a profile.
func (b *Browser) Cookies(profile string) ([]Cookie, error) {
	var cookies []Cookie
	return cookies, b.remote.Call(&cookies, "cookies", profile)
}

// Call calls a function of the page's global object, and stores what it returns, or its promise
// resolves to, in the value to which result points, unless that is nil.
func (p *Page) Call(result any, name string, args ...any) error {
	return p.browser.remote.Call(result, "call", append([]any{p.id, name}, args...)...)
}

// Close closes the page.
func (p *Page) Close() error { return p.browser.remote.Call(nil, "close", p.id) }

// Eval evaluates an expression in the page, and stores its value, or what its promise resolves
// to, in the value to which result points, unless that is nil.
func (p *Page) Eval(result any, expression string) error {
	return p.browser.remote.Call(result, "evaluate", p.id, expression)
}

// WaitFor returns when an expression is true in the page.
func (p *Page) WaitFor(expression string) error {
	return p.browser.remote.Call(nil, "waitFor", p.id, expression)
}
