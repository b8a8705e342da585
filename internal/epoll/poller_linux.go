//go:build linux

package epoll

import (
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// maxBatch is how many events one system call returns at most: who has waited
// longest comes first, and a yield is due after a millisecond.
const maxBatch = 64

// maxYields is how often Wait lets other threads have the processor and asks again,
// before it has the goroutine parked. Where the machine is busy, those threads are the
// ones that will send something, and to be parked makes the scheduler's watchdog begin
// anew to look every 20 µs. In interleaved runs of 5 to 8 rounds, with 1 to 8 yields
// against none, an echo without pause took 0.85 to 0.96 of the CPU, a p99 at 5,000
// messages a second was 0.36 to 0.93, and fan-out (1.00 and 1.03) and the opening of
// tunnels (0.91 to 1.04) were level. To wait for some time instead, 30 to 300 µs,
// saves as much in an echo and took 1.1 of the CPU at 5,000 messages a second: a timer
// costs more than it saves.
const maxYields = 3

// Edges are what one event tells of a socket. Each is told once, when it begins;
// it lasts until a read or write has found that it is over.
type Edges uint32

const (
	Readable Edges = syscall.EPOLLIN
	Writable Edges = syscall.EPOLLOUT
	PeerDone Edges = syscall.EPOLLRDHUP // its end of stream has come; what it sent before may still wait
	Urgent   Edges = syscall.EPOLLPRI   // there is a mark of TCP's urgent data, at which a read stops
	Failed   Edges = syscall.EPOLLERR   // reads and writes tell why
	HungUp   Edges = syscall.EPOLLHUP   // both streams have ended
)

// edgeTriggered is EPOLLET, whose sign differs between platforms in package
// syscall.
//
// An edge is told once and costs nothing while it lasts. Without it, EPOLLERR and
// EPOLLHUP, which cannot be masked, would wake the loop without end for a socket
// that nobody reads because its other side takes nothing.
const edgeTriggered = 1 << 31

// watched are the edges that every socket is watched for, besides the two that
// cannot be masked.
const watched = uint32(Readable|PeerDone|Urgent) | edgeTriggered

// An Event is what has happened to one socket of an owner.
type Event struct {
	Owner any
	Index int // of the socket, in the order of Add
	Edges Edges
}

// A Poller waits for edges of sockets. Wait, Poll, Yield and Next belong to one
// goroutine; the other methods may be called by anybody.
//
// Its descriptor sits in the runtime's own poller: who waits for it is parked as any
// goroutine that waits for a connection, and holds no thread. A goroutine that
// blocks in epoll_wait costs almost twice the CPU at low rates, because the
// scheduler takes its P away and gives it back each time.
type Poller struct {
	file *os.File // the epoll descriptor, for the runtime's poller
	raw  syscall.RawConn
	fd   int // the same descriptor
	bell int // an eventfd within: see Wake

	// Owned by the goroutine that waits.
	events    [maxBatch]syscall.EpollEvent
	have      int // events that the last call returned
	next      int // of these, what Next looks at next
	err       error
	hasParked bool                  // in this call of Wait or Yield
	tryToPark func(fd uintptr) bool // p.park, made once
	parkOnce  func(fd uintptr) bool // p.yield, made once

	mu    sync.Mutex
	slots []slot
	free  uint32 // head of the list of free slots
}

// A slot is the place of one owner. Events carry its number and generation, never
// a descriptor: numbers of descriptors are used again at once, and an event of the
// one before must not be taken for one of the next.
type slot struct {
	owner      any
	generation uint32
	nextFree   uint32
}

// A Token says which slot an owner has.
type Token struct{ slot, generation uint32 }

// noSlot is the end of the list of free slots, and the slot of the bell.
const noSlot = 1<<30 - 1

// New returns a Poller.
func New() (*Poller, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // that is what makes NewFile ask the runtime's poller
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &Poller{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), free: noSlot}
	p.tryToPark, p.parkOnce = p.park, p.yield
	if err := p.init(); err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

func (p *Poller) init() error {
	// It has deadlines if the runtime's poller has taken it, which the kernel may
	// refuse: a user may watch so many descriptors and no more.
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return err
	}
	bell, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return os.NewSyscallError("eventfd2", errno)
	}
	p.bell = int(bell)
	if err := p.control(syscall.EPOLL_CTL_ADD, p.bell, watched, noSlot<<1, 0); err != nil {
		syscall.Close(p.bell)
		return err
	}
	return nil
}

// Close closes the poller. Nobody may wait for it, or will again; its sockets are
// their owner's to close.
func (p *Poller) Close() {
	p.file.Close()
	syscall.Close(p.bell)
}

// Add watches sockets of owner: no event of one is returned before all are watched.
func (p *Poller) Add(owner any, sockets ...*Socket) (Token, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.takeLocked(owner)
	for i, s := range sockets {
		if err := p.watch(s, t, i); err != nil {
			for _, s := range sockets[:i] {
				p.forget(s)
			}
			p.giveBackLocked(t)
			return Token{}, err
		}
	}
	return t, nil
}

// Join gives what t stands for to another owner, and watches one more of his sockets,
// which has the given index. What Next has returned before is still the old
// owner's.
func (p *Poller) Join(t Token, owner any, s *Socket, index int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.watch(s, t, index); err != nil {
		return err
	}
	p.slots[t.slot].owner = owner
	return nil
}

// Remove makes the poller forget an owner and its sockets, which are still open
// unless Forget was called: what it has been told about them is stale from now on.
func (p *Poller) Remove(t Token, sockets ...*Socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[t.slot].generation != t.generation {
		panic("BUG: an owner is removed twice")
	}
	// Closing alone would not do: a descriptor that somebody has duplicated stays
	// in the kernel's list.
	for _, s := range sockets {
		p.forget(s)
	}
	p.giveBackLocked(t)
}

func (p *Poller) watch(s *Socket, t Token, index int) error {
	return p.controlSocket(syscall.EPOLL_CTL_ADD, s, t, index)
}

// TellWritable makes the poller tell of Writable too, from now on: at once if s is
// writable already. It does nothing if that is so. A new socket is almost always
// writable, and to be told so would wake who waits for nothing.
func (p *Poller) TellWritable(t Token, s *Socket, index int) error {
	if s.tellsWritable {
		return nil
	}
	s.tellsWritable = true
	return p.controlSocket(syscall.EPOLL_CTL_MOD, s, t, index)
}

func (p *Poller) controlSocket(op int, s *Socket, t Token, index int) error {
	edges := watched
	if s.tellsWritable {
		edges |= uint32(Writable)
	}
	return p.control(op, int(s.fd), edges, t.slot<<1|uint32(index), t.generation)
}

// Forget makes the poller forget one socket of an owner, before it is closed
// without the other.
func (p *Poller) Forget(s *Socket) { p.forget(s) }

func (p *Poller) forget(s *Socket) { p.control(syscall.EPOLL_CTL_DEL, int(s.fd), 0, 0, 0) }

func (p *Poller) takeLocked(owner any) Token {
	n := p.free
	if n == noSlot {
		n = uint32(len(p.slots))
		p.slots = append(p.slots, slot{})
	} else {
		p.free = p.slots[n].nextFree
	}
	p.slots[n].owner = owner
	return Token{n, p.slots[n].generation}
}

func (p *Poller) giveBackLocked(t Token) {
	s := &p.slots[t.slot]
	s.owner = nil
	s.generation++
	s.nextFree = p.free
	p.free = t.slot
}

// control is epoll_ctl. Key and generation come back with each event.
func (p *Poller) control(op, fd int, edges, key, generation uint32) error {
	ev := syscall.EpollEvent{Events: edges, Fd: int32(key), Pad: int32(generation)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(p.fd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// Wake makes a call of Wait that is under way, or else the next one, return.
func (p *Poller) Wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	write(p.bell, one[:])
}

// Wait waits until there are events, which Next then returns. It may find none: a
// call of Wake. It reports whether the goroutine was parked, so that others have had
// their turn.
func (p *Poller) Wait() (hasParked bool, err error) {
	p.hasParked = false
	if err := p.raw.Read(p.tryToPark); err != nil {
		return false, err
	}
	return p.hasParked, p.err
}

// Poll is Wait, but does not wait.
func (p *Poller) Poll() error {
	p.poll()
	return p.err
}

// Yield returns after all goroutines have had their turn that could run, and those
// that the runtime's poller would wake. What Next has not returned yet it returns
// still. [runtime.Gosched] is less than that: the poller is not asked as long as
// anything can run, and an ordinary server in the same process then answered in 20 ms,
// where it takes 1 with this.
func (p *Poller) Yield() error {
	p.hasParked = false
	return p.raw.Read(p.parkOnce)
}

// yield makes the goroutine wait the first time that it is asked.
func (p *Poller) yield(uintptr) bool {
	if p.hasParked {
		return true
	}
	p.hasParked = true
	p.Wake() // while it is parked: the runtime's poller looks for edges
	return false
}

// park reports whether there is something to do. If not, the goroutine waits.
func (p *Poller) park(uintptr) bool {
	p.poll()
	for i := 0; p.hasNothing() && i < maxYields; i++ {
		schedYield()
		p.poll()
	}
	if !p.hasNothing() {
		return true
	}
	p.hasParked = true
	return false
}

// poll asks for events without waiting.
func (p *Poller) poll() {
	p.next = 0
	p.have, p.err = epollWait(p.fd, p.events[:])
}

func (p *Poller) hasNothing() bool { return p.have == 0 && p.err == nil }

// Next returns the next event, or reports that there is none. It skips what is
// stale by now: what happens to one event's owner may have removed that of
// another.
func (p *Poller) Next() (Event, bool) {
	for p.next < p.have {
		e := &p.events[p.next]
		p.next++
		key := uint32(e.Fd)
		if owner := p.owner(Token{key >> 1, uint32(e.Pad)}); owner != nil {
			return Event{owner, int(key & 1), Edges(e.Events)}, true
		}
	}
	return Event{}, false
}

// owner returns whose token t is; nil if nobody's any more, or the bell's.
func (p *Poller) owner(t Token) any {
	if t.slot == noSlot {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := &p.slots[t.slot]; s.generation == t.generation {
		return s.owner
	}
	return nil
}
