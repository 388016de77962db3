package plain

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

type request struct {
	Op       string // routes, sessions, announce, withdraw
	Prefixes []netip.Prefix
	Path     []uint32 // of Announce
}

type reply struct {
	Error    string
	Routes   []Route
	Sessions []Session
}

// Serve does what a Client asks at the other end of in and out, until in ends.
func (r *Router) Serve(in io.Reader, out io.Writer) error {
	dec, enc := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	for {
		var req request
		if err := dec.Decode(&req); err != nil {
			if err == io.EOF {
				return nil
			}
			return fmt.Errorf("read a request: %w", err)
		}
		var rep reply
		var err error
		switch req.Op {
		case "routes":
			rep.Routes, err = r.Routes()
		case "sessions":
			rep.Sessions, err = r.Sessions()
		case "announce":
			err = r.Announce(req.Path, req.Prefixes...)
		case "withdraw":
			err = r.Withdraw(req.Prefixes...)
		default:
			err = fmt.Errorf("there is no request %q", req.Op)
		}
		if err != nil {
			rep.Error = err.Error()
		}
		if err := enc.Encode(rep); err != nil {
			return fmt.Errorf("write a reply: %w", err)
		}
	}
}

// Client is a router in another process. It is not safe for concurrent use.
type Client struct {
	out *json.Encoder
	in  *json.Decoder
}

// NewClient returns the router that serves at the other end of in and out.
func NewClient(in io.Reader, out io.Writer) *Client {
	return &Client{out: json.NewEncoder(out), in: json.NewDecoder(in)}
}

// Routes is Router.Routes.
func (c *Client) Routes() ([]Route, error) {
	rep, err := c.do(request{Op: "routes"})
	return rep.Routes, err
}

// Sessions is Router.Sessions.
func (c *Client) Sessions() ([]Session, error) {
	rep, err := c.do(request{Op: "sessions"})
	return rep.Sessions, err
}

// Announce is Router.Announce.
func (c *Client) Announce(path []uint32, prefixes ...netip.Prefix) error {
	_, err := c.do(request{Op: "announce", Prefixes: prefixes, Path: path})
	return err
}

// Withdraw is Router.Withdraw.
func (c *Client) Withdraw(prefixes ...netip.Prefix) error {
	_, err := c.do(request{Op: "withdraw", Prefixes: prefixes})
	return err
}

func (c *Client) do(req request) (rep reply, err error) {
	if err := c.out.Encode(req); err != nil {
		return rep, fmt.Errorf("ask the router: %w", err)
	}
	if err := c.in.Decode(&rep); err != nil {
		return rep, fmt.Errorf("hear from the router: %w", err)
	}
	if rep.Error != "" {
		return rep, errors.New(rep.Error)
	}
	return rep, nil
}
