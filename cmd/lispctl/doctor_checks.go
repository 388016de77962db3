package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	eidolonv1 "github.com/eidolon-lisp/eidolon/api/proto/eidolon/v1"
	"github.com/eidolon-lisp/eidolon/dataplane/bpf"
	"github.com/eidolon-lisp/eidolon/dataplane/tun"
	"github.com/eidolon-lisp/eidolon/encap"
	"github.com/eidolon-lisp/eidolon/internal/config"
	"github.com/eidolon-lisp/eidolon/mapping"
	"github.com/eidolon-lisp/eidolon/mapping/wire"
	"github.com/eidolon-lisp/eidolon/mapping/xtr"
)

// Limits of our own.
const (
	// resolverTime is how long each of two questions to a map-resolver waits.
	resolverTime = time.Second
	// maxQuiet is how many sites without a registration are named.
	maxQuiet = 10
)

// doctor examines one daemon.
type doctor struct {
	ctx    context.Context
	file   string
	kind   config.Kind
	socket string

	xtr       *config.XTR       // nil without a good file, or for a mapserver
	server    *config.MapServer // likewise
	c         *client           // nil when the daemon does not answer
	pid       int               // of the daemon; 0 when not known
	elsewhere bool              // the daemon is in another network namespace
	uplinks   []hostLink
	findings  []finding
}

func (d *doctor) add(r result, check, of, remedy, format string, args ...any) {
	d.findings = append(d.findings, finding{Check: check, Of: of, Result: r, Detail: fmt.Sprintf(format, args...), Remedy: remedy})
}

// run makes all checks that there are for the daemon, from what others depend on
// to what depends on it.
func (d *doctor) run() {
	d.configuration()
	d.daemon()
	if d.c != nil {
		defer d.c.close()
	}
	d.privileges()
	d.permissions()
	if !d.elsewhere {
		if d.xtr != nil {
			d.devices()
			d.plane()
			d.links()
			d.settings()
		}
		d.ports()
	}
	d.clock()
	if d.c != nil && d.kind == config.KindXTR {
		d.locators()
		d.registrations()
	}
	if d.c != nil && d.kind == config.KindMapServer {
		d.sites()
	}
	if !d.elsewhere {
		d.resolvers()
	}
}

// configuration reads the file as the daemon would.
func (d *doctor) configuration() {
	var doubts config.Errors
	var err error
	if d.kind == config.KindXTR {
		if d.xtr, err = config.LoadXTR(d.file); err == nil {
			doubts, d.socket = d.xtr.Warnings, d.xtr.API.Socket
		}
	} else if d.server, err = config.LoadMapServer(d.file); err == nil {
		doubts, d.socket = d.server.Warnings, d.server.API.Socket
	}
	wrong, bad := errors.AsType[config.Errors](err)
	switch {
	case bad:
		for _, e := range wrong {
			d.add(fail, "config", fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column), "change the file; what depends on it is not checked", "%s", e.Message)
		}
	case errors.Is(err, fs.ErrPermission):
		d.add(skip, "config", d.file, "run doctor as root, or as a member of the file's group", "it may not be read by you; what depends on it is not checked")
	case err != nil:
		d.add(fail, "config", d.file, "", "%v", err)
	case len(doubts) == 0:
		d.add(pass, "config", d.file, "", "it is good for %s", d.kind)
	}
	for _, w := range doubts {
		d.add(warn, "config", fmt.Sprintf("%s:%d:%d", w.File, w.Line, w.Column), "", "%s", w.Message)
	}
}

// daemon connects to the daemon and finds its process.
func (d *doctor) daemon() {
	c, err := dialOne(d.ctx, d.socket, []string{string(d.kind)})
	switch {
	case errors.Is(err, fs.ErrPermission):
		d.add(skip, "daemon", d.socket, "run doctor as root, or as a member of the socket's group", "it may not be asked by you")
		return
	case err != nil:
		d.add(fail, "daemon", d.socket, fmt.Sprintf("start it: systemctl start %s; what it says is in journalctl -u %[1]s", d.kind), "%v", err)
		return
	}
	d.c = c
	if d.pid, err = peerProcess(c.at.socket); err != nil || d.pid == 0 {
		d.pid = 0
		d.add(pass, "daemon", d.socket, "", "%s answers", d.kind)
		return
	}
	d.add(pass, "daemon", d.socket, "", "%s answers, process %d", d.kind, d.pid)
	mine, err1 := os.Readlink("/proc/self/ns/net")
	its, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", d.pid))
	if err1 == nil && err2 == nil && mine != its {
		d.elsewhere = true
		d.add(skip, "namespace", "", fmt.Sprintf("nsenter -n -t %d lispctl doctor", d.pid), "%s is in another network namespace; interfaces, ports and kernel settings are not checked", d.kind)
	}
}

// privileges looks at the capabilities of the daemon.
func (d *doctor) privileges() {
	var want, wish []capability
	switch {
	case d.kind == config.KindXTR:
		want = []capability{capNetAdmin}
		if d.xtr != nil && d.xtr.Plane.Kind == "bpf" {
			wish = []capability{capBPF, capPerfmon}
		}
	case d.server != nil:
		if slices.ContainsFunc(d.server.Listen, func(a netip.AddrPort) bool { return a.Port() < 1024 }) {
			want = append(want, capBind)
		}
		if d.server.ALT != nil {
			want = append(want, capNetAdmin, capNetRaw)
		}
	}
	if len(want)+len(wish) == 0 {
		return
	}
	if d.pid == 0 {
		d.add(skip, "capabilities", "", "", "the process of %s is not known", d.kind)
		return
	}
	have, err := capabilities(d.pid)
	if err != nil {
		d.add(skip, "capabilities", "", "", "%v", err)
		return
	}
	remedy := "start it with the unit of deploy/systemd, or in a container with "
	if no := missing(have, want...); len(no) > 0 {
		d.add(fail, "capabilities", "", remedy+strings.Join(no, " and "), "%s has no %s", d.kind, strings.Join(no, " and no "))
	} else if no := missing(have, wish...); len(no) > 0 {
		d.add(warn, "capabilities", "", "add deploy/systemd/xtr-bpf.conf to the unit", "%s has no %s, which the kernel plane needs", d.kind, strings.Join(no, " and no "))
	} else {
		d.add(pass, "capabilities", "", "", "%s has what it needs", d.kind)
	}
}

// inlineKey finds a key that is in the file itself, behind no comment.
var inlineKey = regexp.MustCompile(`(?m)^[^#\n]*[\s{,"']key["']?\s*:\s*\S`)

// permissions looks at who may read keys and state, and who may steer.
func (d *doctor) permissions() {
	if d.xtr != nil || d.server != nil {
		if info, err := os.Stat(d.file); err == nil {
			text, _ := os.ReadFile(d.file)
			mode := info.Mode().Perm()
			switch {
			case mode&0o022 != 0:
				d.add(fail, "permissions", d.file, "chmod go-w "+d.file, "others than its owner can change it (mode %04o)", mode)
			case mode&0o004 != 0 && inlineKey.Match(text):
				d.add(warn, "permissions", d.file, "chmod o-r "+d.file+", or move the keys to key_file", "everybody can read it, and there are keys in it (mode %04o)", mode)
			default:
				d.add(pass, "permissions", d.file, "", "mode %04o", mode)
			}
		}
	}
	if info, err := os.Stat(d.socket); err == nil {
		dir, derr := os.Stat(filepath.Dir(d.socket))
		mode := info.Mode().Perm()
		switch {
		case mode&0o007 != 0:
			d.add(warn, "permissions", d.socket, "chmod o= "+d.socket, "everybody can connect, and is then refused by name only (mode %04o)", mode)
		case derr == nil && dir.Mode().Perm()&0o002 != 0 && dir.Mode()&os.ModeSticky == 0:
			d.add(fail, "permissions", d.socket, "chmod o-w "+filepath.Dir(d.socket), "everybody can replace it, as its directory has mode %04o", dir.Mode().Perm())
		default:
			d.add(pass, "permissions", d.socket, "", "mode %04o", mode)
		}
	}
	state := ""
	switch {
	case d.xtr != nil:
		state = d.xtr.StateDir
	case d.server != nil:
		state = d.server.StateDir
	}
	if state == "" {
		return
	}
	info, err := os.Stat(state)
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.c == nil:
		d.add(pass, "permissions", state, "", "it is made at the first start")
	case errors.Is(err, fs.ErrPermission):
		d.add(pass, "permissions", state, "", "you may not look into it")
	case err != nil:
		d.add(fail, "permissions", state, "make the directory, for the user that the daemon runs as", "%v", err)
	case !info.IsDir():
		d.add(fail, "permissions", state, "name another state_dir", "it is no directory")
	case info.Mode().Perm()&0o007 != 0:
		d.add(warn, "permissions", state, "chmod o= "+state, "everybody can look into it (mode %04o)", info.Mode().Perm())
	default:
		d.add(pass, "permissions", state, "", "mode %04o", info.Mode().Perm())
	}
}

// devices looks for the TUN devices, or for what they are made with.
func (d *doctor) devices() {
	if d.c == nil {
		if _, err := os.Stat("/dev/net/tun"); err != nil {
			d.add(fail, "device", "/dev/net/tun", "modprobe tun; in a container, --device /dev/net/tun", "%v", err)
		} else {
			d.add(pass, "device", "/dev/net/tun", "", "it is there")
		}
		return
	}
	links, err := hostLinks()
	if err != nil {
		d.add(skip, "device", "", "", "%v", err)
		return
	}
	for _, in := range d.xtr.Instances {
		i := slices.IndexFunc(links, func(l hostLink) bool { return l.name == in.Device })
		switch {
		case i < 0:
			d.add(fail, "device", in.Device, "systemctl restart xtr", "the TUN device of instance-ID %d is not there", in.IID)
		case !links[i].on:
			d.add(fail, "device", in.Device, "ip link set "+in.Device+" up", "the TUN device of instance-ID %d is down", in.IID)
		default:
			d.add(pass, "device", in.Device, "", "the TUN device of instance-ID %d is up, MTU %d", in.IID, links[i].mtu)
		}
	}
}

// plane looks whether the kernel plane can work, where it may be used.
func (d *doctor) plane() {
	kind := d.xtr.Plane.Kind
	if kind == "tun" {
		d.add(pass, "plane", "", "", "the TUN plane forwards")
		return
	}
	err := bpf.Available()
	var fsys unix.Statfs_t
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		d.add(skip, "plane", "", "run doctor as root", "whether the kernel plane can work here, only root can try")
	case err != nil && kind == "bpf":
		d.add(warn, "plane", "", "give xtr CAP_BPF and CAP_PERFMON in the initial user namespace, or set plane: {kind: tun}", "the TUN plane forwards, as the kernel plane can't work here: %v", err)
	case err != nil:
		d.add(pass, "plane", "", "", "the TUN plane forwards; the kernel plane can't work here: %v", err)
	case kind == "bpf" && (unix.Statfs("/sys/fs/bpf", &fsys) != nil || fsys.Type != unix.BPF_FS_MAGIC):
		d.add(warn, "plane", "", "mount -t bpf bpf /sys/fs/bpf", "the kernel plane can work, and nothing of it can outlive the process, as no BPF file system is mounted on /sys/fs/bpf")
	case kind == "auto":
		d.add(pass, "plane", "", "", "the kernel plane can work here")
	default:
		d.add(pass, "plane", "", "", "the kernel plane works here")
	}
}

// statics returns the addresses that the configuration names as locators: those
// of this xTR, and of others of its site.
func (d *doctor) statics() (list []netip.Addr) {
	add := func(locators []mapping.Locator) {
		for _, l := range locators {
			if l.Addr.IsValid() && !slices.Contains(list, l.Addr) {
				list = append(list, l.Addr)
			}
		}
	}
	for _, m := range d.xtr.DatabaseMappings {
		add(m.Locators)
	}
	for _, m := range d.xtr.Learned {
		add(m.Locators)
	}
	for _, p := range []*config.Proxy{d.xtr.ProxyITR, d.xtr.ProxyETR} {
		if p != nil {
			add(p.Locators)
		}
	}
	return list
}

// links looks at the interfaces toward the providers and what fits through them.
func (d *doctor) links() {
	links, err := hostLinks()
	if err != nil {
		d.add(skip, "uplink", "", "", "%v", err)
		return
	}
	statics := d.statics()
	named := func(l hostLink) bool {
		return slices.ContainsFunc(d.xtr.Uplinks, func(u config.Uplink) bool { return u.Interface == l.name })
	}
	for _, u := range d.xtr.Uplinks {
		if !slices.ContainsFunc(links, func(l hostLink) bool { return l.name == u.Interface }) {
			d.add(fail, "uplink", u.Interface, "give the name that `ip link` shows to the locator", "there is no such interface")
		}
	}
	for _, l := range links {
		var mine []netip.Addr
		for _, a := range l.addrs {
			if named(l) || slices.Contains(statics, a) {
				mine = append(mine, a)
			}
		}
		if !named(l) && len(mine) == 0 {
			continue
		}
		l.addrs = mine
		d.uplinks = append(d.uplinks, l)
		switch {
		case !l.on:
			d.add(fail, "uplink", l.name, "ip link set "+l.name+" up", "it is off")
		case !l.carrier:
			d.add(fail, "uplink", l.name, "look at the cable, and at the device at its other end", "there is no carrier")
		case len(mine) == 0:
			d.add(fail, "uplink", l.name, "give it an address, by DHCP or ip addr add", "it has no address that can be a locator")
		default:
			d.add(pass, "uplink", l.name, "", "it is up, with %s", addrList(mine))
		}
		d.mtu(l)
	}
	if len(d.uplinks) == 0 && len(d.xtr.Uplinks) == 0 {
		d.add(fail, "uplink", "", "give an address of this host to the locator_sets", "no interface has one of the locators %s", addrList(statics))
	}
}

func addrList(list []netip.Addr) string {
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	return strings.Join(texts, ", ")
}

// mtu says which packets of hosts fit through an uplink.
func (d *doctor) mtu(l hostLink) {
	mtu, overhead := l.mtu, encap.Overhead4
	for _, a := range l.addrs {
		overhead = max(overhead, encap.Overhead(a))
	}
	if set := d.xtr.Plane.UplinkMTU; set > mtu {
		d.add(fail, "mtu", l.name, fmt.Sprintf("ip link set %s mtu %d, or lower plane.uplink_mtu", l.name, set), "it takes packets of %d octets, and plane.uplink_mtu says %d", mtu, set)
		return
	} else if set > 0 {
		mtu = set
	}
	room := mtu - overhead
	switch {
	case room < encap.MinMTU6:
		d.add(warn, "mtu", l.name, fmt.Sprintf("an MTU of %d or more, if the provider takes it", encap.MinMTU6+overhead), "MTU %d: packets of hosts up to %d octets fit, and IPv6 needs %d", mtu, room, encap.MinMTU6)
	case room < encap.DefaultMTU:
		d.add(pass, "mtu", l.name, "", "MTU %d: packets of hosts up to %d octets fit, and hosts are told by ICMP", mtu, room)
	default:
		d.add(pass, "mtu", l.name, "", "MTU %d: packets of hosts up to %d octets fit", mtu, room)
	}
}

// settings asks the plane which settings of the kernel are in its way.
func (d *doctor) settings() {
	c := tun.Config{}
	for _, l := range d.uplinks {
		c.Sources = append(c.Sources, l.addrs...)
	}
	for _, in := range d.xtr.Instances {
		c.Instances = append(c.Instances, tun.Instance{IID: in.IID, Device: in.Device, Native: in.NoMapping == config.NoMappingNative})
	}
	for _, m := range d.xtr.DatabaseMappings {
		c.Locals = append(c.Locals, m.EID)
	}
	for _, l := range d.xtr.Learned {
		c.Guarded = append(c.Guarded, l.EID())
	}
	if p := d.xtr.ProxyITR; p != nil {
		c.ProxyITR = p.EIDPrefixes
	}
	if p := d.xtr.ProxyETR; p != nil {
		c.ProxyETR = p.EIDPrefixes
	}
	if h := d.xtr.Host; h != nil {
		c.Host = append([]mapping.EID{}, h.EIDPrefixes...)
	}
	troubles, families, err := tun.Examine(c)
	bad := make(map[string]bool)
	for _, t := range troubles {
		bad[t.Setting] = true
		r := fail
		if t.Setting == "rp_filter" {
			r = warn // some packets come through
		}
		d.add(r, t.Setting, t.Of, t.Remedy, "%s", t.Problem)
	}
	switch {
	case bad["forwarding"]:
	case c.Host != nil:
		d.add(pass, "forwarding", "", "", "a host needs none")
	default:
		d.add(pass, "forwarding", strings.Join(families, ", "), "", "it is on")
	}
	switch {
	case err != nil:
		d.add(skip, "rp_filter", "", "", "%v", err)
	case !bad["rp_filter"]:
		d.add(pass, "rp_filter", "", "", "no reverse path filter is in the way")
	}
}

// ports looks who has the UDP ports of LISP.
func (d *doctor) ports() {
	var want []netip.AddrPort
	for _, l := range d.uplinks {
		for _, a := range l.addrs {
			want = append(want, netip.AddrPortFrom(a, encap.Port), netip.AddrPortFrom(a, wire.Port))
		}
	}
	if d.server != nil {
		want = append(want, d.server.Listen...)
	}
	if len(want) == 0 {
		return
	}
	all, err := udpSockets()
	if err != nil {
		d.add(skip, "port", "", "", "%v", err)
		return
	}
	var its map[string]bool
	if d.pid > 0 {
		its, _ = socketsOf(d.pid) // nil: it may not be seen
	}
	for _, p := range want {
		var bound []udpSocket
		own := false
		for _, s := range all {
			if s.meets(p) {
				bound = append(bound, s)
				own = own || its[s.inode]
			}
		}
		of := "udp " + p.String()
		const stop = "stop it, or one of the two on another address"
		switch {
		case len(bound) == 0 && d.c == nil:
			d.add(pass, "port", of, "", "it is free")
		case len(bound) == 0:
			d.add(fail, "port", of, "systemctl restart "+string(d.kind)+"; its log says what it waits for", "%s does not listen on it", d.kind)
		case d.c == nil:
			d.add(fail, "port", of, stop, "it is taken by %s", owner(bound[0].inode))
		case own:
			d.add(pass, "port", of, "", "%s listens on it", d.kind)
		case its == nil:
			d.add(pass, "port", of, "", "somebody listens on it; who that is, only root can see")
		default:
			d.add(fail, "port", of, stop, "it is taken by %s", owner(bound[0].inode))
		}
	}
}

// clock asks the kernel whether the time is right.
func (d *doctor) clock() {
	ok, err := synchronised()
	switch {
	case err != nil:
		d.add(skip, "clock", "", "", "the kernel does not tell: %v", err)
	case !ok:
		d.add(warn, "clock", "", "run a time service, such as systemd-timesyncd or chrony", "nothing keeps the clock right; times in logs and events, and the validity of certificates, depend on it")
	default:
		d.add(pass, "clock", "", "", "it is synchronised")
	}
}

// call bounds a question to the daemon.
func (d *doctor) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(d.ctx, answerTime)
}

// locators asks the xTR which of its uplinks it uses.
func (d *doctor) locators() {
	ctx, cancel := d.call()
	defer cancel()
	resp, err := eidolonv1.NewRouterServiceClient(d.c.conn).ListLocalLocators(ctx, &eidolonv1.ListLocalLocatorsRequest{})
	if err != nil {
		d.add(fail, "locator", "", "", "%v", explain(err))
		return
	}
	for _, l := range resp.GetLocalLocators() {
		a := l.GetAddress()
		switch l.GetState() {
		case eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_UP:
			switch {
			case l.GetDrained():
				d.add(warn, "locator", a, "lispctl locator undrain "+a, "an operator has drained it")
			case l.GetPaths() > 0 && l.GetPaths() == l.GetPathsDown():
				d.add(warn, "locator", a, "lispctl show locator", "it is used, and no tested path from it works")
			default:
				d.add(pass, "locator", a, "", "it is used")
			}
		case eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_HELD:
			d.add(warn, "locator", a, "wait; if it comes and goes, look at the uplink", "it is back, and used again in %s", until(time.Now(), l.GetHeldUntil()))
		case eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_DEAD:
			d.add(fail, "locator", a, "ask the provider; UDP ports 4341 and 4342 must pass", "there is a carrier, and nothing comes back over %s", l.GetInterface())
		case eidolonv1.LocalLocatorState_LOCAL_LOCATOR_STATE_NO_CARRIER:
			d.add(fail, "locator", a, "look at "+l.GetInterface(), "it is not used, as its interface has no carrier")
		default:
			d.add(warn, "locator", a, "", "it is not used: %s", localStateText(time.Now(), l))
		}
	}
}

// registrations asks the xTR whether each map-server has confirmed what it was
// told.
func (d *doctor) registrations() {
	ctx, cancel := d.call()
	defer cancel()
	type count struct {
		all, good, pending, sent, lost int
		first                          string // of those lost
	}
	var servers []string
	mappings, of := 0, make(map[string]*count)
	if err := databaseMappings(ctx, d.c, "", func(m *eidolonv1.DatabaseMapping) error {
		for _, r := range m.GetRegistrations() {
			n := of[r.GetMapServer()]
			if n == nil {
				n = new(count)
				of[r.GetMapServer()] = n
				servers = append(servers, r.GetMapServer())
			}
			n.all++
			switch r.GetState() {
			case eidolonv1.RegistrationState_REGISTRATION_STATE_REGISTERED:
				n.good++
			case eidolonv1.RegistrationState_REGISTRATION_STATE_PENDING:
				n.pending++
			case eidolonv1.RegistrationState_REGISTRATION_STATE_SENT:
				n.sent++
			default:
				if n.lost++; n.first == "" {
					n.first = m.GetRecord().GetEid()
				}
			}
		}
		mappings++
		return nil
	}); err != nil {
		d.add(fail, "registration", "", "", "%v", explain(err))
		return
	}
	for _, s := range servers {
		n := of[s]
		switch {
		case n.lost > 0:
			d.add(fail, "registration", s, "compare key, algorithm and EID-prefixes of both sides: on the map-server, lispctl monitor says why it refuses; UDP 4342 must pass both ways",
				"%d of %d EID-prefixes are not confirmed, such as %s", n.lost, n.all, n.first)
		case n.pending > 0:
			d.add(warn, "registration", s, "run doctor again in some seconds", "%d of %d EID-prefixes are not confirmed yet", n.pending, n.all)
		case n.sent > 0:
			d.add(warn, "registration", s, "set want_map_notify: true", "%d of %d EID-prefixes were sent, and no Map-Notify is asked for, so that nobody knows", n.sent, n.all)
		default:
			d.add(pass, "registration", s, "", "all %d EID-prefixes are confirmed", n.good)
		}
	}
	if len(servers) == 0 && mappings > 0 {
		d.add(fail, "registration", "", "name a map-server in map_servers", "the EID-prefixes are registered nowhere")
	}
}

// sites asks the map-server who has registered.
func (d *doctor) sites() {
	ctx, cancel := d.call()
	defer cancel()
	list, err := allSites(ctx, eidolonv1.NewSiteServiceClient(d.c.conn), &eidolonv1.ListSitesRequest{})
	if err != nil {
		d.add(fail, "site", "", "", "%v", explain(err))
		return
	}
	quiet := 0
	for _, s := range list {
		if s.GetRegistrations() > 0 {
			continue
		}
		if quiet++; quiet > maxQuiet {
			continue
		}
		remedy, more := "start its xTR; UDP 4342 must pass", ""
		switch {
		case s.GetAuthFailures() > 0:
			remedy, more = "compare its keys with those of its xTR", fmt.Sprintf("; the authentication of %d Map-Registers failed", s.GetAuthFailures())
		case s.GetRefused() > 0:
			remedy, more = "lispctl monitor says why", fmt.Sprintf("; %d Map-Registers were refused", s.GetRefused())
		}
		d.add(warn, "site", s.GetName(), remedy, "nothing is registered%s", more)
	}
	switch all := len(list); {
	case quiet > maxQuiet:
		d.add(warn, "site", "", "lispctl show site", "%d of %d sites have no registration", quiet, all)
	case all > quiet:
		d.add(pass, "site", "", "", "%d of %d sites have registered", all-quiet, all)
	}
}

// resolvers asks the map-resolvers of an xTR, or the map-server itself, as lig
// does.
func (d *doctor) resolvers() {
	var ask []xtr.LigQuery
	switch {
	case d.xtr != nil:
		own, ok := d.ownEID()
		if !ok {
			return
		}
		for _, r := range d.xtr.MapResolvers {
			ask = append(ask, xtr.LigQuery{Resolver: r, EID: own, Key: d.xtr.ResolverKeys[r]})
		}
	case d.server != nil && d.c != nil:
		eid := mapping.MustParseEID("0.0.0.0/32") // nobody's
		if len(d.server.StaticMappings) > 0 {
			eid = d.server.StaticMappings[0].EID
		}
		for _, a := range d.server.Listen {
			if a.Addr().IsUnspecified() {
				loopback := netip.IPv6Loopback()
				if a.Addr().Is4() {
					loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
				}
				a = netip.AddrPortFrom(loopback, a.Port())
			}
			ask = append(ask, xtr.LigQuery{Resolver: a, EID: eid})
		}
	}
	found := make([]finding, len(ask))
	var wg sync.WaitGroup
	for i, q := range ask {
		wg.Go(func() { found[i] = d.resolver(q) })
	}
	wg.Wait()
	d.findings = append(d.findings, found...)
}

// ownEID returns an EID that the mapping system should know.
func (d *doctor) ownEID() (mapping.EID, bool) {
	for _, m := range d.xtr.DatabaseMappings {
		if !m.EID.Source.IsValid() {
			return m.EID, true
		}
	}
	for _, p := range []*config.Proxy{d.xtr.ProxyITR, d.xtr.ProxyETR} {
		if p != nil {
			return p.EIDPrefixes[0], true
		}
	}
	return mapping.EID{}, false
}

func (d *doctor) resolver(q xtr.LigQuery) finding {
	q.Count, q.Timeout = 2, resolverTime
	f := finding{Check: "map-resolver", Of: q.Resolver.String(), Result: pass}
	res, err := xtr.LigDial(d.ctx, q)
	rec := covering(res.Records, q.EID)
	switch {
	case errors.Is(err, xtr.ErrNoReply):
		f.Result, f.Detail = fail, fmt.Sprintf("no answer to %d Map-Requests", res.Sent)
		f.Remedy = "compare its address; UDP 4342 must pass to it, and UDP back from it"
	case err != nil:
		f.Result, f.Detail, f.Remedy = fail, err.Error(), "look for a route to it"
	case rec == nil:
		f.Result, f.Detail = fail, fmt.Sprintf("it answers for something else than %v", q.EID)
	case len(rec.Locators) == 0 && d.xtr != nil && len(d.xtr.DatabaseMappings) > 0:
		f.Result, f.Detail = warn, fmt.Sprintf("it answers in %s, and knows no locators of %v", milliseconds(res.RTT), q.EID)
		f.Remedy = "see registration; a map-resolver that is no map-server needs a way to one"
	default:
		f.Detail = fmt.Sprintf("it answers in %s", milliseconds(res.RTT))
	}
	return f
}
