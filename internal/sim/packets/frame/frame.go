//go:build linux

// Package frame puts single packets on a wire inside a network namespace, with whatever source they are to have: beneath routing,
// connection tracking and firewall of the sender, as a packet socket does. It is how rules are asked by packets, thousands a second.
package frame

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// Protocols of packets that can be built.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ESP    = 50
	AH     = 51
	ICMPv6 = 58
)

// Flags of TCP.
const (
	SYN = 0x02
	ACK = 0x10
)

// Packet is what is sent. Source and destination must be of one family.
type Packet struct {
	From, To         [6]byte // MAC addresses
	Src, Dst         netip.Addr
	Protocol         uint8
	SrcPort, DstPort uint16
	Flags            uint8 // of TCP
}

// Socket sends on one interface of one namespace. It is not for concurrent use.
type Socket struct {
	fd    int
	index int
	buf   []byte
}

// In runs f on a thread inside a namespace (a name as ip netns knows it). What f opens stays there; what it starts must end with it.
func In(namespace string, f func() error) error {
	there, err := unix.Open("/run/netns/"+namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the namespace %s: %w", namespace, err)
	}
	defer unix.Close(there)
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, so that none comes back that is elsewhere
		if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("entering the namespace %s: %w", namespace, err)
			return
		}
		result <- f()
	}()
	return <-result
}

// Open returns a socket on an interface in a namespace.
func Open(namespace, device string) (*Socket, error) {
	s := &Socket{fd: -1}
	err := In(namespace, func() error {
		i, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("interface %s of %s: %w", device, namespace, err)
		}
		s.index = i.Index
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // protocol 0: it receives nothing
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close frees the socket.
func (s *Socket) Close() error { return unix.Close(s.fd) }

// Send puts one packet on the wire.
func (s *Socket) Send(p Packet) error {
	s.buf = p.Append(s.buf[:0])
	for {
		err := unix.Sendto(s.fd, s.buf, 0, &unix.SockaddrLinklayer{Ifindex: s.index, Halen: 6})
		if err == unix.ENOBUFS || err == unix.EINTR {
			continue // the queue is full
		}
		return err
	}
}

// Append adds the packet's bytes with its Ethernet header and right checksums.
func (p Packet) Append(b []byte) []byte {
	start := len(b)
	b = append(append(b, p.To[:]...), p.From[:]...)
	var body []byte
	switch p.Protocol {
	case TCP:
		body = make([]byte, 20)
		binary.BigEndian.PutUint32(body[4:], 1)
		if p.Flags&ACK != 0 {
			binary.BigEndian.PutUint32(body[8:], 1)
		}
		body[12], body[13] = 5<<4, p.Flags
		binary.BigEndian.PutUint16(body[14:], 1024)
	case UDP:
		body = make([]byte, 8)
		binary.BigEndian.PutUint16(body[4:], 8)
	case ICMP:
		body = []byte{8, 0, 0, 0, 0, 1, 0, 1}
	case ICMPv6:
		body = []byte{128, 0, 0, 0, 0, 1, 0, 1}
	case ESP:
		body = make([]byte, 24)
		body[3] = 1
	case AH:
		body = make([]byte, 44) // 24 bytes, an index, and behind them TCP, which is nobody's business
		body[0], body[1], body[7] = TCP, 4, 1
		binary.BigEndian.PutUint16(body[24:], p.SrcPort)
		binary.BigEndian.PutUint16(body[26:], p.DstPort)
		body[36], body[37] = 5<<4, SYN
	}
	if p.Protocol == TCP || p.Protocol == UDP {
		binary.BigEndian.PutUint16(body, p.SrcPort)
		binary.BigEndian.PutUint16(body[2:], p.DstPort)
	}
	at := map[uint8]int{TCP: 16, UDP: 6, ICMP: 2, ICMPv6: 2}
	if i, ok := at[p.Protocol]; ok {
		var pseudo []byte
		if p.Protocol != ICMP {
			pseudo = append(append(pseudo, p.Src.AsSlice()...), p.Dst.AsSlice()...)
			pseudo = append(pseudo, 0, p.Protocol, byte(len(body)>>8), byte(len(body)))
		}
		sum := checksum(append(pseudo, body...))
		if sum == 0 && p.Protocol == UDP {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(body[i:], sum)
	}
	if p.Src.Is4() {
		b = append(b, 0x08, 0x00)
		h := make([]byte, 20)
		h[0], h[8], h[9] = 0x45, 64, p.Protocol
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		copy(h[12:], p.Src.AsSlice())
		copy(h[16:], p.Dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], checksum(h))
		b = append(b, h...)
	} else {
		b = append(b, 0x86, 0xdd)
		h := make([]byte, 40)
		h[0], h[6], h[7] = 0x60, p.Protocol, 64
		binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
		copy(h[8:], p.Src.AsSlice())
		copy(h[24:], p.Dst.AsSlice())
		b = append(b, h...)
	}
	b = append(b, body...)
	for len(b)-start < 60 { // the shortest frame; what stands after the packet's length is not read
		b = append(b, 0)
	}
	return b
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
