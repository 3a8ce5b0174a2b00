// The published stream clients, unmodified, follow items over WebSocket, in Node and in a browser, while those are
// written in every way, and after a restart; a StreamDB materialises the same group from its Durable Stream, and
// writes back; and a page shows a live board in two tabs. At every step what they show is what the server says.

import assert from "node:assert/strict"
import { once } from "node:events"
import { rmSync } from "node:fs"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { createServer } from "node:http"
import { createRequire } from "node:module"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { after, test } from "node:test"
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"

import { createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"
import { build } from "esbuild"
import { chromium } from "playwright-core"

import { Server, freePort } from "../server.mjs"

const { Stream } = createRequire(import.meta.url)("@motiadev/stream-client-node")

const SHOWN_WITHIN_MS = 15_000

// The clients go on connecting after they were closed, and complain. So the servers stay until the process ends.
after(() => setTimeout(() => process.exit(), 500))

// becomes waits until what a client shows is what is wanted.
async function becomes(what, want, shown) {
  const deadline = Date.now() + SHOWN_WITHIN_MS
  for (;;) {
    const got = JSON.stringify(await shown())
    if (got === JSON.stringify(await want())) return
    if (Date.now() > deadline) assert.fail(`${what} shows ${got}, not ${JSON.stringify(await want())}`)
    await delay(10)
  }
}

async function withItems() {
  const port = await freePort()
  const server = await Server.create({ args: ["--items-addr", `127.0.0.1:${port}`] })
  process.on("exit", () => rmSync(server.dir, { recursive: true, force: true }))
  await server.start()
  server.socket = `ws://127.0.0.1:${port}/`
  return server
}

function api(server, stream, group) {
  const call = async (name, input) => {
    const response = await fetch(`${server.url}/v1/items/call/stream::${name}`, {
      method: "POST",
      body: JSON.stringify({ stream_name: stream, group_id: group, ...input }),
    })
    assert.ok(response.ok, `${name}: ${response.status} ${await response.clone().text()}`)
    return response.status === 204 ? undefined : response.json()
  }
  return {
    call,
    set: (id, data) => call("set", { item_id: id, data: { id, ...data } }),
    update: (id, ...ops) => call("update", { item_id: id, ops }),
    remove: (id) => call("delete", { item_id: id }),
    send: (type, data, id) => call("send", { type, data, id }),
    get: (id) => call("get", { item_id: id }),
    list: () => call("list", {}),
  }
}

// scenario writes to a group in every way, and restarts the server, while a client follows it: shown tells what the
// client shows of the group, of an item, and of the events that it heard of, and late makes another client that joins
// at that moment and tells what it shows of the group.
async function scenario(server, room, shown, late) {
  const sorted = (values) => [...(values ?? [])].sort((a, b) => (a.id < b.id ? -1 : 1))
  const same = async (step) => {
    await becomes(`the group, ${step},`, room.list, async () => sorted((await shown()).group))
    await becomes(`the item, ${step},`, async () => (await room.get("m1")) ?? null, async () => (await shown()).item ?? null)
  }
  const heard = (...events) => becomes("the listener", () => events, async () => (await shown()).typing)

  await same("at first")
  await room.set("m1", { n: 1 })
  await same("after a set")
  // Faster than a millisecond each: all of it is shown in the end, and the last is what stays.
  await Promise.all([...Array(20).keys()].map((n) => room.set("m1", { n })))
  await same("after writes in the same millisecond")
  await room.update("m1", { type: "increment", path: "n", by: 100 }, { type: "append", path: "log", value: "x" })
  await same("after an update")
  await room.update("m2", { type: "set", path: "id", value: "m2" }, { type: "merge", path: ["a", "b"], value: { c: 1 } })
  await same("after an update that made an item")
  await room.send("typing", { who: "ann" })
  await heard({ who: "ann" })
  await room.remove("m2")
  await same("after a delete")
  await room.remove("m1")
  await same("after its item was deleted")
  await room.set("m1", { n: 0 })
  await same("after it was made again")
  await room.remove("m0")
  await same("after another delete")

  // One that joins while the group changes is given the snapshot before any change.
  const writing = (async () => {
    for (let n = 0; n < 200; n++) await room.update("m3", { type: "set", path: "id", value: "m3" }, { type: "increment", path: "n", by: 1 })
  })()
  const other = await late()
  await writing
  await becomes("one that joined late", room.list, async () => sorted(await other()))

  const deleted = await fetch(`${server.url}/v1/items/chat/room-1`, { method: "DELETE" })
  assert.ok(deleted.ok, `DELETE: ${deleted.status}`)
  await same("after the group was deleted")
  await room.set("m1", { n: 1 })
  await room.set("m4", { n: 4 })
  await same("after it was made again")
  await becomes("one that joined late", room.list, async () => sorted(await other()))

  for (const signal of ["SIGTERM", "SIGKILL"]) {
    await server.stop(signal)
    await server.start()
    await room.set(`missed-${signal}`, {}) // the clients come back two seconds later
    await same(`after ${signal} and a restart`)
    await room.update("m1", { type: "increment", path: "n", by: 1 })
    await room.set(`after-${signal}`, {})
    await same(`after a write that followed ${signal}`)
    await becomes(`one that joined late, after ${signal},`, room.list, async () => sorted(await other()))
  }
  await room.send("typing", { who: "bob" })
  await heard({ who: "ann" }, { who: "bob" })
  await room.send("typing", { who: "eve" }, "m1") // of one item: the group hears it, too
  await heard({ who: "ann" }, { who: "bob" }, { who: "eve" })
}

test("the published Node client shows what the server says", { timeout: 120_000 }, async () => {
  const server = await withItems()
  const room = api(server, "chat", "room-1")
  await room.set("m0", { text: "before" })
  const client = new Stream(server.socket, { protocols: ["Authorization", "secret"] })
  const group = client.subscribeGroup("chat", "room-1", "id")
  const item = client.subscribeItem("chat", "room-1", "m1")
  const typing = []
  group.onEvent("typing", (event) => typing.push(event))
  await scenario(
    server,
    room,
    () => ({ group: group.getState(), item: item.getState(), typing }),
    () => {
      const other = new Stream(server.socket).subscribeGroup("chat", "room-1", "id")
      return () => other.getState()
    },
  )
})

test("the published browser client shows what the server says, in a browser", { timeout: 120_000 }, async (t) => {
  const server = await withItems()
  const room = api(server, "chat", "room-1")
  await room.set("m0", { text: "before" })
  const origin = await servePage(t, "client")
  const { open, complaints } = await openBrowser(t)
  const follow = () => open(`${origin}/?${new URLSearchParams({ socket: server.socket })}`)
  const tab = await follow()
  const state = (of) => of.evaluate(() => globalThis.state())
  await scenario(
    server,
    room,
    () => state(tab),
    async () => {
      const other = await follow()
      return async () => (await state(other)).group
    },
  )
  assert.deepEqual(complaints, [])
  await screenshot(t, tab, "client")
})

test("a StreamDB materialises a group, and writes back", { timeout: 60_000 }, async (t) => {
  const server = await withItems()
  const board = api(server, "board", "todo")
  await board.set("a", { title: "one", done: false })
  const anything = { "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) } }
  const url = server.stream("board/todo")
  const db = createStreamDB({
    streamOptions: { url, contentType: "application/json" },
    state: createStateSchema({ cards: { schema: anything, type: "item", primaryKey: "id" } }),
  })
  t.after(() => db.close())
  await db.preload()
  // StreamDB adds fields of its own.
  const rows = () => [...db.collections.cards.entries()].map(([, row]) =>
    Object.fromEntries(Object.entries(row).filter(([key]) => !key.startsWith("$") && key !== "_seq").sort())).sort((x, y) => (x.id < y.id ? -1 : 1))
  const want = async () => (await board.list()).map((row) => Object.fromEntries(Object.entries(row).sort()))
  const same = (step) => becomes(`StreamDB, ${step},`, want, rows)

  await same("at first")
  await board.set("b", { title: "two", done: false })
  await board.update("a", { type: "set", path: "done", value: true }, { type: "append", path: "log", value: [1] })
  await same("after writes")
  await board.update("a", { type: "remove", path: "log" })
  await same("after a field was removed")
  await board.remove("b")
  await same("after a delete")

  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify([
      { type: "item", key: "c", value: { id: "c", title: "posted" }, headers: { operation: "insert", txid: "t1" } },
      { type: "item", key: "a", headers: { operation: "delete" } },
    ]),
  })
  assert.ok(response.ok, `POST: ${response.status} ${await response.text()}`)
  await same("after it wrote back")
  assert.deepEqual(await board.list(), [{ id: "c", title: "posted" }])
  const bad = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ no: "message" }) })
  assert.equal(bad.status, 400, await bad.text())
})

test("a new StreamDB downloads the state of a group and not its past", { timeout: 60_000 }, async (t) => {
  const server = await withItems()
  const board = api(server, "board", "busy")
  const pad = "x".repeat(4000)
  for (let n = 0; n < 300; n++) await board.set(`card-${n % 5}`, { n, pad })
  await board.set("gone", { pad })
  await board.remove("gone")
  let downloaded = 0
  const counting = async (...args) => {
    const response = await fetch(...args)
    if (!response.body) return response
    const body = response.body.pipeThrough(new TransformStream({
      transform(chunk, to) {
        downloaded += chunk.byteLength
        to.enqueue(chunk)
      },
    }))
    return new Response(body, { status: response.status, headers: response.headers })
  }
  const anything = { "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) } }
  const open = () => createStreamDB({
    streamOptions: { url: server.stream("board/busy"), contentType: "application/json", fetch: counting },
    state: createStateSchema({ cards: { schema: anything, type: "item", primaryKey: "id" } }),
  })
  const rows = (db) => [...db.collections.cards.entries()].map(([, row]) => `${row.id} ${row.n} ${row.pad?.length}`).sort()
  const want = async () => (await board.list()).map((row) => `${row.id} ${row.n} ${row.pad.length}`).sort()

  const first = open()
  t.after(() => first.close())
  await first.preload()
  assert.deepEqual(rows(first), await want())
  const past = 301 * 4000
  t.diagnostic(`a StreamDB downloaded ${downloaded} bytes, of a past of more than ${past}`)
  assert.ok(downloaded > 5 * 4000 && downloaded < 6 * 4000, `${downloaded} bytes`)

  // It goes on from there as any other, and one that begins while the group changes sees the same.
  const writing = (async () => {
    for (let n = 300; n < 400; n++) await board.set(`card-${n % 7}`, { n, pad })
  })()
  const second = open()
  t.after(() => second.close())
  await second.preload()
  await writing
  await board.remove("card-2")
  await server.stop("SIGKILL")
  await server.start()
  await board.set("card-1", { n: -1, pad })
  for (const db of [first, second]) await becomes("a StreamDB", want, () => rows(db))
})

test("a live board is the same in two tabs", { timeout: 120_000 }, async (t) => {
  const server = await withItems()
  const board = api(server, "board", "sprint")
  await board.set("a", { title: "Write it down", column: "todo" })
  const origin = await servePage(t, "board")
  const { open, complaints } = await openBrowser(t)
  const address = `${origin}/?${new URLSearchParams({ socket: server.socket, api: server.url })}`
  const tabs = [await open(address), await open(address)]
  const same = async (step) => {
    for (const [n, tab] of tabs.entries()) {
      await becomes(`tab ${n + 1}, ${step},`,
        async () => (await board.list()).map(({ id, title, column }) => `${column}/${id}: ${title}`).sort(),
        () => tab.evaluate(() => [...document.querySelectorAll(".card")].map((c) => `${c.parentElement.id}/${c.dataset.id}: ${c.textContent}`).sort()))
    }
  }
  await same("at first")
  await tabs[0].fill("#title", "Try it out")
  await tabs[0].click("#add")
  await becomes("the board", () => 2, async () => (await board.list()).length)
  await same("after a card was added in the first tab")
  await tabs[1].click("[data-id=a]")
  await becomes("the card", () => "doing", async () => (await board.get("a")).column)
  await same("after a card was moved in the second")
  await board.set("b", { title: "Show it <b>", column: "done" })
  await same("after a card came from elsewhere")
  await server.stop("SIGKILL")
  await server.start()
  await board.update("a", { type: "set", path: "column", value: "done" })
  await same("after a restart")
  await board.remove("b")
  await same("after a delete")
  assert.deepEqual(complaints, [])
  for (const [n, tab] of tabs.entries()) await screenshot(t, tab, `board-${n + 1}`)
})

// openBrowser starts a browser of its own profile. Open opens pages in it, and complaints are their errors.
async function openBrowser(t) {
  const profile = await mkdtemp(join(tmpdir(), "runnel-browser-"))
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  })
  t.after(async () => {
    await browser.close()
    await rm(profile, { recursive: true, force: true })
  })
  const complaints = []
  const open = async (url) => {
    const page = await browser.newPage()
    page.on("pageerror", (err) => complaints.push(err.message))
    await page.goto(url)
    return page
  }
  return { open, complaints }
}

async function screenshot(t, page, name) {
  const picture = join(process.env.SCREENSHOTS ?? tmpdir(), `runnel-${name}.png`)
  await page.screenshot({ path: picture })
  t.diagnostic(`the page is shown in ${picture}`)
}

async function servePage(t, name) {
  const folder = fileURLToPath(new URL(".", import.meta.url))
  const { outputFiles } = await build({ entryPoints: [join(folder, `page/${name}.js`)], bundle: true, write: false, format: "esm" })
  const files = {
    "/": ["text/html; charset=utf-8", await readFile(join(folder, `page/${name}.html`))],
    [`/${name}.js`]: ["text/javascript; charset=utf-8", outputFiles[0].contents],
  }
  const pages = createServer((req, res) => {
    const file = files[new URL(req.url, "http://page").pathname]
    if (!file) return res.writeHead(404).end()
    res.writeHead(200, { "Content-Type": file[0] }).end(file[1])
  })
  pages.listen(0, "127.0.0.1")
  await once(pages, "listening")
  t.after(() => {
    pages.closeAllConnections()
    pages.close()
  })
  return `http://127.0.0.1:${pages.address().port}`
}
