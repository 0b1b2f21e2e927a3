// Package conformance is where clients that nobody of this project wrote meet the simulator and the product: the Azure SDKs for Go and
// JavaScript, the Azure CLI, and Microsoft's validator of traffic. It is a module of its own, so that building and vetting the main one
// never compiles the large SDK packages. docs/conformance.md says what each client shows.
package conformance
