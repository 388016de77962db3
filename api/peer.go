package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// peerCredentials lets in who the kernel says may use the socket. The mode of
// the socket says the same; this holds when the mode was changed.
type peerCredentials struct {
	uid, gid uint32 // of the daemon, of the socket
	log      *slog.Logger
}

// PeerInfo is who made a connection, as the kernel tells.
type PeerInfo struct {
	credentials.CommonAuthInfo
	PID      int32
	UID, GID uint32
}

// AuthType implements credentials.AuthInfo.
func (PeerInfo) AuthType() string { return "unix-peer" }

// ServerHandshake implements credentials.TransportCredentials.
func (c *peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	who, groups, err := peerOf(conn)
	if err != nil {
		c.log.Warn("API connection refused: the peer is not known", "err", err)
		return nil, nil, err
	}
	if !c.allows(who, groups) {
		c.log.Warn("API connection refused", "uid", who.UID, "gid", who.GID, "pid", who.PID)
		return nil, nil, fmt.Errorf("user %d may not use this socket", who.UID)
	}
	who.CommonAuthInfo = credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
	return conn, who, nil
}

func (c *peerCredentials) allows(who PeerInfo, groups []uint32) bool {
	return who.UID == 0 || who.UID == c.uid || who.GID == c.gid || slices.Contains(groups, c.gid)
}

// ClientHandshake implements credentials.TransportCredentials; the server's
// side never calls it.
func (c *peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials")
}

// Info implements credentials.TransportCredentials.
func (c *peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

// Clone implements credentials.TransportCredentials.
func (c *peerCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	return &clone
}

// OverrideServerName implements credentials.TransportCredentials.
func (c *peerCredentials) OverrideServerName(string) error { return nil }

// peerOf asks the kernel who connected, and the supplementary groups of that
// process at that time.
func peerOf(conn net.Conn) (who PeerInfo, groups []uint32, err error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return who, nil, fmt.Errorf("a connection of type %T has no peer credentials", conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return who, nil, err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			inner = fmt.Errorf("SO_PEERCRED: %w", err)
			return
		}
		who = PeerInfo{PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}
		if groups, err = peerGroups(fd); err != nil {
			inner = fmt.Errorf("SO_PEERGROUPS: %w", err)
		}
	})
	return who, groups, errors.Join(err, inner)
}

// peerGroups reads SO_PEERGROUPS, which golang.org/x/sys/unix has no function
// for. The kernel allows 65536 groups (NGROUPS_MAX).
func peerGroups(fd uintptr) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && len(groups) < 1<<16:
			groups = make([]uint32, 1<<16)
		default:
			return nil, errno
		}
	}
}
