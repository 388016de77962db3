package auth

import (
	"fmt"
	"slices"
)

// SecurityPolicy says whether Map-Requests of an instance are protected by
// LISP-SEC (RFC 9303).
type SecurityPolicy uint8

const (
	// SecurityOff: they are not.
	SecurityOff SecurityPolicy = iota
	// SecurityPreferred: they are where both sides can; others are sent and
	// answered too. Who can drop messages on the path can have them sent
	// without protection.
	SecurityPreferred
	// SecurityRequired: others are neither sent nor answered.
	SecurityRequired
)

var securityPolicies = [...]string{"off", "preferred", "required"}

// String returns the name used in configuration and output.
func (p SecurityPolicy) String() string {
	if int(p) < len(securityPolicies) {
		return securityPolicies[p]
	}
	return fmt.Sprintf("security-policy-%d", uint8(p))
}

// ParseSecurityPolicy is the inverse of String.
func ParseSecurityPolicy(s string) (SecurityPolicy, error) {
	if i := slices.Index(securityPolicies[:], s); i >= 0 {
		return SecurityPolicy(i), nil
	}
	return 0, fmt.Errorf("unknown lisp_sec policy %q, expected off, preferred or required", s)
}
