// Package wsproxytest helps to test a balancer: an implementation of [wsproxy.Balancer].
//
//   - [TestBalancer] checks it against the contract of that interface, with thousands of calls.
//   - [NewBackends] makes backends with chosen tunnels, weights, refusals and flags, for a call
//     of Pick whose result the test knows.
//   - [NewScene] runs a proxy with it, over backends in memory whose behaviour the test
//     changes. Its clients have the responses. With [testing/synctest] it takes no time.
//
// Package [github.com/wsproxy/wsproxy/wsproxytest/memnet] has the network in memory for other
// tests.
package wsproxytest
