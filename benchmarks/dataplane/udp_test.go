package main

import "golang.org/x/sys/unix"

// unixName returns where a socket can be reached on this machine.
func unixName(fd int) (unix.Sockaddr, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Port: sa.(*unix.SockaddrInet4).Port, Addr: [4]byte{127, 0, 0, 1}}, nil
}

func sendTo(fd int, b []byte, to unix.Sockaddr) error { return unix.Sendto(fd, b, 0, to) }
