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

// maxBatch is how many events one system call returns at most. The kernel returns the
// oldest first, and the loop yields after a millisecond.
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

// Edges are the events of a socket that one call reported. The poller is
// edge-triggered: it reports each once, when it begins. A state lasts until a read or
// a write finds that it is over.
type Edges uint32

const (
	Readable   Edges = syscall.EPOLLIN
	Writable   Edges = syscall.EPOLLOUT
	PeerClosed Edges = syscall.EPOLLRDHUP // the peer's end of stream has arrived, perhaps behind unread bytes
	Urgent     Edges = syscall.EPOLLPRI   // a mark of TCP's urgent data has arrived, at which a read stops
	Failed     Edges = syscall.EPOLLERR   // reads and writes return the error
	HungUp     Edges = syscall.EPOLLHUP   // both streams have ended
)

// edgeTriggered is EPOLLET, whose sign differs between platforms in package
// syscall.
//
// Without it, EPOLLERR and EPOLLHUP, which cannot be masked, would wake the loop again
// and again for a socket that is not read because its other side takes nothing.
const edgeTriggered = 1 << 31

// watched are the edges that the poller watches each socket for, besides the two that
// cannot be masked.
const watched = uint32(Readable|PeerClosed|Urgent) | edgeTriggered

// A Poller waits for edges of sockets. Each socket has an owner. Wait, Poll, Yield
// and Next are called by one goroutine; the other methods are safe for concurrent use.
//
// The epoll descriptor is registered with the runtime's own poller, so that a goroutine
// that waits is parked like one that waits for a connection, and holds no thread. A
// goroutine that blocks in epoll_wait costs almost twice the CPU at low rates, because
// the scheduler takes its P away and gives it back each time.
type Poller[O any] struct {
	file   *os.File // the epoll descriptor, for the runtime's poller
	raw    syscall.RawConn
	fd     int // the same descriptor
	wakeFD int // an eventfd that is watched: see Wake

	// Owned by the goroutine that waits.
	events    [maxBatch]syscall.EpollEvent
	have      int // events that the last call returned
	next      int // index of the event that Next looks at next
	err       error
	hasParked bool                  // in this call of Wait or Yield
	tryToPark func(fd uintptr) bool // p.park, made once
	parkOnce  func(fd uintptr) bool // p.yield, made once

	mu    sync.Mutex
	slots []slot[O]
	free  uint32 // head of the list of free slots
}

// A slot belongs to one watched socket. Events carry the slot's number and generation
// instead of the descriptor: the system uses the number of a closed descriptor again at
// once, and an event of the old socket must not reach the owner of the new one.
type slot[O any] struct {
	owner      *O
	generation uint32
	nextFree   uint32
}

// noSlot is the end of the list of free slots, and the slot of wakeFD.
const noSlot = 1<<31 - 1

// New returns a Poller.
func New[O any]() (*Poller[O], error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := syscall.SetNonblock(fd, true); err != nil { // that is what makes NewFile ask the runtime's poller
		syscall.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &Poller[O]{fd: fd, file: os.NewFile(uintptr(fd), "epoll"), free: noSlot}
	p.tryToPark, p.parkOnce = p.park, p.yield
	if err := p.init(); err != nil {
		p.file.Close()
		return nil, err
	}
	return p, nil
}

func (p *Poller[O]) init() error {
	// It has deadlines if the runtime's poller has taken it, which the kernel may
	// refuse: a user may watch so many descriptors and no more.
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return err
	}
	wakeFD, _, errno := syscall.RawSyscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		return os.NewSyscallError("eventfd2", errno)
	}
	p.wakeFD = int(wakeFD)
	if err := p.control(syscall.EPOLL_CTL_ADD, p.wakeFD, watched, noSlot, 0); err != nil {
		syscall.Close(p.wakeFD)
		return err
	}
	return nil
}

// Close closes the poller. No goroutine may wait for it, now or later. Its sockets stay
// open.
func (p *Poller[O]) Close() {
	p.file.Close()
	syscall.Close(p.wakeFD)
}

// Add watches s, whose events Next returns with owner.
func (p *Poller[O]) Add(s *Socket, owner *O) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.allocateLocked(s, owner)
	if err := p.controlSocket(syscall.EPOLL_CTL_ADD, s); err != nil {
		p.freeLocked(s)
		return err
	}
	return nil
}

// Remove stops watching s, which must still be open. Next drops the events of s that it
// has not returned yet.
//
// Closing s alone is not enough: where the descriptor was duplicated, the kernel goes on
// watching.
func (p *Poller[O]) Remove(s *Socket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots[s.slot].generation != s.generation {
		panic("BUG: a socket is removed twice")
	}
	p.control(syscall.EPOLL_CTL_DEL, int(s.fd), 0, 0, 0)
	p.freeLocked(s)
}

// WatchWrites makes the poller report Writable too, from now on: at once if s is
// writable already. A second call does nothing. A new socket is almost always writable,
// and that event would wake the loop for nothing.
func (p *Poller[O]) WatchWrites(s *Socket) error {
	if s.watchesWrites {
		return nil
	}
	s.watchesWrites = true
	return p.controlSocket(syscall.EPOLL_CTL_MOD, s)
}

func (p *Poller[O]) controlSocket(op int, s *Socket) error {
	edges := watched
	if s.watchesWrites {
		edges |= uint32(Writable)
	}
	return p.control(op, int(s.fd), edges, s.slot, s.generation)
}

// allocateLocked gives s a slot.
func (p *Poller[O]) allocateLocked(s *Socket, owner *O) {
	n := p.free
	if n == noSlot {
		n = uint32(len(p.slots))
		p.slots = append(p.slots, slot[O]{})
	} else {
		p.free = p.slots[n].nextFree
	}
	p.slots[n].owner = owner
	s.slot, s.generation = n, p.slots[n].generation
}

func (p *Poller[O]) freeLocked(s *Socket) {
	f := &p.slots[s.slot]
	f.owner = nil
	f.generation++
	f.nextFree = p.free
	p.free = s.slot
}

// control is epoll_ctl. Each event carries slot and generation.
func (p *Poller[O]) control(op, fd int, edges, slot, generation uint32) error {
	ev := syscall.EpollEvent{Events: edges, Fd: int32(slot), Pad: int32(generation)}
	_, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_CTL, uintptr(p.fd), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("epoll_ctl", errno)
	}
	return nil
}

// Wake makes a call of Wait that is under way, or else the next one, return.
func (p *Poller[O]) Wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	write(p.wakeFD, one[:])
}

// Wait waits until there are events, which Next then returns. After a call of Wake there
// may be none. It reports whether the goroutine was parked, in which case other
// goroutines have run.
func (p *Poller[O]) Wait() (hasParked bool, err error) {
	p.hasParked = false
	if err := p.raw.Read(p.tryToPark); err != nil {
		return false, err
	}
	return p.hasParked, p.err
}

// Poll is Wait without waiting.
func (p *Poller[O]) Poll() error {
	p.poll()
	return p.err
}

// Yield returns after all goroutines that could run have run, and those that the
// runtime's poller would wake. Next still returns the events that it has not returned
// yet. [runtime.Gosched] does less: the runtime does not poll as long as any goroutine
// can run, and an ordinary server in the same process then answered in 20 ms, where it
// takes 1 with this.
func (p *Poller[O]) Yield() error {
	p.hasParked = false
	return p.raw.Read(p.parkOnce)
}

// yield makes the goroutine wait the first time that it is called.
func (p *Poller[O]) yield(uintptr) bool {
	if p.hasParked {
		return true
	}
	p.hasParked = true
	p.Wake() // while it is parked: the runtime's poller waits for edges
	return false
}

// park reports whether there are events. If not, the goroutine is parked.
func (p *Poller[O]) park(uintptr) bool {
	p.poll()
	for i := 0; p.isEmpty() && i < maxYields; i++ {
		schedYield()
		p.poll()
	}
	if !p.isEmpty() {
		return true
	}
	p.hasParked = true
	return false
}

// poll asks for events without waiting.
func (p *Poller[O]) poll() {
	p.next = 0
	p.have, p.err = epollWait(p.fd, p.events[:])
}

// HasNext reports whether Next may return an event.
func (p *Poller[O]) HasNext() bool { return p.next < p.have }

func (p *Poller[O]) isEmpty() bool { return p.have == 0 && p.err == nil }

// Next returns the next event and the owner of its socket, or nil if there is none. It
// skips the events of sockets that were removed meanwhile.
func (p *Poller[O]) Next() (*O, Edges) {
	for p.next < p.have {
		e := &p.events[p.next]
		p.next++
		if owner := p.owner(uint32(e.Fd), uint32(e.Pad)); owner != nil {
			return owner, Edges(e.Events)
		}
	}
	return nil, 0
}

// owner returns the owner of a slot; nil if the slot has another generation by now, or
// is that of wakeFD.
func (p *Poller[O]) owner(slot, generation uint32) *O {
	if slot == noSlot {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := &p.slots[slot]; s.generation == generation {
		return s.owner
	}
	return nil
}
