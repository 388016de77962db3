package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// Requests to a node and its replies are JSON, one per message of a Unix
// socket that keeps messages apart. The files of an executed command's
// standard streams come with the request.
type request struct {
	Op     string        `json:"op"`
	Argv   []string      `json:"argv,omitempty"`
	Env    []string      `json:"env,omitempty"`
	TTY    bool          `json:"tty,omitempty"`    // the standard streams are a terminal of its own
	Lines  [][]string    `json:"lines,omitempty"`  // of opLines
	Grace  time.Duration `json:"grace,omitempty"`  // of opStop, opQuit: from SIGTERM to SIGKILL
	Signal int           `json:"signal,omitempty"` // of opSignal, to the command being executed
}

const (
	opExec   = "exec"   // run a command with the files that come along
	opSignal = "signal" // on the connection of opExec
	opLines  = "lines"  // run command lines one after the other; a reply for each
	opStatus = "status" // of the node's command
	opBegin  = "begin"  // start the node's command again, if it has ended
	opStop   = "stop"   // end the node's command in an orderly way
	opQuit   = "quit"   // end the node
)

type reply struct {
	Error  string  `json:"error,omitempty"`
	Exit   int     `json:"exit"`             // of opExec, opLines
	Output string  `json:"output,omitempty"` // of opLines
	Status *Status `json:"status,omitempty"`
}

// Status tells how the command of a node is.
type Status struct {
	Command []string      `json:"command,omitempty"` // none: the node only waits
	PID     int           `json:"pid,omitempty"`     // in the node
	Running bool          `json:"running"`
	Exit    int           `json:"exit"`              // if it ended; 128 + the signal if one killed it
	Ran     time.Duration `json:"ran"`               // until now, or until it ended; 0 where nobody counts
	Failure string        `json:"failure,omitempty"` // why it could not be started
}

func (s Status) String() string {
	switch {
	case len(s.Command) == 0:
		return "waits"
	case s.Failure != "":
		return "could not be started: " + s.Failure
	case s.Running:
		return "runs"
	case s.Exit > 128:
		return fmt.Sprintf("killed by signal %d (%s)%s", s.Exit-128, syscall.Signal(s.Exit-128), s.after())
	}
	return fmt.Sprintf("ended with status %d%s", s.Exit, s.after())
}

// after says how long it ran, where that is known.
func (s Status) after() string {
	if s.Ran == 0 {
		return ""
	}
	return fmt.Sprintf(" after %s", s.Ran.Round(time.Millisecond))
}

const maxRequest = 128 << 10 // octets

// send writes one message with the files that go along.
func send(c *net.UnixConn, message any, files ...*os.File) error {
	b, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(b) > maxRequest {
		return fmt.Errorf("the request has %d octets; at most %d go", len(b), maxRequest)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = syscall.UnixRights(fds...)
	}
	n, _, err := c.WriteMsgUnix(b, rights, nil)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// receive reads one message and takes over the files that come along. It
// returns io.EOF when the other side has left.
func receive(c *net.UnixConn, into any) ([]*os.File, error) {
	buf := make([]byte, maxRequest+1)
	oob := make([]byte, syscall.CmsgSpace(4*8))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 && oobn == 0 {
		return nil, io.EOF
	}
	files, err := passedFiles(oob[:oobn])
	if err == nil {
		err = json.Unmarshal(buf[:n], into)
	}
	if err != nil {
		closeAll(files)
		return nil, fmt.Errorf("read a message: %w", err)
	}
	return files, nil
}

func passedFiles(oob []byte) ([]*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	var errs []error
	for i := range messages {
		fds, err := syscall.ParseUnixRights(&messages[i])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed file"))
		}
	}
	return files, errors.Join(errs...)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
