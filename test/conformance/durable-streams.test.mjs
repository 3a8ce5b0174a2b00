// The public Durable Streams conformance suite, unmodified. run.mjs says which server it is pointed at.

import { runConformanceTests } from "@durable-streams/server-conformance-tests"

const baseUrl = process.env.RUNNEL_URL
if (!baseUrl) throw new Error("RUNNEL_URL is not set; start this through run.mjs")

runConformanceTests({ baseUrl, subscriptions: process.env.RUNNEL_SUBSCRIPTIONS === "1" })
