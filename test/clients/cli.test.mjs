// Sends a large file through "runnel append", reads it back with "runnel read" and with curl, and compares
// the checksums.

import assert from "node:assert/strict"
import { spawn } from "node:child_process"
import { createCipheriv, createHash } from "node:crypto"
import { once } from "node:events"
import { open, rm, mkdtemp } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { test } from "node:test"

import { binary, Server } from "../server.mjs"

const FILE_BYTES = 100_000_000
const COMMAND_WITHIN_MS = 120_000

test("a large file comes back as it was sent", { timeout: 400_000 }, async (t) => {
  const server = await Server.create()
  t.after(() => server.dispose())
  await server.start()
  const dir = await mkdtemp(join(tmpdir(), "runnel-cli-"))
  t.after(() => rm(dir, { recursive: true, force: true }))

  const file = join(dir, "file")
  const want = await writeFile(file, FILE_BYTES)
  const url = server.stream("cli/large")
  const created = await fetch(url, {
    method: "PUT",
    headers: { "Content-Type": "application/octet-stream" },
    signal: AbortSignal.timeout(10_000),
  })
  assert.equal(created.status, 201)

  const input = await open(file)
  t.after(() => input.close())
  await run(t, "runnel append", binary, ["append", url], input.fd)

  await t.test("runnel read", async (t) => {
    assert.deepEqual(await run(t, "runnel read", binary, ["read", url]), want)
  })
  await t.test("curl", async (t) => {
    const limit = String(COMMAND_WITHIN_MS / 1000)
    assert.deepEqual(await run(t, "curl", "curl", ["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", limit, url]), want)
  })
})

// writeFile fills a file with bytes that no compression shortens and that are the same every time.
async function writeFile(name, size) {
  const file = await open(name, "w")
  const sum = createHash("sha256")
  try {
    const noise = createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16))
    const zeros = Buffer.alloc(1 << 20)
    for (let written = 0; written < size; ) {
      const chunk = noise.update(zeros.subarray(0, size - written))
      await file.writeFile(chunk)
      sum.update(chunk)
      written += chunk.length
    }
  } finally {
    await file.close()
  }
  return { bytes: size, sha256: sum.digest("hex") }
}

// run executes a command and returns the size and the checksum of what it printed.
async function run(t, name, command, args, stdin = "ignore") {
  const started = Date.now()
  const child = spawn(command, args, { stdio: [stdin, "pipe", "pipe"], timeout: COMMAND_WITHIN_MS, killSignal: "SIGKILL" })
  const closed = once(child, "close")
  let complaint = ""
  child.stderr.setEncoding("utf8").on("data", (text) => (complaint = (complaint + text).slice(0, 4096)))
  const sum = createHash("sha256")
  let bytes = 0
  for await (const chunk of child.stdout) {
    sum.update(chunk)
    bytes += chunk.length
  }
  const [code] = await closed
  assert.equal(code, 0, `${name} ended with ${code}: ${complaint}`)
  t.diagnostic(`${name}: ${Date.now() - started} ms`)
  return { bytes, sha256: sum.digest("hex") }
}
