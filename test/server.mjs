// Starts, kills and restarts a real `runnel serve` for the tests of this folder, on 127.0.0.1 and in a
// temporary directory, and never touches a process that it did not start.

import { spawn } from "node:child_process"
import { once } from "node:events"
import { access, mkdtemp, rm } from "node:fs/promises"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as delay } from "node:timers/promises"
import { fileURLToPath } from "node:url"

// binary is the program under test: the file named by RUNNEL_BIN, else bin/runnel.
export const binary = process.env.RUNNEL_BIN ?? fileURLToPath(new URL("../bin/runnel", import.meta.url))

const READY_WITHIN_MS = 20_000
const EXIT_WITHIN_MS = 20_000
const LOG_BYTES = 64 * 1024

const running = new Set()
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL")
})
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(1))

// freePort returns a TCP port of 127.0.0.1 that nothing listened on a moment ago.
export async function freePort() {
  const probe = createServer()
  probe.listen(0, "127.0.0.1")
  await once(probe, "listening")
  const { port } = probe.address()
  probe.close()
  await once(probe, "close")
  return port
}

// within rejects if promise has not settled after ms milliseconds, and says what was waited for.
export async function within(ms, what, promise) {
  const timer = new AbortController()
  const late = delay(ms, undefined, { signal: timer.signal }).then(
    () => Promise.reject(new Error(`${what}: not within ${ms} ms`)),
    () => {},
  )
  try {
    return await Promise.race([promise, late])
  } finally {
    timer.abort()
  }
}

// Server is one address and one data directory; start and stop may be called in turn as often as wanted.
export class Server {
  #child
  #exited
  #log = ""

  constructor({ driver, args, port, dir }) {
    this.driver = driver
    this.args = args
    this.port = port
    this.dir = dir
    this.url = `http://127.0.0.1:${port}`
  }

  // create reserves a port and makes a data directory; it starts nothing.
  static async create({ driver = "pebble", args = [] } = {}) {
    await access(binary).catch(() => {
      throw new Error(`${binary} does not exist; run "make build", or set RUNNEL_BIN`)
    })
    const dir = await mkdtemp(join(tmpdir(), "runnel-test-"))
    return new Server({ driver, args, dir, port: await freePort() })
  }

  // stream returns the URL of a Durable Stream of this server.
  stream(path) {
    return `${this.url}/v1/stream/${path}`
  }

  // start returns when GET /readyz answers 200.
  async start() {
    if (this.#child) throw new Error("the server is running")
    const args = ["serve", "--addr", `127.0.0.1:${this.port}`, "--driver", this.driver]
    if (this.driver !== "memory") args.push("--data", join(this.dir, "data"))
    const child = spawn(binary, [...args, ...this.args], { cwd: this.dir, stdio: ["ignore", "pipe", "pipe"] })
    for (const output of [child.stdout, child.stderr]) {
      output.setEncoding("utf8").on("data", (text) => (this.#log = (this.#log + text).slice(-LOG_BYTES)))
    }
    running.add(child)
    this.#child = child
    this.#exited = new Promise((resolve) => {
      child.once("error", (err) => resolve({ failure: err.message }))
      child.once("exit", (code, signal) => resolve({ code, signal }))
    })
    let exit
    void this.#exited.then((how) => {
      exit = how
      running.delete(child)
    })

    const deadline = Date.now() + READY_WITHIN_MS
    for (;;) {
      if (exit) {
        this.#child = undefined
        throw new Error(`the server ended before it was ready: ${JSON.stringify(exit)}\n${this.#log}`)
      }
      if (await ready(this.url)) return
      if (Date.now() > deadline) {
        await this.stop("SIGKILL")
        throw new Error(`the server was not ready after ${READY_WITHIN_MS} ms\n${this.#log}`)
      }
      await delay(25)
    }
  }

  // stop sends a signal and returns how the process ended: { code, signal }.
  async stop(signal = "SIGTERM") {
    const child = this.#child
    if (!child) return undefined
    child.kill(signal)
    try {
      return await within(EXIT_WITHIN_MS, `the end of the server after ${signal}`, this.#exited)
    } catch (err) {
      child.kill("SIGKILL")
      throw new Error(`${err.message}\n${this.#log}`)
    } finally {
      this.#child = undefined
    }
  }

  // log returns the last output of the server.
  log() {
    return this.#log
  }

  // dispose stops the server and removes its data.
  async dispose() {
    try {
      await this.stop("SIGKILL")
    } finally {
      await rm(this.dir, { recursive: true, force: true })
    }
  }
}

async function ready(url) {
  try {
    const res = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(1000) })
    await res.arrayBuffer()
    return res.status === 200
  } catch {
    return false
  }
}
