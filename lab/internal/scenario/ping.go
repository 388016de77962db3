package scenario

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	pingEvery = 10 * time.Millisecond

	// pingPatience is how long a request that has no reply is left out of the
	// reckoning: it may be under way.
	pingPatience = 500 * time.Millisecond
)

// pings is what is known of a running ping, from the lines that it prints.
type pings struct {
	mu      sync.Mutex
	replies map[int]reply // by number of the request, beginning with 1
	first   time.Time     // when request 1 was sent; from the first reply
	last    int           // the highest number that a reply came to
	offset  int           // what sequence numbers, of 16 bits, have wrapped around
	lastSeq int
	odd     string // the last line that is not a reply
}

// reply is one that came.
type reply struct {
	sent time.Time
	rtt  time.Duration
}

// replyLine is what ping -D prints of a reply, ours as well as iputils'.
var replyLine = regexp.MustCompile(`^\[(\d+\.\d+)\] \d+ \w+ from \S+: icmp_seq=(\d+) .*time=([0-9.]+) ms`)

// read takes the lines of a ping until it ends.
func (p *pings) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.line(lines.Text())
	}
}

func (p *pings) line(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := replyLine.FindStringSubmatch(line)
	if m == nil {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "PING ") {
			p.odd = line
		}
		return
	}
	at, err1 := strconv.ParseFloat(m[1], 64)
	seq, err2 := strconv.Atoi(m[2])
	ms, err3 := strconv.ParseFloat(m[3], 64)
	if err1 != nil || err2 != nil || err3 != nil {
		p.odd = line
		return
	}
	if seq < p.lastSeq-1<<15 {
		p.offset += 1 << 16
	}
	p.lastSeq = seq
	n := p.offset + seq
	rtt := time.Duration(ms * float64(time.Millisecond))
	r := reply{sent: time.UnixMicro(int64(at * 1e6)).Add(-rtt), rtt: rtt}
	if p.replies == nil {
		p.replies = map[int]reply{}
		p.first = r.sent.Add(-time.Duration(n-1) * pingEvery)
	}
	p.replies[n] = r
	p.last = max(p.last, n)
}

// oddLine is the last line that was not a reply.
func (p *pings) oddLine() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.odd
}

// verdict is what became of the requests of a time.
type verdict struct {
	sent, lost int
	outage     time.Duration // the longest time between two requests that were answered and had lost ones between them, less 10 ms
	ongoing    bool          // the last request was not answered
	rtt        time.Duration // the longest
}

func (v verdict) String() string {
	if v.sent == 0 {
		return "no request was sent, as far as replies say"
	}
	s := fmt.Sprintf("%d of %d requests lost", v.lost, v.sent)
	if v.lost > 0 {
		s += fmt.Sprintf(", longest outage %d ms", v.outage.Milliseconds())
	}
	if v.ongoing {
		s += " and not over"
	}
	return s
}

// since judges the requests that were sent at or after a time; now is the time
// of asking.
func (p *pings) since(begin, now time.Time) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	var v verdict
	if len(p.replies) == 0 {
		return v
	}
	prev, at := 0, p.first.Add(-pingEvery) // the last request that was answered
	// missing counts the requests between that one and another; when they were
	// sent is not known to better than that they were sent evenly.
	missing := func(n int, sent time.Time) {
		count := 0
		for i := 1; i < n-prev; i++ {
			if !at.Add(sent.Sub(at) * time.Duration(i) / time.Duration(n-prev)).Before(begin) {
				count++
			}
		}
		if count > 0 {
			v.sent, v.lost = v.sent+count, v.lost+count
			v.outage = max(v.outage, sent.Sub(maxTime(at, begin))-pingEvery)
		}
	}
	for n := 1; n <= p.last; n++ {
		r, ok := p.replies[n]
		if !ok {
			continue
		}
		missing(n, r.sent)
		if !r.sent.Before(begin) {
			v.sent++
			v.rtt = max(v.rtt, r.rtt)
		}
		prev, at = n, r.sent
	}
	if until := now.Add(-pingPatience); until.After(at.Add(pingEvery)) {
		lost := v.lost
		missing(prev+1+int(until.Sub(at)/pingEvery), until)
		v.ongoing = v.lost > lost
	}
	return v
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
