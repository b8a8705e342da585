// Package wsproxyadmin serves an admin page for a [wsproxy.Proxy].
package wsproxyadmin
