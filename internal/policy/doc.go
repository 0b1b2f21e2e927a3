// Package policy says who may ask for what, within which limits, and who must agree: it reads policies, compiles them and decides.
// It is pure: no clock and no I/O. Every decision takes the instant at which it is made, and a compiled Set is never changed, so that
// many may ask it at once.
//
// Of the rules that match an ask all count, so that the strictest wins; a rule that denies beats all; where none matches, the ask is
// denied (promise P6). A rule that is about a part of what is asked, or of which that cannot be judged (an unknown tag, a condition that
// fails), permits nothing, and what it asks for holds; one that denies then denies. Nothing in a policy's text is trusted: what is not
// understood in full is refused, with every fault and its place.
package policy
