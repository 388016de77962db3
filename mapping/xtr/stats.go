package xtr

import (
	"iter"
	"sync/atomic"
)

// counter names one statistic. All count events since New.
type counter uint8

const (
	mapRequestsOut counter = iota
	mapRequestsRetransmitted
	mapRequestsRefresh
	mapRequestsSMRInvoked
	mapRequestsProtected
	mapRequestsDowngraded
	mapRepliesIn
	mapRepliesUnmatched
	alarmForgedReplies
	mapRepliesWrongEID
	mapRepliesVerified
	mapRepliesUnprotected
	mapRepliesForged
	mapRepliesAlgorithm
	mapReplyRecordsOverclaimed
	mapReplyRecordsRefused
	mapReplyLocatorsRefused
	mapReplyLocatorsIgnored
	misses
	missesCached
	missesPending
	missesRefused
	missesRateLimited
	missesTableFull
	resolutionsAnswered
	resolutionsGivenUp
	resolutionsEvicted
	mapRequestsIn
	mapRequestsNotOurs
	mapRequestsNoITRRLOC
	mapRequestsNoReply
	mapRequestsProbeEncapsulated
	mapRequestsSecurityOff
	mapRequestsSecurityRefused
	mapRepliesOut
	mapRepliesSigned
	mapRepliesRateLimited
	mapRepliesTooLarge
	rlocProbesIn
	smrIn
	smrNotCached
	smrRateLimited
	smrDelayed
	heardTableFull
	smrOut
	smrAnswered
	smrTableFull
	mapVersionsOutdated
	mapVersionsNewer
	sourcesUnlisted
	mapVersionsRateLimited
	mapDataIn
	mapDataIgnored
	mapDataRateLimited
	mapRequestsVerify
	rlocProbesOut
	rlocProbesAnswered
	rlocProbesUnanswered
	rlocProbeRepliesRefused
	rlocProbeTableFull
	infoRequestsOut
	infoRequestsUnanswered
	infoRepliesIn
	infoRepliesUnmatched
	infoRepliesAuthFailed
	pathMTUProbesOut
	pathMTUProbesAnswered
	pathMTUsLowered
	answeringQuestionsOut
	answeringRoundsLost
	answeringLost
	rlocsDown
	pathsDown
	uplinksDown
	uplinksUp
	uplinksDamped
	suspicionsTraffic
	suspicionsUplink
	suspicionsICMP
	suspicionsPeer
	rlocsUp
	mapRegistersOut
	mapRegistersRetransmitted
	mapNotifiesIn
	mapNotifiesDuplicate
	mapNotifiesUnknownServer
	mapNotifiesAuthFailed
	mapNotifyAcksOut
	mapNotifyAcksRateLimited
	mapRequestsSubscribe
	mapRequestsUnsubscribe
	subscriptionsConfirmed
	subscriptionsRefused
	subscriptionsEnded
	subscriptionsLeft
	subscriptionsTableFull
	publicationsIn
	publicationsDuplicate
	publicationsReplayed
	publicationsUnsolicited
	publicationsAuthFailed
	controlMalformed
	controlUnexpected
	controlWrongPort
	controlQueueFull
	readErrors
	sendErrors
	numCounters
)

// counterTable has the name of each counter, and in words what it counts.
var counterTable = [numCounters]struct{ name, counts string }{
	mapRequestsOut:               {"map_requests_out", "Map-Requests sent to map-resolvers to resolve an EID, retransmissions included"},
	mapRequestsRetransmitted:     {"map_requests_retransmitted", "Map-Requests sent again because no answer came"},
	mapRequestsRefresh:           {"map_requests_refresh", "resolutions begun to renew an entry of the map-cache before it expires, or that is doubted"},
	mapRequestsSMRInvoked:        {"map_requests_smr_invoked", "resolutions begun because a site solicited it (SMR)"},
	mapRequestsProtected:         {"map_requests_protected", "Map-Requests sent with LISP-SEC"},
	mapRequestsDowngraded:        {"map_requests_downgraded", "Map-Requests sent without LISP-SEC, which is preferred, because nobody could answer with it"},
	mapRepliesIn:                 {"map_replies_in", "Map-Replies received, those to probes included"},
	alarmForgedReplies:           {"alarm_forged_map_replies", "alarms that more than a few Map-Replies a second answer nothing that was asked: somebody may be guessing nonces"},
	mapRepliesUnmatched:          {"map_replies_unmatched", "Map-Replies dropped because they answer nothing that was asked"},
	mapRepliesWrongEID:           {"map_replies_wrong_eid", "Map-Replies dropped because no record covers the EID that was asked for"},
	mapRepliesVerified:           {"map_replies_verified", "Map-Replies whose LISP-SEC signature was verified"},
	mapRepliesUnprotected:        {"map_replies_unprotected", "Map-Replies dropped because they lack the LISP-SEC that was asked for"},
	mapRepliesForged:             {"map_replies_forged", "Map-Replies dropped because their LISP-SEC signature is wrong"},
	mapRepliesAlgorithm:          {"map_replies_other_algorithm", "Map-Replies not used because their LISP-SEC has an algorithm that was not asked for, or is not known"},
	mapReplyRecordsOverclaimed:   {"map_reply_records_overclaimed", "records of Map-Replies dropped because LISP-SEC does not let the ETR claim the EID-prefix"},
	mapReplyRecordsRefused:       {"map_reply_records_refused", "records of mappings dropped because they are of our own EIDs, have a source, come twice or are not of what was asked"},
	mapReplyLocatorsRefused:      {"map_reply_locators_refused", "locators in received mappings not used because they can't be, such as multicast addresses or addresses in an EID-prefix of the site"},
	mapReplyLocatorsIgnored:      {"map_reply_locators_ignored", "locators in received mappings not used because they are of a kind that is not known"},
	misses:                       {"misses", "misses that the data plane told: destinations without a mapping"},
	missesCached:                 {"misses_cached", "misses that needed nothing because the map-cache had a mapping meanwhile"},
	missesPending:                {"misses_pending", "misses of EIDs that were being resolved already"},
	missesRefused:                {"misses_refused", "misses of destinations or sources that nothing is resolved for"},
	missesRateLimited:            {"misses_rate_limited", "misses that no Map-Request was sent for because of the rate limits"},
	missesTableFull:              {"misses_table_full", "misses that no Map-Request was sent for because too many EIDs were being resolved, for the host or in all"},
	resolutionsAnswered:          {"resolutions_answered", "resolutions that were answered"},
	resolutionsGivenUp:           {"resolutions_given_up", "resolutions that nobody answered, after all retransmissions"},
	resolutionsEvicted:           {"resolutions_evicted", "resolutions that were ended to make room for others"},
	mapRequestsIn:                {"map_requests_in", "Map-Requests received, SMRs and RLOC-probes included"},
	mapRequestsNotOurs:           {"map_requests_not_ours", "Map-Requests dropped because they are for no EID of the site"},
	mapRequestsNoITRRLOC:         {"map_requests_no_itr_rloc", "Map-Requests dropped because they have no ITR-RLOC that can be answered to"},
	mapRequestsNoReply:           {"map_requests_no_reply", "Map-Requests that ask for no Map-Reply"},
	mapRequestsProbeEncapsulated: {"map_requests_probe_encapsulated", "RLOC-probes dropped because they came encapsulated (ECM)"},
	mapRequestsSecurityOff:       {"map_requests_lisp_sec_off", "Map-Requests dropped because they have LISP-SEC, which is off"},
	mapRequestsSecurityRefused:   {"map_requests_lisp_sec_refused", "Map-Requests dropped because the key in their LISP-SEC can't be unwrapped"},
	mapRepliesOut:                {"map_replies_out", "Map-Replies sent, those to probes included"},
	mapRepliesSigned:             {"map_replies_signed", "Map-Replies signed with LISP-SEC"},
	mapRepliesTooLarge:           {"map_replies_too_large", "Map-Replies not sent because they would be larger than what asked for them allows"},
	mapRepliesRateLimited:        {"map_replies_rate_limited", "Map-Replies not sent because of the rate limits"},
	rlocProbesIn:                 {"rloc_probes_in", "RLOC-probes received"},
	smrIn:                        {"smr_in", "SMRs received"},
	smrNotCached:                 {"smr_not_cached", "SMRs of EIDs that the map-cache has no entry for"},
	smrRateLimited:               {"smr_rate_limited", "SMRs that no Map-Request was sent for because of the rate limits"},
	smrDelayed:                   {"smr_delayed", "SMRs that came within 3 s of the last one for the EID, and were followed when that time was over"},
	heardTableFull:               {"heard_table_full", "locators that data came from and that are not told of changes: there were too many"},
	smrOut:                       {"smr_out", "SMRs sent"},
	smrAnswered:                  {"smr_answered", "SMRs that were followed by a Map-Request"},
	smrTableFull:                 {"smr_table_full", "locators that were sent no SMR: there were too many"},
	mapVersionsOutdated:          {"map_versions_outdated", "findings that a site uses an old map-version of ours"},
	mapVersionsNewer:             {"map_versions_newer", "findings that a site speaks of a newer map-version than the map-cache has"},
	sourcesUnlisted:              {"sources_unlisted", "findings that data comes from a locator that the mapping of the inner source does not have"},
	mapVersionsRateLimited:       {"map_versions_rate_limited", "findings about map-versions and sources not followed because of the rate limits"},
	mapDataIn:                    {"map_data_in", "Map-Requests received that carry the mapping of the asker"},
	mapDataIgnored:               {"map_data_ignored", "mappings in Map-Requests not followed: accept_map_data is off, or the EID is known, being resolved or not to be resolved"},
	mapDataRateLimited:           {"map_data_rate_limited", "mappings in Map-Requests not followed because of the rate limits"},
	mapRequestsVerify:            {"map_requests_verify", "resolutions begun to verify a mapping that was in a Map-Request"},
	rlocProbesOut:                {"rloc_probes_out", "RLOC-probes sent"},
	rlocProbesAnswered:           {"rloc_probes_answered", "RLOC-probes that were answered"},
	rlocProbesUnanswered:         {"rloc_probes_unanswered", "RLOC-probes that were not answered in time"},
	rlocProbeRepliesRefused:      {"rloc_probe_replies_refused", "answers to RLOC-probes not used because they do not fit the probe, or came by another way"},
	rlocProbeTableFull:           {"rloc_probe_table_full", "rounds in which locators were left unprobed: there were too many"},
	infoRequestsOut:              {"info_requests_out", "Info-Requests sent to map-servers over uplinks on which nothing else shows life"},
	infoRequestsUnanswered:       {"info_requests_unanswered", "Info-Requests that were not answered in time"},
	infoRepliesIn:                {"info_replies_in", "Info-Replies received that answer an Info-Request"},
	infoRepliesUnmatched:         {"info_replies_unmatched", "Info-Replies dropped because they answer nothing"},
	infoRepliesAuthFailed:        {"info_replies_auth_failed", "Info-Replies dropped because their authentication is wrong"},
	pathMTUProbesOut:             {"path_mtu_probes_out", "large RLOC-probes sent to find the MTU of a path"},
	pathMTUProbesAnswered:        {"path_mtu_probes_answered", "large RLOC-probes that were answered"},
	pathMTUsLowered:              {"path_mtus_lowered", "paths on which large packets vanish without an ICMP message, and whose MTU was lowered"},
	answeringQuestionsOut:        {"answering_map_requests_out", "Map-Requests sent to see whether the mapping system answers, while BGP announces by that"},
	answeringRoundsLost:          {"answering_rounds_unanswered", "rounds of such Map-Requests that no map-resolver answered"},
	answeringLost:                {"mapping_system_silent", "times that the mapping system was found silent, so that BGP withdraws"},
	rlocsDown:                    {"rlocs_down", "times that a remote RLOC went down: it did not answer its probes"},
	pathsDown:                    {"paths_down", "times that a pair of a local and a remote RLOC went down while the remote one answers by others"},
	uplinksDown:                  {"uplinks_down", "times that an uplink was found dead behind a carrier"},
	uplinksUp:                    {"uplinks_up", "times that an uplink that was dead carried packets again"},
	uplinksDamped:                {"uplinks_damped", "times that an uplink came back and was held because it comes and goes"},
	suspicionsTraffic:            {"suspicions_traffic", "probes caused by traffic of an entry to which nothing came back"},
	suspicionsUplink:             {"suspicions_uplink", "suspicions of an uplink by which nothing came back"},
	suspicionsICMP:               {"suspicions_icmp", "probes caused by ICMP messages that a locator is unreachable"},
	suspicionsPeer:               {"suspicions_peer", "probes caused by a site whose packets stopped coming by a path"},
	rlocsUp:                      {"rlocs_up", "times that a remote RLOC that was down answered again"},
	mapRegistersOut:              {"map_registers_out", "Map-Registers sent, retransmissions included"},
	mapRegistersRetransmitted:    {"map_registers_retransmitted", "Map-Registers sent again because no Map-Notify came"},
	mapNotifiesIn:                {"map_notifies_in", "Map-Notifies received"},
	mapNotifiesDuplicate:         {"map_notifies_duplicate", "Map-Notifies of registrations that were confirmed already"},
	mapNotifiesUnknownServer:     {"map_notifies_unknown_server", "Map-Notifies dropped because they come from no map-server of ours"},
	mapNotifiesAuthFailed:        {"map_notifies_auth_failed", "Map-Notifies dropped because their authentication is wrong"},
	mapNotifyAcksOut:             {"map_notify_acks_out", "Map-Notify-Acks sent"},
	mapNotifyAcksRateLimited:     {"map_notify_acks_rate_limited", "Map-Notify-Acks not sent because of the rate limit"},
	mapRequestsSubscribe:         {"map_requests_subscribe", "Map-Requests sent that subscribe to a mapping"},
	mapRequestsUnsubscribe:       {"map_requests_unsubscribe", "Map-Requests sent that end a subscription"},
	subscriptionsConfirmed:       {"subscriptions_confirmed", "subscriptions that a map-server confirmed"},
	subscriptionsRefused:         {"subscriptions_refused", "subscriptions that a map-server refused"},
	subscriptionsEnded:           {"subscriptions_ended", "subscriptions that a map-server ended"},
	subscriptionsLeft:            {"subscriptions_left", "subscriptions that we ended and the map-server confirmed"},
	subscriptionsTableFull:       {"subscriptions_table_full", "subscriptions not made: there were too many"},
	publicationsIn:               {"publications_in", "publications received and used: mappings that changed"},
	publicationsDuplicate:        {"publications_duplicate", "publications received again"},
	publicationsReplayed:         {"publications_replayed", "publications dropped because their nonce is not above the last"},
	publicationsUnsolicited:      {"publications_unsolicited", "publications dropped because nobody subscribed to them"},
	publicationsAuthFailed:       {"publications_auth_failed", "publications dropped because their authentication is wrong"},
	controlMalformed:             {"control_malformed", "control messages dropped because they, or a record in them, are malformed"},
	controlUnexpected:            {"control_unexpected", "control messages dropped because an xTR has no use for their type"},
	controlWrongPort:             {"control_wrong_port", "control messages dropped because neither port is 4342"},
	controlQueueFull:             {"control_queue_full", "control messages dropped because their queue was full"},
	readErrors:                   {"read_errors", "errors of reading control messages from a socket"},
	sendErrors:                   {"send_errors", "control messages that could not be made or sent"},
}

// counters are written by the machine and the receive loop and read by all.
type counters [numCounters]atomic.Uint64

func (c *counters) inc(n counter) { c[n].Add(1) }

func (c *counters) add(n counter, events int) { c[n].Add(uint64(events)) }

// all walks the counters in their order of declaration.
func (c *counters) all() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for i := range c {
			if !yield(counterTable[i].name, c[i].Load()) {
				return
			}
		}
	}
}

// Meanings returns the names of the counters of Stats, and in words what each
// counts.
func Meanings() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, c := range counterTable {
			if !yield(c.name, c.counts) {
				return
			}
		}
		yield("map_cache_evictions", "entries of the map-cache that made room for others")
	}
}
