// Package api holds the wire types of Curfew's REST API, as JSON, and the table that maps error codes to HTTP status and exit
// codes. It has no behaviour. The OpenAPI document that a server serves at /openapi.json is generated from these types.
//
// Rules of the wire: names are snake_case and stable; a list is {"items":[…],"next":"…"}, where next goes into the after parameter
// of the following call and is absent at the end; things carry id, name and state where they have them; durations are strings
// like "1h30m", ports are strings like "22" or "8000-8010", instants are RFC 3339 in UTC, and an instant that has not come is
// absent. Readers must ignore names that they do not know; the server refuses them in what it is sent.
package api
