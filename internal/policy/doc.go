// Package policy says who may ask for what, within which limits, and who must agree: it reads policies, compiles them and decides.
// It is pure: no clock and no I/O. Every decision takes the instant at which it is made, and a compiled Set is never changed, so that
// many may ask it at once.
//
// Of the rules that match an ask all count, so that the strictest wins; a rule that denies beats all; where none matches, the ask is
// denied (promise P6). What cannot be judged (an unknown tag, a condition that fails) does not match a rule that permits, and matches
// one that denies. Nothing in a policy's text is trusted: what is not understood in full is refused, with every fault and its place.
package policy
