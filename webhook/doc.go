// Package webhook is the outbound half of subscriptions: it tells a receiver, by a signed HTTP request, that
// streams which it subscribed to have something for it. It also has what a receiver needs.
//
// The sending side of a program that embeds a log is [Subscriptions]: it serves the control paths of package
// durablestreams and sends what the log has for receivers. What sends is a [Dispatcher]. It takes wakes from an [Outbox], which is where they are durable, sends
// each one as PROTOCOL.md, section 7.1, says, and writes the outcome back. A wake is claimed before it is
// sent, so several processes on one outbox send it once; one whose process dies is sent again by another.
// What is to be sent, when it is tried again and what failed for good are rows of the outbox: the dispatcher
// keeps nothing that a restart would lose.
//
// [Keys] signs, publishes the public keys, and makes the tokens that a wake's callbacks carry. [Policy] says
// which URLs may be sent to, and refuses connections to addresses inside networks when they are made, when
// names have been resolved.
//
// The receiving side is a [Verifier], which checks the signature of a request, [NewHandler], which answers
// one, and [Notification.Ack], which calls back.
package webhook
