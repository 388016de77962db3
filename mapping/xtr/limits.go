package xtr

import "time"

// Constants of RFC 9301.
const (
	// requestSpacing: Map-Requests are limited to one a second for each
	// EID-prefix (section 5.3).
	requestSpacing = time.Second
	// maxRetransmits and pauseAfter: after 10 retransmissions without a reply
	// the sender waits 30 s (section 5.3).
	maxRetransmits = 10
	pauseAfter     = 30 * time.Second
	// registerInterval is the period of Map-Registers (section 8.2).
	registerInterval = 60 * time.Second
	// quickInterval and quickPeriod: after a restart, Map-Registers may go out
	// every 20 s for 5 minutes (section 8.2).
	quickInterval = 20 * time.Second
	quickPeriod   = 5 * time.Minute
	// notifyBackoff and notifyBackoffMax: without a Map-Notify the original
	// Map-Register is retransmitted after 1 s, then doubling up to 60 s
	// (section 5.7).
	notifyBackoff    = time.Second
	notifyBackoffMax = 60 * time.Second
	// replySpacing: one Map-Reply in 3 s for each destination RLOC (section
	// 5.4); here for each (RLOC, EID-prefix), with a small burst, so that one
	// site's questions about several prefixes do not starve each other.
	replySpacing = 3 * time.Second
	// smrSpacing: one SMR-invoked Map-Request in 3 s for each EID-prefix, and
	// one SMR in 3 s for each destination RLOC (section 6.1); here for each
	// (RLOC, EID-prefix).
	smrSpacing = 3 * time.Second
	// smrWindow: who data was sent to in the last minute gets the SMRs (section
	// 6.1); here also who data came from.
	smrWindow = time.Minute
	// maxITRRLOCs is what the IRC field can count (section 5.2).
	maxITRRLOCs = 32
	// maxPayload4 and maxPayload6 keep a whole IP packet within 576 and 1280
	// octets while the path MTU is not known (section 5).
	maxPayload4 = 576 - 20 - 8
	maxPayload6 = 1280 - 40 - 8
)

// Choices of our own.
const (
	// maxRetry is where the doubling of the Map-Request interval ends: a user
	// who waits for a site that comes back waits no longer than this.
	maxRetry = 8 * time.Second

	// An entry in use is refreshed when the last tenth of its lifetime begins,
	// within these bounds. The lower one leaves room for retransmissions and
	// for two rounds of Used; the upper one keeps a day-long TTL from being
	// asked for hours early.
	refreshShare = 10
	refreshMin   = 20 * time.Second
	refreshMax   = 10 * time.Minute

	// securityTries is how many transmissions of a Map-Request are protected by
	// LISP-SEC where that is preferred, not required: after 7 s without a
	// usable reply it is worth more to have one than to have it protected.
	securityTries = 3

	// resolverDown is how many requests in a row a map-resolver may leave
	// unanswered before others are preferred; resolverRetry is how often such
	// a one is tried again.
	resolverDown  = 3
	resolverRetry = 30 * time.Second

	// replyBurst and probeBurst are how many replies to one (RLOC, EID-prefix)
	// may follow each other directly: a lost reply is asked for again after 1
	// s, and a prober suspects in bursts of 5.
	replyBurst   = 3
	probeBurst   = 5
	probeSpacing = time.Second

	// notifyAckRate bounds the Map-Notify-Acks for each map-server.
	notifyAckSpacing = 100 * time.Millisecond
	notifyAckBurst   = 10

	// After a change of locators the first retransmission of a Map-Register
	// comes after two round-trip times and quickMargin, quickRetry at least,
	// where the time is known and no longer than ever: the peers wait for the
	// confirmation, and the uplink may be another one that is dead.
	quickRetry  = 200 * time.Millisecond
	quickMargin = 50 * time.Millisecond

	// unconfirmedTries is how many Map-Registers without a Map-Notify make a
	// registration unconfirmed.
	unconfirmedTries = 3

	// Probes: one path is probed once in 10 s, and up to 5 times at once when
	// it is suspected, or more to end a doubt, which counts for later; one that is
	// down is tried every 10 s; all RLOCs together once a second at rest, 8 times a second
	// by paths that are new, in bursts of 16, and 16 times a second while
	// suspected, in bursts of 64.
	probeEach           = 10 * time.Second
	probeEachBurst      = 5
	probeResting        = time.Second
	probeFresh          = time.Second / 8
	probeFreshBurst     = 16
	probeSuspected      = time.Second / 16
	probeSuspectedBurst = 64
	// A probe waits for its reply, before the next one, for probeTimeoutFirst
	// where the round-trip time is not known, and twice as long after each
	// failure, up to probeTimeout. Where it is, it decides, with a margin and in
	// bounds. A reply that comes later still counts.
	probeTimeoutFirst = 300 * time.Millisecond
	probeTimeout      = time.Second
	probeTimeoutMin   = 100 * time.Millisecond
	probeTimeoutMax   = 5 * time.Second
	probeMargin       = 20 * time.Millisecond
	// probeKeep is how long after the last traffic an RLOC is probed, and
	// probeKeepDown the same for one that is down.
	probeKeep     = time.Minute
	probeKeepDown = 10 * time.Minute
	// probeOutstanding, probeEIDs and maxProbed bound the probes of an RLOC
	// that wait for a reply, the entries that it is probed for, and the paths.
	probeOutstanding = 8
	probeEIDs        = 4
	maxProbed        = 4096

	// Traffic that goes one way only for suspectAfter, or for twice as long as
	// it did before without harm, up to suspectAfterMax, is suspect. A
	// suspicion that comes to nothing is not repeated for suspectAgain, and
	// each further one for twice as long, up to suspectAgainMax.
	suspectAfter    = 150 * time.Millisecond
	suspectAfterMax = 3 * time.Second
	suspectAgain    = time.Second
	suspectAgainMax = 10 * time.Second
	// A flow goes both ways after flowTwoWay rounds with packets in, is
	// another one after flowIdle without packets, and maxFlows are known.
	flowTwoWay = 3
	// What comes in is known after flowKnown rounds of about flowRound, which is
	// how often Traffic is called, without a pause of flowPause; less in flowLow
	// rounds in a row is suspect, and in flowForgets the new normal.
	flowKnown   = 24
	flowRound   = 50 * time.Millisecond
	flowPause   = 500 * time.Millisecond
	flowLow     = 3
	flowForgets = 40
	flowIdle    = 10 * time.Second
	flowLook    = time.Second // between looks for such
	maxFlows    = 1024
	// hintWithin is how close two probes of a peer are that did not hear us.
	hintWithin = time.Second
	// confirmPaths is how many other paths are tested before an uplink is
	// blamed for one.
	confirmPaths = 3
	// An uplink over which nothing is probed is tested with an Info-Request
	// every infoInterval; infoTries without an answer in infoRetry each are
	// worth a verdict. Where none is ever answered, that is every infoSilent.
	infoInterval = 10 * time.Second
	infoRetry    = time.Second
	infoTries    = 3
	infoSilent   = time.Minute
	// An uplink that comes back is used after holdDown, after twice as long
	// with each time that it went away within flapWindow, up to holdDownMax.
	holdDown    = time.Second
	holdDownMax = time.Minute
	flapWindow  = time.Minute

	// Whether the mapping system answers is asked after answerInterval without an
	// answer, in answerRounds rounds answerRetry apart. When it answers again that
	// is believed after answerHold, after twice as long with each end within
	// answerFlap of the last, up to answerHoldMax: what is announced in BGP must not
	// flap.
	answerInterval = 10 * time.Second
	answerRetry    = time.Second
	answerRounds   = 3
	answerHold     = 15 * time.Second
	answerHoldMax  = 10 * time.Minute
	answerFlap     = 10 * time.Minute

	// keyTries is how many Map-Registers with one key go unanswered before the
	// next one is tried.
	keyTries = 3

	// stopLinger is how long an orderly stop waits for the Map-Notify of its
	// deregistration; there is time for one retransmission.
	stopLinger = 2 * time.Second

	// nonceReserve is how far ahead the floor of Map-Register nonces is
	// saved: one write an hour, as nonces are nanoseconds. Where they are ahead
	// of the clock they count up by one, and so many are reserved: an xTR that
	// restarts again and again must not run away from the clock.
	nonceReserve      = uint64(time.Hour)
	nonceReserveAhead = 1 << 16

	// limiterKeys is the number of keys for which a rate limit is exact; with
	// more in use at once, the least recent are forgotten.
	limiterKeys = 8192

	// maxCredit bounds the octets that are saved for replies to one address: as
	// much as one IP packet can hold.
	maxCredit = 1 << 16

	// strays is how many Map-Replies a second may answer nothing before there
	// is an alarm: late and duplicated ones are few.
	straySpacing = 100 * time.Millisecond
	strayBurst   = 100

	// logSpacing bounds log lines about bad messages, for each kind.
	logSpacing = 10 * time.Second

	// maxHeard is the number of RLOCs that are remembered as sources of
	// decapsulated packets.
	maxHeard = 4096

	// mapDataSpacing and mapDataBurst bound the Map-Requests that verify map
	// data: anybody can cause them.
	mapDataSpacing = 100 * time.Millisecond
	mapDataBurst   = 20

	// smrTries is how often an SMR is sent that nobody asks after, 3 s and 6 s
	// apart. smrHold is how long the first waits for the map-servers.
	smrTries = 3
	// maxLater is the number of SMRs that came too early and wait.
	maxLater = 1024
	smrHold  = time.Second
	// smrPace and smrBurst keep a change that many sites must hear of from
	// filling the uplink.
	smrPace  = 10 * time.Millisecond
	smrBurst = 64
	// maxSolicits is the number of (RLOC, EID-prefix) that are told of a
	// change at one time.
	maxSolicits = 8192

	// subscribeTries is how many transmissions of a Map-Request subscribe: a
	// map-server that holds a higher nonce drops them, and an answer without a
	// subscription is better than none.
	subscribeTries = 3
	// refusedFor is how long no subscription is asked for where the map-server
	// refused one; after refusedMax refusals in a row, anywhere.
	refusedFor = 15 * time.Minute
	refusedMax = 4
	// holeLife is how long a map-server keeps a subscription to a hole (RFC 9437
	// section 5 recommends it); withdrawnHold is how long one to a mapping that
	// was withdrawn is kept: a site that comes back is reached at once.
	holeLife      = 15 * time.Minute
	withdrawnHold = 15 * time.Minute
	// leaveTries is how often a Map-Request to unsubscribe is sent, leaveSpacing
	// apart.
	leaveTries   = 3
	leaveSpacing = 3 * time.Second
	// lookAgain is the period at which subscriptions that can't be ended yet are
	// looked at.
	lookAgain = time.Minute
	// nonceReach is how far a publication's nonce may be from the last one: they
	// count up by one, but a map-server skips some when it starts.
	nonceReach = 1 << 32
	// maxWanted is the number of published mappings that wait to be subscribed
	// to.
	maxWanted = 8192

	// queueLen is the number of received messages of each class that wait for
	// the machine.
	queueLen = 256
)

// Defaults of Config.
const (
	defaultCacheLimit     = 65536
	defaultPending        = 1024
	defaultPendingPerHost = 128
	defaultRequests       = 256
	defaultRequestsHost   = 16
	defaultProbeInterval  = 30 * time.Second
	defaultProbeRetries   = 3
	// refreshes may use this part of the pending table.
	refreshPart = 2
	// A bucket of new resolutions holds this many seconds of its rate.
	requestBurst = 4
)
