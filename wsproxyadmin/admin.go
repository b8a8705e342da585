package wsproxyadmin

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/wsproxy/wsproxy"
)

// Options are for [Handler].
type Options struct {
	// Authorize lets a request in, and returns the name of its sender, which log lines and
	// events have. It is called for each request, also for the files of the page. If it returns
	// an error, the client gets 403 without its text; if that is a [*wsproxy.StatusError], the client
	// gets its Status (400 to 599), its Header and the text of its Err. So 401 with WWW-Authenticate makes a
	// browser ask for a password; a redirect to a login is for a middleware around the handler.
	// Default: each request gets 403.
	//
	// A hook that lets in all requests of the own machine must check the Host of the request:
	// a browser there may have resolved another site's name to 127.0.0.1.
	Authorize func(*http.Request) (actor string, err error)

	// ReadOnly refuses all actions. Default: all senders that Authorize lets in may act.
	ReadOnly bool

	// Prefix is the path at which the handler is mounted, such as "/admin/", without what
	// [http.StripPrefix] removes. The page links to its parts by relative URLs, so that a proxy
	// in front may add a path of its own. Default: "/".
	Prefix string

	// Instance is the name that the page shows, to tell several programs apart. Default: the
	// name of the host.
	Instance string

	// Redact shortens the addresses of clients to /24 and /48, and hides the values of tunnels
	// and the errors of the program's hooks. Default: all is shown.
	Redact bool

	// Logger gets one line at the level Info for each action, and one at Debug for each request
	// that Authorize refuses, with the error. Default: [slog.Default], called for each line.
	Logger *slog.Logger
}

// Handler returns the handler of the admin page of p, and of its JSON. It observes p by
// [wsproxy.Proxy.Observe] for as long as p is used, so that the page has what happened before it
// was opened. It has no goroutine without a viewer, but for a drain: see the package
// documentation.
func Handler(p *wsproxy.Proxy, o Options) http.Handler {
	if o.Authorize == nil {
		return http.HandlerFunc(refuseAll)
	}
	return newHandler(p, o)
}

// refuseAll is the handler without Authorize.
func refuseAll(w http.ResponseWriter, _ *http.Request) {
	setSecurityHeader(w.Header())
	http.Error(w, "The admin page lets nobody in: set Authorize in the Options of wsproxyadmin.Handler.", http.StatusForbidden)
}

// A handler is the admin page of one proxy.
type handler struct {
	p           *wsproxy.Proxy
	o           Options // defaults filled in
	crossOrigin *http.CrossOriginProtection

	recorder *recorder
	reader   *reader
	feed     *feed
	rates    tunnelRates
	drains   runningDrains
}

func newHandler(p *wsproxy.Proxy, o Options) *handler {
	o.Prefix = "/" + strings.Trim(o.Prefix, "/") + "/"
	if o.Prefix == "//" {
		o.Prefix = "/"
	}
	if o.Instance == "" {
		o.Instance, _ = os.Hostname()
	}
	h := &handler{p: p, o: o, crossOrigin: http.NewCrossOriginProtection()}
	h.recorder = newRecorder(p, o.Redact)
	h.reader = newReader(p, h.recorder, o)
	h.feed = newFeed(h.reader)
	p.Observe(h.recorder.trace())
	return h
}

// ServeHTTP serves the page, its JSON and its actions.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setSecurityHeader(w.Header())
	// First: another site must not be able to make a browser ask for a password.
	if err := h.crossOrigin.Check(r); err != nil {
		http.Error(w, "A request of another site is refused.", http.StatusForbidden)
		return
	}
	h.feed.watch(serverOf(r)) // before Authorize, which may take until the server has shut down
	actor, err := h.o.Authorize(r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	name, isBelow := strings.CutPrefix(r.URL.Path, h.o.Prefix)
	switch {
	case isBelow:
		h.route(w, r, name, actor)
	case r.URL.Path+"/" == h.o.Prefix && isRead(r):
		redirectToDirectory(w, r)
	default:
		h.notFound(w)
	}
}

// route serves the path below the prefix.
func (h *handler) route(w http.ResponseWriter, r *http.Request, name, actor string) {
	var read func(http.ResponseWriter, *http.Request, string)
	switch name {
	case "overview":
		read = h.serveOverview
	case "stream":
		read = h.serveStream
	case "tunnels":
		read = h.serveTunnels
	case "drain", "resume", "close":
		if r.Method != http.MethodPost {
			refuseMethod(w, http.MethodPost)
			return
		}
		h.serveAction(w, r, name, actor)
		return
	default:
		file, ok := pageFiles[cmp.Or(name, "index.html")]
		if !ok {
			h.notFound(w)
			return
		}
		read = file.serve
	}
	if !isRead(r) {
		refuseMethod(w, "GET, HEAD")
		return
	}
	read(w, r, actor)
}

// notFound responds with the prefix: most often Options do not have the path of the mount.
func (h *handler) notFound(w http.ResponseWriter) {
	http.Error(w, fmt.Sprintf("404 page not found. The admin page is at %s, the Prefix of its Options.", h.o.Prefix), http.StatusNotFound)
}

// redirectToDirectory adds a slash to the path. The URL is relative, so that it is right behind a
// proxy that adds a path, and behind [http.StripPrefix], which has removed all of it.
func redirectToDirectory(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(r.RequestURI, "?")
	w.Header().Set("Location", "./"+path.Base(name)+"/")
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func isRead(r *http.Request) bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

func refuseMethod(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
}

// refuse responds to a request that Authorize did not let in, because of err.
func (h *handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	h.logRefused(r, err)
	code := http.StatusForbidden
	text := "Forbidden: you are not signed in, or may not use this page."
	if status, ok := errors.AsType[*wsproxy.StatusError](err); ok {
		if status.Status >= 400 && status.Status <= 599 {
			code = status.Status
		}
		for name, values := range status.Header {
			w.Header()[name] = slices.Clone(values)
		}
		text = http.StatusText(code)
		if status.Err != nil {
			text = status.Err.Error()
		}
	}
	http.Error(w, text, code)
}

// setSecurityHeader sets the fields that each response has.
func setSecurityHeader(h http.Header) {
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "+
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
}
