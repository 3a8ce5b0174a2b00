// Package wire holds what the two ends of a connection must agree on: the names of the headers, query
// parameters and event fields of the Durable Streams protocol and of Runnel's additions to it, the codes
// of errors, and the one table that turns an error into a status and back.
//
// It does no I/O. Servers call [ErrorOf] on any error and write the [Error]; clients read a [Body]
// and get from [Body.Err] an error that matches the same sentinel of package runnel.
package wire
