// Package access is the domain: targets, requests, reviews, grants, protections, policy limits, and the moves between their
// states. It is pure: no clock, no I/O, only the standard library. Every decision takes the instant it is made at and returns a
// value; storing it and acting on it happen elsewhere, in that order.
//
// Nothing in a value of this package is trusted to be complete: a zero value never grants, and what is unknown, missing or
// unparsable means denied (promise P1).
package access
