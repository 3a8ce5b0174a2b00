// The published JavaScript client, unmodified, against a server that is killed and started again on the
// same data and port while the client writes and tails. What the readers end up with must be exactly what
// the producer was given: nothing lost, nothing twice, nothing out of order.

import assert from "node:assert/strict"
import { test } from "node:test"
import { setImmediate, setTimeout as delay } from "node:timers/promises"

import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

import { Server, within } from "../server.mjs"

const MESSAGES = 900
const RESTART_AFTER = [200, 500]
const LIVE_MODES = ["sse", "long-poll"]
const FINISH_WITHIN_MS = 60_000

const jsonMessages = Array.from({ length: MESSAGES }, (_, n) =>
  `{"n":${n},"price":1.10,"big":12345678901234567890,"text":"line\\r\\nline\\u2028 – ünï ${"x".repeat((n * 37) % 500)}"}`)

const byteMessages = Array.from({ length: MESSAGES }, (_, n) =>
  Uint8Array.from({ length: 1 + ((n * 53) % 700) }, (_, i) => (n * 31 + i * 7) % 256))

for (const signal of ["SIGKILL", "SIGTERM"]) {
  test(`a producer and its readers survive ${signal} and a restart`, { timeout: 120_000 }, async (t) => {
    const server = await Server.create({ args: ["--long-poll-timeout", "5s"] })
    t.after(() => server.dispose())
    await server.start()

    const ended = new AbortController()
    t.after(() => ended.abort())

    const kinds = [
      { name: "json", contentType: "application/json", messages: jsonMessages, tail: tailJSON },
      { name: "bytes", contentType: "application/octet-stream", messages: byteMessages, tail: tailBytes },
    ]
    const exits = []
    const runs = kinds.map(async (kind) => {
      const url = server.stream(`restart/${kind.name}`)
      const handle = await DurableStream.create({ url, contentType: kind.contentType })
      const tails = LIVE_MODES.map((live) => ({ live, ...kind.tail(url, live, ended.signal) }))
      const failures = []
      const producer = new IdempotentProducer(handle, "restart-test", {
        lingerMs: 2,
        maxBatchBytes: 2048,
        maxInFlight: 5,
        signal: ended.signal,
        fetch: patientFetch(ended.signal),
        onError: (err) => failures.push(err),
      })
      return { ...kind, url, tails, producer, failures }
    })
    const streams = await Promise.all(runs)

    let restarting = Promise.resolve()
    for (let n = 0; n < MESSAGES; n++) {
      for (const s of streams) s.producer.append(s.messages[n])
      if (RESTART_AFTER.includes(n)) {
        await restarting
        restarting = (async () => {
          await until("batches in flight", () => streams.some((s) => s.producer.inFlightCount > 0))
          exits.push(await server.stop(signal))
          await delay(200)
          await server.start()
        })()
        restarting.catch(() => {}) // it is awaited below
      }
      if (n % 2 === 0) await delay(5)
    }
    await restarting

    for (const s of streams) {
      await within(FINISH_WITHIN_MS, `the ${s.name} producer`, s.producer.close())
      assert.deepEqual(s.failures, [], `the ${s.name} producer reported no failure`)
    }

    const cleanly = { SIGKILL: { code: null, signal: "SIGKILL" }, SIGTERM: { code: 0, signal: null } }
    assert.deepEqual(exits, RESTART_AFTER.map(() => cleanly[signal]))

    for (const s of streams) {
      for (const tail of s.tails) {
        await t.test(`${s.name} over ${tail.live}`, async (t) => {
          const got = await within(FINISH_WITHIN_MS, `the ${tail.live} tail of ${s.name}`, tail.done)
          assertSame(got, s.messages)
          const connections = tail.requests.filter((r) => r === tail.live).length
          assert.ok(connections > RESTART_AFTER.length, `${connections} live requests cannot span the restarts`)
          t.diagnostic(`${connections} live requests, ${tail.resumed()} resumed by the reader`)
        })
      }
      await t.test(`${s.name} read with a plain GET`, async () => {
        const res = await fetch(s.url, { signal: AbortSignal.timeout(FINISH_WITHIN_MS) })
        assert.equal(res.status, 200)
        assert.equal(res.headers.get("stream-closed"), "true")
        const body = Buffer.from(await res.arrayBuffer())
        const want = s.name === "json" ? Buffer.from(`[${s.messages.join(",")}]`) : Buffer.concat(s.messages)
        assertSame(body, [want])
      })
    }
  })
}

function tailJSON(url, live, signal) {
  const items = []
  return {
    ...tail(url, { live, json: true }, signal, (res, at) =>
      res.subscribeJson((batch) => {
        items.push(...batch.items)
        at(batch.offset)
      }), () => items),
  }
}

function tailBytes(url, live, signal) {
  const chunks = []
  return {
    ...tail(url, { live }, signal, (res, at) =>
      res.subscribeBytes((chunk) => {
        chunks.push(chunk.data)
        at(chunk.offset)
      }), () => Buffer.concat(chunks)),
  }
}

// tail follows a stream until it is closed. The client reconnects by itself between responses; when a
// response breaks off in the middle it gives up, and the reader goes on from its last offset, as a
// program that keeps its place does.
function tail(url, options, signal, subscribe, result) {
  const requests = []
  let offset = "-1"
  let resumed = -1
  const done = (async () => {
    for (let closed = false; !closed; resumed++) {
      const res = await stream({
        ...options,
        url,
        offset,
        signal,
        fetch: (input, init) => {
          requests.push(new URL(input).searchParams.get("live"))
          return fetch(input, init)
        },
        backoffOptions: { initialDelay: 50, maxDelay: 500, multiplier: 1.3 },
        sseResilience: { logWarnings: false },
      })
      subscribe(res, (next) => (offset = next))
      await res.closed.catch((err) => signal.throwIfAborted() ?? err)
      signal.throwIfAborted()
      closed = res.streamClosed
      if (!closed) await delay(50, undefined, { signal })
    }
    return result()
  })()
  done.catch(() => {}) // it is awaited at the end
  return { done, requests, resumed: () => resumed }
}

// patientFetch sends a request again until the server has answered it. The producer leaves that to its
// fetch option; the client's own createFetchWithBackoff does not fit, because it throws on the 409 with
// which a pipelined producer is told to wait for an earlier batch.
function patientFetch(signal) {
  return async (input, init) => {
    for (;;) {
      try {
        const res = await fetch(input, init)
        if (res.status < 500 && res.status !== 429) return res
        await res.arrayBuffer()
      } catch (err) {
        if (signal.aborted) throw err
      }
      await delay(20 + Math.random() * 80, undefined, { signal })
    }
  }
}

function assertSame(got, messages) {
  if (Array.isArray(got)) {
    const want = messages.map((message) => JSON.stringify(JSON.parse(message)))
    const differs = want.findIndex((message, i) => message !== JSON.stringify(got[i]))
    assert.equal(differs, -1, `message ${differs} is ${JSON.stringify(got[differs])}`)
    assert.equal(got.length, want.length)
  } else {
    const want = Buffer.concat(messages)
    const differs = want.findIndex((byte, i) => byte !== got[i])
    assert.equal(differs, -1, `byte ${differs} of ${want.length} differs`)
    assert.equal(got.length, want.length)
  }
}

async function until(what, condition) {
  for (const deadline = Date.now() + 5_000; !condition(); await setImmediate()) {
    if (Date.now() > deadline) throw new Error(`${what}: not within 5 s`)
  }
}
