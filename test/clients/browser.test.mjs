// A page of another origin reads streams live in headless Chromium: with the published client, unmodified,
// and with nothing but EventSource.

import assert from "node:assert/strict"
import { once } from "node:events"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { test } from "node:test"
import { fileURLToPath } from "node:url"

import { chromium } from "playwright-core"

import { Server } from "../server.mjs"

const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium"
const SHOWN_WITHIN_MS = 10_000

const FLAGS = [
  "--no-sandbox", // the tests may run as root, and the only pages are our own
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
]

const files = {
  "/": ["text/html; charset=utf-8", "page/index.html"],
  "/page.js": ["text/javascript; charset=utf-8", "page/page.js"],
  "/client.js": ["text/javascript; charset=utf-8", "node_modules/@durable-streams/client/dist/index.js"],
}

test("a page of another origin follows streams", { timeout: 120_000 }, async (t) => {
  const server = await Server.create()
  t.after(() => server.dispose())
  await server.start()
  const json = server.stream("browser/chat")
  const text = server.stream("browser/tokens")
  await send("PUT", json, "application/json", JSON.stringify([{ text: "one" }, { text: "two – ünï" }]))
  await send("PUT", text, "text/plain; charset=utf-8", "first line\nsecond ")

  const origin = await servePage(t)
  const page = await openPage(t)
  const complaints = []
  page.on("pageerror", (err) => complaints.push(err.message))
  await page.goto(`${origin}/?${new URLSearchParams({ json, text })}`)

  await t.test("it shows what the streams held before", async () => {
    await shows(page, "#client", "one\ntwo – ünï")
    await shows(page, "#events", "one\ntwo – ünï")
    await shows(page, "#text", "first line\nsecond ")
  })

  await t.test("it shows what is appended while it is open", async () => {
    await send("POST", json, "application/json", JSON.stringify({ text: "three <b>&amp;" }))
    await send("POST", json, "application/json", JSON.stringify([{ text: "four" }, { text: "five" }]))
    await send("POST", text, "text/plain; charset=utf-8", "line\n\n")
    await send("POST", text, "text/plain; charset=utf-8", "third line")
    await shows(page, "#client", "one\ntwo – ünï\nthree <b>&amp;\nfour\nfive")
    await shows(page, "#events", "one\ntwo – ünï\nthree <b>&amp;\nfour\nfive")
    await shows(page, "#text", "first line\nsecond line\n\nthird line")
  })

  await t.test("it may read the headers of the protocol", async () => {
    const headers = await page.evaluate(request, { url: `${json}?offset=-1` })
    assert.equal(headers.status, 200)
    for (const name of ["stream-next-offset", "stream-up-to-date", "etag", "content-type"]) {
      assert.ok(headers[name], `${name} is not readable: ${JSON.stringify(headers)}`)
    }
    const live = await page.evaluate(request, { url: `${json}?offset=-1&live=long-poll` })
    assert.ok(live["stream-cursor"], `stream-cursor is not readable: ${JSON.stringify(live)}`)
  })

  await t.test("it may make conditional requests", async () => {
    const { etag } = await page.evaluate(request, { url: `${json}?offset=-1` })
    const again = await page.evaluate(request, { url: `${json}?offset=-1`, headers: { "If-None-Match": etag } })
    assert.equal(again.status, 304)
  })

  await t.test("it may create, append as a producer, close and delete", async () => {
    const url = server.stream("browser/own")
    const created = await page.evaluate(request, { url, method: "PUT", headers: { "Content-Type": "application/json", "Stream-TTL": "600" } })
    assert.equal(created.status, 201)
    assert.equal(created.location, url)

    const producer = { "Content-Type": "application/json", "Producer-Id": "page", "Producer-Epoch": "0" }
    const post = (headers) => page.evaluate(request, { url, method: "POST", headers: { ...producer, ...headers }, body: `{"text":"mine"}` })
    const appended = await post({ "Producer-Seq": "0" })
    assert.equal(appended.status, 200)
    assert.equal(appended["producer-epoch"], "0")
    assert.equal(appended["producer-seq"], "0")
    const gap = await post({ "Producer-Seq": "5" })
    assert.equal(gap.status, 409)
    assert.equal(gap["producer-expected-seq"], "1")
    assert.equal(gap["producer-received-seq"], "5")

    const closed = await page.evaluate(request, { url, method: "POST", headers: { "Stream-Closed": "true" } })
    assert.equal(closed.status, 204)
    assert.equal(closed["stream-closed"], "true")
    assert.equal((await page.evaluate(request, { url, method: "DELETE" })).status, 204)
  })

  await t.test("it goes on where it was after the server was killed and started again", async () => {
    await server.stop("SIGKILL")
    await server.start()
    await send("POST", json, "application/json", JSON.stringify({ text: "six" }))
    await send("POST", text, "text/plain; charset=utf-8", "\nfourth line")
    await shows(page, "#client", "one\ntwo – ünï\nthree <b>&amp;\nfour\nfive\nsix")
    await shows(page, "#events", "one\ntwo – ünï\nthree <b>&amp;\nfour\nfive\nsix")
    await shows(page, "#text", "first line\nsecond line\n\nthird line\nfourth line")
  })

  await t.test("it raised no error", () => assert.deepEqual(complaints, []))

  const picture = process.env.SCREENSHOT ?? join(tmpdir(), "runnel-browser.png")
  await page.screenshot({ path: picture })
  t.diagnostic(`the page is shown in ${picture}`)
})

async function servePage(t) {
  const pages = createServer(async (req, res) => {
    const file = files[new URL(req.url, "http://page").pathname]
    if (!file) return res.writeHead(404).end()
    const content = await readFile(fileURLToPath(new URL(file[1], import.meta.url)))
    res.writeHead(200, { "Content-Type": file[0] }).end(content)
  })
  pages.listen(0, "127.0.0.1")
  await once(pages, "listening")
  t.after(() => {
    pages.closeAllConnections()
    pages.close()
  })
  return `http://127.0.0.1:${pages.address().port}`
}

async function openPage(t) {
  const profile = await mkdtemp(join(tmpdir(), "runnel-browser-"))
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: FLAGS,
    timeout: 60_000,
    viewport: { width: 1000, height: 500 },
  })
  t.after(async () => {
    await browser.close()
    await rm(profile, { recursive: true, force: true, maxRetries: 5 })
  })
  return browser.newPage()
}

// request runs in the page and returns the status with the headers that the browser lets a page see. It
// goes past the cache of the browser, which may have kept an older state of a stream that grows.
async function request({ url, ...init }) {
  const res = await fetch(url, { cache: "no-store", ...init })
  await res.text()
  return { status: res.status, ...Object.fromEntries(res.headers) }
}

// shows waits until the text of the element is what it should be.
async function shows(page, selector, want) {
  const text = () =>
    page.$eval(selector, (element) =>
      element.children.length > 0 ? [...element.children].map((child) => child.textContent).join("\n") : element.textContent)
  const deadline = Date.now() + SHOWN_WITHIN_MS
  for (;;) {
    const got = await text()
    if (got === want) return
    if (Date.now() > deadline) assert.equal(got, want, `${selector} after ${SHOWN_WITHIN_MS} ms`)
    await page.waitForTimeout(50)
  }
}

async function send(method, url, contentType, body) {
  const res = await fetch(url, { method, body, headers: { "Content-Type": contentType }, signal: AbortSignal.timeout(10_000) })
  assert.ok(res.ok, `${method} ${url}: ${res.status} ${await res.text()}`)
}
