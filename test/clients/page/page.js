// Shows a JSON stream twice, read by the published client and by a bare EventSource, and a text stream
// read by an EventSource. The addresses of both are in the query of the page.

import { stream } from "/client.js"

const query = new URLSearchParams(location.search)

show("client", followWithClient(query.get("json")))
show("events", followWithEventSource(query.get("json")))
for await (const piece of followWithEventSource(query.get("text"))) {
  document.getElementById("text").append(piece)
}

async function show(id, messages) {
  for await (const message of messages) {
    for (const { text } of JSON.parse(message)) {
      const item = document.createElement("li")
      item.textContent = text
      document.getElementById(id).append(item)
    }
  }
}

// The client gives up when a response breaks off in the middle; the page then goes on from its offset.
async function* followWithClient(url) {
  for (let offset = "-1"; ; ) {
    const batches = queue()
    const res = await stream({ url, offset, live: "sse", json: true, warnOnHttp: false })
    res.subscribeJson((batch) => {
      offset = batch.offset
      if (batch.items.length > 0) batches.push(JSON.stringify(batch.items))
    })
    res.closed.then(batches.end, batches.end)
    yield* batches
    if (res.streamClosed) return
  }
}

async function* followWithEventSource(url) {
  const source = new EventSource(`${url}?offset=-1&live=sse`)
  const messages = queue()
  source.addEventListener("data", (event) => messages.push(event.data))
  yield* messages
}

// queue holds what was pushed until it is iterated over.
function queue() {
  const waiting = []
  let ended = false
  let wake = () => {}
  return {
    push: (value) => (waiting.push(value), wake()),
    end: () => ((ended = true), wake()),
    async *[Symbol.asyncIterator]() {
      for (;;) {
        while (waiting.length > 0) yield waiting.shift()
        if (ended) return
        await new Promise((resolve) => (wake = resolve))
      }
    },
  }
}
