import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["durable-streams.test.mjs"],
    testTimeout: 15_000,
  },
})
