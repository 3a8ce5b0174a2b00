// Package telemetry measures a log, and what serves it, with OpenTelemetry.
//
// Instruments are made from the [metric.Meter] that they are given, so whoever embeds the log chooses where the
// numbers go; [NewPrometheus] has them fetched by Prometheus. Importing the package starts nothing.
//
//	runnel.cursor.lag.entries     entries that a reader has yet to work on, by store, space and cursor
//	runnel.cursor.lag.size        the bytes of their payloads
//	runnel.cursor.behind          segments of the reader on which there are any
//	runnel.cursor.unreported      readers left out of the three above
//	runnel.cursor.sample.age      how old these numbers are
//	runnel.subscription.parked    subscriptions whose webhook is not tried any more, by store
//	runnel.webhook.attempts       attempts to deliver, by result: done, accepted, failed, parked, lost
//	runnel.webhook.in_flight      attempts being made
//	runnel.webhook.slow           those of them that take long
//	runnel.webhook.waiting        deliveries known of
//	runnel.webhook.targets.open   targets that fail, and are only tried from time to time
//
// A reader is a subscription, whose cursor is named after it ([runnel.SubscriptionCursor]), or a name of cursors in
// a space.
package telemetry
