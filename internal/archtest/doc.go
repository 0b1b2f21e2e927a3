// Package archtest holds no code: its tests assert what the whole tree must keep to. Which package may import which, who reads the
// clock, who may end the program, that every promise has a test, that no skip goes unseen. They read the source, so that they also
// report on packages that do not compile at the moment.
package archtest
