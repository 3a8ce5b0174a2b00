// Runs the public Durable Streams conformance suite against a real server, once for each driver, and
// fails unless every test of the suite ran and passed.
//
//   node run.mjs [--driver memory]... [--no-subscriptions] [--url URL] [-- extra arguments of "runnel serve"]
//
// Without --driver it runs memory and pebble. With --url it starts nothing and tests what is there.

import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtemp, readFile, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { parseArgs } from "node:util"

import { Server, within } from "../server.mjs"

// The sizes of version 0.3.6, so that a suite that silently skips tests does not look green. Of all tests
// six are about subscriptions.
const TESTS = 338
const SUBSCRIPTION_TESTS = 6

const SUITE_WITHIN_MS = 240_000
const here = fileURLToPath(new URL(".", import.meta.url))

const { values: options, positionals: serveArgs } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    driver: { type: "string", multiple: true, default: ["memory", "pebble"] },
    subscriptions: { type: "boolean", default: true },
    url: { type: "string" },
  },
})
const expected = options.subscriptions ? TESTS : TESTS - SUBSCRIPTION_TESTS

let green = true
if (options.url) {
  green = await suite("url", options.url)
} else {
  for (const driver of options.driver) {
    const server = await Server.create({ driver, args: ["--long-poll-timeout", "500ms", "--webhook-development", ...serveArgs] })
    try {
      await server.start()
      if (!(await suite(driver, server.url))) {
        green = false
        console.log(`last output of the server:\n${server.log().slice(-4000)}`)
      }
    } finally {
      await server.dispose()
    }
  }
}
process.exit(green ? 0 : 1)

async function suite(name, url) {
  console.log(`conformance: ${name} at ${url}`)
  const dir = await mkdtemp(join(tmpdir(), "runnel-conformance-"))
  const report = join(dir, "report.json")
  const vitest = spawn(
    process.execPath,
    [join(here, "node_modules/vitest/vitest.mjs"), "run", "--reporter=dot", "--reporter=json", `--outputFile.json=${report}`],
    {
      cwd: here,
      env: { ...process.env, NO_COLOR: "1", RUNNEL_URL: url, RUNNEL_SUBSCRIPTIONS: options.subscriptions ? "1" : "0" },
      stdio: ["ignore", "inherit", "inherit"],
    },
  )
  try {
    await within(SUITE_WITHIN_MS, "the conformance suite", once(vitest, "exit"))
    const { numPassedTests: passed, numFailedTests: failed, success } = JSON.parse(await readFile(report, "utf8"))
    console.log(`${name}: ${passed} passed, ${failed} failed`)
    if (passed + failed !== expected) console.log(`${name}: ${passed + failed} tests ran, and ${expected} should have`)
    return success && failed === 0 && passed === expected
  } finally {
    vitest.kill("SIGKILL")
    await rm(dir, { recursive: true, force: true })
  }
}
