package runner

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// IsTerminal tells whether f is a terminal.
func IsTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Exec executes a command in a node on this process's standard streams and
// returns its exit status. If input and output are a terminal, the command
// gets one of its own, of the same size; otherwise it gets the streams, and
// signals that reach this process are passed on.
func (l *Lab) Exec(node string, argv []string) (int, error) {
	if IsTerminal(os.Stdin) && IsTerminal(os.Stdout) {
		return l.execTTY(node, argv)
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	p, err := l.Start(node, argv, nil, [3]*os.File{os.Stdin, os.Stdout, os.Stderr}, false)
	if err != nil {
		return 1, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				p.Signal(s.(syscall.Signal))
			case <-done:
				return
			}
		}
	}()
	return p.Wait()
}

func (l *Lab) execTTY(node string, argv []string) (int, error) {
	master, slave, err := openPTY()
	if err != nil {
		return 1, fmt.Errorf("make a terminal: %w", err)
	}
	defer master.Close()
	resize := func() {
		if ws, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil {
			unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, ws)
		}
	}
	resize()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	p, err := l.Start(node, argv, []string{"TERM=" + os.Getenv("TERM")}, [3]*os.File{slave, slave, slave}, true)
	if err != nil {
		slave.Close()
		return 1, err
	}
	restore, err := rawMode(os.Stdin)
	if err != nil {
		slave.Close()
		p.Close()
		return 1, fmt.Errorf("change the terminal's mode: %w", err)
	}
	defer restore()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				if s == syscall.SIGWINCH {
					resize()
				} else {
					p.Signal(s.(syscall.Signal))
				}
			case <-done:
				return
			}
		}
	}()
	go io.Copy(master, os.Stdin) // ends with the process: a read of a terminal cannot be broken off
	copied := make(chan struct{})
	go func() {
		io.Copy(os.Stdout, master) // ends with EIO when nobody has the other side open
		close(copied)
	}()
	status, err := p.Wait()
	slave.Close()
	select {
	case <-copied:
	case <-time.After(200 * time.Millisecond): // something left in the background has it open
	}
	return status, err
}

// openPTY makes a pseudo-terminal of the host; nodes see the same /dev/pts.
func openPTY() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fail := func(err error) (*os.File, *os.File, error) {
		master.Close()
		return nil, nil, err
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return fail(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		return fail(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fail(err)
	}
	return master, slave, nil
}

// rawMode passes every key on as it is and returns what undoes it.
func rawMode(f *os.File) (restore func(), err error) {
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &raw); err != nil {
		return nil, err
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}
