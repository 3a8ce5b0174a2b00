// What the published browser client shows of a group, of one of its items, and of what is sent to it.
import { Stream } from "@motiadev/stream-client-browser"

const stream = new Stream(new URLSearchParams(location.search).get("socket"))
const group = stream.subscribeGroup("chat", "room-1")
const item = stream.subscribeItem("chat", "room-1", "m1")
const typing = []

globalThis.state = () => ({ group: group.getState(), item: item.getState() ?? null, typing })

function show() {
  for (const [id, value] of Object.entries(globalThis.state())) {
    document.getElementById(id).textContent = JSON.stringify(value, null, 1)
  }
}
group.addChangeListener(show)
item.addChangeListener(show)
group.onEvent("typing", (event) => {
  typing.push(event)
  show()
})
