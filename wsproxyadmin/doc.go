// Package wsproxyadmin serves an admin page for a [wsproxy.Proxy]. It shows tunnels, backends,
// refusals and events live, drains and resumes backends, and closes tunnels.
//
//	admin := wsproxyadmin.Handler(proxy, wsproxyadmin.Options{
//		Prefix:    "/admin/",
//		Authorize: authorize, // of your own: without it each request gets 403
//	})
//	http.Handle("/admin/", admin)
//
// The example of [Handler] has an authorize with HTTP Basic. It is best to serve the page on an
// address of its own, which clients cannot reach, and with TLS, because passwords travel there.
//
// # Contents
//
// The page shows tunnels, upgrades, refusals and their rates, the times of upgrades in the last
// minute, the backends with the reason of their state, the oldest, busiest and quietest tunnels,
// and the last events: 200 changes of backends and actions, 200 refusals (at most one for each
// reason and second, with a count of the others), and 50 tunnels that opened or closed
// (at most one for each end and second). Rates, history and events are those since [Handler] was
// called, whether the page was open or not. They are this program's own: each replica has its
// page.
//
// It shows paths, but no query. A tunnel's [wsproxy.TunnelInfo.Value] is shown as text if it is a
// string, a number or a bool, or has a String, MarshalText, Error or LogValue method; of another
// value only its type is shown. [Options.Redact] hides it.
//
// # For programs
//
// All that the page shows is JSON, below the same prefix: /overview has all but the tunnels,
// /stream has the same once a second as server-sent events, and /tunnels lists tunnels. Actions are
// POST requests with a JSON body:
//
//	curl -u ann:secret https://chat.example/admin/overview
//	curl -u ann:secret 'https://chat.example/admin/tunnels?order=busiest&backend=chat-1&limit=10'
//	curl -u ann:secret --json '{"backend": "chat-1", "over_seconds": 60}' https://chat.example/admin/drain
//	curl -u ann:secret --json '{"backend": "chat-1"}' https://chat.example/admin/resume
//	curl -u ann:secret --json '{"tunnel": 4711, "code": 1008, "reason": "signed out"}' https://chat.example/admin/close
//
// The tunnels may be filtered by backend, client (an address, its beginning, or a prefix such as
// 192.0.2.0/24), value (a part of it) and request_id (its beginning). The types in json.go describe
// each field.
//
// # Actions
//
// A drain goes on in the background: its request is answered at once, and the page may be closed.
// It ends when the backend has no tunnel left, by a resume, or with [wsproxy.Proxy.Shutdown] or
// Close. See [wsproxy.Proxy.Drain], [wsproxy.Proxy.Resume] and [wsproxy.Tunnel.Close] for what the
// actions do. Each of them, also one that fails, is one line in the log and one event, with the
// actor, the address, the target and the result.
//
// # Security
//
// Each request is authorized, also those for the files of the page; a stream is authorized again
// every 15 minutes, when it is opened anew. Actions of other sites are refused
// ([http.CrossOriginProtection], and a Content-Type that forms cannot have), and no other site can
// show the page in a frame, run scripts on it, or read its answers. The handler does not limit how
// often a password is tried.
//
// # Cost
//
// Without a viewer there is no goroutine, and a tunnel costs about 3 µs more, for two hooks.
// With viewers the proxy is read once a second, however many there are: about 0.3 µs of CPU for
// each tunnel, less than 3 ms with 9,000, and a hundredth of a millisecond for each viewer. A list
// of tunnels takes up to 1 µs for each open tunnel, and 2.5 µs if it is filtered by client, value or
// request ID. The memory is about 300 KB, and while the page is open 80 bytes for each tunnel. A
// slow viewer misses states, but no event. A viewer that takes nothing for 10 s is cut off. There may
// be 100 viewers.
package wsproxyadmin
