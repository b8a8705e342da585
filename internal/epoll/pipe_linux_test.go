//go:build linux

package epoll

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

const budget = 16

// pattern returns n bytes of which no two blocks are the same.
func pattern(n int) []byte {
	b := make([]byte, 0, n+8)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%07d,", i)
	}
	return b[:n]
}

// move moves n bytes, by splicing and by copying in turns.
func move(t *testing.T, src, dst *Socket, n int) {
	t.Helper()
	p, err := NewPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	buf := make([]byte, 32<<10)
	for turn := 0; n > 0; turn++ {
		var kept []byte
		if turn%2 == 0 {
			kept = copied(t, src, buf[:min(n, len(buf))])
			n -= len(kept)
		} else {
			have, err := p.Fill(src, min(n, 60<<10))
			if err == ErrAgain {
				continue
			}
			if err != nil {
				t.Fatalf("Fill(): %v", err)
			}
			n -= have
			kept = drained(t, p, dst, have)
		}
		for len(kept) > 0 {
			m, err := dst.Write(kept)
			if err != nil && err != ErrAgain {
				t.Fatalf("Write(): %v", err)
			}
			kept = kept[m:]
		}
	}
}

func copied(t *testing.T, src *Socket, buf []byte) []byte {
	t.Helper()
	n, err := src.Read(buf)
	if err != nil && err != ErrAgain {
		t.Fatalf("Read(): %v", err)
	}
	return buf[:n]
}

// drained empties p, which holds n bytes, and returns what dst did not take.
func drained(t *testing.T, p *Pipe, dst *Socket, n int) []byte {
	t.Helper()
	m, err := p.Drain(dst, n)
	if err != nil && err != ErrAgain || err == nil && m != n {
		t.Fatalf("Drain() = %d, %v; want %d", m, err, n)
	}
	kept := make([]byte, n-m)
	for read := 0; read < len(kept); {
		m, err := p.Read(kept[read:])
		if err != nil || m == 0 {
			t.Fatalf("Read() of the pipe = %d, %v", m, err)
		}
		read += m
	}
	return kept
}

func TestPipeCarriesBytesUnchanged(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		src, from := newSocket(t, pair)
		dst, to := newSocket(t, pair)
		want := pattern(4 << 20)
		go from.Write(want) // ends when all has been read
		got := make(chan []byte, 1)
		go func() {
			b := make([]byte, len(want))
			io.ReadFull(to, b)
			got <- b
		}()
		move(t, src, dst, len(want))
		if !bytes.Equal(<-got, want) {
			t.Error("what came is not what was sent")
		}
	})
}

func TestWhatAPeerDoesNotTakeIsReadFromThePipe(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		src, from := newSocket(t, pair)
		dst, to := newSocket(t, pair)
		before := fillUp(t, dst)
		send(t, from, "not taken")
		p, err := NewPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		n := fillSoon(t, p, src, 100)
		if kept := drained(t, p, dst, n); string(kept) != "not taken" {
			t.Errorf("the pipe holds %q; want all that was sent", kept)
		}
		if n, err := p.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("Read() of the empty pipe = %d, %v; want an error", n, err)
		}
		io.CopyN(io.Discard, to, int64(before))
		send(t, from, "now")
		n = fillSoon(t, p, src, 100)
		for m := 0; m < n; {
			k, err := p.Drain(dst, n-m)
			if m += k; err != nil && err != ErrAgain {
				t.Fatal(err)
			}
		}
		b := make([]byte, 3)
		if _, err := io.ReadFull(to, b); string(b) != "now" || err != nil {
			t.Errorf("the peer read %q, %v; want now", b, err)
		}
	})
}

// fillSoon is Fill as soon as there is something.
func fillSoon(t *testing.T, p *Pipe, src *Socket, n int) int {
	t.Helper()
	for {
		m, err := p.Fill(src, n)
		if err == nil {
			return m
		}
		if err != ErrAgain {
			t.Fatal(err)
		}
	}
}

func TestFillAndDrainFailAsReadAndWriteDo(t *testing.T) {
	forEachNetwork(t, func(t *testing.T, pair func(testing.TB) (near, far net.Conn)) {
		p, err := NewPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		src, from := newSocket(t, pair)
		if n, err := p.Fill(src, 100); n != 0 || err != ErrAgain {
			t.Errorf("Fill() of nothing = %d, %v; want ErrAgain", n, err)
		}
		send(t, from, "last")
		from.Close()
		n := fillSoon(t, p, src, 100)
		if m, err := endOf(p, src); m != 0 || err != io.EOF {
			t.Errorf("Fill() at the end = %d, %v; want io.EOF", m, err)
		}
		dst, _ := newSocket(t, pair)
		dst.CloseWrite()
		m, err := p.Drain(dst, n)
		var op *net.OpError
		if m != 0 || !errors.Is(err, syscall.EPIPE) || !errors.As(err, &op) || op.Op != "write" {
			t.Errorf("Drain() to what has ended = %d, %v; want EPIPE of a write", m, err)
		}
	})
}

// endOf is Fill after the last byte.
func endOf(p *Pipe, src *Socket) (n int, err error) {
	for err = ErrAgain; err == ErrAgain; {
		n, err = p.Fill(src, 100)
	}
	return n, err
}

func TestLargePipesAreHadByBudget(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("an ordinary user's share may be used by others")
	}
	var pipes []*Pipe
	defer func() {
		for _, p := range pipes {
			p.Close()
		}
	}()
	for i := range budget + 4 {
		p, err := NewPipe()
		if err != nil {
			t.Fatal(err)
		}
		pipes = append(pipes, p)
		want := largePipe
		if i >= budget {
			want = smallPipe
		}
		if got := p.size(); got != want {
			t.Errorf("pipe %d holds %d bytes; want %d", i, got, want)
		}
	}
	pipes[budget+1].Close() // gives nothing back
	pipes[3].Close()        // does
	for _, i := range []int{3, budget + 1} {
		p, err := NewPipe()
		if err != nil {
			t.Fatal(err)
		}
		pipes[i] = p
	}
	if a, b := pipes[3].size(), pipes[budget+1].size(); a != largePipe || b != smallPipe {
		t.Errorf("then pipes hold %d and %d bytes; want %d and %d", a, b, largePipe, smallPipe)
	}
}

func TestBudgetOfLargePipesComesBack(t *testing.T) {
	before := largePipes.Load()
	for range 3 * budget {
		p, err := NewPipe()
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
	}
	if got := largePipes.Load(); got != before {
		t.Errorf("%d large pipes are left; want %d as before", got, before)
	}
}

func init() {
	children["poor"] = func() {
		if os.Getuid() == 0 { // a user for whom there are limits
			syscall.Setgroups(nil)
			syscall.Setgid(65534)
			syscall.Setuid(65534)
		}
		// Another process of this user has used up the user's share.
		for {
			var fds [2]int
			if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC); err != nil {
				fmt.Print("no pipes to begin with: ", err)
				return
			}
			_, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fds[0]), setPipeSize, largePipe)
			if errno == syscall.EPERM {
				break
			}
		}
		for range 20 { // the last pages
			var fds [2]int
			syscall.Pipe2(fds[:], syscall.O_CLOEXEC)
		}
		for range 3 {
			p, err := NewPipe()
			if err != nil {
				fmt.Printf("error: %v\n", err)
				continue
			}
			fmt.Printf("%d bytes\n", p.size())
		}
		fmt.Printf("%d left", largePipes.Load())
	}
	children["no descriptors"] = func() {
		limit := syscall.Rlimit{Cur: 3, Max: 3}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
			fmt.Println(err)
		}
		_, err := NewPipe()
		fmt.Println(err)
		_, err = New[owner]()
		fmt.Println(err)
		fmt.Print(largePipes.Load(), " left")
	}
}

func TestUserOverHisShareGetsAnErrorAndNotATinyPipe(t *testing.T) {
	const want = "error: epoll: the user's share of pipes is used up: one of 8192 bytes is no use\n"
	got := runChild(t, "poor")
	if !strings.HasSuffix(got, fmt.Sprintf("%d left", budget)) || !strings.HasPrefix(got, strings.Repeat(want, 3)) {
		t.Errorf("pipes of a user over his share:\n%s\nwant three times %q, and the budget as before", got, want)
	}
}

func TestWithoutDescriptorsThereIsAClearError(t *testing.T) {
	want := fmt.Sprintf("pipe2: too many open files\nepoll_create1: too many open files\n%d left", budget)
	if got := runChild(t, "no descriptors"); got != want {
		t.Errorf("without descriptors:\n%s\nwant\n%s", got, want)
	}
}

// Descriptors may end in the middle of New.
func TestNewThatFailsLeavesNothingOpen(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	before := openDescriptors(t)
	lowest := 0
	for before[lowest] {
		lowest++
	}
	tight := syscall.Rlimit{Cur: uint64(lowest) + 1, Max: limit.Max} // one more, if none above is free
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &tight); err != nil {
		t.Fatal(err)
	}
	p, err := New[owner]()
	if err == nil {
		p.Close()
	}
	if want := "eventfd2: too many open files"; err == nil || err.Error() != want {
		t.Errorf("New[owner](): %v; want %s", err, want)
	}
	syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	for fd := range openDescriptors(t) {
		if !before[fd] {
			t.Errorf("descriptor %d is left", fd)
		}
	}
}
